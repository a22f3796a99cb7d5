"""Stacking against a loop and a plain copy; token batches against a loop over layers; samples of a DataLoader.

    python benchmarks/weights.py [--small]

`--small` runs every path on little data, to see that it works.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import pyarrow as pa
import torch
from access import draft
from timing import interleave, report

import phasezoo
from phasezoo import store
from phasezoo.builders.pack import Run
from phasezoo.builders.tables import write_zoo
from phasezoo.dataset import WeightDataset
from phasezoo.layout import Layout
from phasezoo.nets import build
from phasezoo.representations import Tokens
from phasezoo.representations.tokens import TokenSequence

SMALL = "--small" in sys.argv
MODELS = 8 if SMALL else 192
WIDTH = 2 if SMALL else 8
ROUNDS = 2 if SMALL else 15


def make(root: Path) -> phasezoo.Zoo:
    """Random ResNet-18s of one width, four to a cell; beside them one file a model, as torch.save writes it."""
    arguments = {"width": WIDTH, "num_classes": 10}
    layout = Layout.of_state_dict(build("resnet18", **arguments).state_dict())
    configs, results, runs = [], [], []
    for i in range(MODELS):
        model_id, cell_id = f"m{i:03d}", f"c{i // 4}"
        configs.append(
            {
                "model_id": model_id,
                "cell_id": cell_id,
                "load": 8.0,
                "temperature": float(i // 4),
                "seed": i % 4,
                "width": WIDTH,
                "architecture": "resnet18",
                "architecture_config": json.dumps(arguments, sort_keys=True),
                "topology_id": "resnet18-w",
            }
        )
        results.append({"model_id": model_id, "epoch": 1, "test_acc": i / MODELS})
        torch.manual_seed(i)
        state_dict = build("resnet18", **arguments).state_dict()
        torch.save(state_dict, root / f"{model_id}.pt")
        runs.append(Run(model_id, cell_id, layout, (1,), lambda _, path=root / f"{model_id}.pt": load(path)))
    tables = {"configs": pa.Table.from_pylist(configs), "results": pa.Table.from_pylist(results)}
    write_zoo(root / "zoo", draft(), runs=runs, **tables)
    return phasezoo.load(root / "zoo")


def load(path: Path) -> dict[str, torch.Tensor]:
    return torch.load(path, weights_only=True)


def stacking(zoo: phasezoo.Zoo, root: Path) -> None:
    """All checkpoints of one topology into one tensor per name."""
    files = [root / f"{model.id}.pt" for model in zoo]

    def of_files() -> dict[str, torch.Tensor]:
        state_dicts = [load(path) for path in files]
        return {name: torch.stack([s[name] for s in state_dicts]) for name in state_dicts[0]}

    def of_checkpoints() -> dict[str, torch.Tensor]:
        state_dicts = [model.checkpoint().state_dict() for model in zoo]
        return {name: torch.stack([s[name] for s in state_dicts]) for name in state_dicts[0]}

    def first() -> object:
        store._verified.clear()
        return zoo.stack()

    ours, theirs = zoo.stack(), of_files()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    plain = torch.cat([tensor.reshape(-1).view(torch.uint8) for tensor in ours.values()])
    warm = torch.empty_like(plain)
    del theirs
    sides = {
        "first": first,
        "later": zoo.stack,
        "files": of_files,
        "checkpoints": of_checkpoints,
        "copy": plain.clone,
        "warm copy": lambda: warm.copy_(plain),
    }
    seconds = interleave(sides, rounds=ROUNDS)
    what = f"stack {MODELS} ResNet-18s, {plain.numel() / 1e6:.0f} MB"
    report(what, seconds["later"], seconds["files"], "torch.load, stack", ">= 5x")
    report(what, seconds["later"], seconds["checkpoints"], "state_dict(), stack", "for comparison")
    report(what, seconds["later"], seconds["copy"], "copy, new memory", ">= 0.4x: its share of the bandwidth")
    report(what, seconds["later"], seconds["warm copy"], "copy, old memory", "for comparison")
    report(f"{what}, first read", seconds["first"], seconds["files"], "torch.load, stack", "hashed")


def loop_tokens(state_dict: dict[str, torch.Tensor], size: int) -> tuple[torch.Tensor, ...]:
    """One network, layer by layer, as one would write it: rows, padding, mask, positions."""
    rows, masks, positions, layer = [], [], [], 0
    for name, tensor in state_dict.items():
        if not name.endswith(("weight", "running_mean", "running_var")):
            continue
        row = tensor.reshape(len(tensor), -1)
        bias = state_dict.get(name.removesuffix("weight") + "bias") if name.endswith("weight") else None
        if bias is not None:
            row = torch.cat([row, bias[:, None]], 1)
        padding = -row.shape[1] % size
        mask = torch.nn.functional.pad(torch.ones_like(row, dtype=torch.bool), (0, padding))
        rows.append(torch.nn.functional.pad(row, (0, padding)).view(-1, size))
        masks.append(mask.view(-1, size))
        cuts = (row.shape[1] + padding) // size
        positions += [[layer, channel] for channel in range(len(tensor)) for _ in range(cuts)]
        layer += 1
    return torch.cat(rows), torch.cat(masks), torch.tensor([[i, *place] for i, place in enumerate(positions)])


def tokens(zoo: phasezoo.Zoo) -> None:
    """A batch of networks as tokens: a loop over networks and layers against the shared plan."""
    for what, view, size in (("MLPs", phasezoo.load("mlp-digits").filter(width=8), 65), ("ResNet-18s", zoo[:64], 288)):
        tensors = dict(view.stack())
        layout = Layout.of_state_dict({name: tensor[0] for name, tensor in tensors.items()})
        state_dicts = [{name: t[i] for name, t in tensors.items()} for i in range(len(view))]

        def loop(state_dicts: list[dict[str, torch.Tensor]] = state_dicts, size: int = size) -> list[torch.Tensor]:
            return [torch.stack(parts) for parts in zip(*(loop_tokens(s, size) for s in state_dicts), strict=True)]

        def ours(
            tensors: dict[str, torch.Tensor] = tensors, layout: Layout = layout, size: int = size
        ) -> TokenSequence:
            return Tokens(size=size).encode(tensors, layout)

        assert all(torch.equal(a, b) for a, b in zip(ours()[:3], loop(), strict=True))
        seconds = interleave({"ours": ours, "loop": loop}, rounds=ROUNDS)
        report(f"tokens of {len(view)} {what}", seconds["ours"], seconds["loop"], "loop over layers", ">= 5x")


def loading(zoo: phasezoo.Zoo) -> None:
    """Samples a second of an epoch, against samples that are read and represented one by one."""
    for what, view in (("MLPs", phasezoo.load("mlp-digits").filter(width=8)), ("ResNet-18s", zoo)):
        dataset = view.to_torch("flat", target="test_acc", epochs="all")
        sides = {
            "0 workers": lambda d=dataset: list(d.loader(batch_size=32)),
            "2 workers": lambda d=dataset: list(d.loader(batch_size=32, num_workers=2)),
            "one by one": lambda d=dataset, v=view: epoch_by_hand(d, v),
        }
        seconds = interleave(sides, rounds=2 if SMALL else 5)
        for side in ("0 workers", "2 workers"):
            rate = f"{len(dataset) / seconds[side]:,.0f} networks a second"
            report(f"epoch of {len(dataset)} {what}, {side}", seconds[side], seconds["one by one"], "one by one", rate)


def epoch_by_hand(dataset: WeightDataset, view: phasezoo.Zoo) -> list[torch.Tensor]:
    """Read each checkpoint, flatten it, stack 32 of them."""
    flat = []
    for batch in dataset.loader(batch_size=32).sampler:
        state_dicts = [view[dataset.ids[i]].checkpoint(dataset.epochs[i]).state_dict() for i in batch]
        rows = [torch.cat([t.flatten() for t in s.values() if t.is_floating_point()]) for s in state_dicts]
        flat.append(torch.stack(rows))
    return flat


if __name__ == "__main__":
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        zoo = make(Path(folder))
        stacking(zoo, Path(folder))
        tokens(zoo)
        loading(zoo)
