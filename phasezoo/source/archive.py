"""Zips that are read in place, by range: nothing is extracted, and entries that could do harm are refused."""

from __future__ import annotations

import os
import stat
import struct
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from io import RawIOBase
from pathlib import Path, PurePosixPath

from phasezoo.errors import FormatError, IntegrityError, MissingFileError, ZooNotFoundError
from phasezoo.manifest import MANIFEST
from phasezoo.report import Finding
from phasezoo.source.local import ignore
from phasezoo.source.remote import MAX_WHOLE, RangeFile

MAX_RATIO = 1100  # deflate cannot exceed 1032 : 1
MAX_FILE = 64 * 2**30
MAX_NAME = 1024  # characters
LARGE, LARGE_RATIO = 2**30, 50  # what is so large are weights, and those shrink by a seventh


@dataclass
class Zip:
    """A zip that is read by range: one request a file, or two where its local header is unusually long."""

    file: RangeFile
    name: str
    entries: dict[str, zipfile.ZipInfo] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    refused: list[Finding] = field(default_factory=list)
    _starts: dict[str, int] = field(default_factory=dict, repr=False)

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

    def stored_at(self, path: str) -> int | None:
        """Return where the bytes of a file begin in the zip; None if they are compressed."""
        entry = self.entries[path]
        if entry.compress_type != zipfile.ZIP_STORED:
            return None
        if path not in self._starts:
            head = self.file.read(entry.header_offset, min(entry.header_offset + 30, self.file.size))
            if len(head) < 30 or head[:4] != b"PK\x03\x04":
                raise self._broken(path, "has no local header")
            name_length, extra_length = struct.unpack("<HH", head[26:30])
            self._starts[path] = entry.header_offset + 30 + name_length + extra_length
        return self._starts[path]

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
        if base + offset < 0:
            raise ValueError("it states places before its beginning")
        self._at = base + offset
        return self._at

    def read(self, size: int = -1) -> bytes:
        stop = self._file.size if size < 0 else min(self._at + size, self._file.size)
        data = self._file.read(self._at, stop) if stop > self._at else b""
        self._at += len(data)
        return data


def open_zip(file: RangeFile) -> Zip:
    """Read the directory of a zip.

    Raises:
        FormatError: the file is no readable zip.
    """
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
        reason = _refuse(entry, name in twice, file.size)
        if reason:
            tree.refused.append(Finding(*reason[:1], _printable(name), reason[1]))
        elif not entry.is_dir():
            tree.entries[name] = entry
            tree.sizes[name] = entry.file_size
    return tree


def _printable(name: str) -> str:
    return name.encode("unicode_escape").decode()[:200]


def _refuse(entry: zipfile.ZipInfo, twice: bool, size: int) -> tuple[str, str] | None:
    name = entry.filename
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or ".." in parts or "\\" in name or ":" in parts[0] or "\0" in name:
        return "climbing-name", "an entry whose name leads out of the zip; not read"
    if len(name) > MAX_NAME:
        return "long-name", f"an entry with a name of {len(name)} characters; not read"
    if stat.S_ISLNK(entry.external_attr >> 16):
        return "link", "a symbolic link; not followed"
    if twice:
        return "name-twice", "several entries have this name; none is read"
    if entry.flag_bits & 1:
        return "encrypted", "an encrypted entry; not read"
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return "compression", f"compressed by method {entry.compress_type}; only stored and deflated are read"
    if not 0 <= entry.header_offset <= size - 30 - entry.compress_size:
        return "outside", "an entry that lies outside of the zip; not read"
    stored = entry.compress_type == zipfile.ZIP_STORED
    too_large = entry.file_size > MAX_FILE or entry.file_size > MAX_RATIO * (entry.compress_size + 64)
    too_large = too_large or (entry.file_size > LARGE and entry.file_size > LARGE_RATIO * entry.compress_size)
    if too_large or (stored and entry.file_size != entry.compress_size):
        return "bomb", f"{entry.compress_size} bytes declare {entry.file_size}; not read"
    return None


def is_zip(file: RangeFile) -> bool:
    """Say whether a file starts like a zip."""
    return file.size >= 22 and file.read(0, 4) in (b"PK\x03\x04", b"PK\x05\x06")


class ZipSource:
    """A zoo in a zip: at its top, or in one folder there.

    Of stored members ranges are read; a deflated one has to be read whole for each of them.
    """

    def __init__(self, file: RangeFile, ranges: Callable[[Sequence[tuple[int, int]]], list[memoryview]]) -> None:
        """Read the directory of the zip.

        Args:
            file: the zip.
            ranges: reads byte ranges (start, stop) of it.

        Raises:
            ZooNotFoundError: it holds no zoo, or several.
            FormatError: it is no readable zip.
        """
        self.url = file.url
        self._zip, self._ranges = open_zip(file), ranges
        found = [name for name in self._zip.sizes if name.rpartition("/")[2] == MANIFEST and name.count("/") <= 1]
        if len(found) != 1:
            what = f"several zoos: {', '.join(sorted(found)[:4])}" if found else f"no {MANIFEST}"
            raise ZooNotFoundError(
                f"{self.url} holds {what}. Give a zip of one zoo; `phasezoo build` turns a zip of a raw zoo into one."
            )
        self._folder = found[0].removesuffix(MANIFEST)
        self._inflated: tuple[str, memoryview] | None = None

    def read(self, path: str) -> memoryview:
        """Read a whole file."""
        if self.size(path) > MAX_WHOLE:
            raise IntegrityError(
                f"{path} in {self.url} has {self.size(path):,} bytes and is compressed or no table: more than "
                f"{MAX_WHOLE:,} are not read at once. Make the zip again, without compression (`zip -0`)."
            )
        return memoryview(self._zip.read(self._member(path)))

    def read_ranges(
        self, ranges: Sequence[tuple[str, int, int]], *, done: Callable[[int, memoryview], object] = ignore
    ) -> list[memoryview]:
        """Read byte ranges (path, start, stop)."""
        starts = [self._zip.stored_at(self._member(path)) for path, _, _ in ranges]
        for path, _, stop in ranges:
            if stop > self.size(path):
                raise IntegrityError(f"{path} in {self.url} is cut short: it has {self.size(path)} bytes, not {stop}.")
        stored = [i for i, start in enumerate(starts) if start is not None]
        spans = [((starts[i] or 0) + ranges[i][1], (starts[i] or 0) + ranges[i][2]) for i in stored]
        results = dict(zip(stored, self._ranges(spans), strict=True))
        for i, (path, start, stop) in enumerate(ranges):
            if i not in results:
                if self._inflated is None or self._inflated[0] != path:
                    self._inflated = path, memoryview(bytearray(self.read(path)))
                results[i] = self._inflated[1][start:stop]
            done(i, results[i])
        return [results[i] for i in range(len(ranges))]

    def size(self, path: str) -> int:
        """Return the length of a file in bytes."""
        return self._zip.sizes[self._member(path)]

    def local(self, path: str) -> Path | None:
        """Return None: a member of a zip has no place of its own."""
        return None

    def _member(self, path: str) -> str:
        name = self._folder + path
        if name not in self._zip.sizes:
            refused = next((f"; it was refused: {f.what}" for f in self._zip.refused if f.where == name), "")
            raise MissingFileError(f"{self.url} holds no {name}, which {MANIFEST} names{refused}. Make the zip again.")
        return name
