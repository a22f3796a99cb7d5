"""What was fetched and verified, kept by its hash."""

from __future__ import annotations

import errno
import logging
import os
import re
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from phasezoo import settings
from phasezoo.errors import WriteError
from phasezoo.source.download import partial_name
from phasezoo.source.local import local_place, read_bytes

KEY = re.compile(r"(?P<sha256>[0-9a-f]{64})(-(?P<offset>\d+)-(?P<digest>[0-9a-f]{16}))?")
ORPHAN = 3600.0  # seconds after which an incomplete file belongs to nobody
EVICT_TO = 0.9  # of the limit
log = logging.getLogger(__name__)


def cache_directory(cache_dir: str | os.PathLike[str] | None = None) -> Path:
    """Return the directory for what is fetched: the argument, else ``PHASEZOO_CACHE``, else the Hub's assets.

    >>> cache_directory("/tmp/zoos").name
    'zoos'
    """
    place = cache_dir or settings.cache()
    if place is None:
        from phasezoo.source.hub import assets

        return assets()
    return local_place(place)


@dataclass(frozen=True)
class Blob:
    """One file of the cache.

    Attributes:
        key: sha256 of a checkpoint or table; of a single tensor, that of its checkpoint with place and digest.
        path: where it lies.
        nbytes: its size.
        used: when it was last used, in seconds since 1970.

    >>> import hashlib, tempfile
    >>> key = hashlib.sha256(b"bytes").hexdigest()
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     cache = Cache(Path(folder))
    ...     kept = cache.put(key, b"bytes")
    ...     [blob] = cache.blobs()
    ...     before = blob.nbytes, blob.sound
    ...     _ = blob.path.write_bytes(b"bites")
    ...     print(before, (blob.nbytes, blob.sound))
    (5, True) (5, False)
    """

    key: str
    path: Path
    nbytes: int
    used: float

    @property
    def sound(self) -> bool:
        """Read the file: does it have the hash that its name states?"""
        import hashlib

        from phasezoo.shard import digest

        data = self.path.read_bytes()
        match = KEY.fullmatch(self.key)
        if match is None:
            return False
        if match["digest"]:
            return digest(memoryview(data)).hex() == match["digest"]
        return hashlib.sha256(data).hexdigest() == match["sha256"]


