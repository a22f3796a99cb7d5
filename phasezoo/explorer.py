"""One self-contained page that shows a zoo: phase map, metrics, epochs, thresholds, learning curves.

The page needs no server and no network: data, style and script are inside. Its script repeats the rules of
`phasezoo.phases.label`, so that thresholds can be moved with a mouse; a test holds the two together. A page of a
view draws the cells of the view, and labels them as the whole zoo does.
"""

from __future__ import annotations

import html
import json
import math
import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from phasezoo.cells import default_epoch
from phasezoo.errors import FormatError, WriteError
from phasezoo.phases import PHASE_COLORS, fit_cut_of_cells
from phasezoo.source import local_place
from phasezoo.thresholds import thresholds_for

if TYPE_CHECKING:
    from phasezoo.zoo import Zoo

EPOCHS = 60  # shown at most, besides those that were measured
POINTS = 80  # of a learning curve
FIRST = ("test_acc", "train_loss")
NOT_SHOWN = ("name", "sources", "fit_width")
DETAIL = re.compile(r"^log_|_(min|max|std|stderr)$|_ev_[a-z]+_error$")  # metrics that a tooltip leaves out
CURVES = ("train_loss", "test_loss", "train_acc", "test_acc")
# Columns of configs that say nothing about how a model was made, or that the page shows elsewhere.
NO_CONFIG = (
    *("model_id", "cell_id", "load", "temperature", "seed", "trial_name", "trial_id", "source", "topology_id"),
    *("architecture_config", "phase", "phase_confidence", "phase_reasons", "fit", "seed_disagrees"),
)


