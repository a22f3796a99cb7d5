"""What training a grid takes: models, bytes of checkpoints, floating-point operations, and time on this machine."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from phasezoo.errors import DataNotFoundError
from phasezoo.layout import Layout
from phasezoo.nets import build
from phasezoo.registry import ZOOS
from phasezoo.training.data import Convection, Data, Text, generated, load_data
from phasezoo.training.grid import owners
from phasezoo.training.recipe import Recipe, Trial
from phasezoo.training.tables import count_parameters
from phasezoo.training.task import labelled, task_of

TIMED = 2e10  # most floating-point operations of a step that is timed


@dataclass(frozen=True)
class Estimate:
    """What a training takes.

    Attributes:
        models: number of models.
        smallest: parameters of the smallest network.
        largest: parameters of the largest.
        checkpoints: how many are kept.
        nbytes: their bytes; an initial network that several models share counts once.
        flops: floating-point operations of training and evaluation; None if the size of the data set is not known.
        seconds: time on one process of this machine, from measured steps; None likewise.
        rate: floating-point operations a second of the larger measured step.

    >>> from phasezoo.training.recipes import recipe
    >>> found = estimate(recipe("mlp-digits"), recipe("mlp-digits").trials()[:24])
    >>> found.rows()[:2]
    [['models', '24'], ['parameters', '166 to 166']]
    >>> found.nbytes == 24 * 3 * 664 + 3 * 664  # eight learning rates share the initial networks of three seeds
    True
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
            ["measured here", f"{self.rate / 1e9:,.2f} GFLOP/s in one process"],
            ["time here, one process", unknown if self.seconds is None else _duration(self.seconds)],
        ]


def estimate(recipe: Recipe, trials: Sequence[Trial]) -> Estimate:
    """Estimate what some trials of a recipe take, without training them.

    Operations are counted on the meta device. Steps of two networks are timed, the smallest and the largest that does
    not take long; from them, a step is taken to last a + b x operations. A population trains faster than that.

    Args:
        recipe: how they would be trained.
        trials: which of its trials.

    >>> from phasezoo.training.select import select
    >>> from phasezoo.training.recipes import recipe
    >>> whole = recipe("mlp-digits")
    >>> found = estimate(whole, select(whole, "width == 64 and lr == 0.1"))
    >>> found.models, found.largest, f"{found.flops:.0e}", found.seconds > 0
    (3, 8970, '3e+10', True)
    """
    plain = recipe.model_copy(update={"augmentation": None, "samples": None})
    data = generated(recipe.dataset)
    nets = {trial.architecture_config: trial for trial in trials}
    unit = {key: _operations(plain, trial, data) for key, trial in nets.items()}  # of a sample, or of a full batch
    weights = {key: Layout.of_state_dict(_meta(trial).state_dict()).nbytes for key, trial in nets.items()}
    stored_by = owners(trials)
    stored = [
        weights[trial.architecture_config]
        * sum(epoch > 0 or stored_by[trial.model_id] == trial.model_id for epoch in recipe.checkpoint_epochs)
        for trial in trials
    ]
    a, b, rate = _speed(plain, trials, unit, data)
    sizes = _sizes(recipe, trials[0])
    flops = seconds = None if sizes is None else 0.0
    for trial in trials if sizes else ():
        n_train, n_test = sizes or (0, 0)
        full = not trial.batch_size
        steps = recipe.epochs * recipe.passes * (1 if full else -(-n_train // trial.micro_batch_size))
        seen = recipe.epochs * recipe.passes * (1 if full else n_train)
        evaluated = (recipe.epochs + 1) * (1 if full else n_test + n_train * (recipe.metrics == "evaluated"))
        # Evaluation goes forward only: a third of a step.
        operations = (seen + evaluated / 3) * unit[trial.architecture_config]
        flops = (flops or 0.0) + operations
        seconds = (seconds or 0.0) + a * steps + b * operations
    parameters = sorted(map(count_parameters, nets.values()))
    kept = len(trials) * len(recipe.checkpoint_epochs)
    return Estimate(len(trials), parameters[0], parameters[-1], kept, sum(stored), flops, seconds, rate)


def _meta(trial: Trial) -> torch.nn.Module:
    return build(trial.architecture, device="meta", **trial.arguments)


def _operations(recipe: Recipe, trial: Trial, data: Data | Text | Convection) -> float:
    """Count the floating-point operations of a training sample, or of a full batch, forward and backward."""
    task, n = task_of(recipe, trial, data, device="meta"), 2
    index = torch.arange(n if trial.batch_size else len(task))
    net = _meta(trial)
    with FlopCounterMode(display=False) as counter:
        torch.autograd.backward(task.means(net, task.batch(index, epoch=0, start=0))["loss"])
    total: int = counter.get_total_flops()
    return total / (n if trial.batch_size else 1)


def _speed(
    recipe: Recipe, trials: Sequence[Trial], unit: dict[str, float], data: Data | Text | Convection
) -> tuple[float, float, float]:
    """Return a and b of a step's time a + b x operations, and the operations a second of the larger step."""

    def samples(trial: Trial) -> int:
        """As many samples as do not take long; a full batch is one."""
        return max(1, min(trial.micro_batch_size, int(TIMED / unit[trial.architecture_config])))

    step = {trial.model_id: unit[trial.architecture_config] * samples(trial) for trial in trials}
    small = min(trials, key=lambda trial: step[trial.model_id])
    affordable = [t for t in trials if step[t.model_id] <= TIMED and count_parameters(t) <= 2e7]
    large = max(affordable or [small], key=lambda trial: step[trial.model_id])
    (f0, t0), (f1, t1) = ((step[t.model_id], _time(recipe, t, samples(t), data)) for t in (small, large))
    b = max(t1 - t0, 0.0) / (f1 - f0) if f1 > 1.5 * f0 else t1 / f1
    return max(t0 - b * f0, 0.0), b, f1 / t1


def _time(recipe: Recipe, trial: Trial, samples: int, data: Data | Text | Convection) -> float:
    """Time a step: the median of three, after one to warm up."""
    task = task_of(recipe, trial, data)
    net = build(trial.architecture, **trial.arguments)
    optimizer = torch.optim.AdamW(net.parameters())
    # A network with BatchNorm takes two samples or more.
    index = torch.arange(max(samples, 2 if recipe.task == "classification" else 1) if trial.batch_size else len(task))
    index %= len(task)
    taken = []
    for _ in range(4):
        start = time.perf_counter()
        torch.autograd.backward(task.means(net, task.batch(index, epoch=0, start=0))["loss"])
        optimizer.step()
        taken.append(time.perf_counter() - start)
    return sorted(taken[1:])[1]


def _sizes(recipe: Recipe, trial: Trial) -> tuple[int, int] | None:
    """Return the numbers of training and test samples; None if nobody here knows them."""
    if recipe.samples:
        return recipe.samples
    entry = ZOOS.get(recipe.name)
    if entry and entry.dataset.train and entry.dataset.test:
        return entry.dataset.train, entry.dataset.test
    try:
        data = load_data(recipe.dataset)
    except (DataNotFoundError, ImportError):
        return None
    if isinstance(data, Convection):
        return len(data.collocation), len(data.grid)
    whole = labelled(data, samples=None, normalize=None, arguments=trial.arguments)
    return len(whole.train), len(whole.test)


def _duration(seconds: float) -> str:
    for unit, size in (("years", 365.25 * 86400), ("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:,.1f} {unit}"
    return f"{seconds:.1f} seconds"
