"""Train a group of trials, each into its journal: as one population where that is possible, else one by one."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path

import torch

from phasezoo.training.data import Convection, Data, Text, load_data
from phasezoo.training.journal import Journal
from phasezoo.training.population import Member
from phasezoo.training.population import train as train_population
from phasezoo.training.recipe import Recipe, Trial
from phasezoo.training.train import Precision, Protocol, train


def groups(recipe: Recipe, trials: Sequence[Trial]) -> list[tuple[Trial, ...]]:
    """Cut a grid into what is trained at once: populations where members can share every step, else single trials.

    >>> from phasezoo.training.recipes import recipe
    >>> [len(groups(recipe(name), recipe(name).trials())) for name in ("mlp-digits", "resnet18-cifar10")]
    [11, 192]
    """
    if not _populates(recipe):
        return [(trial,) for trial in trials]
    together: dict[tuple[str, int], list[Trial]] = {}
    for trial in trials:
        together.setdefault((trial.architecture_config, trial.batch_size), []).append(trial)
    return [tuple(group) for group in together.values()]


def _populates(recipe: Recipe) -> bool:
    """Population or loop: is there a population that does what the recipe says?"""
    plain = recipe.schedule.kind == "constant" and recipe.clip is None and recipe.passes == 1
    return (
        plain
        and recipe.architecture == "mlp"
        and recipe.architecture_config.get("activation", "relu") == "relu"
        and recipe.optimizer == "sgd"
        and recipe.metrics == "evaluated"
        and recipe.task == "classification"
        and not (recipe.micro_batch or recipe.augmentation or recipe.label_smoothing)
    )


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

    A single trial goes on behind its last finished epoch; a population starts again if it was stopped.

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
        if _populates(recipe):
            assert isinstance(data, Data)
            yield from _population(group, journals, recipe, data)
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


def _population(group: Sequence[Trial], journals: Sequence[Journal], recipe: Recipe, data: Data) -> Iterator[int]:
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
        kept = state.epoch in recipe.checkpoint_epochs
        for i, journal in enumerate(journals):
            metrics = {name: values[i] for name, values in state.metrics.items()}
            journal.write(state.epoch, metrics, state.population.state_dict(i) if kept else None)
        yield state.epoch


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
