"""Open a zoo by name or place."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from phasezoo.errors import ZooNotFoundError, nearest
from phasezoo.registry import ZOOS, embedded

if TYPE_CHECKING:
    from phasezoo.zoo import Zoo


def list_zoos() -> list[str]:
    """Return the names that `load` takes.

    >>> import phasezoo
    >>> phasezoo.list_zoos()
    ['mlp-digits']
    """
    return list(ZOOS)


def load(name_or_path: str | os.PathLike[str]) -> Zoo:
    """Open a zoo: its manifest now, its tables at first use, its weights when they are touched.

    Args:
        name_or_path: a name that `list_zoos` returns, or a directory that holds a ``zoo.json``.

    Raises:
        ZooNotFoundError: no zoo of that name or at that place.
        FormatError: the zoo follows another version of the format.

    >>> import phasezoo
    >>> phasezoo.load("mlp-digits")
    Zoo(mlp-digits: 264 models in 88 cells of width x lr, 9.7 MB of weights)
    """
    from phasezoo.index import Index
    from phasezoo.source import LocalSource
    from phasezoo.zoo import Zoo

    text = os.fspath(name_or_path)
    if text in ZOOS:
        return Zoo(Index(LocalSource(embedded(text))))
    if not Path(text).expanduser().exists() and os.sep not in text:
        raise ZooNotFoundError(
            f"no zoo named {text!r}, and no directory of that name. {nearest(text, ZOOS)} "
            "A directory that holds a zoo.json works too."
        )
    return Zoo(Index(LocalSource(text)))
