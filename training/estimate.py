"""What training a grid takes: models, bytes of checkpoints, floating-point operations, and time on this machine."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch.utils.flop_counter import FlopCounterMode

from phasezoo.errors import DataNotFoundError
from phasezoo.layout import Layout
from phasezoo.nets import build
from phasezoo.registry import ZOOS
from phasezoo.training.data import Convection, generated, load_data
from phasezoo.training.grid import count_parameters, owners
from phasezoo.training.recipe import Recipe, Trial
from phasezoo.training.task import labelled, task_of

MEASURED = 2e10  # most floating-point operations of a step that is timed


@dataclass(frozen=True)
class Estimate:
    """What a training takes.

    Attributes:
        models: number of models.
        smallest: parameters of the smallest network.
        largest: parameters of the largest.
        checkpoints: how many are kept.
        nbytes: their bytes.
        flops: floating-point operations of training and evaluation; None if the size of the data set is not known.
        seconds: time on one process of this machine, from measured steps; None likewise.
        rate: floating-point operations a second of the larger measured step.
    """

    models: int
    smallest: int
    largest: int
    checkpoints: int
    nbytes: int
    flops: float | None
    seconds: float | None
    rate: float

    def rows(self) -> list[list[str]]:
        """Return the numbers for people to read."""
        unknown = "unknown: the data set is not on this machine"
        return [
            ["models", f"{self.models:,}"],
            ["parameters", f"{self.smallest:,} to {self.largest:,}"],
            ["checkpoints", f"{self.checkpoints:,}"],
            ["bytes of checkpoints", f"{self.nbytes:,} ({self.nbytes / 1e9:,.2f} GB)"],
            ["floating-point operations", unknown if self.flops is None else f"{self.flops:.2e}"],
            ["measured here", f"{self.rate / 1e9:,.1f} GFLOP/s, one process of {torch.get_num_threads()} thread(s)"],
            ["time here, one process", unknown if self.seconds is None else _duration(self.seconds)],
        ]


def estimate(recipe: Recipe, trials: Sequence[Trial]) -> Estimate:
    """Estimate what some trials of a recipe take, without training them.

    Operations are counted on the meta device. Two steps are timed, of a small and of the largest affordable network;
    a step takes a + b x operations.
    """
    nets = {t.architecture_config: t for t in trials}
    layouts = {key: Layout.of_state_dict(_meta(t).state_dict()).nbytes for key, t in nets.items()}
    parameters = sorted(count_parameters(t) for t in nets.values())
    stored = owners(trials)
    kept = [
        layouts[t.architecture_config] * (len(recipe.checkpoint_epochs) - (0 in recipe.checkpoint_epochs and not own))
        for t in trials
        for own in [stored[t.model_id] == t.model_id]
    ]
    a, b, rate = _speed(recipe, trials)
    sizes = _sizes(recipe, trials[0])
    flops = seconds = None
    if sizes:
        flops = seconds = 0.0
        for t in trials:
            passes = recipe.passes * (1 if not t.batch_size else -(-sizes[0] // t.micro_batch_size)) * recipe.epochs
            seen = recipe.passes * recipe.epochs * (1 if not t.batch_size else sizes[0])
            # Evaluation goes forward only: a third. Full batches are counted whole, others by the sample.
            evaluated = (recipe.epochs + 1) * (1 if not t.batch_size else sizes[1] + sizes[0] * (recipe.metrics != "running"))
            operations = (seen + evaluated / 3) * operations_of(recipe, t)
            flops += operations
            seconds += a * passes + b * operations
    checkpoints = sum(len(recipe.checkpoint_epochs) for _ in trials)
    return Estimate(len(trials), parameters[0], parameters[-1], checkpoints, sum(kept), flops, seconds, rate)


def _meta(trial: Trial) -> torch.nn.Module:
    return build(trial.architecture, device="meta", **trial.arguments)


def operations_of(recipe: Recipe, trial: Trial) -> float:
    """Count the floating-point operations of one training sample (of a full batch), forward and backward."""
    return _operations(recipe.model_dump_json(include={"dataset", "task"}), recipe, trial)


_COUNTED: dict[tuple[str, str], float] = {}


def _operations(key: str, recipe: Recipe, trial: Trial) -> float:
    place = (key, trial.architecture_config)
    if place not in _COUNTED:
        n = 2 if trial.batch_size else None
        task = task_of(_plain(recipe), trial, _generated(recipe.dataset), device="meta")
        net = _meta(trial)
        with FlopCounterMode(display=False) as counter:
            index = torch.arange(n or len(task))
            task.means(net, task.batch(index, epoch=0, start=0))["loss"].backward()
        _COUNTED[place] = counter.get_total_flops() / (n or 1)
    return _COUNTED[place]


@lru_cache(maxsize=1)
def _generated(name: str) -> object:
    return generated(name)


def _plain(recipe: Recipe) -> Recipe:
    return recipe.model_copy(update={"augmentation": None, "samples": None})


def _speed(recipe: Recipe, trials: Sequence[Trial]) -> tuple[float, float, float]:
    """Return a and b of a step's time a + b x operations, and the operations a second of the larger step."""
    per = {t.model_id: operations_of(recipe, t) for t in trials}
    cost = {t.model_id: per[t.model_id] * max(t.micro_batch_size, 1) for t in trials}
    small = min(trials, key=lambda t: cost[t.model_id])
    affordable = [t for t in trials if cost[t.model_id] <= MEASURED and count_parameters(t) <= 2e7]
    large = max(affordable or [small], key=lambda t: cost[t.model_id])
    t0, t1 = _time(recipe, small), _time(recipe, large)
    f0, f1 = cost[small.model_id], cost[large.model_id]
    b = max(t1 - t0, 0.0) / (f1 - f0) if f1 > 1.5 * f0 else t1 / f1
    return max(t0 - b * f0, 0.0), b, f1 / t1


def _time(recipe: Recipe, trial: Trial) -> float:
    """Time a step: the median of three, after one to warm up."""
    task = task_of(_plain(recipe), trial, _generated(recipe.dataset))
    net = build(trial.architecture, **trial.arguments)
    optimizer = torch.optim.AdamW(net.parameters())
    index = torch.arange(trial.micro_batch_size or len(task)) % len(task)
    taken = []
    for _ in range(4):
        start = time.perf_counter()
        task.means(net, task.batch(index, epoch=0, start=0))["loss"].backward()
        optimizer.step()
        taken.append(time.perf_counter() - start)
    return sorted(taken[1:])[1]


def _sizes(recipe: Recipe, trial: Trial) -> tuple[int, int] | None:
    """Return the numbers of training and test samples, None if nobody here knows them."""
    if recipe.samples:
        return recipe.samples
    entry = ZOOS.get(recipe.name)
    if entry and entry.dataset.train and entry.dataset.test:
        return entry.dataset.train, entry.dataset.test
    try:
        data = load_data(recipe.dataset)
    except DataNotFoundError:
        return None
    if isinstance(data, Convection):
        return len(data.collocation), len(data.grid)
    whole = labelled(data, samples=None, normalize=None, arguments=trial.arguments)
    return len(whole.train), len(whole.test)


def _duration(seconds: float) -> str:
    for unit, size in (("years", 365.25 * 86400), ("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:,.1f} {unit}"
    return f"{seconds:.0f} seconds"
