"""Recipes: everything that regenerates a zoo, as data. One small file a zoo."""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

from phasezoo.errors import ZooNotFoundError, nearest
from phasezoo.training.recipe import Recipe


def names() -> list[str]:
    """Return the names of all recipes.

    >>> "resnet18-cifar10" in names()
    True
    """
    return [module.name.replace("_", "-") for module in iter_modules(__path__) if not module.name.startswith("_")]


def recipe(name: str) -> Recipe:
    """Return a recipe by the name of its zoo.

    Raises:
        ZooNotFoundError: no recipe of that name.

    >>> recipe("mlp-digits").batch_size, len(recipe("resnet50-svhn").trials())
    (32, 192)
    """
    if name not in names():
        raise ZooNotFoundError(f"no recipe {name!r}. {nearest(name, names())}")
    found = import_module(f"{__name__}.{name.replace('-', '_')}").RECIPE
    assert isinstance(found, Recipe)
    return found
