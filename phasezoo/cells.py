"""The cells of a zoo: one row per load x temperature x epoch, with seed means, spreads, pair metrics and phases."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from phasezoo.phases import fit_cut_of_cells, label
from phasezoo.registry import ZOOS
from phasezoo.tables import COLUMNS, describe
from phasezoo.thresholds import Thresholds

MEANS = ("train_acc", "test_acc", "test_loss", "val_acc", "val_loss")
# Columns that only cells have, or that mean something else there: type is as computed, unit, description.
OWN: dict[str, tuple[None, str | None, str]] = {
    "final": (None, None, "is it the last epoch of the cell?"),
    "n_models": (None, None, "models, one per seed"),
    "train_loss": (None, "nats", "training loss, corrected, geometric mean over the seeds"),
    "train_loss_min": (None, "nats", "smallest training loss of the seeds"),
    "train_loss_max": (None, "nats", "largest training loss of the seeds"),
    "test_acc_std": (None, "fraction", "standard deviation of test_acc over the seeds"),
    "gap": (None, "fraction", "train_acc minus test_acc"),
}
TINY = 1e-12  # a loss of zero, as a logarithm takes it
KEYS = ("model_id", "cell_id", "epoch", "protocol")


def cell_table(configs: pa.Table, results: pa.Table, landscape: pa.Table | None) -> pa.Table:
    """Aggregate models to cells.

    `train_loss` is the geometric mean over the seeds (of `train_loss_corrected` where there is one), all others are
    arithmetic means; `_min`, `_max` and `_std` give the spread. Landscape metrics of a cell are taken as they are,
    those of models are averaged; a logarithm is that of the mean, null where the mean is not positive.

    Args:
        configs: the models.
        results: their results.
        landscape: metrics of cells and models, or None.

    Returns:
        One row per cell and epoch, cells in the order of `configs`.
    """
    table = _aggregate(configs, results)
    measured = _measured(landscape) if landscape is not None and landscape.num_rows else {}
    names = sorted({name for values in measured.values() for name in values}, key=list(COLUMNS).index)
    keys = list(zip(table["cell_id"].to_pylist(), table["epoch"].to_pylist(), strict=True))
    for name in names:
        values = pa.array([measured.get(key, {}).get(name) for key in keys], COLUMNS[name][0])
        table = table.append_column(name, values)
    return table.cast(pa.schema([_described(field) for field in table.schema]))


def _described(plain: pa.Field) -> pa.Field:
    """Say what a column of cells is: of its own, or the seed mean of a column of models."""
    _, unit, text = COLUMNS.get(plain.name, OWN.get(plain.name, (None, None, plain.name)))
    mean = ", mean over the seeds" if plain.name in MEANS else ""
    return describe(plain, unit=unit, description=OWN.get(plain.name, (None, None, f"{text}{mean}"))[2])


def _aggregate(configs: pa.Table, results: pa.Table) -> pa.Table:
    ids = configs["model_id"].combine_chunks()
    model = pc.index_in(results["model_id"], value_set=ids)
    results = results.filter(pc.is_valid(model))
    model = pc.drop_null(model)
    cell_ids = configs["cell_id"].to_pylist()
    rank = {cell_id: i for i, cell_id in enumerate(dict.fromkeys(cell_ids))}
    cell = np.array([rank[cell_id] for cell_id in cell_ids], np.int64)[np.asarray(model, np.int64)]
    columns: dict[str, Any] = {"cell": cell, "epoch": results["epoch"]}
    names = results.column_names
    if "train_loss" in names:
        loss = results["train_loss"]
        if "train_loss_corrected" in names:
            loss = pc.coalesce(results["train_loss_corrected"], loss)
        # Not max_element_wise: it would turn a loss that is NaN or missing into the smallest there is.
        columns["log_loss"] = pc.log10(pc.if_else(pc.less(loss, TINY), TINY, loss))
        columns["train_loss"] = loss
    columns.update({name: results[name] for name in MEANS if name in names})
    plain = pa.table(columns)
    wanted: list[tuple[Any, ...]] = [([], "count_all")]
    wanted += [(name, "mean") for name in plain.column_names[2:]]
    wanted += [(name, kind) for name in ("train_loss",) if name in columns for kind in ("min", "max")]
    wanted += [("test_acc", "stddev")] if "test_acc" in columns else []
    grouped = (
        plain.group_by(["cell", "epoch"]).aggregate(wanted).sort_by([("cell", "ascending"), ("epoch", "ascending")])
    )
    first = [cell_ids.index(cell_id) for cell_id in rank]
    place = configs.select(["cell_id", "load", "temperature"]).take(pa.array(first)).take(grouped["cell"])
    last = {c: int(e) for c, e in zip(grouped["cell"].to_pylist(), grouped["epoch"].to_pylist(), strict=True)}
    final = [last[c] == e for c, e in zip(grouped["cell"].to_pylist(), grouped["epoch"].to_pylist(), strict=True)]
    out = {name: place[name] for name in place.column_names}
    out |= {"epoch": grouped["epoch"], "final": pa.array(final, pa.bool_()), "n_models": grouped["count_all"]}
    if "log_loss" in columns:
        out["train_loss"] = pc.power(10.0, grouped["log_loss_mean"])
        out |= {"train_loss_min": grouped["train_loss_min"], "train_loss_max": grouped["train_loss_max"]}
    out |= {name: grouped[f"{name}_mean"] for name in MEANS if name in columns}
    if "test_acc" in columns:
        out["test_acc_std"] = grouped["test_acc_stddev"]
        if "train_acc" in columns:
            out["gap"] = pc.subtract(out["train_acc"], out["test_acc"])
    return pa.table(out).combine_chunks()


def _measured(landscape: pa.Table) -> dict[tuple[str, int], dict[str, float]]:
    """Return the metrics of each (cell, epoch): the cell's own, else the mean over its models."""
    names = [
        n
        for n in landscape.column_names
        if n in COLUMNS and n not in KEYS and pa.types.is_floating(landscape.schema.field(n).type)
    ]
    own: dict[tuple[str, int], dict[str, float]] = {}
    of_models: dict[tuple[str, int], dict[str, list[float]]] = {}
    for row in landscape.to_pylist():
        key = (row["cell_id"], row["epoch"])
        for name in names:
            if row[name] is None:
                continue
            if row["model_id"] is None:
                own.setdefault(key, {})[name] = row[name]
            else:
                of_models.setdefault(key, {}).setdefault(name, []).append(row[name])
    for key, found in of_models.items():
        means = {name: sum(values) / len(values) for name, values in found.items()}
        for name in [name for name in means if name.startswith("log_")]:
            raw = means.get(name.removeprefix("log_"))
            means.pop(name)
            if raw is not None and raw > 0:
                means[name] = float(np.log(raw))
        own[key] = means | own.get(key, {})
    return own


