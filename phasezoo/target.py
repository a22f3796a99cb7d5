"""What a network is asked to predict about another one: a column of the tables, one value per checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from phasezoo.errors import ColumnNotFoundError, MeasureError, nearest
from phasezoo.weights import Sample

if TYPE_CHECKING:
    import pyarrow as pa
    import torch

    from phasezoo.view import View


def targets(
    view: View, wanted: Sequence[Sample], names: str | Sequence[str]
) -> tuple[torch.Tensor, tuple[str, ...] | None]:
    """Look up targets: results and landscape metrics at the epoch of the checkpoint, or configs.

    Args:
        view: the view that the checkpoints are of.
        wanted: the checkpoints.
        names: a column, or several columns of numbers.

    Returns:
        float32 ``[checkpoints]`` (``[checkpoints, columns]`` for several); for one column of words, such as `phase`,
        int64 class numbers and the classes, which are those of the whole zoo.

    Raises:
        ColumnNotFoundError: no table has the column.
        MeasureError: a value is missing or ambiguous, or several columns are asked and one has no numbers.

    >>> import phasezoo
    >>> from phasezoo.weights import samples
    >>> view = phasezoo.load("mlp-digits").filter(width=8, lr=0.1)
    >>> targets(view, samples(view), "test_acc")
    (tensor([0.7503, 0.2447, 0.5847]), None)
    """
    import torch

    columns = [_column(view, wanted, name) for name in ([names] if isinstance(names, str) else names)]
    if isinstance(names, str) and isinstance(columns[0][0] if columns[0] else 0.0, str):
        known = view._index.configs[names].to_pylist()
        classes = tuple(sorted({value for value in known if value is not None}))
        return torch.tensor([classes.index(value) for value in columns[0]]), classes
    if any(isinstance(value, str) for column in columns for value in column[:1]):
        raise MeasureError(f"among the targets {', '.join(names)} there are words: ask for that column alone.")
    table = torch.tensor(columns, dtype=torch.float32).T.contiguous()
    return (table[:, 0].contiguous() if isinstance(names, str) else table), None


def _column(view: View, wanted: Sequence[Sample], name: str) -> list[Any]:
    index = view._index
    tables = {key: index.table(key) for key in ("results", "landscape") if key in index.manifest.tables}
    metric = next((key for key, table in tables.items() if name in table.column_names), None)
    cells = dict(zip(*(index.table("configs")[c].to_pylist() for c in ("model_id", "cell_id")), strict=True))
    if metric is not None and name not in ("model_id", "cell_id", "epoch"):
        found = _at_epochs(view.table(metric), name)
        values = [
            found.get((s.model_id, s.epoch), found.get((cells[s.model_id], s.epoch)) if metric == "landscape" else None)
            for s in wanted
        ]
    elif name == "epoch":
        values = [s.epoch for s in wanted]
    elif name in index.configs.column_names:
        of_model = dict(zip(index.configs["model_id"].to_pylist(), index.configs[name].to_pylist(), strict=True))
        values = [of_model[s.model_id] for s in wanted]
    else:
        known = [c for table in (*tables.values(), index.configs) for c in table.column_names]
        raise ColumnNotFoundError(f"no column {name!r} for a target. {nearest(name, dict.fromkeys(known), limit=40)}")
    missing = [s for s, value in zip(wanted, values, strict=True) if value is None]
    if missing:
        first = missing[0]
        raise MeasureError(
            f"{len(missing)} of {len(wanted)} checkpoints have no {name!r}, such as {first.model_id} at epoch "
            f"{first.epoch}. Take other epochs, or leave these models out with filter(...)."
        )
    return values


def _at_epochs(table: pa.Table, name: str) -> dict[tuple[str, int], Any]:
    """Return the values of a column by (model, epoch), and by (cell, epoch) where a row is about a cell."""
    owners = table["model_id"].to_pylist()
    if "cell_id" in table.column_names:
        owners = [m if m is not None else c for m, c in zip(owners, table["cell_id"].to_pylist(), strict=True)]
    found: dict[tuple[str, int], Any] = {}
    for owner, epoch, value in zip(owners, table["epoch"].to_pylist(), table[name].to_pylist(), strict=True):
        if value is not None and found.setdefault((owner, epoch), value) != value:
            raise MeasureError(
                f"{owner} has several values of {name!r} at epoch {epoch}, by protocol. Look at zoo.landscape."
            )
    return found
