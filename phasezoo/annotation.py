"""What in the rows of models is a value of their cell: landscape metrics, and means written over the models' own."""

from __future__ import annotations

from itertools import groupby
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from phasezoo.registry import Dataset
from phasezoo.report import Finding
from phasezoo.tables import from_rows

PROTOCOL = "published"
METRICS = ("train_loss", "train_acc", "test_loss", "test_acc")
# Landscape metrics of the published zoos; a file has some of them.
LANDSCAPE = (
    *("representation_similarity", "curve_mc_train_error", "curve_mc_test_error"),
    *("curve_mc_train_loss", "curve_mc_test_loss"),
    *("log_hessian_trace_train", "log_hessian_trace_val", "log_hessian_trace"),
    *("log_hessian_top_ev_train", "log_hessian_top_ev_val", "log_hessian_top_ev"),
    *("wiseft_acc_test", "wiseft_acc_test_delta", "gitrebasin_acc_test", "gitrebasin_acc_test_delta"),
)
# Accuracies are k / n of n samples; three seeds average to thirds of that.
FRACTION = 0.05
# A column counts as overwritten at an epoch if this share of its rows shows it; two of three means do.
OVERWRITTEN = 0.5
SATURATED = 0.99


def means(
    table: pa.Table, model: NDArray[np.int64], configs: list[dict[str, Any]], dataset: Dataset
) -> list[str | None]:
    """Say for each row which metrics are the mean over the seeds of its cell, as far as the rows show it.

    At an annotated epoch (one with landscape metrics) a loss is such a mean if all seeds of the cell have it. An
    accuracy is one if it is no multiple of 1/n; or if all seeds have it, and either most rows of the epoch are no
    multiples, or a loss of the cell is a mean and the accuracy is not one that several seeds reach by themselves.

    Args:
        table: metrics and landscape of all rows.
        model: number of each row's model.
        configs: the models, seeds of a cell after one another.
        dataset: the data, for the number of samples n.

    Returns:
        Names separated by commas, or None, for each row.
    """
    cell_of = _cell_numbers(configs)[model]
    annotated = _annotated(table)
    epoch = table["epoch"].to_numpy()
    flags: dict[int, list[str]] = {}
    for e in np.unique(epoch[annotated]):
        rows = np.flatnonzero(annotated & (epoch == e))
        cell = cell_of[rows]
        overwritten = np.zeros(len(rows), bool)  # a loss of this row is a mean
        for name in sorted(METRICS, key=lambda name: name.endswith("acc")):
            samples = {"train_acc": dataset.train, "test_acc": dataset.test}.get(name)
            column = table[name].to_numpy()[rows]
            same, alone = _same_in_cell(column, cell)
            if name.endswith("loss"):
                flagged = same & ~alone
                overwritten |= flagged
            else:
                odd = _not_a_count(column, samples)
                flagged = odd | same & (odd.mean() >= OVERWRITTEN) | same & overwritten & (column < SATURATED)
            for row in rows[flagged].tolist():
                flags.setdefault(row, []).append(name)
    return [",".join(sorted(flags[row], key=METRICS.index)) if row in flags else None for row in range(len(table))]


def landscape(
    table: pa.Table, model: NDArray[np.int64], configs: list[dict[str, Any]], findings: list[Finding]
) -> pa.Table:
    """Move landscape metrics to the level of cells.

    Where the seeds of a cell disagree, they keep a row each.

    Args:
        table: landscape of all rows.
        model: number of each row's model.
        configs: the models.
        findings: to add to.
    """
    names = [name for name in LANDSCAPE if name in table.column_names]
    annotated = np.flatnonzero(_annotated(table))
    rows = table.select(["epoch", *names]).take(annotated).to_pylist()
    for row, number in zip(rows, model[annotated], strict=True):
        row["model_id"], row["cell_id"] = configs[number]["model_id"], configs[number]["cell_id"]
    place = {cell_id: i for i, cell_id in enumerate(dict.fromkeys(config["cell_id"] for config in configs))}
    rows.sort(key=lambda row: (place[row["cell_id"]], row["epoch"]))
    out: list[dict[str, Any]] = []
    for (cell_id, epoch), group in groupby(rows, key=lambda row: (row["cell_id"], row["epoch"])):
        members = list(group)
        values = {name: {row[name] for row in members} - {None} for name in names}
        apart = [name for name in names if len(values[name]) > 1]
        if apart:
            what = f"seeds disagree in {', '.join(apart)} at epoch {epoch}; each keeps its row, with its model_id."
            findings.append(Finding("landscape-disagrees", cell_id, what))
            out += members
        else:
            one = {name: next(iter(found), None) for name, found in values.items()}
            out.append({"model_id": None, "cell_id": cell_id, "epoch": epoch, **one})
    for row in out:
        row["protocol"] = PROTOCOL
    logarithms = [name for name in names if name.startswith("log_")]
    raw = [name.removeprefix("log_") for name in logarithms]
    made = from_rows(out, ("model_id", "cell_id", "epoch", "protocol", *names, *raw))
    for name, logarithm in zip(raw, logarithms, strict=True):
        position = made.schema.get_field_index(name)
        made = made.set_column(position, made.schema.field(name), pc.exp(made[logarithm]))
    return made


def _annotated(table: pa.Table) -> NDArray[np.bool_]:
    """Say for each row whether it has any landscape metric."""
    columns = [table[name].is_valid().to_numpy() for name in LANDSCAPE if name in table.column_names]
    none = np.zeros(len(table), bool)
    annotated: NDArray[np.bool_] = np.logical_or.reduce([none, *columns])
    return annotated


def _cell_numbers(configs: list[dict[str, Any]]) -> NDArray[np.int64]:
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(config["cell_id"], len(numbers)) for config in configs])


def _same_in_cell(column: NDArray[np.float64], cell: NDArray[np.int64]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Say for each row whether all rows of its cell have its value, and whether it is the only one."""
    low, high = np.full(cell.max() + 1, np.inf), np.full(cell.max() + 1, -np.inf)
    np.minimum.at(low, cell, column)
    np.maximum.at(high, cell, column)
    return (low == high)[cell], (np.bincount(cell) == 1)[cell]


def _not_a_count(column: NDArray[np.float64], samples: int | None) -> NDArray[np.bool_]:
    if samples is None:
        return np.zeros(len(column), bool)
    with np.errstate(invalid="ignore"):
        return np.abs(column * samples - np.round(column * samples)) > FRACTION
