"""A raw zoo as a tree of files: a directory, or a zip that is read in place, local or remote.

Nothing is extracted. Entries that could do harm (names that climb out, links, bombs) are refused and reported.
"""

from __future__ import annotations

import os
import stat
import struct
import zipfile
import zlib
from collections import Counter
from dataclasses import dataclass, field
from io import RawIOBase
from pathlib import Path, PurePosixPath
from typing import Protocol

from phasezoo.errors import FormatError, IntegrityError, ZooNotFoundError
from phasezoo.report import Finding
from phasezoo.source import RangeFile, open_ranges

MAX_RATIO = 1100  # deflate cannot exceed 1032 : 1
MAX_FILE = 64 * 2**30


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
    if "://" not in str(source) and Path(source).expanduser().is_dir():
        return _directory(Path(source).expanduser().absolute())
    file = open_ranges(str(source))
    if not is_zip(file):
        raise FormatError(f"{file.url} is neither a directory nor a zip. Give a Ray Tune folder or a zip of one.")
    return _zip(file)


def is_zip(file: RangeFile) -> bool:
    """Say whether a file starts like a zip."""
    return file.size >= 22 and file.read(0, 4) in (b"PK\x03\x04", b"PK\x05\x06")


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


@dataclass
class Zip:
    """A zip that is read by range: one request a file, or two where its local header is unusually long."""

    file: RangeFile
    name: str
    entries: dict[str, zipfile.ZipInfo] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    refused: list[Finding] = field(default_factory=list)

    def read(self, path: str) -> bytes:
        """Read and check a whole file.

        Raises:
            IntegrityError: the entry is not what the directory of the zip says.
        """
        entry = self.entries[path]
        # The local header repeats the name and may have another extra field than the directory: allow for 256 bytes.
        start = entry.header_offset
        length = 30 + len(entry.orig_filename.encode()) + 256 + entry.compress_size
        head = self.file.read(start, min(start + length, self.file.size))
        if len(head) < 30 or head[:4] != b"PK\x03\x04":
            raise self._broken(path, "has no local header")
        name_length, extra_length = struct.unpack("<HH", head[26:30])
        first = 30 + name_length + extra_length
        data = head[first : first + entry.compress_size]
        if len(data) < entry.compress_size:
            rest = start + first + len(data)
            if start + first + entry.compress_size > self.file.size:
                raise self._broken(path, "ends behind the end of the zip")
            data += self.file.read(rest, start + first + entry.compress_size)
        if entry.compress_type == zipfile.ZIP_DEFLATED:
            data = self._inflate(path, data, entry.file_size)
        if len(data) != entry.file_size or zlib.crc32(data) != entry.CRC:
            raise self._broken(path, "does not have the size and checksum that the zip states")
        return data

    def local(self, path: str) -> Path | None:
        """Return None: a member of a zip has no place of its own."""
        return None

    def _inflate(self, path: str, data: bytes, size: int) -> bytes:
        inflater = zlib.decompressobj(-15)
        try:
            result = inflater.decompress(data, size + 1)  # never more than was declared
        except zlib.error as error:
            raise self._broken(path, f"cannot be inflated ({error})") from None
        if len(result) > size or not inflater.eof:
            raise self._broken(path, "inflates to more or less than the zip states")
        return result

    def _broken(self, path: str, what: str) -> IntegrityError:
        return IntegrityError(f"{path} in {self.name} {what}. Download the zip again.")


class _AsFile(RawIOBase):
    """What `zipfile` needs to read the directory of a zip through ranges."""

    def __init__(self, file: RangeFile) -> None:
        self._file, self._at = file, 0

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._file.size}[whence]
        self._at = base + offset
        return self._at

    def read(self, size: int = -1) -> bytes:
        stop = self._file.size if size < 0 else min(self._at + size, self._file.size)
        data = self._file.read(self._at, stop) if stop > self._at else b""
        self._at += len(data)
        return data


def _zip(file: RangeFile) -> Zip:
    try:
        # Only the end of the file and the directory are read here.
        with zipfile.ZipFile(_AsFile(file)) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, ValueError, struct.error, NotImplementedError) as error:
        raise FormatError(f"{file.url} is not a readable zip: {error}. Download it again.") from None
    tree = Zip(file, Path(file.url).stem)
    twice = {name for name, n in Counter(entry.filename for entry in entries).items() if n > 1}
    for entry in entries:
        name = entry.filename
        reason = _refuse(entry, name in twice)
        if reason:
            tree.refused.append(Finding(*reason[:1], _printable(name), reason[1]))
        elif not entry.is_dir():
            tree.entries[name] = entry
            tree.sizes[name] = entry.file_size
    return tree


def _printable(name: str) -> str:
    return name.encode("unicode_escape").decode()[:200]


def _refuse(entry: zipfile.ZipInfo, twice: bool) -> tuple[str, str] | None:
    name = entry.filename
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or ".." in parts or "\\" in name or ":" in parts[0] or "\0" in name:
        return "climbing-name", "an entry whose name leads out of the zip; not read"
    if stat.S_ISLNK(entry.external_attr >> 16):
        return "link", "a symbolic link; not followed"
    if twice:
        return "name-twice", "several entries have this name; none is read"
    if entry.flag_bits & 1:
        return "encrypted", "an encrypted entry; not read"
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return "compression", f"compressed by method {entry.compress_type}; only stored and deflated are read"
    stored = entry.compress_type == zipfile.ZIP_STORED
    too_large = entry.file_size > MAX_FILE or entry.file_size > MAX_RATIO * (entry.compress_size + 64)
    if too_large or (stored and entry.file_size != entry.compress_size):
        return "bomb", f"{entry.compress_size} bytes declare {entry.file_size}; not read"
    return None
