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
from phasezoo import checkpoint
from phasezoo.builders.pack import Run
from phasezoo.builders.tables import write_zoo
from phasezoo.layout import Layout
from phasezoo.nets import build

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
        checkpoint._verified.clear()
        return zoo.stack()

    ours, theirs = zoo.stack(), of_files()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    plain = torch.cat([tensor.reshape(-1).view(torch.uint8) for tensor in ours.values()])
    del theirs
    sides = {
        "first": first,
        "later": zoo.stack,
        "files": of_files,
        "checkpoints": of_checkpoints,
        "copy": plain.clone,
    }
    seconds = interleave(sides, rounds=ROUNDS)
    what = f"stack {MODELS} ResNet-18s, {plain.numel() / 1e6:.0f} MB"
    report(what, seconds["later"], seconds["files"], "torch.load, stack", ">= 5x")
    report(what, seconds["later"], seconds["checkpoints"], "state_dict(), stack", "for comparison")
    report(what, seconds["later"], seconds["copy"], "plain copy", ">= 0.4x: its share of the bandwidth")
    report(f"{what}, first read", seconds["first"], seconds["files"], "torch.load, stack", "hashed")


if __name__ == "__main__":
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        zoo = make(Path(folder))
        stacking(zoo, Path(folder))