def labelled(cells: pa.Table, thresholds: Thresholds, *, classes: int | None) -> pa.Table:
    """Label every epoch of a table of cells by itself: cuts that depend on the data are those of the epoch."""
    epochs = np.asarray(cells["epoch"], np.int64)
    order = np.argsort(epochs, kind="stable")
    parts = [
        label(cells.take(pa.array(rows)), thresholds, classes=classes)
        for rows in np.split(order, np.flatnonzero(np.diff(epochs[order])) + 1)
        if len(rows)
    ]
    if not parts:
        return label(cells, thresholds, classes=classes)
    return pa.concat_tables(parts).take(pa.array(np.argsort(order, kind="stable")))


def default_epoch(cells: pa.Table, thresholds: Thresholds) -> int | None:
    """Return the last epoch that has the metrics of the thresholds, as many as any epoch has; else the last one."""
    best: tuple[int, int] | None = None
    for epoch, group in _by_epoch(cells).items():
        known = sum(group.get(name, 0) > 0 for name in (thresholds.mc, thresholds.cka))
        best = max(best or (-1, -1), (known, epoch))
    return best[1] if best else None


def _by_epoch(cells: pa.Table) -> dict[int, dict[str, int]]:
    names = [name for name in cells.column_names if pa.types.is_floating(cells.schema.field(name).type)]
    grouped = cells.group_by("epoch").aggregate([(name, "count") for name in names]).to_pylist()
    return {row["epoch"]: {name: row[f"{name}_count"] for name in names} for row in grouped}


def model_phases(
    configs: pa.Table, results: pa.Table, cells: pa.Table, thresholds: Thresholds, *, classes: int | None
) -> pa.Table:
    """Give each model the label of its cell, and say whether it fits as its cell does.

    Args:
        configs: the models.
        results: their results.
        cells: the cells of one epoch, before labelling.
        thresholds: how to decide.
        classes: number of classes, or None.

    Returns:
        One row per model: `phase`, `phase_confidence`, `phase_reasons`, `fit`, `seed_disagrees`.
    """
    cells = label(cells, thresholds, classes=classes)
    by_cell = {row["cell_id"]: row for row in cells.to_pylist()}
    values = {cell_id: _value(row, thresholds) for cell_id, row in by_cell.items()}
    cut, _ = fit_cut_of_cells(list(by_cell.values()), thresholds, classes=classes)
    epoch = cells["epoch"][0].as_py() if cells.num_rows else None
    at = results.filter(pc.equal(results["epoch"], pa.scalar(epoch, pa.int64()))).to_pylist()
    own = {row["model_id"]: _value(row, thresholds) for row in at}
    rows = []
    for model_id, cell_id in zip(configs["model_id"].to_pylist(), configs["cell_id"].to_pylist(), strict=True):
        cell, value, of_cell = by_cell.get(cell_id, {}), own.get(model_id), values.get(cell_id)
        fit = None if value is None else value < cut
        unknown = fit is None or of_cell is None or not math.isfinite(of_cell)
        differs = None if unknown or of_cell is None else fit != (of_cell < cut)
        rows.append(
            {
                "phase": cell.get("phase"),
                "phase_confidence": cell.get("phase_confidence"),
                "phase_reasons": cell.get("phase_reasons"),
                "fit": fit,
                "seed_disagrees": differs,
            }
        )
    schema = pa.schema(
        [
            describe(pa.field("phase", pa.string()), unit=None, description="phase of the model's cell"),
            describe(pa.field("phase_confidence", pa.float64()), unit=None, description="probability of the label"),
            describe(pa.field("phase_reasons", pa.list_(pa.string())), unit=None, description="how it was decided"),
            describe(pa.field("fit", pa.bool_()), unit=None, description="does the model itself fit?"),
            describe(pa.field("seed_disagrees", pa.bool_()), unit=None, description="unlike its cell?"),
        ]
    )
    return pa.Table.from_pylist(rows, schema=schema)


def _value(row: Mapping[str, Any], thresholds: Thresholds) -> float | None:
    if thresholds.fit == "train_error":
        return None if row.get("train_acc") is None else 1 - row["train_acc"]
    loss = row.get("train_loss_corrected")
    return row.get("train_loss") if loss is None else loss


def classes_of(name: str, configs: pa.Table) -> int | None:
    """Return the number of classes of a zoo: from the registry, else from its models' arguments."""
    if name in ZOOS:
        return ZOOS[name].dataset.classes
    if not configs.num_rows:
        return None
    arguments = json.loads(configs["architecture_config"][0].as_py() or "{}")
    found = arguments.get("num_classes", arguments.get("out_features"))
    return found if isinstance(found, int) and found > 1 else None
