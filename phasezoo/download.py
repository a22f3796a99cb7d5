"""Fetch weights ahead of their use, so that they are there offline."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from phasezoo.errors import EpochNotFoundError, RangesNotSupportedError
from phasezoo.progress import bar, size
from phasezoo.source import RemoteSource
from phasezoo.source.remote import CONCURRENT, coalesce, each
from phasezoo.source.transfer import insist
from phasezoo.store import Piece, Store

if TYPE_CHECKING:
    from phasezoo.model import Model
    from phasezoo.zoo import Zoo

MOST = 0.5  # of a shard's bytes: when more is wanted, all of it is fetched in one piece
MEMORY = 4 * 10**9  # bytes of checkpoints that may be on their way at the same time


@dataclass(frozen=True)
class Download:
    """What a download takes, or took.

    Attributes:
        checkpoints: how many have to be fetched.
        nbytes: their bytes.
        requests: how many requests that takes.
        transfer: bytes that these requests ask for; more than `nbytes` where bytes between checkpoints are read along.
        cached: checkpoints that were in the cache already.
        traffic: what was asked of the server, and what had to be repeated; empty for a dry run.

    >>> import phasezoo
    >>> found = phasezoo.load("mlp-digits").download(epochs=[0, "last"], dry_run=True)
    >>> found.requests, found.nbytes, found.cached  # an initial network that several models share counts once
    (0, 0, 297)
    """

    checkpoints: int
    nbytes: int
    requests: int
    transfer: int
    cached: int
    traffic: str = ""

    def __str__(self) -> str:
        text = (
            f"{self.checkpoints:,} checkpoints, {size(self.nbytes)}, in {self.requests:,} requests"
            f" for {size(self.transfer)}"
        )
        text += f"; {self.cached:,} more are on this machine already" if self.cached else ""
        return text + (f"; sent: {self.traffic}" if self.traffic else "")


@dataclass(frozen=True)
class Job:
    """Checkpoints of one shard that are fetched by one request, in the order of their places."""

    shard: str
    start: int
    stop: int
    pieces: tuple[Piece, ...]


def download(
    zoo: Zoo,
    *,
    where: str | None = None,
    epochs: Sequence[int | str] | None = None,
    dry_run: bool = False,
    max_workers: int = CONCURRENT,
) -> Download:
    """Fetch checkpoints, and all tables, into the cache.

    What is in the cache already is not fetched again: an interrupted download goes on where it was. Whole shards are
    fetched when most of one is wanted, and ranges otherwise.

    Args:
        zoo: the zoo, or a view of it.
        where: condition on the models, as in `Zoo.filter`.
        epochs: numbers, ``"first"`` or ``"last"``; all by default. Models that lack an epoch are passed over.
        dry_run: only say what it would take.
        max_workers: requests at the same time.

    Raises:
        EpochNotFoundError: no model has a checkpoint at one of the epochs.
        WeightsUnavailableError: the zoo has tables only.
        SourceError: the server cannot be reached or refuses; what was complete is kept.
        IntegrityError: bytes are not those that were published; they are not kept.
        WriteError: the cache cannot be written, or its disk is full.

    >>> import phasezoo
    >>> print(phasezoo.load("mlp-digits").download(epochs=["last"], dry_run=True))
    0 checkpoints, 0 bytes, in 0 requests for 0 bytes; 264 more are on this machine already
    """
    view = zoo if where is None else zoo.filter(where)
    index = view._index
    store = index.store
    index.table("checkpoints")
    pieces = {piece.location.sha256: piece for piece in _pieces(list(view), epochs)}
    missing = [p for p in pieces.values() if store.cache is not None and not _kept(store, p)]
    jobs = plan(missing, {file.path: file.nbytes for file in index.manifest.shards})
    found = Download(
        checkpoints=len(missing),
        nbytes=sum(piece.nbytes for piece in missing),
        requests=len(jobs),
        transfer=sum(job.stop - job.start for job in jobs),
        cached=len(pieces) - len(missing),
    )
    if dry_run or store.cache is None:
        return found
    for name in index.manifest.tables:
        index.table(name)
    if missing:
        largest = max(piece.nbytes for piece in missing)
        workers = max(1, min(max_workers, MEMORY // largest))
        title = f"fetching {found.checkpoints:,} checkpoints in {found.requests:,} requests"
        with bar(title, total=found.nbytes, unit="B") as progress:
            each(lambda job: _fetch(store, job, progress.update), jobs, workers=workers)
    source = store.source
    return replace(found, traffic=str(source.traffic) if isinstance(source, RemoteSource) else "")


def _pieces(models: Sequence[Model], epochs: Sequence[int | str] | None) -> list[Piece]:
    pieces, unseen = [], set(epochs or ())
    for model in models:
        for epoch in model.epochs if epochs is None else epochs:
            if epoch in model.epochs or (epoch in ("first", "last") and model.epochs):
                unseen.discard(epoch)
                pieces.append(model.checkpoint(epoch).piece())
    if unseen and models:
        exist = sorted({epoch for model in models for epoch in model.epochs})
        raise EpochNotFoundError(
            f"no model of this view has a checkpoint at epoch {', '.join(map(str, unseen))}. There are checkpoints at: "
            f"{', '.join(map(str, exist)) or 'none'}; 'first' and 'last' work too."
        )
    return pieces


def _kept(store: Store, piece: Piece) -> bool:
    return store.cache is not None and store.cache.has(piece.key(), piece.nbytes)


def plan(pieces: Sequence[Piece], sizes: dict[str, int]) -> list[Job]:
    """Decide what is fetched by which request.

    Args:
        pieces: the checkpoints to fetch.
        sizes: bytes of each shard.
    """
    shards: dict[str, list[Piece]] = {}
    for piece in sorted(pieces, key=lambda piece: piece.span):
        shards.setdefault(piece.location.shard, []).append(piece)
    jobs = []
    for shard, members in shards.items():
        if sum(piece.nbytes for piece in members) >= MOST * sizes[shard]:
            jobs.append(Job(shard, 0, sizes[shard], tuple(members)))
            continue
        for group in coalesce([piece.span for piece in members]):
            jobs.append(Job(shard, group.start, group.stop, tuple(members[i] for i in group.members)))
    return jobs


def _fetch(store: Store, job: Job, progress: Callable[[int], object]) -> None:
    """Fetch the checkpoints of a job; each is verified and kept as soon as it is complete."""
    assert store.cache is not None
    source, left = store.source, list(job.pieces)

    def keep(piece: Piece, data: memoryview) -> None:
        store.check(piece, data)
        assert store.cache is not None
        store.cache.put(piece.key(), data, must=True)
        left.remove(piece)
        progress(piece.nbytes)

    if not isinstance(source, RemoteSource):  # a zip
        for piece in job.pieces:
            keep(piece, source.read_ranges([piece.span])[0])
        return
    files = source.files

    def attempt() -> None:
        if left:
            start = job.start if len(left) == len(job.pieces) else left[0].span[1]
            try:
                _split(files.stream(job.shard, start, job.stop), start, tuple(left), keep)
            except RangesNotSupportedError:
                _split(files.stream(job.shard), 0, tuple(left), keep)

    insist(attempt, what=f"fetch {files.address(job.shard)}", traffic=files.traffic)


def _split(
    chunks: Iterable[bytes], start: int, pieces: Sequence[Piece], keep: Callable[[Piece, memoryview], None]
) -> None:
    """Cut a stream of bytes that begins at `start` into the pieces, and hand over each that is complete."""
    import numpy as np

    rest = iter(pieces)
    piece = next(rest, None)
    buffer, at = memoryview(b""), start
    if piece is not None:
        buffer = np.empty(piece.nbytes, dtype=np.uint8).data
    for chunk in chunks:
        view, begin = memoryview(chunk), at
        at += len(view)
        while piece is not None:
            first, stop = piece.span[1], piece.span[2]
            low, high = max(first, begin), min(stop, at)
            if low < high:
                buffer[low - first : high - first] = view[low - begin : high - begin]
            if stop > at:
                break
            keep(piece, buffer)
            piece = next(rest, None)
            if piece is not None:
                buffer = np.empty(piece.nbytes, dtype=np.uint8).data
