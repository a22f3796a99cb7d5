"""Zoos small enough to build for each test, and the one that comes with the package."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

# The tensors of the tests are small, also in the processes that they start: a second thread would spin for the first.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Read when huggingface_hub is imported: the stand-in for the Hub has no Xet, and nobody is to be told of the tests.
os.environ["HF_HUB_DISABLE_XET"] = os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"

import pyarrow as pa
import pytest
import torch

import phasezoo
from phasezoo.builders.pack import Run
from phasezoo.builders.tables import write_zoo
from phasezoo.layout import Layout
from phasezoo.manifest import Axis, Manifest, Provenance
from phasezoo.nets import build
from phasezoo.registry import embedded

SHAPE = {"in_features": 5, "depth": 1, "out_features": 3}
EPOCHS = (0, 2, 5)


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """The tensors of the tests are small: a second thread costs more than it gives."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def zoo() -> phasezoo.Zoo:
    return phasezoo.load("mlp-digits")


@pytest.fixture(scope="session")
def embedded_path() -> Path:
    return embedded("mlp-digits")


def draft(name: str = "small") -> Manifest:
    return Manifest(
        name=name,
        title="A small zoo",
        architecture="mlp",
        dataset="none",
        task="classification",
        load=Axis(column="width", label="width", values=(2, 4)),
        temperature=Axis(column="lr", label="learning rate", values=(0.1, 0.2), hot="high"),
        provenance=Provenance(source="tests", method="trained"),
        license="MIT",
        citation="none",
        tables={},
    )


def weights(width: int, seed: int) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    return build("mlp", width=width, **SHAPE).state_dict()


@pytest.fixture
def small(tmp_path: Path) -> Callable[..., Path]:
    """Build a zoo; by default of 2 widths x 2 learning rates x 2 seeds with checkpoints at epochs 0, 2, 5."""

    def make(
        name: str = "small",
        *,
        widths: Sequence[int] = (2, 4),
        lrs: Sequence[float] = (0.1, 0.2),
        seeds: Sequence[int] = (0, 1),
        epochs: Sequence[int] = EPOCHS,
    ) -> Path:
        configs, results, runs = [], [], []
        for width in widths:
            for lr in lrs:
                for seed in seeds:
                    model_id = f"w{width}-lr{lr}-s{seed}"
                    configs.append(
                        {
                            "model_id": model_id,
                            "cell_id": f"w{width}-lr{lr}",
                            "load": float(width),
                            "temperature": lr,
                            "seed": seed,
                            "width": width,
                            "lr": lr,
                            "architecture": "mlp",
                            "architecture_config": json.dumps({**SHAPE, "width": width}),
                        }
                    )
                    results += [{"model_id": model_id, "epoch": e, "test_acc": seed + e / 10} for e in range(6)]
                    layout = Layout.of_state_dict(weights(width, 0))
                    read = lambda epoch, width=width, seed=seed: weights(width, 100 * seed + epoch)  # noqa: E731
                    runs.append(Run(model_id, f"w{width}-lr{lr}", layout, tuple(epochs), read))
        out = tmp_path / name
        write_zoo(out, draft(), configs=pa.Table.from_pylist(configs), results=pa.Table.from_pylist(results), runs=runs)
        return out

    return make


@pytest.fixture
def unprivileged() -> Callable[[], contextlib.AbstractContextManager[None]]:
    """Drop root's right to write everywhere, where the tests run as root."""

    @contextlib.contextmanager
    def drop() -> Iterator[None]:
        user = os.geteuid()
        if user == 0:
            os.seteuid(65534)
        try:
            yield
        finally:
            if user == 0:
                os.seteuid(0)

    return drop
