"""Try a recipe out: two steps of its smallest and its largest network, on generated data in the true format."""

from __future__ import annotations

from pathlib import Path

import torch

from phasezoo.errors import TrainError
from phasezoo.nets import build
from phasezoo.progress import size
from phasezoo.training.data import Convection, Data, Text, generated
from phasezoo.training.grid import train_grid
from phasezoo.training.recipe import MicroBatch, Recipe, Trial
from phasezoo.training.tables import count_parameters
from phasezoo.training.task import task_of

FITS = 2**29  # bytes for weights, gradients and two more of that size in the optimiser
STEPS = 2


def smoke(recipe: Recipe, out: str | Path) -> list[list[str | int]]:
    """Build the smallest and the largest network of a recipe, take two steps with what fits, and write a valid zoo.

    A network that does not fit in half a gigabyte is built on the meta device: its shapes are checked by a step there.

    Args:
        recipe: what to try out.
        out: directory that does not exist yet or is empty.

    Returns:
        For each network its id, its parameters, and what was done with it.

    >>> import tempfile
    >>> import phasezoo
    >>> from phasezoo.training.recipes import recipe
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     print(smoke(recipe("mlp-digits"), f"{folder}/zoo"))
    ...     print(phasezoo.load(f"{folder}/zoo"))
    [['w2-lr0.005-s100', 166, '2 steps'], ['w64-lr0.005-s100', 8970, '2 steps']]
    Zoo(mlp-digits: 2 models in 2 cells of width x lr, 73.1 kB of weights)
    """
    ends = [_tried(recipe, load) for load in dict.fromkeys((recipe.load.values[0], recipe.load.values[-1]))]
    rows: list[list[str | int]] = []
    trained = []
    for trial in ends:
        n_params = count_parameters(trial)
        if 16 * n_params <= FITS:
            trained.append(trial)
            done = f"{STEPS} steps"
        else:
            _on_meta(recipe, trial)
            done = f"a step on the meta device: training takes {size(16 * n_params)}"
        rows.append([trial.model_id, n_params, done])
    if not trained:
        raise TrainError(f"the smallest network of {recipe.name!r} takes more than {size(FITS)} to train.")
    train_grid(_shortest(recipe, trained), out, data=_data(recipe, trained[0]))
    return rows


def _tried(recipe: Recipe, load: float) -> Trial:
    """Return the trial of a load with the smallest batches."""
    return min((t for t in recipe.trials() if t.load == load), key=lambda trial: trial.batch_size)


def _shortest(recipe: Recipe, trials: list[Trial]) -> Recipe:
    """Cut a recipe to some loads, one temperature, one seed, and an epoch of two steps."""
    first = trials[0]
    full = not first.batch_size
    changes = {
        "load": recipe.load.model_copy(update={"values": tuple(trial.load for trial in trials)}),
        "temperature": recipe.temperature.model_copy(update={"values": (first.temperature,)}),
        "seeds": (first.seed,),
        "epochs": 1,
        "checkpoint_epochs": (0, 1),
        "passes": STEPS if full else 1,
        "samples": None if full else (STEPS * first.batch_size, 8),
    }
    if recipe.task == "language-modelling":  # logits of whole contexts
        changes["micro_batch"] = (MicroBatch(load=0, batch_size=1, samples=1),)
    return recipe.model_copy(update=changes)


def _on_meta(recipe: Recipe, trial: Trial) -> None:
    short = _shortest(recipe, [trial])
    task = task_of(short, trial, _data(recipe, trial), device="meta")
    net = build(trial.architecture, device="meta", **trial.arguments)
    torch.autograd.backward(task.means(net, task.batch(torch.arange(2), epoch=0, start=0))["loss"])


def _data(recipe: Recipe, trial: Trial) -> Data | Text | Convection:
    return generated(recipe.dataset, samples=STEPS * (trial.batch_size or 32))
