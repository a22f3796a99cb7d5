"""A zoo of ResNet-18s of width 8, with running statistics and counters as training leaves them."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import torch

from phasezoo.builders.pack import Run
from phasezoo.builders.tables import write_zoo
from phasezoo.layout import Layout
from phasezoo.nets import build
from phasezoo.tables import topology_id
from tests.conftest import draft

ARGUMENTS = {"width": 8, "num_classes": 10}


def state_dict(seed: int, epoch: int) -> dict[str, torch.Tensor]:
    """Fresh weights, with statistics that are none of their defaults; counters beyond what float32 holds exactly."""
    torch.manual_seed(1000 * seed + epoch)
    found = build("resnet18", **ARGUMENTS).state_dict()
    for name, tensor in found.items():
        if name.endswith("num_batches_tracked"):
            tensor.fill_(2**24 + 1 + epoch)
        elif "running" in name or "bn" in name or "downsample.1" in name:
            tensor.copy_(torch.rand_like(tensor) + 0.1)
    return found


def write(out: Path, *, models: int = 3, epochs: tuple[int, ...] = (1, 2)) -> Path:
    layout = Layout.of_state_dict(state_dict(0, 0))
    arguments = json.dumps(ARGUMENTS, sort_keys=True)
    configs = [
        {
            "model_id": f"s{seed}",
            "cell_id": "c",
            "load": 8.0,
            "temperature": 0.1,
            "seed": seed,
            "width": 8,
            "architecture": "resnet18",
            "architecture_config": arguments,
            "topology_id": topology_id("resnet18", arguments),
        }
        for seed in range(models)
    ]
    results = [{"model_id": c["model_id"], "epoch": e, "test_acc": c["seed"] / 10} for c in configs for e in epochs]
    runs = [
        Run(c["model_id"], "c", layout, epochs, lambda epoch, seed=c["seed"]: state_dict(seed, epoch)) for c in configs
    ]
    tables = {"configs": pa.Table.from_pylist(configs), "results": pa.Table.from_pylist(results)}
    write_zoo(out, draft("resnets"), runs=runs, **tables)
    return out
