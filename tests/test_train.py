"""One model: updates, accumulation, the published trainer's bugs, and exact resumption."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy

from phasezoo.nets import build
from phasezoo.training.data import Data, Split, load_data
from phasezoo.training.population import Member
from phasezoo.training.population import train as train_population
from phasezoo.training.recipe import MicroBatch, Recipe, Schedule
from phasezoo.training.recipes import recipe
from phasezoo.training.train import Epoch, train

ONE_CYCLE = Schedule(kind="onecycle", rise=0.3, end=4e-6, cycle_momentum=(0.85, 0.95))


@pytest.fixture(scope="module")
def data() -> Data:
    whole = load_data("digits")
    return Data(Split(whole.train.x[:200], whole.train.y[:200]), Split(whole.test.x[:50], whole.test.y[:50]), 10)


def small(**changes: Any) -> Recipe:
    base = recipe("mlp-digits")
    axes = {
        "load": base.load.model_copy(update={"values": (8.0,)}),
        "temperature": base.temperature.model_copy(update={"values": (0.05,)}),
    }
    return base.model_copy(update={**axes, "epochs": 2, "checkpoint_epochs": (0, 1, 2), "seeds": (3,), **changes})


def run(recipe: Recipe, data: Data, **switches: Any) -> list[Epoch]:
    states = []
    for state in train(recipe, recipe.trials()[0], data, **switches):
        states.append(state)
        weights = state.state_dict()
    object.__setattr__(states[-1], "state_dict", lambda: weights)
    return states


def test_the_loop_does_what_a_population_of_one_does(data: Data) -> None:
    ours = run(small(), data)
    *_, theirs = train_population(
        [Member(3, 0.05)],
        data,
        config=small().trials()[0].arguments,
        epochs=2,
        batch_size=32,
        momentum=0.9,
        weight_decay=5e-4,
    )
    for name, tensor in theirs.population.state_dict(0).items():
        torch.testing.assert_close(ours[-1].state_dict()[name], tensor, rtol=0, atol=1e-5)
    assert ours[-1].metrics == pytest.approx({k: v[0] for k, v in theirs.metrics.items()}, abs=1e-5)


def test_epoch_zero_is_the_initial_network_evaluated(data: Data) -> None:
    first = next(iter(train(small(), small().trials()[0], data)))
    torch.manual_seed(3)
    net = build("mlp", **small().trials()[0].arguments)
    assert all(torch.equal(first.state_dict()[name], tensor) for name, tensor in net.state_dict().items())
    with torch.no_grad():
        expected = cross_entropy(net(data.test.x), data.test.y).item()
    assert (first.epoch, first.metrics["test_loss"]) == (0, pytest.approx(expected, rel=1e-6))


@pytest.mark.parametrize("samples", [7, 16])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_accumulated_gradients_are_those_of_the_whole_batch(data: Data, samples: int, optimizer: Any) -> None:
    cut = (MicroBatch(load=0, batch_size=1, samples=samples),)
    lr = {"temperature": small().temperature.model_copy(update={"values": (0.05 if optimizer == "sgd" else 1e-3,)})}
    whole = run(small(epochs=1, optimizer=optimizer, schedule=ONE_CYCLE, **lr), data)[-1].state_dict()
    accumulated = run(small(epochs=1, optimizer=optimizer, schedule=ONE_CYCLE, micro_batch=cut, **lr), data)[-1]
    for name, tensor in accumulated.state_dict().items():
        torch.testing.assert_close(tensor, whole[name], rtol=0, atol=1e-6 if optimizer == "sgd" else 1e-5)


def rates(
    recipe: Recipe, data: Data, monkeypatch: pytest.MonkeyPatch, **switches: Any
) -> tuple[list[float], list[float]]:
    """Learning rates and momenta of all updates."""
    seen: list[tuple[float, float]] = []
    step = torch.optim.SGD.step
    with monkeypatch.context() as patch:

        def spy(self: torch.optim.SGD, *a: Any, **k: Any) -> Any:
            seen.append((self.param_groups[0]["lr"], self.param_groups[0]["momentum"]))
            return step(self, *a, **k)

        patch.setattr(torch.optim.SGD, "step", spy)
        run(recipe, data, **switches)
    return [lr for lr, _ in seen], [momentum for _, momentum in seen]


def test_one_cycle_goes_from_a_25th_over_the_largest_to_nothing_and_cycles_the_momentum(
    data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    lr, momentum = rates(small(schedule=ONE_CYCLE, epochs=10), data, monkeypatch)
    assert len(lr) == 10 * 7
    assert (lr[0], max(lr)) == (pytest.approx(0.05 / 25), pytest.approx(0.05))
    assert lr[-1] == pytest.approx(0.05 * 4e-6, rel=1e-6)
    assert (momentum[0], min(momentum), momentum[-1]) == (0.95, pytest.approx(0.85), pytest.approx(0.95))


def test_cosine_rises_and_falls_to_its_end(data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    lr, _ = rates(small(schedule=Schedule(kind="cosine", rise=0.1, end=0.1), epochs=10), data, monkeypatch)
    assert lr[0] == pytest.approx(0.05 / 7)
    assert max(lr) == lr[6] == pytest.approx(0.05)
    assert lr[-1] == pytest.approx(0.005, rel=0.05)
    assert lr[7:] == sorted(lr[7:], reverse=True)


ACCUMULATED = (MicroBatch(load=0, batch_size=1, samples=8),)  # four parts of 32


def test_the_published_trainer_divided_the_loss_it_reported(data: Data) -> None:
    recipe = small(micro_batch=ACCUMULATED, metrics="running", epochs=1)
    loss = {p: run(recipe, data, protocol=p)[-1].metrics["train_loss"] for p in ("published", "corrected")}
    # 25 micro-batches make 6 updates and a rest that only the corrected trainer uses: the same path up to there.
    assert loss["published"] * 4 == pytest.approx(loss["corrected"], rel=0.02)
    whole = {p: run(small(metrics="running"), data, protocol=p)[-1].metrics for p in ("published", "corrected")}
    assert whole["published"] == whole["corrected"]


@pytest.mark.parametrize(("steps", "end"), [(2, 0.081), (4, 0.094), (8, 0.038)])
def test_the_published_trainer_did_not_finish_its_cycle(
    data: Data, monkeypatch: pytest.MonkeyPatch, steps: int, end: float
) -> None:
    hot = small().temperature.model_copy(update={"values": (0.1,)})
    cut = (MicroBatch(load=0, batch_size=1, samples=32 // steps),)
    part = Data(Split(data.train.x[:192], data.train.y[:192]), data.test, 10)  # without a rest, as in 150 epochs
    changes: dict[str, Any] = {"temperature": hot, "schedule": ONE_CYCLE, "micro_batch": cut, "epochs": 20}
    published, _ = rates(small(**changes), part, monkeypatch, protocol="published")
    corrected, _ = rates(small(**changes), part, monkeypatch)
    assert len(published) == len(corrected) == 120
    assert published[-1] == pytest.approx(end, abs=0.002)
    assert corrected[-1] == pytest.approx(0.1 * 4e-6, rel=1e-6)


def test_the_published_trainer_left_gradients_to_the_next_epoch(data: Data) -> None:
    recipe = small(micro_batch=ACCUMULATED, epochs=1)
    left = run(recipe, data, protocol="published")[-1].run.net
    # 200 samples make 25 micro-batches: one is over after six updates of four.
    order = torch.randperm(200, generator=torch.Generator().manual_seed(10_000 * 3 + 1))[192:]
    loss = cross_entropy(left(data.train.x[order]), data.train.y[order]) / 4
    expected = torch.autograd.grad(loss, list(left.parameters()))
    for parameter, gradient in zip(left.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=0, atol=1e-6)
    assert all(p.grad is None for p in run(recipe, data)[-1].run.net.parameters())


def images() -> Data:
    x = torch.randn(64, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    y = torch.arange(64) % 10
    return Data(Split(x, y), Split(x[:16], y[:16]), 10)


KILLED = """
import os, signal, sys, torch
from pathlib import Path
torch.set_num_threads(1)
from phasezoo.training.recipe import Recipe
from phasezoo.training.train import train
from tests.test_train import images
recipe, at = Recipe.model_validate_json(sys.argv[1]), int(sys.argv[3])
steps = 0
def count(*_):
    global steps
    steps += 1
    if steps == at:
        os.kill(os.getpid(), signal.SIGKILL)
