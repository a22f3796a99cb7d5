"""Opening a zoo against parsing JSON lines; checkpoint to module against load_file and torch.load.

    python benchmarks/access.py [--small]

`--small` runs every path on little data, to see that it works.
"""

from __future__ import annotations

import json
import random
import sys
import tempfile
from pathlib import Path

import pyarrow as pa
import torch
from safetensors.torch import load_file, save_file
from timing import interleave, report

import phasezoo
from phasezoo import store
from phasezoo.builders.pack import Run
from phasezoo.builders.tables import write_zoo
from phasezoo.layout import Layout
from phasezoo.manifest import Axis, Manifest, Provenance
from phasezoo.nets import build

SMALL = "--small" in sys.argv
SIZES = {"0.05 MB": 64, "1 MB": 440, "45 MB": 3300}  # width of an MLP 64-w-w-10


def draft() -> Manifest:
    axis = Axis(column="width", label="width", values=(1.0,))
    return Manifest(
        name="bench",
        title="bench",
        architecture="mlp",
        dataset="none",
        task="classification",
        load=axis,
        temperature=axis,
        provenance=Provenance(source="benchmark", method="trained"),
        license="MIT",
        citation="none",
        tables={},
    )


def config(model_id: str, width: int, seed: int) -> dict[str, object]:
    arguments = {"in_features": 64, "width": width, "depth": 2, "out_features": 10}
    return {
        "model_id": model_id,
        "cell_id": f"w{width}",
        "load": float(width),
        "temperature": 1.0,
        "seed": seed,
        "width": width,
        "architecture": "mlp",
        "architecture_config": json.dumps(arguments),
    }


def opening(root: Path) -> None:
    """192 models x 151 epochs: tables of a zoo against one JSON-lines file a model."""
    models, epochs = (8, 11) if SMALL else (192, 151)
    rng = random.Random(0)
    configs = [config(f"m{i}", 8, i) for i in range(models)]
    names = ("train_loss", "train_acc", "test_loss", "test_acc")
    results = [
        {"model_id": c["model_id"], "epoch": epoch, **{name: rng.random() for name in names}}
        for c in configs
        for epoch in range(epochs)
    ]
    write_zoo(root / "zoo", draft(), configs=pa.Table.from_pylist(configs), results=pa.Table.from_pylist(results))
    files = []
    for c in configs:
        files.append(root / f"{c['model_id']}.json")
        rows = [row | {"config": c} for row in results if row["model_id"] == c["model_id"]]
        files[-1].write_text("".join(json.dumps(row) + "\n" for row in rows))

    def tables() -> int:
        zoo = phasezoo.load(root / "zoo")
        return zoo.table("configs").num_rows + zoo.table("results").num_rows

    def lines() -> int:
        parsed = [json.loads(line) for file in files for line in file.read_text().splitlines()]
        return pa.Table.from_pylist(parsed).num_rows

    assert tables() == models * (epochs + 1)
    assert lines() == models * epochs
    seconds = interleave({"ours": tables, "theirs": lines}, rounds=1 if SMALL else 7)
    report(f"open {models} models x {epochs} epochs", seconds["ours"], seconds["theirs"], "JSON lines", ">= 20x")


def modules(root: Path) -> None:
    """One checkpoint to a module in memory: first read (hashed) and later reads."""
    sizes = {"0.05 MB": 64} if SMALL else SIZES
    for label, width in sizes.items():
        row = config("m", width, 0)
        arguments = json.loads(str(row["architecture_config"]))
        state_dict = build("mlp", **arguments).state_dict()
        run = Run("m", "c", Layout.of_state_dict(state_dict), (0,), lambda _, s=state_dict: s)
        place = root / label.replace(" ", "")
        results = pa.table({"model_id": ["m"], "epoch": [0]})
        write_zoo(place, draft(), configs=pa.Table.from_pylist([row]), results=results, runs=[run])
        save_file(state_dict, root / "peer.safetensors")
        torch.save(state_dict, root / "peer.pt")
        zoo = phasezoo.load(place)
        x = torch.randn(2, 64)
        expected = build_and_load(arguments, load_file(root / "peer.safetensors"))(x)
        assert torch.equal(zoo["m"].checkpoint().module()(x), expected)

        def later(zoo: phasezoo.Zoo = zoo) -> object:
            return zoo["m"].checkpoint().module()

        def first(zoo: phasezoo.Zoo = zoo) -> object:
            store._verified.clear()
            return zoo["m"].checkpoint().module()

        sides = {
            "first": first,
            "later": later,
            "load_file": lambda a=arguments: build_and_load(a, load_file(root / "peer.safetensors")),
            "torch.load": lambda a=arguments: build_and_load(a, torch.load(root / "peer.pt", weights_only=True)),
        }
        seconds = interleave(sides, rounds=2 if SMALL else 31)
        for peer, bar in (("load_file", ">= 0.83x: at most 1.2 times its time"), ("torch.load", ">= 2x")):
            report(f"checkpoint to module, {label}, later reads", seconds["later"], seconds[peer], peer, bar)
            report(f"checkpoint to module, {label}, first read", seconds["first"], seconds[peer], peer, "hashed")


def build_and_load(arguments: dict[str, object], state_dict: dict[str, torch.Tensor]) -> torch.nn.Module:
    net = build("mlp", **arguments)
    net.load_state_dict(state_dict)
    return net.eval()


if __name__ == "__main__":
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        opening(Path(folder))
        modules(Path(folder))
