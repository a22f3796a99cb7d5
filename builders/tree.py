"""A raw zoo as a tree of files: a directory, or a zip that is read in place, local or remote.

Nothing is extracted. Entries that could do harm (names that climb out, links, bombs) are refused and reported.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from phasezoo.errors import FormatError, ZooNotFoundError
from phasezoo.report import Finding
from phasezoo.source import is_directory, local_place, open_ranges
from phasezoo.source.archive import is_zip, open_zip


class Tree(Protocol):
    """Files by relative path, with their sizes; `refused` says what was left out and why."""

    name: str
    sizes: dict[str, int]
    refused: list[Finding]

    def read(self, path: str) -> bytes:
        """Read a whole file."""
        ...

    def local(self, path: str) -> Path | None:
        """Return the file's place on disk, or None if it has none of its own."""
        ...


def open_tree(source: str | Path) -> Tree:
    """Open a directory or a zip (path or URL).

    Raises:
        ZooNotFoundError: there is nothing at that place.
        FormatError: it is neither a directory nor a zip.
    """
    if is_directory(source):
        return _directory(local_place(source))
    file = open_ranges(str(source))
    if not is_zip(file):
        raise FormatError(f"{file.url} is neither a directory nor a zip. Give a Ray Tune folder or a zip of one.")
    return open_zip(file)


@dataclass
class Directory:
    """A directory on disk."""

    root: Path
    name: str
    sizes: dict[str, int] = field(default_factory=dict)
    refused: list[Finding] = field(default_factory=list)

    def read(self, path: str) -> bytes:
        """Read a whole file."""
        return (self.root / path).read_bytes()

    def local(self, path: str) -> Path | None:
        """Return the file's place on disk."""
        return self.root / path


def _directory(root: Path) -> Directory:
    tree = Directory(root, root.name)
    for folder, names, files in os.walk(root, onerror=_unreadable):
        for name in sorted(names + files):
            path = Path(folder, name)
            relative = path.relative_to(root).as_posix()
            if path.is_symlink():
                tree.refused.append(Finding("link", relative, "a symbolic link; not followed"))
                if name in names:
                    names.remove(name)
            elif name in files and path.is_file():
                tree.sizes[relative] = path.stat().st_size
        names.sort()
    return tree


def _unreadable(error: OSError) -> None:
    raise ZooNotFoundError(f"cannot list {error.filename}: {error.strerror}.") from None
