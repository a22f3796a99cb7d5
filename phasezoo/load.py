"""Open a zoo by name or place."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from phasezoo.errors import SourceNotSupportedError, ZooNotFoundError, nearest
from phasezoo.registry import ZOOS, embedded

if TYPE_CHECKING:
    from phasezoo.zoo import Zoo


def list_zoos() -> list[str]:
    """Return the names that `load` takes.

    >>> import phasezoo
    >>> phasezoo.list_zoos()[:3]
    ['mlp-digits', 'resnet18-svhn', 'resnet18-cifar10']
    """
    return [entry.name for entry in ZOOS.values() if entry.variant_of is None]


def load(
    name_or_path: str | os.PathLike[str],
    *,
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
    force_download: bool = False,
) -> Zoo:
    """Open a zoo: its manifest now, its tables at first use, its weights when they are touched.

    Of a published zoo the summary table (5 to 20 MB) is fetched at the first time, and an index is kept in the cache;
    such a zoo has configs, results and landscape metrics, and no weights.

    Args:
        name_or_path: a name that `list_zoos` returns, or a directory that holds a ``zoo.json``.
        cache_dir: where to keep what is fetched; ``PHASEZOO_CACHE`` or the Hub library's cache of assets by default.
        local_files_only: open nothing but what is on this machine; so does ``HF_HUB_OFFLINE=1``.
        force_download: fetch again what is in the cache.

    Raises:
        ZooNotFoundError: no zoo of that name or at that place.
        SourceNotSupportedError: the zoo has no files yet, or a kind of address that this release cannot open.
        SourceError: the server of the published tables cannot be reached.
        IntegrityError: what was fetched is not what was published.
        FormatError: the zoo follows another version of the format, or what was fetched is no summary table.

    >>> import phasezoo
    >>> phasezoo.load("mlp-digits")
    Zoo(mlp-digits: 264 models in 88 cells of width x lr, 9.7 MB of weights)
    """
    from phasezoo.index import Index
    from phasezoo.source import LocalSource
    from phasezoo.zoo import Zoo

    text = os.fspath(name_or_path)
    entry = ZOOS.get(text)
    if entry is not None and entry.embedded:
        return Zoo(Index(LocalSource(embedded(text)), address=text))
    if entry is not None:
        from phasezoo.published import open_published

        place = open_published(
            entry, cache_dir=cache_dir, local_files_only=local_files_only, force_download=force_download
        )
        return Zoo(Index(LocalSource(place), address=text))
    if "://" in text:
        raise SourceNotSupportedError(
            f"cannot open {text}: this release opens zoos by name and from directories only. Download it first, "
            "and give its path."
        )
    if not Path(text).expanduser().exists() and os.sep not in text:
        raise ZooNotFoundError(
            f"no zoo named {text!r}, and no directory of that name. {nearest(text, ZOOS, limit=20)} "
            "A directory that holds a zoo.json works too."
        )
    return Zoo(Index(LocalSource(text), address=text))
