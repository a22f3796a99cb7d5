"""Select trials of a recipe by a condition on what will be the table `configs`."""

from __future__ import annotations

from phasezoo.errors import FilterError
from phasezoo.tables import from_rows
from phasezoo.training.recipe import Recipe, Trial
from phasezoo.training.tables import CONFIGS, config_of
from phasezoo.where import match


def select(recipe: Recipe, where: str | None) -> list[Trial]:
    """Return the trials of a recipe that meet a condition on the columns of `configs`.

    Raises:
        FilterError: the condition cannot be read or does not fit its columns, or no trial meets it.
        ColumnNotFoundError: no such column.

    >>> from phasezoo.training.recipes import recipe
    >>> len(select(recipe("resnet50-cifar10"), "width <= 4 and batch_size in (8, 16) and seed == 0"))
    4
    """
    trials = recipe.trials()
    if where is None:
        return trials
    columns = [name for name in CONFIGS if name not in ("n_params", "topology_id")]
    table = from_rows([config_of(recipe, trial, n_params=0) for trial in trials], columns)
    chosen = match(table, where, {})
    if not chosen:
        axes = ", ".join(
            f"{a.column} in {a.values[0]:g} ... {a.values[-1]:g}" for a in (recipe.load, recipe.temperature)
        )
        raise FilterError(f"no model of recipe {recipe.name!r} meets {where!r}. Its grid has {axes}.")
    return [trials[i] for i in chosen]