def explore(zoo: Zoo, out: str | Path) -> Path:
    """Write the page.

    Args:
        zoo: the zoo or view.
        out: the file.

    Returns:
        The file.

    Raises:
        FormatError: the zoo has no results to show.
        WriteError: the file cannot be written.

    >>> import phasezoo, tempfile
    >>> page = explore(phasezoo.load("mlp-digits"), tempfile.mkdtemp() + "/zoo.html")
    >>> page.read_text().startswith("<!doctype html>")
    True
    """
    text = (Path(__file__).parent / "explorer.html").read_text(encoding="utf-8")
    # "</script" would end the element, "<!--" would hide its end.
    data = json.dumps(page_data(zoo), separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    text = text.replace("__TITLE__", html.escape(zoo.manifest.title)).replace("__DATA__", data)
    out = local_place(out)
    try:
        out.write_text(text, encoding="utf-8")
    except OSError as error:
        raise WriteError(f"cannot write {out}: {error.strerror}. Give another file with --out.") from None
    return out


def page_data(zoo: Zoo) -> dict[str, Any]:
    """Return all that the page shows, ready for JSON; numbers have seven significant digits, those of curves four."""
    thresholds = thresholds_for(zoo.name)
    whole = zoo._index.cells
    table = whole.filter(pc.field("cell_id").isin(zoo.table("configs")["cell_id"].combine_chunks().unique()))
    if not table.num_rows:
        raise FormatError(f"zoo {zoo.name!r} has no results to show in this view. Choose other models.")
    temperature = zoo.manifest.temperature
    loads = sorted(set(table["load"].to_pylist()))
    cold_first = sorted(set(table["temperature"].to_pylist()), reverse=temperature.hot == "low")
    metrics = [f.name for f in whole.schema if pa.types.is_floating(f.type) and _shown(f.name, whole)]
    metrics.sort(key=lambda name: FIRST.index(name) if name in FIRST else len(FIRST))
    measured = set(zoo.table("landscape")["epoch"].to_pylist()) if "landscape" in zoo.manifest.tables else set()
    epochs = _thin(sorted(set(table["epoch"].to_pylist())), EPOCHS, keep=measured)
    rows = {(row["cell_id"], row["epoch"]): row for row in whole.to_pylist()}
    places = {row["cell_id"]: row for row in table.to_pylist()}
    # The cells of the view come first. The others are not drawn, but cuts that depend on the data are those of the zoo.
    order = list(dict.fromkeys([*places, *whole["cell_id"].to_pylist()]))
    at = [[rows.get((cell_id, epoch), {}) for cell_id in order] for epoch in epochs]
    models, curve_epochs, of_cell = _models(zoo)
    last = default_epoch(whole, thresholds)
    return {
        "address": zoo._index.address,
        "whole": len(zoo) == zoo._index.table("configs").num_rows,
        "title": zoo.manifest.title,
        "subtitle": f"{len(zoo)} models in {len(places)} cells; {zoo.manifest.architecture} on {zoo.manifest.dataset}.",
        "load": {"label": zoo.manifest.load.label, "column": zoo.manifest.load.column, "values": loads},
        "temperature": {"label": temperature.label, "column": temperature.column, "values": cold_first},
        "colors": PHASE_COLORS,
        "thresholds": {k: v for k, v in asdict(thresholds).items() if k not in NOT_SHOWN},
        "fit_cuts": [
            fit_cut_of_cells([row for row in line if row], thresholds, classes=zoo._index.classes)[0] for line in at
        ],
        "classes": zoo._index.classes,
        "epochs": epochs,
        "start": epochs.index(last) if last in epochs else len(epochs) - 1,
        "metric": metrics[0],
        "metrics": [{"name": name, "unit": _unit(table, name), "main": not DETAIL.search(name)} for name in metrics],
        "cells": [
            {
                "id": cell_id,
                "load": row["load"],
                "temperature": row["temperature"],
                "x": loads.index(row["load"]),
                "y": cold_first.index(row["temperature"]),
                "models": of_cell.get(cell_id, []),
            }
            for cell_id, row in places.items()
        ],
        "final": [[row.get("final") for row in line] for line in at],  # None: no results at this epoch
        "values": {name: [[_number(row.get(name)) for row in line] for line in at] for name in metrics},
        "config_columns": _config_columns(zoo),
        "models": models,
        "curve_epochs": curve_epochs,
    }


def _unit(table: pa.Table, name: str) -> str:
    unit: bytes = (table.schema.field(name).metadata or {}).get(b"unit", b"")
    return unit.decode()


def _shown(name: str, table: pa.Table) -> bool:
    internal = name.startswith(("p_", "margin", "phase_")) or name in ("load", "temperature")
    return not internal and table[name].null_count < len(table)


def _config_columns(zoo: Zoo) -> list[str]:
    """Return the columns of configs that say how a model was made, as far as they have a value."""
    table = zoo.table("configs")
    return [
        field.name
        for field in table.schema
        if field.name not in NO_CONFIG
        and not pa.types.is_nested(field.type)
        and table[field.name].null_count < len(table)
    ]


def _models(zoo: Zoo) -> tuple[list[dict[str, Any]], list[int], dict[str, list[int]]]:
    """Return models with their last results and thinned curves, the epochs of the curves, and models by cell."""
    results = zoo.table("results")
    names = [name for name in CURVES if name in results.column_names]
    epochs = _thin(sorted(set(results["epoch"].to_pylist())), POINTS)
    position = {epoch: i for i, epoch in enumerate(epochs)}
    curves: dict[str, dict[str, list[float | None]]] = {}
    last: dict[str, dict[str, float | None]] = {}
    for row in results.select(["model_id", "epoch", *names]).to_pylist():
        model_id = row["model_id"]
        last[model_id] = {name: _number(row[name]) for name in names}
        if row["epoch"] in position:
            own = curves.setdefault(model_id, {name: [None] * len(epochs) for name in names})
            for name in names:
                own[name][position[row["epoch"]]] = _number(row[name], digits=4)
    models: list[dict[str, Any]] = []
    of_cell: dict[str, list[int]] = {}
    columns = _config_columns(zoo)
    configs = zoo.table("configs").select(list(dict.fromkeys(["model_id", "cell_id", "seed", *columns]))).to_pylist()
    for i, row in enumerate(configs):
        of_cell.setdefault(row["cell_id"], []).append(i)
        empty: dict[str, list[float | None]] = {}
        own_curves = curves.get(row["model_id"], empty)
        models.append(
            {
                "id": row["model_id"],
                "seed": row["seed"],
                "config": [_setting(row[name]) for name in columns],
                "last": last.get(row["model_id"], {}),
                "curves": own_curves,
            }
        )
    return models, epochs, of_cell


def _setting(value: Any) -> Any:
    """Return a value of configs as JSON knows it."""
    if isinstance(value, float):
        return _number(value)
    return value if value is None or isinstance(value, (bool, int)) else str(value)


def _thin(values: list[int], n: int, *, keep: Sequence[int] | set[int] = ()) -> list[int]:
    """Keep n values spread evenly, the first and last among them, and those that must stay."""
    if len(values) <= n:
        return values
    chosen = {values[round(i * (len(values) - 1) / (n - 1))] for i in range(n)}
    return sorted(chosen | set(keep))


def _number(value: Any, *, digits: int = 7) -> float | None:
    if value is None or not math.isfinite(value):
        return None
    return float(f"{value:.{digits}g}")
