"""Open a zoo by name or place."""

from __future__ import annotations

import os
import warnings
from typing import TYPE_CHECKING, Any

from phasezoo import settings
from phasezoo.errors import SourceError, ZooNotFoundError, nearest
from phasezoo.registry import ZOOS, Entry, embedded

if TYPE_CHECKING:
    from phasezoo.index import Index
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
    revision: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
    force_download: bool = False,
    storage_options: dict[str, Any] | None = None,
) -> Zoo:
    """Open a zoo: its manifest now, its tables at first use, its weights when they are touched.

    What is read elsewhere is verified and kept: a second reading asks for nothing and works offline. Of a published
    zoo the summary table (5 to 20 MB) is fetched at the first time, and an index is kept in the cache; such a zoo has
    configs, results and landscape metrics, and no weights.

    Args:
        name_or_path: a name that `list_zoos` returns; a directory that holds a ``zoo.json``; an address:
            ``hf://datasets/owner/name``, ``https://...``, ``s3://...``, or another that fsspec knows; or a zip at
            any of these.
        revision: branch, tag or commit on the Hub; resolved to a commit once (`Zoo.revision`).
        cache_dir: where to keep what is fetched; ``PHASEZOO_CACHE`` or the Hub library's cache of assets by default.
        token: for the Hub; by default the one that is logged in. It is sent to the Hub only.
        local_files_only: open nothing but what is on this machine; so does ``HF_HUB_OFFLINE=1``.
        force_download: fetch tables again that are in the cache.
        storage_options: arguments of the file system: ``{"headers": {...}}`` for http, keys for s3,
            ``{"endpoint": ...}`` for the Hub.

    Raises:
        AddressError: the address cannot be read.
        ZooNotFoundError: no zoo of that name or at that place, no such revision, or not in the cache while offline.
        SourceNotSupportedError: the zoo has no files yet.
        SourceError: the server cannot be reached, or refuses; or the address holds a password.
        DependencyError: the library for this kind of address is not installed.
        IntegrityError: what was fetched is not what was published.
        FormatError: the zoo follows another version of the format, or what was fetched is no summary table.

    >>> import phasezoo
    >>> phasezoo.load("mlp-digits")
    Zoo(mlp-digits: 264 models in 88 cells of width x lr, 9.7 MB of weights)
    """
    from phasezoo.index import Index
    from phasezoo.opening import open_address, open_hub
    from phasezoo.source import check_address, is_address, local_place, open_source
    from phasezoo.store import Store
    from phasezoo.zoo import Zoo

    text = os.fspath(name_or_path)
    if is_address(text):
        check_address(text)
    entry = ZOOS.get(text)
    if text.startswith("hf://"):
        index = open_hub(
            text,
            revision=revision,
            cache_dir=cache_dir,
            token=token,
            local_files_only=local_files_only,
            force_download=force_download,
            storage_options=storage_options,
        )
        return Zoo(index)
    if entry is not None and not entry.embedded and settings.hub():
        found = _preferred(
            entry,
            revision=revision,
            cache_dir=cache_dir,
            token=token,
            local_files_only=local_files_only,
            force_download=force_download,
            storage_options=storage_options,
        )
        if found is not None:
            return Zoo(found)
    if revision is not None:
        raise SourceError(f"{text} has no revisions: only zoos on the Hub (hf://datasets/owner/name) have.")
    if entry is not None and entry.embedded:
        return Zoo(Index(Store(open_source(str(embedded(text)))), address=text))
    if entry is not None:
        from phasezoo.published import open_published

        place = open_published(
            entry, cache_dir=cache_dir, local_files_only=local_files_only, force_download=force_download
        )
        return Zoo(Index(Store(open_source(str(place))), address=text))
    if is_address(text):
        index = open_address(
            text.rstrip("/"),
            cache_dir=cache_dir,
            local_files_only=local_files_only,
            force_download=force_download,
            storage_options=storage_options,
        )
        return Zoo(index)
    if not os.path.exists(local_place(text)) and os.sep not in text:
        raise ZooNotFoundError(
            f"no zoo named {text!r}, and no directory of that name. {nearest(text, ZOOS, limit=20)} "
            "A directory that holds a zoo.json works too, and so does an address such as hf://datasets/owner/name."
        )
    return Zoo(Index(Store(open_source(text)), address=text))


def hub_address(name: str, prefix: str) -> str:
    """Return the place on the Hub that ``PHASEZOO_HUB`` gives to a name.

    >>> hub_address("vit-cifar10", "owner"), hub_address("vit-cifar10", "owner/zoo-")
    ('hf://datasets/owner/vit-cifar10', 'hf://datasets/owner/zoo-vit-cifar10')
    """
    return f"hf://datasets/{prefix}{name}" if "/" in prefix else f"hf://datasets/{prefix}/{name}"


def _preferred(entry: Entry, **arguments: Any) -> Index | None:
    """Open a named zoo on the Hub that PHASEZOO_HUB prefers; None, with a warning, if it is not there."""
    from phasezoo.opening import open_hub

    url = hub_address(entry.name, settings.hub() or "")
    try:
        return open_hub(url, **arguments)
    except ZooNotFoundError as error:
        if arguments["revision"] is not None or entry.summary is None:
            raise
        warnings.warn(f"PHASEZOO_HUB: {error} The published tables are opened instead.", stacklevel=3)
        return None
