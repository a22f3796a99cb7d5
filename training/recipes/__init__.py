"""Recipes: everything that regenerates a zoo, as data. One small file a zoo."""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules
from typing import Any

from pydantic import BaseModel, ConfigDict

from phasezoo.errors import ZooNotFoundError, nearest
from phasezoo.manifest import Axis


class Recipe(BaseModel):
    """How a zoo was, or is to be, trained.

    Attributes:
        name: name of the zoo.
        title: one line for people.
        description: a paragraph for people.
        architecture: name that `phasezoo.nets.build` takes.
        architecture_config: its arguments, without the width.
        dataset: name that `phasezoo.training.data.load_data` takes.
        load: the load axis.
        temperature: the temperature axis.
        seeds: seeds of every cell.
        epochs: epochs of training.
        checkpoint_epochs: epochs at which the weights are kept.
        batch_size: samples per update.
        momentum: momentum of SGD.
        weight_decay: weight decay on all parameters.
        source: where the recipe comes from.
        notes: what a reader of the numbers must know.
        license: licence of the trained models.
        citation: BibTeX.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    title: str
    description: str
    architecture: str
    architecture_config: dict[str, Any]
    dataset: str
    load: Axis
    temperature: Axis
    seeds: tuple[int, ...]
    epochs: int
    checkpoint_epochs: tuple[int, ...]
    batch_size: int
    momentum: float
    weight_decay: float
    source: str
    notes: tuple[str, ...]
    license: str
    citation: str


def names() -> list[str]:
    """Return the names of all recipes.

    >>> names()
    ['mlp-digits']
    """
    return [module.name.replace("_", "-") for module in iter_modules(__path__)]


def recipe(name: str) -> Recipe:
    """Return a recipe by the name of its zoo.

    Raises:
        ZooNotFoundError: no recipe of that name.

    >>> recipe("mlp-digits").batch_size
    32
    """
    if name not in names():
        raise ZooNotFoundError(f"no recipe {name!r}. {nearest(name, names())}")
    found = import_module(f"{__name__}.{name.replace('-', '_')}").RECIPE
    assert isinstance(found, Recipe)
    return found
