"""A row of the landscape table while it is measured: values, their logarithms, and why there is none."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from phasezoo.errors import PhaseZooError
from phasezoo.model import Model
from phasezoo.training.landscape.hessian import natural_log

Row = dict[str, Any]


def row_of(model: Model, epoch: int, *, cell: bool = False) -> Row:
    """Begin the row of a model, or of its cell."""
    return {
        "model_id": None if cell else model.id,
        "cell_id": model.config["cell_id"],
        "epoch": epoch,
        "reasons": {},
    }


def put(row: Row, name: str, value: float) -> None:
    """Record a raw value, and its logarithm or the reason why it has none."""
    if not math.isfinite(value):
        row["reasons"][name] = f"the value is not finite: {value}"
        return
    row[name] = value
    log, why = natural_log(value)
    row[f"log_{name}"] = log
    if why:
        row["reasons"][f"log_{name}"] = why


def too_few(row: Row, cell: Sequence[Model], *columns: str) -> bool:
    """Say whether a cell has no pairs, and note it for the columns that are about pairs."""
    if len(cell) < 2:
        row["reasons"].update(dict.fromkeys(columns, "a pair metric, and the cell has one seed"))
    return len(cell) < 2


@contextmanager
def noting(rows: Sequence[Row], *columns: str) -> Iterator[None]:
    """Record a failure in every row instead of stopping the measurement."""
    try:
        yield
    except (PhaseZooError, RuntimeError, ValueError) as error:
        why = str(error).splitlines()[0]
        for row in rows:
            row["reasons"].update({name: why for name in columns if name not in row})