class Cache:
    """A directory of blobs, shared by all zoos and processes.

    A blob gets its name only when it is complete and verified, by one rename: no lock is needed. A cache that cannot
    be written is read, and no more.

    >>> import hashlib, tempfile
    >>> key = hashlib.sha256(b"bytes").hexdigest()
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     cache = Cache(Path(folder))
    ...     print(cache.has(key, 5), cache.put(key, b"bytes"), cache.has(key, 5))
    ...     print(bytes(cache.get(key, 1, nbytes=3, total=5)), cache.clean())
    False True True
    b'yte' (1, 5)
    """

    def __init__(self, root: Path, *, limit: int | None = None) -> None:
        """Take note of a place; nothing is created yet.

        Args:
            root: directory of the cache.
            limit: bytes that the blobs may take; beyond, those go that were not used for the longest time.
                ``PHASEZOO_CACHE_SIZE`` by default; no limit without.
        """
        self.root = root
        self.limit = settings.cache_size() if limit is None else limit
        self._total: int | None = None
        self._readonly = False

    def path(self, key: str) -> Path:
        """Return where a blob lies, or would."""
        if KEY.fullmatch(key) is None:  # it could lead out of the cache
            raise ValueError(f"{key[:200]!r} is no hash, and no name of a blob.")
        return self.root / "blobs" / key[:2] / key

    def has(self, key: str, nbytes: int) -> bool:
        """Is there a blob, of the right size?"""
        try:
            return self.path(key).stat().st_size == nbytes
        except OSError:
            return False

    def get(self, key: str, start: int = 0, *, nbytes: int, total: int | None = None) -> memoryview | None:
        """Read a blob or a part of it; None if it is not there or has not the right size.

        Args:
            key: its name.
            start: first byte.
            nbytes: how many bytes to read.
            total: size of the whole blob; `nbytes` by default.
        """
        path = self.path(key)
        try:
            if path.stat().st_size != (nbytes if total is None else total):
                return None
            buffer, got = read_bytes(path, start, start + nbytes)
            with suppress(OSError):  # of a cache that cannot be written
                os.utime(path)
        except OSError:
            return None
        return buffer if got == nbytes else None

    def put(self, key: str, data: memoryview | bytes, *, must: bool = False) -> bool:
        """Keep a verified blob; say whether it is kept.

        Args:
            key: its name.
            data: its bytes.
            must: raise where it cannot be kept, instead of going on without.

        Raises:
            WriteError: it must be kept, and cannot.
        """
        if self._readonly and not must:
            return False
        path = self.path(key)
        temporary = partial_name(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                with open(temporary, "wb", buffering=0) as file:
                    rest = memoryview(data)
                    while len(rest):
                        rest = rest[file.write(rest) :]
                os.replace(temporary, path)
            finally:
                temporary.unlink(missing_ok=True)
        except OSError as error:
            if must:
                full = (
                    " Free some space: `phasezoo cache clean`." if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
                )
                raise WriteError(
                    f"cannot keep {len(data):,} bytes in the cache {self.root}: {error.strerror}.{full} PHASEZOO_CACHE "
                    "names another place; what is complete is kept."
                ) from None
            if not self._readonly:
                log.warning("the cache %s cannot be written (%s); going on without", self.root, error.strerror)
            self._readonly = True
            return False
        self._make_room(len(data))
        return True

    def discard(self, key: str) -> None:
        """Remove a blob if it is there."""
        with suppress(OSError):
            self.path(key).unlink()

    def blobs(self) -> Iterator[Blob]:
        """Yield all complete blobs."""
        for path in (self.root / "blobs").glob("*/*"):
            if KEY.fullmatch(path.name):
                with suppress(OSError):
                    found = path.stat()
                    yield Blob(path.name, path, found.st_size, found.st_mtime)

    def clean(self, *, keep: int = 0) -> tuple[int, int]:
        """Remove the blobs that were not used for the longest time, and what interrupted writers left.

        Args:
            keep: bytes that may stay.

        Returns:
            How many files were removed, and how many bytes.
        """
        found = sorted(self.blobs(), key=lambda blob: blob.used)
        total, files, nbytes = sum(blob.nbytes for blob in found), 0, 0
        for blob in found:
            if total - nbytes <= keep:
                break
            with suppress(OSError):
                blob.path.unlink()
                files, nbytes = files + 1, nbytes + blob.nbytes
        for orphan in (self.root / "blobs").glob("*/.*.partial-*"):
            with suppress(OSError):
                if time.time() - orphan.stat().st_mtime > ORPHAN:
                    size = orphan.stat().st_size
                    orphan.unlink()
                    files, nbytes = files + 1, nbytes + size
        self._total = None
        return files, nbytes

    def _make_room(self, added: int) -> None:
        if self.limit is None:
            return
        if self._total is None:  # other processes add and remove too: counted anew after each eviction
            self._total = sum(blob.nbytes for blob in self.blobs())
        else:
            self._total += added
        if self._total > self.limit:
            self.clean(keep=int(EVICT_TO * self.limit))

    # What has no hash of its own: which commit a branch meant, and the manifest of an address, for use offline.

    def note(self, name: str, data: bytes) -> None:
        """Keep what was found at an address; whoever is offline later gets it with `noted`."""
        path = self.root / "addresses" / name
        temporary = partial_name(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_bytes(data)
            os.replace(temporary, path)
        except OSError:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)

    def noted(self, name: str) -> bytes | None:
        """Return what `note` kept under a name.

        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     cache = Cache(Path(folder))
        ...     cache.note("main-of-a-zoo", b"4f1c")
        ...     print(cache.noted("main-of-a-zoo"), cache.noted("another"))
        b'4f1c' None
        """
        try:
            return (self.root / "addresses" / name).read_bytes()
        except OSError:
            return None
