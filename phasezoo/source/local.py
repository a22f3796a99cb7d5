"""Zoos and files on this machine's disks."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from io import FileIO
from itertools import groupby
from pathlib import Path

from phasezoo.errors import IntegrityError, MissingFileError, PhaseZooError, WriteError, ZooNotFoundError
from phasezoo.manifest import MANIFEST

GAP = 4096  # bytes between two ranges that are read rather than skipped
BUFFERS = 1024  # of one vectored read: what Linux and macOS take

# A file, where to start in it, and the buffers to fill one after another.
Request = tuple[str, int, Sequence[memoryview]]


def ignore(place: int, data: memoryview) -> None:
    """Do nothing with a range that was read."""


def local_place(path: str | os.PathLike[str]) -> Path:
    """Return an absolute path; a ``~`` at its beginning is the home directory, if it is one that exists.

    >>> local_place("/data/zoo").as_posix()
    '/data/zoo'
    """
    # Not Path.expanduser: it raises where there is no such user.
    with suppress(ValueError):  # half of a character, or a zero byte: no such user either
        path = os.path.expanduser(path)
    return Path(path).absolute()


class LocalSource:
    """A zoo in a directory.

    Files are read, not memory-mapped: network file systems stall or raise SIGBUS under a map.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = local_place(root)
        self.url = str(self.root)
        # Not Path.is_file: it raises on names that are too long or hold what no name can hold.
        if not os.path.isfile(self.root / MANIFEST):
            what = "does not exist" if not os.path.exists(self.root) else f"holds no {MANIFEST}"
            raise ZooNotFoundError(
                f"no zoo at {self.url}: it {what}. Give the directory that contains {MANIFEST}, "
                "or one of the names that `phasezoo list` prints."
            )

    def read(self, path: str) -> memoryview:
        """Read a whole file."""
        return self._read(path, 0, self.size(path))

    def read_ranges(
        self, ranges: Sequence[tuple[str, int, int]], *, done: Callable[[int, memoryview], object] = ignore
    ) -> list[memoryview]:
        """Read byte ranges (path, start, stop) in order."""
        results = []
        for i, span in enumerate(ranges):
            results.append(self._read(*span))
            done(i, results[i])
        return results

    def read_into(self, requests: Sequence[Request]) -> None:
        """Fill buffers straight from the files; ranges that follow one another in a file are one read."""
        for path, group in groupby(requests, key=lambda request: request[0]):
            runs = _runs([(start, buffers) for _, start, buffers in group])
            try:
                with open(self.root / path, "rb", buffering=0) as file:
                    for start, buffers in runs:
                        if (end := _read_buffers(file, start, buffers)) is not None:
                            raise self._cut_short(path, start, start + sum(map(len, buffers)), end)
            except OSError as error:
                if isinstance(error, PhaseZooError):
                    raise
                raise self._missing(path, error) from None

    def size(self, path: str) -> int:
        """Return the length of a file in bytes."""
        try:
            return (self.root / path).stat().st_size
        except OSError as error:
            raise self._missing(path, error) from None

    def local(self, path: str) -> Path | None:
        """Return the file's place on disk."""
        return self.root / path

    def _read(self, path: str, start: int, stop: int) -> memoryview:
        try:
            buffer, got = read_bytes(self.root / path, start, stop)
        except OSError as error:
            raise self._missing(path, error) from None
        if got != stop - start:
            raise self._cut_short(path, start, stop, start + got)
        return buffer

    def _cut_short(self, path: str, start: int, stop: int, end: int) -> IntegrityError:
        return IntegrityError(
            f"{self.url}/{path} is cut short: bytes {start} to {stop} were asked, the file ends at {end}. "
            "Copy the file again; `phasezoo verify` lists all damaged files."
        )

    def _missing(self, path: str, error: OSError) -> MissingFileError:
        return MissingFileError(
            f"cannot read {self.url}/{path}, which {MANIFEST} names: {error.strerror}. "
            "Copy the zoo again; `phasezoo verify` lists all missing files."
        )


def vacant(out: str | Path) -> Path:
    """Return the absolute path of a directory that does not exist yet or is empty.

    Raises:
        WriteError: there is something at that place.
    """
    out = local_place(out)
    try:
        taken = out.exists() and (not out.is_dir() or any(out.iterdir()))
    except (OSError, ValueError) as error:  # a name that no file can have, or a directory that may not be read
        raise WriteError(f"cannot write to {str(out)[:200]!r}: {error}. Give another place.") from None
    if taken:
        raise WriteError(f"{out} exists and is not an empty directory. Give another place, or remove it first.")
    return out


class LocalRanges:
    """A file on disk."""

    def __init__(self, path: str | Path) -> None:
        self.path = local_place(path)
        self.url = str(self.path)
        if not os.path.isfile(self.path):
            raise ZooNotFoundError(f"no file at {self.url}. Check the path.")
        self.size = self.path.stat().st_size

    def read(self, start: int, stop: int) -> bytes:
        """Return exactly the bytes from start to stop."""
        buffer, got = read_bytes(self.path, start, stop)
        if got != stop - start:
            raise IntegrityError(
                f"{self.url} is cut short: bytes {start} to {stop} were asked, the file ends at {start + got}. "
                "Download it again."
            )
        return bytes(buffer)


def read_bytes(path: Path, start: int, stop: int) -> tuple[memoryview, int]:
    """Return a buffer for the bytes from start to stop, and how many of them the file had; no buffer if not all."""
    import numpy as np

    found = os.stat(path)
    if not stat.S_ISREG(found.st_mode):  # a pipe would be waited for, for ever
        raise OSError(errno.EINVAL, "it is no regular file", str(path))
    if found.st_size < stop:  # before memory is taken for what is not there
        return memoryview(b""), max(0, found.st_size - start)
    # np.empty, not bytearray: a bytearray is zeroed first, which touches every page twice.
    buffer = np.empty(max(0, stop - start), dtype=np.uint8).data
    got = 0
    with open(path, "rb", buffering=0) as file:
        file.seek(start)
        while got < len(buffer):
            n = file.readinto(buffer[got:])
            if not n:
                break
            got += n
    return buffer, got


def _runs(parts: Sequence[tuple[int, Sequence[memoryview]]]) -> Iterator[tuple[int, list[memoryview]]]:
    """Join parts that follow one another, but for a gap that is cheaper to read than to skip."""
    run: list[memoryview] = []
    start = end = -1
    for begin, buffers in parts:
        gap = begin - end
        if not run or not 0 <= gap <= GAP or len(run) + len(buffers) > BUFFERS:
            if run:
                yield start, run
            start, run, gap = begin, [], 0
        if gap:
            run.append(memoryview(bytearray(gap)))
        run += buffers
        end = begin + sum(map(len, buffers))
    if run:
        yield start, run


def _read_buffers(file: FileIO, start: int, buffers: Sequence[memoryview]) -> int | None:
    """Fill buffers from a file; return where the file ends if that is too early."""
    for first in range(0, len(buffers), BUFFERS):
        part = list(buffers[first : first + BUFFERS])
        # The kernel may stop early (at 2 GiB, for one), and Windows has no vectored read: what is left is read below.
        got = os.preadv(file.fileno(), part, start) if hasattr(os, "preadv") else 0
        for buffer in part:
            done = min(got, len(buffer))
            got -= done
            start += done
            while done < len(buffer):
                file.seek(start)
                n = file.readinto(buffer[done:])
                if not n:
                    return start
                done += n
                start += n
    return None
