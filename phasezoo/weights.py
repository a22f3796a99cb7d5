"""Many checkpoints at once: which ones a view has, and all of their tensors in one allocation per name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from phasezoo.errors import TopologyError
from phasezoo.layout import DTYPES, Layout
from phasezoo.store import Location, Piece, Store

if TYPE_CHECKING:
    import torch

    from phasezoo.view import View

# A number, "first", "last" or "all", or several numbers.
Epochs = int | str | Sequence[int]
# What is asked for in one go, so that neither buffers nor, of a zoo elsewhere, answers add up.
AT_ONCE = 256  # checkpoints
BYTES_AT_ONCE = 2**28


@dataclass(frozen=True)
class Sample:
    """One checkpoint of a view: which, and where it lies."""

    model_id: str
    epoch: int
    location: Location

    @property
    def piece(self) -> Piece:
        """What has to be read for it."""
        return Piece(self.location, f"checkpoint {self.model_id} epoch {self.epoch}")


def samples(view: View, epochs: Epochs = "last") -> list[Sample]:
    """List checkpoints, model by model in the order of the view.

    Args:
        view: the models.
        epochs: a number, ``"first"``, ``"last"``, ``"all"``, or a list of numbers, which every model must have.

    Raises:
        EpochNotFoundError: a model has no checkpoint at an epoch that was asked for.
        WeightsUnavailableError: the zoo has tables only.

    >>> import phasezoo
    >>> [(s.model_id, s.epoch) for s in samples(phasezoo.load("mlp-digits")[:1], [0, 150])]
    [('w2-lr0.005-s100', 0), ('w2-lr0.005-s100', 150)]
    """
    index = view._index
    index.table("checkpoints")
    ids: list[str] = index.table("configs")["model_id"].to_pylist()
    wanted: list[tuple[str, int]] = []  # (model, row in checkpoints)
    for row in view._rows:
        if epochs == "all":
            wanted += [(ids[row], i) for i in range(*index.span("checkpoints", row))]
        else:
            several = [epochs] if isinstance(epochs, (int, str)) else epochs
            wanted += [(ids[row], index.checkpoint_row(row, epoch)) for epoch in several]
    rows = [row for _, row in wanted]
    numbers = index.checkpoint_epochs
    return [
        Sample(model_id, numbers[row], location)
        for (model_id, row), location in zip(wanted, index.locations.take(rows), strict=True)
    ]


def same_layout(view: View, found: Sequence[Sample]) -> Layout:
    """Return the layout that all checkpoints have in common.

    Raises:
        TopologyError: they have several, or there are no checkpoints.
    """
    if not found:
        raise TopologyError("there is no model to read. Widen the filter of the view.")
    configs = view.table("configs")
    known = "topology_id" in configs.column_names
    topology = dict(
        zip(*(configs[name].to_pylist() for name in ("model_id", "topology_id" if known else "cell_id")), strict=True)
    )
    groups: dict[tuple[str, str], list[str]] = {}
    for sample in found:
        layout_id = sample.location.layout.layout_id
        key = (topology[sample.model_id] if known else None) or f"layout {layout_id}"
        groups.setdefault((key, layout_id), []).append(sample.model_id)
    if len(groups) > 1:
        listing = "; ".join(f"{key} (such as {ids[0]})" for (key, _), ids in list(groups.items())[:6])
        more = f" and {len(groups) - 6} more" if len(groups) > 6 else ""
        way = f'filter(topology_id="{next(iter(groups))[0]}")' if known else "filter, by width for example"
        raise TopologyError(
            f"these {len(found)} checkpoints have {len(groups)} topologies, whose tensors differ in shape: "
            f"{listing}{more}. Keep one of them: {way}."
        )
    return found[0].location.layout


def read(store: Store, wanted: Sequence[Sample]) -> dict[str, torch.Tensor]:
    """Read checkpoints of one layout into ``{name: [checkpoints, ...]}``, verified, in one allocation per tensor.

    Args:
        store: where the shards are.
        wanted: what to read; all of one layout.

    Returns:
        One tensor for each entry of the state dict, in module order.

    Raises:
        IntegrityError: the bytes are not those that were written.
        SourceError: the server of a zoo elsewhere cannot be reached.
    """
    import torch

    layout = wanted[0].location.layout
    tensors = {
        spec.name: torch.empty((len(wanted), *spec.shape), dtype=getattr(torch, DTYPES[spec.dtype][1]))
        for spec in layout.tensors
    }
    places = [
        (tensors[spec.name].reshape(-1).view(torch.uint8).numpy().data, spec.nbytes)
        for spec in layout.tensors
        if spec.nbytes
    ]
    in_file_order = sorted(range(len(wanted)), key=lambda i: (wanted[i].location.shard, wanted[i].location.offset))
    step = max(1, min(AT_ONCE, BYTES_AT_ONCE // max(1, layout.nbytes)))
    for first in range(0, len(wanted), step):
        part = in_file_order[first : first + step]
        buffers = [[place[i * n : (i + 1) * n] for place, n in places] for i in part]
        store.read_into([wanted[i].piece for i in part], buffers)
    return tensors
