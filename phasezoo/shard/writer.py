"""Write a shard, checkpoint by checkpoint, each hashed on its way."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BufferedWriter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phasezoo.errors import FormatError, IntegrityError
from phasezoo.layout import DTYPES
from phasezoo.shard.header import ALIGNMENT, PAD, Entry, build_header, parse_header
from phasezoo.shard.reader import Written, digest

if TYPE_CHECKING:
    import torch

WORTH_A_THREAD = 2**18  # bytes


@dataclass(frozen=True)
class File:
    """A shard as it was written."""

    written: tuple[Written, ...]
    nbytes: int
    sha256: str
    n_tensors: int


def write(
    path: str | Path,
    entries: Sequence[Entry],
    state_dicts: Iterable[Mapping[str, torch.Tensor] | None],
) -> File:
    """Write a shard, one checkpoint at a time.

    Args:
        path: the file; its directory must exist.
        entries: what will be written, in order.
        state_dicts: the tensors of each entry, in the same order, or None to leave an entry out; consumed one by
            one, the last one let go before the next is read.

    Returns:
        What the file holds and hashes to.

    Raises:
        FormatError: a state dict does not match its layout.
        IntegrityError: the header that was read back is not the one that was written.
    """
    path, header = Path(path), build_header(entries)
    position = len(header)
    written: list[Written] = []
    whole = hashlib.sha256(header)
    with open(path, "wb") as file, ThreadPoolExecutor(1) as beside:
        file.write(header)
        source = iter(state_dicts)
        for entry in entries:
            state_dict = next(source)
            if state_dict is None:
                continue
            gap = -position % ALIGNMENT
            pieces = [memoryview(bytes(gap)), *_encode(entry, state_dict)]
            one, digests = _put(file, whole, pieces, beside)
            written.append(Written(entry, position + gap, one, digests))
            position += gap + entry.layout.nbytes
            del state_dict, pieces  # before the next one is read
    if len(written) < len(entries):
        whole = _replace_header(path, build_header([w.entry for w in written], room=len(header)))
    n_tensors = _check(path, written)
    return File(tuple(written), path.stat().st_size, whole.hexdigest(), n_tensors)


def _put(
    file: BufferedWriter, whole: Any, pieces: Sequence[memoryview], beside: ThreadPoolExecutor
) -> tuple[str, bytes]:
    """Write a gap and the tensors of a checkpoint; return the checkpoint's sha256 and the tensors' digests.

    Hashing takes longer than reading and writing. It is shared with a second thread, which starts with the hash of the
    whole file and takes digests from the front, while this one writes, hashes the checkpoint and takes digests from the
    back.
    """
    gap, *tensors = pieces
    one = hashlib.sha256()
    if sum(map(len, tensors)) < WORTH_A_THREAD:
        for piece in pieces:
            file.write(piece)
            whole.update(piece)
        for tensor in tensors:
            one.update(tensor)
        return one.hexdigest(), b"".join(map(digest, tensors))
    first = beside.submit(_update, whole, pieces)
    jobs = [beside.submit(digest, tensor) for tensor in tensors]
    file.write(gap)
    for tensor in tensors:
        file.write(tensor)
        one.update(tensor)
    mine = {i: digest(tensors[i]) for i in reversed(range(len(tensors))) if jobs[i].cancel()}
    first.result()
    digests = [mine[i] if i in mine else job.result() for i, job in enumerate(jobs)]
    return one.hexdigest(), b"".join(digests)


def _update(whole: Any, pieces: Sequence[memoryview]) -> None:
    for piece in pieces:
        whole.update(piece)


def _replace_header(path: Path, header: bytes) -> Any:
    """Write another header of the same length, so that no data moves, and hash the file again."""
    whole = hashlib.sha256()
    with open(path, "r+b") as file:
        file.write(header)
        file.seek(0)
        while chunk := file.read(2**20):
            whole.update(chunk)
    return whole


def _encode(entry: Entry, state_dict: Mapping[str, torch.Tensor]) -> Iterator[memoryview]:
    """Yield the bytes of each tensor in layout order, after checking it against the layout."""
    import torch

    if tuple(state_dict) != entry.layout.names:
        extra = set(state_dict) ^ set(entry.layout.names)
        raise FormatError(f"{entry.prefix}: state dict and layout differ in keys or their order: {sorted(extra)[:4]}.")
    for spec in entry.layout.tensors:
        tensor = state_dict[spec.name].detach()
        if str(tensor.dtype) != f"torch.{DTYPES[spec.dtype][1]}" or tuple(tensor.shape) != spec.shape:
            raise FormatError(
                f"{entry.prefix}/{spec.name} is {tensor.dtype} {tuple(tensor.shape)}; "
                f"its layout says {spec.dtype} {spec.shape}."
            )
        yield tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data


def _check(path: Path, written: Sequence[Written]) -> int:
    """Read the header back and return how many tensors it has."""
    with open(path, "rb") as file:

        def read(start: int, stop: int) -> bytes:
            file.seek(start)
            return file.read(stop - start)

        found = parse_header(read, path.stat().st_size, where=str(path))
    expected = [(f"{w.entry.prefix}/{s.name}", w.offset + s.offset) for w in written for s in w.entry.layout.tensors]
    if [(t.key, t.start) for t in found.tensors if not t.key.startswith(PAD)] != expected:
        raise IntegrityError(f"{path} does not read back as it was written. Check the disk and write it again.")
    return len(found.tensors)
