"""The manifest that a zoo of trained networks begins with."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version

import torch

from phasezoo.manifest import Manifest, Provenance
from phasezoo.training.recipe import Recipe


def draft(recipe: Recipe) -> Manifest:
    """Return the manifest of the zoo that a recipe gives, before there are any files."""
    return Manifest(
        name=recipe.name,
        title=recipe.title,
        description=recipe.description,
        architecture=recipe.architecture,
        dataset=recipe.dataset,
        task=recipe.task,
        load=recipe.load,
        temperature=recipe.temperature,
        provenance=Provenance(
            source=recipe.source,
            method="trained",
            recipe=recipe.settings(),
            software=dict(_versions("phasezoo", "torch", "scikit-learn")),
            notes=recipe.notes,
        ),
        license=recipe.license,
        citation=recipe.citation,
        tables={},
    )


def _versions(*names: str) -> Iterator[tuple[str, str]]:
    for name in names:
        try:
            yield name, torch.__version__ if name == "torch" else version(name)
        except PackageNotFoundError:
            continue
