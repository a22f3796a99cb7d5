"""Where the bytes of a zoo come from: the only module that opens its files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from phasezoo.errors import IntegrityError, MissingFileError, ZooNotFoundError
from phasezoo.manifest import MANIFEST


class Source(Protocol):
    """A place that holds the files of one zoo."""

    url: str

    def read(self, path: str) -> memoryview:
        """Read a whole file."""
        ...

    def read_ranges(self, ranges: Sequence[tuple[str, int, int]]) -> list[memoryview]:
        """Read byte ranges (path, start, stop); every answer has exactly the length that was asked."""
        ...

    def size(self, path: str) -> int:
        """Return the length of a file in bytes."""
        ...

    def local(self, path: str) -> Path | None:
        """Return the file's place on this machine's disk, or None if it has none."""
        ...


class LocalSource:
    """A zoo in a directory.

    Files are read, not memory-mapped: network file systems stall or raise SIGBUS under a map.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root).expanduser().absolute()
        self.url = str(self.root)
        if not (self.root / MANIFEST).is_file():
            what = "does not exist" if not self.root.exists() else f"holds no {MANIFEST}"
            raise ZooNotFoundError(
                f"no zoo at {self.url}: it {what}. Give the directory that contains {MANIFEST}, "
                "or one of the names that `phasezoo list` prints."
            )

    def read(self, path: str) -> memoryview:
        """Read a whole file."""
        return self._read(path, 0, self.size(path))

    def read_ranges(self, ranges: Sequence[tuple[str, int, int]]) -> list[memoryview]:
        """Read byte ranges (path, start, stop) in order."""
        return [self._read(path, start, stop) for path, start, stop in ranges]

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
        import numpy as np

        # np.empty, not bytearray: a bytearray is zeroed first, which touches every page twice.
        buffer = np.empty(stop - start, dtype=np.uint8).data
        got = 0
        try:
            with open(self.root / path, "rb", buffering=0) as file:
                file.seek(start)
                while got < len(buffer):
                    n = file.readinto(buffer[got:])
                    if not n:
                        break
                    got += n
        except OSError as error:
            raise self._missing(path, error) from None
        if got != len(buffer):
            raise IntegrityError(
                f"{self.url}/{path} is cut short: bytes {start} to {stop} were asked, the file ends at {start + got}. "
                "Copy the file again; `phasezoo verify` lists all damaged files."
            )
        return buffer

    def _missing(self, path: str, error: OSError) -> MissingFileError:
        return MissingFileError(
            f"cannot read {self.url}/{path}, which {MANIFEST} names: {error.strerror}. "
            "Copy the zoo again; `phasezoo verify` lists all missing files."
        )