from torch.optim.optimizer import register_optimizer_step_pre_hook
register_optimizer_step_pre_hook(count)
for state in train(recipe, recipe.trials()[0], images(), protocol=sys.argv[4], state=Path(sys.argv[2])):
    state.save(Path(sys.argv[2]))
    print(state.epoch, flush=True)
"""


@pytest.mark.parametrize(("optimizer", "protocol"), [("sgd", "published"), ("adamw", "corrected")])
def test_a_run_that_was_killed_goes_on_to_the_same_bits(tmp_path: Path, optimizer: str, protocol: Any) -> None:
    base = recipe("resnet18-cifar10")
    short = base.model_copy(
        update={
            "load": base.load.model_copy(update={"values": (2.0,)}),
            "temperature": base.temperature.model_copy(update={"values": (16.0,)}),
            "micro_batch": (MicroBatch(load=0, batch_size=1, samples=6),),  # 3 parts of 16, and a rest
            "normalize": None,
            "optimizer": optimizer,
            "epochs": 3,
        }
    )
    updates = {"published": 3, "corrected": 4}[protocol]  # an epoch
    at = 1 + int.from_bytes(os.urandom(2), "big") % (3 * updates)
    state = tmp_path / "state"
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, short.model_dump_json(), str(state), str(at), protocol],
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
        cwd=Path(__file__).parents[1],
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    before = list(map(int, killed.stdout.split()))
    assert before == list(range(1 + (at - 1) // updates)), f"killed at update {at}"

    def go(**switches: Any) -> dict[int, Any]:
        return {
            epoch.epoch: (epoch.metrics, epoch.state_dict())
            for epoch in train(short, short.trials()[0], images(), protocol=protocol, **switches)
        }

    whole, after = go(), go(state=state)
    assert list(after) == list(range(len(before), 4)), f"killed at update {at}"
    for epoch, (metrics, weights) in after.items():
        assert metrics == whole[epoch][0]
        assert all(torch.equal(weights[name], tensor) for name, tensor in whole[epoch][1].items()), (epoch, at)


def test_bfloat16_and_compilation_are_switches(data: Data) -> None:
    plain = run(small(epochs=1), data)[-1].metrics["test_loss"]
    half = run(small(epochs=1), data, precision="bfloat16")[-1]
    assert half.metrics["test_loss"] == pytest.approx(plain, rel=0.05)
    assert half.metrics["test_loss"] != plain
    assert all(t.dtype == torch.float32 for t in half.state_dict().values())
