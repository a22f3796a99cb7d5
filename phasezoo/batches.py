"""Batches of networks: in which order they come, how samples become one, and how one is taken out of it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import Sampler, default_collate

from phasezoo.errors import TopologyError
from phasezoo.representations.tokens import TokenSequence, pad


class Batches(Sampler[list[int]]):
    """The batches of an epoch, as lists of indices into a dataset with `seed` and `epoch`."""

    def __init__(self, dataset: Any, *, batch_size: int, shuffle: bool) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size} must be at least 1.")
        self._dataset = dataset
        self._batch_size = batch_size
        self._shuffle = shuffle

    def __len__(self) -> int:
        return -(-len(self._dataset) // self._batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        order = list(range(len(self._dataset)))
        if self._shuffle:
            generator = torch.Generator().manual_seed(seed_of(self._dataset.seed, self._dataset.epoch, "order"))
            order = torch.randperm(len(order), generator=generator).tolist()
        return (order[i : i + self._batch_size] for i in range(0, len(order), self._batch_size))


def one_of(batch: Any, i: int) -> Any:
    """Take one network out of tensors, lists and tuples of ``[models, ...]``.

    >>> one_of([torch.tensor([1, 2]), (torch.tensor([3, 4]),)], 1)
    [tensor(2), (tensor(4),)]
    """
    if isinstance(batch, torch.Tensor):
        return batch[i]
    parts = [one_of(part, i) for part in batch]
    if isinstance(batch, tuple):
        return type(batch)(*parts) if hasattr(batch, "_fields") else tuple(parts)
    return parts


def collate(found: list[Any]) -> Any:
    """Batch samples as torch does; sequences of tokens of several lengths are padded.

    >>> collate([torch.zeros(3), torch.ones(3)]).shape
    torch.Size([2, 3])
    """
    if isinstance(found[0], TokenSequence):
        return pad(found)
    try:
        return default_collate(found)
    except (RuntimeError, ValueError) as error:
        raise TopologyError(
            f"these networks do not fit into one batch: their topologies differ ({str(error).splitlines()[0]}). Take "
            "'tokens' of one size or 'statistics', batches of one network, or one topology: filter(topology_id=...)."
        ) from None


def seed_of(*parts: object) -> int:
    """Return a seed that depends on all parts, the same on every machine.

    >>> seed_of(0, 1, "order") == seed_of(0, 1, "order"), seed_of(0, 1, "order") == seed_of(0, 2, "order")
    (True, False)
    """
    return int.from_bytes(hashlib.sha256(":".join(map(str, parts)).encode()).digest()[:8], "little") >> 1
