"""What the small zoos have in common: they train on real data within minutes, on two cores."""

from __future__ import annotations

from typing import Any

from phasezoo.training.recipe import Recipe
from phasezoo.training.recipes.mlp_digits import RECIPE as MLP_DIGITS


def mini(name: str, **settings: Any) -> Recipe:
    """Return the recipe of a small zoo."""
    return Recipe(
        name=name,
        source=f"phasezoo recipe {name}",
        license="MIT",
        citation=MLP_DIGITS.citation,
        **settings,
    )
