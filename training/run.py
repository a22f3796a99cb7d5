"""Train a group of trials, each into its journal: as one population where that is possible, else one by one."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import cast

import torch

from phasezoo.nets import build
from phasezoo.nets.mlp import MLP
from phasezoo.training.data import Convection, Data, Text, load_data
from phasezoo.training.journal import Journal
from phasezoo.training.population import Member, PinnPopulation
from phasezoo.training.population import train as train_population
from phasezoo.training.recipe import Recipe, Trial
from phasezoo.training.train import Precision, Protocol, save, train

Populate = Callable[[Sequence[Trial], Sequence[Journal], Recipe, Data | Text | Convection], Iterator[int]]


def groups(recipe: Recipe, trials: Sequence[Trial]) -> list[tuple[Trial, ...]]:
    """Cut a grid into what is trained at once: populations where members can share every step, else single trials.

    >>> from phasezoo.training.recipes import recipe
    >>> found = {name: groups(recipe(name), recipe(name).trials()) for name in ("mlp-digits", "pinn-convection")}
    >>> {name: (len(parts), len(parts[0])) for name, parts in found.items()}
    {'mlp-digits': (11, 24), 'pinn-convection': (14, 50)}
    """
    if population_of(recipe) is None:
        return [(trial,) for trial in trials]
    together: dict[tuple[float, str, int], list[Trial]] = {}
    for trial in trials:
        together.setdefault((trial.load, trial.architecture_config, trial.batch_size), []).append(trial)
    return [tuple(group) for group in together.values()]


def population_of(recipe: Recipe) -> Populate | None:
    """Population or loop: return what trains many models as a recipe says, None if only a loop does."""
    activation = recipe.architecture_config.get("activation", "relu")
    plain = recipe.schedule.kind == "constant" and recipe.clip is None and recipe.metrics == "evaluated"
    if recipe.architecture != "mlp" or not plain or recipe.micro_batch:
        return None
    pinn = recipe.task == "pde" and activation == "tanh" and recipe.optimizer == "adam" and not recipe.weight_decay
    if pinn and recipe.batch_size == 0:
        return _pinns
    classifier = recipe.task == "classification" and activation == "relu" and recipe.optimizer == "sgd"
    unchanged = recipe.passes == 1 and not (recipe.augmentation or recipe.label_smoothing or recipe.samples)
    return _perceptrons if classifier and unchanged else None


def run(
    group: tuple[Trial, ...],
    *,
    recipe: Recipe,
    records: str,
    protocol: Protocol = "corrected",
    precision: Precision = "float32",
    compiled: bool = False,
    data: Data | Text | Convection | None = None,
) -> Iterator[int]:
    """Train a group on what its journals lack, yielding each epoch that was finished.

    A trial goes on behind its last finished epoch, and so do PINNs; a population of perceptrons, which takes seconds,
    starts again.

    Args:
        group: trials, as `groups` puts them together.
        recipe: how to train.
        records: directory of the journals.
        protocol: see `train`.
        precision: see `train`.
        compiled: see `train`.
        data: the data set; by default the one that the recipe names.
    """
    journals = [Journal(Path(records, trial.model_id)) for trial in group]
    if all(journal.covers(recipe.epochs, recipe.checkpoint_epochs) for journal in journals):
        return
    data = data or load_once(recipe.dataset)
    threads = torch.get_num_threads()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))  # two threads stall where cores are shared
    try:
        if populate := population_of(recipe):
            yield from populate(group, journals, recipe, data)
        else:
            yield from _single(group[0], journals[0], recipe, data, protocol, precision, compiled)
    finally:
        torch.set_num_threads(threads)


def _single(
    trial: Trial,
    journal: Journal,
    recipe: Recipe,
    data: Data | Text | Convection,
    protocol: Protocol,
    precision: Precision,
    compiled: bool,
) -> Iterator[int]:
    if not journal.covers(_epoch_of(journal.state), recipe.checkpoint_epochs):
        shutil.rmtree(journal.folder, ignore_errors=True)  # the machine went down: a state, but not what led to it
    for state in train(
        recipe,
        trial,
        data,
        protocol=protocol,
        precision=precision,
        compiled=compiled,
        device="cuda" if torch.cuda.is_available() else "cpu",
        state=journal.state,
    ):
        kept = state.epoch in recipe.checkpoint_epochs
        journal.write(state.epoch, state.metrics, state.state_dict() if kept else None)
        state.save(journal.state)
        yield state.epoch


def _perceptrons(
    group: Sequence[Trial], journals: Sequence[Journal], recipe: Recipe, data: Data | Text | Convection
) -> Iterator[int]:
    assert isinstance(data, Data)
    members = [Member(trial.seed, trial.lr) for trial in group]
    for state in train_population(
        members,
        data,
        config=group[0].arguments,
        epochs=recipe.epochs,
        batch_size=group[0].batch_size,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
    ):
        _record(journals, recipe, state.epoch, state.metrics, state.population.state_dict)
        yield state.epoch


def _pinns(
    group: Sequence[Trial], journals: Sequence[Journal], recipe: Recipe, data: Data | Text | Convection
) -> Iterator[int]:
    assert isinstance(data, Convection)
    nets = []
    for trial in group:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(trial.seed)
            nets.append(cast(MLP, build(trial.architecture, **trial.arguments)))
    beta, lr = torch.tensor([[trial.beta or 0.0, trial.lr] for trial in group]).unbind(1)
    population = PinnPopulation(nets, points=data, beta=beta, betas=recipe.betas)
    parts = {"params": population.params, "mean": population.mean, "square": population.square}
    state = journals[0].state  # of all members
    first = _epoch_of(state) + 1
    if first and all(journal.covers(first - 1, recipe.checkpoint_epochs) for journal in journals):
        kept = torch.load(state, weights_only=True)
        population.steps = kept["steps"]
        for name, tensor in parts.items():
            tensor.copy_(kept[name])
    else:
        first = 0
    for epoch in range(first, recipe.epochs + 1):
        for _ in range(recipe.passes if epoch else 0):
            population.step(lr)
        metrics = {name: values.tolist() for name, values in population.evaluate().items()}
        _record(journals, recipe, epoch, metrics, population.state_dict)
        save({"epoch": epoch, "steps": population.steps, **parts}, state)
        yield epoch


def _record(
    journals: Sequence[Journal],
    recipe: Recipe,
    epoch: int,
    metrics: Mapping[str, Sequence[float]],
    state_dict: Callable[[int], dict[str, torch.Tensor]],
) -> None:
    for i, journal in enumerate(journals):
        kept = state_dict(i) if epoch in recipe.checkpoint_epochs else None
        journal.write(epoch, {name: values[i] for name, values in metrics.items()}, kept)


def _epoch_of(state: Path) -> int:
    """Return the epoch of a state, -1 if there is none."""
    if not state.is_file():
        return -1
    epoch: int = torch.load(state, map_location="cpu", weights_only=True)["epoch"]
    return epoch


@lru_cache(maxsize=1)
def load_once(name: str) -> Data | Text | Convection:
    """Load a data set once a process."""
    return load_data(name)
