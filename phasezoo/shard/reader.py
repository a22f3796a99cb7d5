"""Read a shard: bytes as tensors without a copy, and every checkpoint with its hashes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from phasezoo.layout import DTYPES, Layout
from phasezoo.shard.header import Entry, parse_header

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Written:
    """Where one checkpoint lies; `offset` counts from the start of the file."""

    entry: Entry
    offset: int
    sha256: str
    digests: bytes


def digest(data: bytes | memoryview) -> bytes:
    """Return the 64-bit blake2b digest of one tensor's bytes."""
    return hashlib.blake2b(data, digest_size=8).digest()


def decode(buffer: memoryview, layout: Layout) -> dict[str, torch.Tensor]:
    """View the bytes of one checkpoint as tensors, in module order, without a copy.

    Args:
        buffer: writable bytes, `layout.nbytes` long; the tensors keep it alive.
        layout: names, dtypes and shapes.
    """
    return {spec.name: decode_tensor(buffer, spec.dtype, spec.shape, offset=spec.offset) for spec in layout.tensors}


def decode_tensor(buffer: memoryview, dtype: str, shape: tuple[int, ...], *, offset: int = 0) -> torch.Tensor:
    """View bytes as one tensor; copies only where the element would be misaligned."""
    import torch

    itemsize, name = DTYPES[dtype]
    kind: torch.dtype = getattr(torch, name)
    count = prod(shape)
    if count == 0:
        return torch.empty(shape, dtype=kind)
    if offset % itemsize:
        raw = torch.frombuffer(buffer, dtype=torch.uint8, count=count * itemsize, offset=offset)
        return raw.clone().view(kind).reshape(shape)
    return torch.frombuffer(buffer, dtype=kind, count=count, offset=offset).reshape(shape)


def scan(read: Callable[[int, int], bytes | memoryview], size: int, *, where: str) -> Iterator[Written]:
    """Find and hash every checkpoint of a shard, from the file alone.

    Args:
        read: returns the bytes from start to stop of the file.
        size: length of the file.
        where: the file, for errors.

    Raises:
        FormatError: the file is not a shard.
    """
    for entry, start in parse_header(read, size, where=where).checkpoints():
        data = memoryview(read(start, start + entry.layout.nbytes))
        digests = [digest(data[s.offset : s.offset + s.nbytes]) for s in entry.layout.tensors]
        yield Written(entry, start, hashlib.sha256(data).hexdigest(), b"".join(digests))
