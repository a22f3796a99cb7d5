"""Verified bytes of a zoo: from the cache where they are, else from the source."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from phasezoo.cache import Cache
from phasezoo.errors import IntegrityError
from phasezoo.layout import Layout
from phasezoo.manifest import MANIFEST, File
from phasezoo.shard import digest
from phasezoo.source import LocalSource, RemoteSource, Source

# (place, key) of all that this process has verified: hashing costs 3 to 7 times what reading does.
_verified: set[tuple[str, str]] = set()


@dataclass(frozen=True)
class Location:
    """Where one checkpoint lies."""

    shard: str
    offset: int
    nbytes: int
    sha256: str
    layout: Layout


@dataclass(frozen=True)
class Piece:
    """A checkpoint, or one tensor of it, to be read.

    Attributes:
        location: where the checkpoint lies.
        what: the checkpoint in words, for errors.
        tensor: name of the tensor; None for all of the checkpoint.
        digests: returns the digests of the checkpoint's tensors, in layout order.
    """

    location: Location
    what: str
    tensor: str | None = None
    digests: Callable[[], bytes] = bytes

    @property
    def offset(self) -> int:
        """Where the piece begins in its checkpoint."""
        return self.location.layout[self.tensor].offset if self.tensor is not None else 0

    @property
    def nbytes(self) -> int:
        """How long the piece is."""
        return self.location.layout[self.tensor].nbytes if self.tensor is not None else self.location.nbytes

    @property
    def span(self) -> tuple[str, int, int]:
        """Shard, start and stop."""
        start = self.location.offset + self.offset
        return self.location.shard, start, start + self.nbytes

    def digest(self) -> bytes:
        """Return the digest that the bytes of the tensor must have."""
        assert self.tensor is not None
        place = 8 * self.location.layout.position[self.tensor]
        return self.digests()[place : place + 8]

    def key(self) -> str:
        """Return the name of the piece in the cache."""
        sha256 = self.location.sha256
        return sha256 if self.tensor is None else f"{sha256}-{self.offset}-{self.digest().hex()}"

    def sound(self, *data: memoryview) -> bool:
        """Are these, one after another, the bytes that were written?"""
        if self.tensor is not None:
            return digest(b"".join(data) if len(data) > 1 else data[0]) == self.digest()
        found = hashlib.sha256()
        for part in data:
            found.update(part)
        return found.hexdigest() == self.location.sha256


@dataclass(frozen=True)
class Store:
    """A source and the cache in front of it.

    Attributes:
        source: where the files are.
        cache: where what was fetched is kept; None for a zoo on this machine's disk.
        keep_files: keep whole files in the cache too; not those that the source keeps itself.
        fresh: fetch whole files again, whatever the cache holds.
    """

    source: Source
    cache: Cache | None = None
    keep_files: bool = True
    fresh: bool = False
    _fetched: set[str] = field(default_factory=set, repr=False)

    @property
    def url(self) -> str:
        """Where the zoo is."""
        return self.source.url

    def file(self, file: File) -> memoryview:
        """Read a whole file that the manifest names, verified.

        Raises:
            IntegrityError: it is not the file that the manifest describes.
        """
        cache = self.cache if self.keep_files else None
        again = self.fresh and file.sha256 not in self._fetched
        if cache is not None and not again:
            kept = cache.get(file.sha256, nbytes=file.nbytes)
            if kept is not None and hashlib.sha256(kept).hexdigest() == file.sha256:
                return kept
        if not isinstance(self.source, RemoteSource) and self.source.size(file.path) != file.nbytes:
            raise IntegrityError(
                f"{self.url}/{file.path} has {self.source.size(file.path)} bytes, {MANIFEST} says {file.nbytes}: it is "
                f"not the file that {MANIFEST} describes. Copy the file again."
            )
        data = self.source.read(file.path)
        found = hashlib.sha256(data).hexdigest()
        if found != file.sha256:
            raise IntegrityError(
                f"{self.url}/{file.path} is not the file that {MANIFEST} describes: {len(data)} bytes with sha256 "
                f"{found[:12]}..., expected {file.nbytes} with {file.sha256[:12]}.... Copy the file again; what was "
                "fetched, load once with force_download=True."
            )
        if cache is not None:
            cache.put(file.sha256, data)
            self._fetched.add(file.sha256)
        return data

    def read(self, pieces: Sequence[Piece]) -> list[memoryview]:
        """Read pieces of checkpoints, verified; what is not in the cache is fetched at the same time.

        Raises:
            IntegrityError: bytes are not those that were written.
            SourceError: the server cannot be reached or refuses.
        """
        results = [self.cached(piece) for piece in pieces]
        missing = [i for i, found in enumerate(results) if found is None]
        keys = {i: pieces[i].key() for i in missing} if self.cache is not None else {}

        def keep(place: int, data: memoryview) -> None:
            i = missing[place]
            self.check(pieces[i], data)
            if self.cache is not None:
                self.cache.put(keys[i], data)
            results[i] = data

        self.source.read_ranges([pieces[i].span for i in missing], done=keep)
        return [data for data in results if data is not None]

    def read_into(self, pieces: Sequence[Piece], buffers: Sequence[Sequence[memoryview]]) -> None:
        """Fill buffers with pieces, verified; from this machine's disk without a copy in between.

        Args:
            pieces: what to read.
            buffers: for each piece, what its bytes go into, one buffer after another.

        Raises:
            IntegrityError: bytes are not those that were written.
            SourceError: the server cannot be reached or refuses.
        """
        if isinstance(self.source, LocalSource) and self.cache is None:
            order = sorted(range(len(pieces)), key=lambda i: pieces[i].span)
            self.source.read_into([(*pieces[i].span[:2], buffers[i]) for i in order])
            for piece, parts in zip(pieces, buffers, strict=True):
                self.check(piece, *parts)
            return
        for data, parts in zip(self.read(pieces), buffers, strict=True):
            place = 0
            for part in parts:
                part[:] = data[place : place + len(part)]
                place += len(part)

    def trust(self, piece: Piece) -> None:
        """Do not hash again what another process of the same job has verified."""
        _verified.add((self.url if self.cache is None else str(self.cache.root), piece.key()))

    def check(self, piece: Piece, *data: memoryview) -> None:
        """Raise IntegrityError unless `data` are the bytes of a piece as they were written."""
        whole = (self.url, piece.location.sha256)
        mine = whole if piece.tensor is None else (self.url, f"{piece.location.sha256}/{piece.tensor}")
        # What comes from elsewhere may be right once and wrong the next time.
        if self.cache is None and (mine in _verified or whole in _verified):
            return
        if not piece.sound(*data):
            raise IntegrityError(
                f"{piece.what} in {self.url}/{piece.location.shard} is damaged: its bytes do not have the hash that "
                "the index states. Copy or publish the shard again; `phasezoo verify` lists all damage."
            )
        _verified.add(mine)

    def cached(self, piece: Piece) -> memoryview | None:
        """Read a piece from the cache; None if it is not there."""
        if self.cache is None:
            return None
        sha256, key, nbytes = piece.location.sha256, piece.key(), piece.nbytes
        data = self.cache.get(key, nbytes=nbytes)
        if data is None and piece.tensor is not None:  # a tensor of a checkpoint that is there as a whole
            key = sha256
            data = self.cache.get(sha256, piece.offset, nbytes=nbytes, total=piece.location.nbytes)
        if data is None:
            return None
        mark = (str(self.cache.root), piece.key())
        if mark not in _verified:
            if not piece.sound(data):  # the disk has changed it: fetch it again
                self.cache.discard(key)
                return None
            _verified.add(mark)
        return data
