"""Zoos and files elsewhere: ranges are coalesced, read at the same time, and asked for again where that helps."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeVar
from urllib.parse import urlsplit

from phasezoo.errors import AddressError, IntegrityError, MissingFileError, SourceError, ZooNotFoundError
from phasezoo.source.fs import FsFiles
from phasezoo.source.http import HttpFiles
from phasezoo.source.local import ignore
from phasezoo.source.transfer import Traffic, insist

CONCURRENT = 8
GAP = 2**20  # bytes between two ranges that may be read along
WASTE = 0.4  # of the useful bytes, at most, are read along
MAX_WHOLE = 2**31  # bytes of a file that is read as a whole: a manifest or a table
MAX_ADDRESS = 8192  # characters; servers and clients take about as many
LONGEST = 16 * 2**20  # of a coalesced range: what is longer is faster as several at the same time


Item = TypeVar("Item")


class Files(Protocol):
    """Files below one address; each call is one request and may raise `Transient`."""

    url: str
    traffic: Traffic

    def address(self, path: str) -> str:
        """Return the address of a file."""
        ...

    def size(self, path: str) -> int:
        """Return the length of a file in bytes."""
        ...

    def stream(self, path: str, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        """Yield the bytes from start to stop, or the whole file."""
        ...


class NoFiles:
    """An address that may not be asked: only what the cache holds is there."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.traffic = Traffic()

    def address(self, path: str) -> str:
        """Return the address of a file."""
        return f"{self.url}/{path}" if path else self.url

    def size(self, path: str) -> int:
        """Refuse."""
        raise self._refused(path)

    def stream(self, path: str, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        """Refuse."""
        raise self._refused(path)

    def _refused(self, path: str) -> SourceError:
        return SourceError(
            f"{self.address(path)} is not, or not wholly, in the cache, and local_files_only (or HF_HUB_OFFLINE) "
            "forbids to fetch it. Read or `phasezoo download` it once without."
        )


@dataclass
class Group:
    """Ranges of one file that are read by one request; `members` are their places in what was asked."""

    path: str
    start: int
    stop: int
    useful: int
    members: list[int] = field(default_factory=list)


def coalesce(ranges: Sequence[tuple[str, int, int]]) -> list[Group]:
    """Join neighbouring ranges, as long as the bytes between them are few.

    >>> [(g.start, g.stop, g.members) for g in coalesce([("a", 100, 200), ("a", 0, 90), ("a", 5000, 5001)])]
    [(0, 200, [1, 0]), (5000, 5001, [2])]
    """
    groups: list[Group] = []
    for i in sorted(range(len(ranges)), key=ranges.__getitem__):
        path, start, stop = ranges[i]
        last = groups[-1] if groups else None
        if last is not None and last.path == path:
            joined, new = max(stop, last.stop) - last.start, max(0, stop - max(start, last.stop))
            useful = last.useful + new
            overlap = start < last.stop
            if overlap or (start - last.stop <= GAP and joined <= LONGEST and joined - useful <= WASTE * useful):
                last.stop, last.useful = max(stop, last.stop), useful
                last.members.append(i)
                continue
        groups.append(Group(path, start, stop, stop - start, [i]))
    return groups


class RemoteSource:
    """A zoo below an address."""

    def __init__(self, files: Files) -> None:
        self.files = files
        self.url = files.url

    @property
    def traffic(self) -> Traffic:
        """What was asked of the server so far."""
        return self.files.traffic

    def read(self, path: str) -> memoryview:
        """Read a whole file."""
        what = f"read {self.files.address(path)}"
        return memoryview(insist(lambda: self._whole(path), what=what, traffic=self.traffic))

    def _whole(self, path: str) -> bytes:
        chunks, got = [], 0
        for chunk in self.files.stream(path):
            chunks.append(chunk)
            got += len(chunk)
            if got > MAX_WHOLE:
                raise IntegrityError(f"{self.files.address(path)} has more than {MAX_WHOLE:,} bytes, and no end.")
        return b"".join(chunks)

    def read_ranges(
        self, ranges: Sequence[tuple[str, int, int]], *, done: Callable[[int, memoryview], object] = ignore
    ) -> list[memoryview]:
        """Read byte ranges (path, start, stop), several at the same time, neighbours together."""
        results: list[memoryview] = [memoryview(b"")] * len(ranges)
        groups = coalesce(ranges)

        def fetch(group: Group) -> None:
            buffer = read_range(self.files, group.path, group.start, group.stop)
            for i in group.members:
                results[i] = buffer[ranges[i][1] - group.start : ranges[i][2] - group.start]
                done(i, results[i])

        each(fetch, groups, workers=CONCURRENT)
        return results

    def size(self, path: str) -> int:
        """Return the length of a file in bytes."""
        return insist(
            lambda: self.files.size(path), what=f"ask for the size of {self.files.address(path)}", traffic=self.traffic
        )

    def local(self, path: str) -> Path | None:
        """Return None: the file is not on this machine."""
        return None


def read_range(files: Files, path: str, start: int, stop: int) -> memoryview:
    """Read the bytes from start to stop; after a cut, only what is missing is asked for again."""
    import numpy as np

    buffer = np.empty(stop - start, dtype=np.uint8).data
    got = 0

    def attempt() -> None:
        nonlocal got
        if got == len(buffer):
            return
        for chunk in files.stream(path, start + got, stop):
            if len(chunk) > len(buffer) - got:
                raise IntegrityError(f"{files.address(path)} sends more than bytes {start} to {stop} that were asked.")
            buffer[got : got + len(chunk)] = chunk
            got += len(chunk)

    insist(attempt, what=f"read bytes {start} to {stop} of {files.address(path)}", traffic=files.traffic)
    return buffer


def each(call: Callable[[Item], object], items: Sequence[Item], *, workers: int) -> None:
    """Call a function on every item, several at the same time; the first error ends it."""
    from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait

    if len(items) <= 1 or workers == 1:
        for item in items:
            call(item)
        return
    pool = ThreadPoolExecutor(min(workers, len(items)))
    try:
        done, _ = wait([pool.submit(call, item) for item in items], return_when=FIRST_EXCEPTION)
        for future in done:
            future.result()
    finally:  # after an error or an interrupt, what has not begun does not begin
        pool.shutdown(cancel_futures=True)


class RangeFile(Protocol):
    """One file, anywhere, read by byte range."""

    url: str
    size: int

    def read(self, start: int, stop: int) -> bytes:
        """Return exactly the bytes from start to stop."""
        ...


class RemoteRanges:
    """A file behind an address; every read is one range request."""

    def __init__(self, files: Files, path: str = "") -> None:
        self._files, self._path = files, path
        self.url = files.address(path)
        try:
            self.size = insist(lambda: files.size(path), what=f"open {self.url}", traffic=files.traffic)
        except MissingFileError as error:
            raise ZooNotFoundError(str(error)) from None
        if not self.size:
            raise SourceError(f"{self.url} is empty. Check the address.")

    def read(self, start: int, stop: int) -> bytes:
        """Return exactly the bytes from start to stop."""
        return bytes(read_range(self._files, self._path, start, stop))


def without_password(url: str) -> str:
    """Return what of an address may be shown.

    >>> without_password("https://me:secret@example.org/zoo")
    'https://...@example.org/zoo'
    """
    return re.sub("//[^/]*@", "//...@", url)


def check_address(url: str) -> None:
    """Refuse what is no address, and one that holds a password.

    Raises:
        AddressError: it is not one that can be asked for.
        SourceError: it holds a password.

    >>> check_address("https://example.org/zoo")
    """
    shown = without_password(url)
    form = "It has the form scheme://host/path, such as https://example.org/zoo."
    if len(url) > MAX_ADDRESS:
        raise AddressError(f"an address of {len(url):,} characters cannot be asked for. {form}")
    if not url.isprintable():  # control characters, and halves of characters
        raise AddressError(f"{shown!r} holds characters that no address has. {form}")
    try:
        parts = urlsplit(url)
        known = parts.scheme not in ("http", "https") or (bool(parts.hostname) and parts.port != 0)
    except ValueError:
        raise AddressError(f"{shown} is no address. {form}") from None
    if not known:
        raise AddressError(f"{shown} is no address: it names no server. {form}")
    if shown != url:  # wherever it stands: addresses may hold others, as simplecache::https://... does
        raise SourceError(
            f"{shown} holds a password, which would end up in logs and caches. Give it as storage_options "
            "(http: {'headers': {'Authorization': ...}}; s3: {'key': ..., 'secret': ...})."
        )


def files_at(url: str, *, storage_options: dict[str, object] | None = None) -> Files:
    """Return the files below an http(s) address or any other that fsspec knows.

    Raises:
        AddressError: the address cannot be read.
        SourceError: it holds a password, or storage options do not belong to it.
        DependencyError: the library for this kind of address is not installed.
    """
    check_address(url)
    if url.startswith(("http://", "https://")):
        options = dict(storage_options or {})
        headers = options.pop("headers", {})
        if options or not isinstance(headers, dict):
            raise SourceError(
                f"storage_options of {url} may hold 'headers' (names and values) only; got "
                f"{sorted(storage_options or {})}."
            )
        return HttpFiles(url, headers=headers, hint="Give storage_options={'headers': {...}} if it wants a key.")
    return FsFiles(url, storage_options=storage_options)
