"""Pack checkpoints into shards."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phasezoo import shard
from phasezoo.layout import Layout
from phasezoo.progress import bar

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Run:
    """The checkpoints of one model, to be packed.

    Attributes:
        model_id: id of the model.
        cell_id: the cell it belongs to; runs of one cell share a folder of shards.
        layout: the layout of every checkpoint.
        epochs: epochs that are stored with this run, ascending.
        read: returns the state dict of an epoch, or None to leave it out; called once for each, in order.
        shared_with: epoch to the ids of other models whose checkpoint at that epoch is this one.

    >>> import tempfile
    >>> import torch
    >>> states = {0: {"weight": torch.zeros(2)}, 5: {"weight": torch.ones(2)}}
    >>> run = Run("w2-s0", "w2", Layout.of_state_dict(states[0]), tuple(states), states.get)
    >>> [entry.epoch for entry in run.entries()]
    [0, 5]
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     [(path, file)] = pack([run], Path(folder))
    >>> path, len(file.written)
    ('shards/w2/00000.safetensors', 2)
    """

    model_id: str
    cell_id: str
    layout: Layout
    epochs: tuple[int, ...]
    read: Callable[[int], Mapping[str, torch.Tensor] | None]
    shared_with: Mapping[int, tuple[str, ...]] = field(default_factory=dict)

    def entries(self) -> list[shard.Entry]:
        """What the run puts into shards."""
        return [
            shard.Entry(self.model_id, epoch, self.layout, tuple(self.shared_with.get(epoch, ())))
            for epoch in self.epochs
        ]


# Path inside the zoo, and what the shard holds.
Packed = tuple[str, shard.File]


def pack(runs: Sequence[Run], out: Path) -> list[Packed]:
    """Write all runs into ``out/shards/<cell>/<nnnnn>.safetensors``, cell by cell, in the order given.

    A trajectory stays in one shard if it fits under the caps (1.25 GiB, 16,384 tensors), else a checkpoint does.

    Args:
        runs: what to write; runs of one cell follow one another.
        out: the zoo's directory.

    Returns:
        The shards in the order in which they were written.
    """
    packed: list[Packed] = []
    total = sum(run.layout.nbytes * len(run.epochs) for run in runs)
    with bar("packing", total=total, unit="B") as progress:
        for cell_id, cell in groupby(runs, key=lambda run: run.cell_id):
            done = pack_cell(cell_id, list(cell), out)
            progress.update(sum(w.entry.layout.nbytes for _, file in done for w in file.written))
            packed += done
    return packed


def pack_cell(cell_id: str, runs: Sequence[Run], out: Path) -> list[Packed]:
    """Write the runs of one cell; see `pack`."""
    packed: list[Packed] = []
    folder = Path("shards", cell_id)
    (out / folder).mkdir(parents=True, exist_ok=True)
    for number, units in enumerate(_shards(runs)):
        path = folder / f"{number:05d}.safetensors"
        entries = [entry for _, group in units for entry in group]
        packed.append((path.as_posix(), shard.write(out / path, entries, _state_dicts(units))))
    return packed


_Unit = tuple[Run, list[shard.Entry]]


def _state_dicts(units: Sequence[_Unit]) -> Iterator[Mapping[str, torch.Tensor] | None]:
    for run, entries in units:
        for entry in entries:
            yield run.read(entry.epoch)


def _shards(runs: Sequence[Run]) -> Iterator[list[_Unit]]:
    """Split the runs of a cell at the caps."""
    current: list[_Unit] = []
    nbytes = tensors = 0
    for run in runs:
        entries = run.entries()
        whole = _fits(sum(_padded(e) for e in entries), sum(map(_tensors, entries)))
        for group in [entries] if whole else [[entry] for entry in entries]:
            size, count = sum(map(_padded, group)), sum(map(_tensors, group))
            if current and not _fits(nbytes + size, tensors + count):
                yield current
                current, nbytes, tensors = [], 0, 0
            current.append((run, group))
            nbytes, tensors = nbytes + size, tensors + count
    if current:
        yield current


def _fits(nbytes: int, tensors: int) -> bool:
    return nbytes <= shard.MAX_BYTES and tensors <= shard.MAX_TENSORS


def _padded(entry: shard.Entry) -> int:
    return entry.layout.nbytes + -entry.layout.nbytes % shard.ALIGNMENT


def _tensors(entry: shard.Entry) -> int:
    return len(entry.layout) + 1  # one for padding


def file_to_json(file: shard.File) -> dict[str, Any]:
    """Return what a shard holds, for the record of a build that may be stopped."""
    layouts = {w.entry.layout.layout_id: w.entry.layout for w in file.written}
    return {
        "nbytes": file.nbytes,
        "sha256": file.sha256,
        "n_tensors": file.n_tensors,
        "layouts": {key: [[s.name, s.dtype, s.shape] for s in layout.tensors] for key, layout in layouts.items()},
        "written": [
            [
                *(w.entry.model_id, w.entry.epoch, w.entry.layout.layout_id, w.entry.shared_with),
                *(w.offset, w.sha256, w.digests.hex()),
            ]
            for w in file.written
        ],
    }


def file_from_json(data: Mapping[str, Any]) -> shard.File:
    """Return a shard's content from its record."""
    layouts = {key: Layout.of(tensors) for key, tensors in data["layouts"].items()}
    written = tuple(
        shard.Written(
            shard.Entry(model_id, epoch, layouts[key], tuple(shared_with)), offset, sha256, bytes.fromhex(digests)
        )
        for model_id, epoch, key, shared_with, offset, sha256, digests in data["written"]
    )
    return shard.File(written, data["nbytes"], data["sha256"], data["n_tensors"])
