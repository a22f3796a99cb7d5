"""Landscape metrics of texts and of an equation: the loss that is differentiated is the one that was trained."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import phasezoo
from phasezoo.training.data import load_data
from phasezoo.training.grid import train_grid
from phasezoo.training.landscape.hvp import HessianOperator
from phasezoo.training.landscape.measure import measure
from phasezoo.training.landscape.objective import objective_of
from phasezoo.training.landscape.protocols import MeasureProtocol
from phasezoo.training.recipes import recipe

QUICK = MeasureProtocol(name="quick", train_samples=64, products=4, rtol=0.05, curve_epochs=1, curve_lr=0.01)


def zoo_of(name: str, path: Path, **changes) -> phasezoo.Zoo:
    base = recipe(name)
    axes = {
        "load": base.load.model_copy(update={"values": base.load.values[:1]}),
        "temperature": base.temperature.model_copy(update={"values": base.temperature.values[-1:]}),
    }
    short = {"epochs": 1, "checkpoint_epochs": (0, 1), "seeds": (0, 1), **changes}
    train_grid(base.model_copy(update={**axes, **short}), path)
    return phasezoo.load(path)


@pytest.fixture(scope="module")
def pinn(tmp_path_factory: pytest.TempPathFactory) -> phasezoo.Zoo:
    return zoo_of("pinn-convection-mini", tmp_path_factory.mktemp("pinn") / "zoo", passes=5)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> phasezoo.Zoo:
    return zoo_of("gpt2-text-mini", tmp_path_factory.mktemp("text") / "zoo", samples=(256, 64))


@pytest.mark.parametrize("name", ["pinn", "text"])
def test_the_loss_that_is_differentiated_is_the_recorded_one(name: str, request: pytest.FixtureRequest) -> None:
    zoo = request.getfixturevalue(name)
    model = zoo[0]
    objective = objective_of(zoo.manifest, model.config, load_data(zoo.manifest.dataset))
    net = objective.network(model.checkpoint(1).module(), model.config)
    with torch.no_grad():
        losses = [(objective.loss(net(x), y).item(), len(x)) for x, y in objective.data.train.batches(100)]
    mean = sum(loss * n for loss, n in losses) / sum(n for _, n in losses)
    assert mean == pytest.approx(model.checkpoint(1).metrics["train_loss"], rel=1e-5)


def test_products_with_the_hessian_of_a_pinn_are_those_of_finite_differences(pinn: phasezoo.Zoo) -> None:
    model = pinn[0]
    objective = objective_of(pinn.manifest, model.config, load_data("convection"))
    net = objective.network(model.checkpoint(1).module().double(), model.config)
    batches = [(x.double(), y) for x, y in objective.data.train.take(slice(64)).batches(32)]
    op = HessianOperator(net, batches=batches, loss=objective.loss)
    v = torch.randn(op.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def gradient(step: float) -> torch.Tensor:
        moved = objective.network(model.checkpoint(1).module().double(), model.config)
        with torch.no_grad():
            for parameter, part in zip(moved.parameters(), op.named(v).values(), strict=True):
                parameter.add_(part, alpha=step)
        return HessianOperator(moved, batches=batches, loss=objective.loss).gradient()

    expected = (gradient(1e-5) - gradient(-1e-5)) / 2e-5
    torch.testing.assert_close(op.matvec(v), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["pinn", "text"])
def test_every_metric_is_measured_or_says_why_not(name: str, request: pytest.FixtureRequest) -> None:
    zoo = request.getfixturevalue(name)
    root = Path(zoo._index.source.url.removeprefix("file://"))
    rows = measure(root, protocol=QUICK).to_pylist()
    (cell,) = (row for row in rows if row["model_id"] is None)
    models = [row for row in rows if row["model_id"]]
    assert len(models) == 2
    assert all(row["hessian_top_ev_train"] is not None and row["hessian_trace_train"] is not None for row in models)
    assert cell["representation_similarity"] == pytest.approx(0.5, abs=0.6)
    assert cell["curve_mc_train_loss"] is not None
    if name == "pinn":
        assert cell.get("curve_mc_train_error") is None
        assert "no classes" in cell["reasons"]
    else:
        assert cell["curve_mc_train_error"] is not None
