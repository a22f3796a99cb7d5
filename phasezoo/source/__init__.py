"""Where the bytes of a zoo come from: the only part of the package that opens its files and the network.

| address | opened by |
|---|---|
| a directory | `local.py` |
| ``hf://datasets/owner/name[@revision][/folder]`` | `hub.py` |
| ``http://``, ``https://`` | `http.py` |
| ``s3://``, ``memory://`` and what else fsspec knows | `fs.py` |
| any of these that ends in ``.zip`` | `archive.py` |
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from phasezoo.source.archive import ZipSource
from phasezoo.source.download import download, partial_name
from phasezoo.source.local import LocalRanges, LocalSource, ignore, local_place, vacant
from phasezoo.source.remote import Files, RangeFile, RemoteRanges, RemoteSource, check_address, files_at

__all__ = [
    "Files",
    "LocalRanges",
    "LocalSource",
    "RangeFile",
    "RemoteRanges",
    "RemoteSource",
    "Source",
    "ZipSource",
    "check_address",
    "download",
    "is_directory",
    "local_place",
    "open_ranges",
    "open_source",
    "partial_name",
    "vacant",
]


class Source(Protocol):
    """A place that holds the files of one zoo."""

    url: str

    def read(self, path: str) -> memoryview:
        """Read a whole file."""
        ...

    def read_ranges(
        self, ranges: Sequence[tuple[str, int, int]], *, done: Callable[[int, memoryview], object] = ignore
    ) -> list[memoryview]:
        """Read byte ranges (path, start, stop); every answer has exactly the length that was asked.

        Args:
            ranges: what to read.
            done: called with the place in `ranges` and the bytes as soon as they are there, by several threads.
        """
        ...

    def size(self, path: str) -> int:
        """Return the length of a file in bytes."""
        ...

    def local(self, path: str) -> Path | None:
        """Return the file's place on this machine's disk, or None if it has none."""
        ...


def is_address(text: str) -> bool:
    """Is this the address of something elsewhere, rather than a path?"""
    return "://" in text


def is_directory(text: str | os.PathLike[str]) -> bool:
    """Is this the path of a directory on this machine's disk?

    >>> is_directory("/"), is_directory("https://example.org/")
    (True, False)
    """
    return not is_address(os.fspath(text)) and os.path.isdir(local_place(text))


def is_zip_name(text: str) -> bool:
    """Does a path or address name a zip?"""
    return text.partition("?")[0].rstrip("/").lower().endswith(".zip")


def open_source(place: str, *, storage_options: dict[str, Any] | None = None) -> Source:
    """Open the zoo in a directory, below an address, or in a zip at either; not one on the Hub.

    Raises:
        ZooNotFoundError: there is none.
        DependencyError: the library for this kind of address is not installed.
        SourceError: the server cannot be reached or refuses.
    """
    zipped = is_zip_name(place)
    if not is_address(place):
        if not zipped or is_directory(place):
            return LocalSource(place)
        file = LocalRanges(place)
        return ZipSource(file, partial(_local_ranges, file))
    files = files_at(place, storage_options=storage_options)
    return zip_source(files) if zipped else RemoteSource(files)


def zip_source(files: Files, path: str = "") -> ZipSource:
    """Open the zoo in a zip elsewhere."""
    return ZipSource(RemoteRanges(files, path), partial(_remote_ranges, RemoteSource(files), path))


def _local_ranges(file: LocalRanges, spans: Sequence[tuple[int, int]]) -> list[memoryview]:
    return [memoryview(bytearray(file.read(*span))) for span in spans]


def _remote_ranges(source: RemoteSource, path: str, spans: Sequence[tuple[int, int]]) -> list[memoryview]:
    return source.read_ranges([(path, start, stop) for start, stop in spans])


def open_ranges(url: str) -> RangeFile:
    """Open a file for reading by range: a path, or an address; nothing is downloaded.

    Raises:
        ZooNotFoundError: there is no such file.
        DependencyError: the library for this kind of address is not installed.
    """
    return RemoteRanges(files_at(url)) if is_address(url) else LocalRanges(url)
