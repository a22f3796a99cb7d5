"""The index of a zoo whose tables are published: fetched once, built in the cache, and opened from there."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from phasezoo import settings
from phasezoo.cache import cache_directory
from phasezoo.errors import SourceNotSupportedError, WriteError, ZooNotFoundError
from phasezoo.manifest import MANIFEST
from phasezoo.registry import COMMIT, REPOSITORY, Entry
from phasezoo.source import download, partial_name

# Of what `build` makes of a file: a new version builds indexes anew, from the file in the cache.
VERSION = 1


def address(entry: Entry) -> str:
    """Return where the published table of a zoo is, or its mirror.

    >>> from phasezoo.registry import ZOOS
    >>> address(ZOOS["resnet18-svhn"]).rsplit("/", 1)[1]
    'svhn_resnet18_summary.csv'
    """
    if entry.summary is None:
        raise SourceNotSupportedError(_no_source(entry))
    return f"{settings.mirror() or settings.PUBLISHED_HOST}/{REPOSITORY}/{COMMIT}/{entry.summary.file}"


def open_published(
    entry: Entry,
    *,
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
    force_download: bool = False,
) -> Path:
    """Return the directory of a zoo's index, made from its published table if need be.

    Args:
        entry: the zoo.
        cache_dir: see `phasezoo.load`.
        local_files_only: see `phasezoo.load`.
        force_download: see `phasezoo.load`.

    Raises:
        SourceNotSupportedError: there is no published table.
        ZooNotFoundError: the server has no such file, or the cache has none and may not ask.
        SourceError: the server cannot be reached.
        IntegrityError: the file is not the published one.
        FormatError: the file is no summary table of this zoo.
        WriteError: the cache cannot be written.
    """
    if entry.summary is None:
        raise SourceNotSupportedError(_no_source(entry))
    offline = local_files_only or settings.offline()
    if offline and force_download:
        raise ZooNotFoundError(
            f"force_download would fetch zoo {entry.name!r}, and local_files_only (or HF_HUB_OFFLINE) forbids it. "
            "Leave out one of them."
        )
    cache = cache_directory(cache_dir)
    index = cache / "zoos" / f"{entry.name}-{COMMIT[:12]}-v{VERSION}"
    if not force_download and _complete(index):
        return index
    file = cache / "published" / COMMIT[:12] / Path(entry.summary.file).name
    if force_download or not file.is_file():
        if offline:
            raise ZooNotFoundError(
                f"zoo {entry.name!r} is not in the cache {cache}, and local_files_only (or HF_HUB_OFFLINE) forbids to "
                "fetch it. Load it once without."
            )
        # A mirror may hold another edition: then the server's own word on the size has to do.
        fresh = partial_name(file.with_name(f"{entry.name}.csv"))
        download(address(entry), fresh, nbytes=None if settings.mirror() else entry.summary.nbytes)
        try:
            _build(entry, fresh, index, replace=force_download)
            os.replace(fresh, file)
        finally:
            fresh.unlink(missing_ok=True)
    else:
        _build(entry, file, index)
    return index


def _build(entry: Entry, file: Path, index: Path, *, replace: bool = False) -> None:
    from phasezoo.report import REPORT, to_json
    from phasezoo.summary import draft, parse
    from phasezoo.tables import staged, write_tables

    data = file.read_bytes()
    tables = parse(data, entry, where=address(entry))
    named = {"configs": tables.configs, "results": tables.results, "landscape": tables.landscape}
    try:
        with staged(index) as staging:
            (staging / REPORT).write_bytes(to_json(tables.findings, tables.counts))
            write_tables(staging, draft(entry, tables, data), named)
            if index.exists() and (replace or not _complete(index)):
                shutil.rmtree(index, ignore_errors=True)
    except OSError as error:
        if _complete(index):  # another process has built it meanwhile, from the same file
            return
        raise WriteError(f"cannot write {index}: {error.strerror}. PHASEZOO_CACHE names another place.") from None


def _complete(index: Path) -> bool:
    """Say whether all files of an index are there, in the size that its manifest says."""
    try:
        tables = json.loads((index / MANIFEST).read_bytes())["tables"].values()
        return all((index / table["path"]).stat().st_size == table["nbytes"] for table in tables)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def _no_source(entry: Entry) -> str:
    return (
        f"zoo {entry.name!r} ({entry.title}, {entry.models} models) has no published files yet, neither tables nor "
        f"weights. If you have a raw copy, `phasezoo build SOURCE OUT --zoo {entry.name}` turns it into a zoo."
    )
