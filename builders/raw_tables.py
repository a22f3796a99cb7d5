"""Tables and manifest of a zoo that is built from raw trials."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from phasezoo import annotation
from phasezoo.builders.pack import Packed
from phasezoo.builders.plan import Plan, declared_architecture
from phasezoo.builders.trial import TIME, Trial
from phasezoo.errors import ZooNotFoundError, nearest
from phasezoo.layout import Layout
from phasezoo.manifest import Axis, Manifest, Provenance
from phasezoo.parquet import REQUIRED
from phasezoo.registry import ZOOS, Dataset
from phasezoo.report import Finding
from phasezoo.tables import COLUMNS, from_rows, topology_id

LABELS = {"width": "width", "batch_size": "batch size", "lr": "learning rate", "beta": "beta"}

Skeleton = Callable[[Plan, Sequence[Packed]], Manifest]


def draft(source: str, zoo: str | None) -> tuple[Skeleton, tuple[str, str] | None]:
    """Return what makes the manifest once the plan is known, and the axes if the zoo is a named one.

    Args:
        source: name of the raw zoo.
        zoo: name in the registry, or None.

    Raises:
        ZooNotFoundError: no zoo of that name.
    """
    if zoo is not None and zoo not in ZOOS:
        raise ZooNotFoundError(f"no zoo named {zoo!r}. {nearest(zoo, ZOOS, limit=20)}")
    entry = ZOOS[zoo] if zoo else None
    name = zoo or re.sub(r"[^a-z0-9._-]+", "-", source.lower()).strip("-._") or "zoo"

    def make(plan: Plan, packed: Sequence[Packed]) -> Manifest:
        declared = {d[0] for trial in plan.trials.values() if (d := declared_architecture(trial))}
        kinds = {str(trial.settings.get("model_type", "unknown")).lower() for trial in plan.trials.values()}
        architecture = declared.pop() if len(declared) == 1 else "-".join(sorted(kinds))
        return Manifest(
            name=name,
            title=entry.title if entry else f"Models of {source}",
            architecture=architecture,
            dataset=entry.dataset.name if entry else "unknown",
            task=entry.task if entry else "classification",
            load=entry.load.axis() if entry else _axis(plan, plan.load),
            temperature=entry.temperature.axis() if entry else _axis(plan, plan.temperature),
            provenance=Provenance(
                source=f"Ray Tune experiment {source}", method="converted", notes=entry.notes if entry else ()
            ),
            license=entry.license if entry else "unknown",
            citation=entry.citation if entry else "unknown",
            tables={},
        )

    return make, (entry.load.column, entry.temperature.column) if entry else None


def _axis(plan: Plan, column: str) -> Axis:
    values = sorted({float(trial.settings[column]) for trial in plan.trials.values()})
    hot = None if column == plan.load else "low" if column == "batch_size" else "high"
    return Axis(column=column, label=LABELS.get(column, column), values=tuple(values), hot=hot)


def raw_tables(
    plan: Plan,
    packed: Sequence[Packed],
    layouts: Mapping[str, Layout],
    findings: list[Finding],
    *,
    source: str,
    zoo: str | None,
) -> dict[str, pa.Table]:
    """Make `configs`, `results` and `landscape`; what is suspicious in the numbers is added to `findings`.

    Args:
        plan: the trials.
        packed: the shards.
        layouts: model id to the layout of its checkpoints, for models that have any.
        findings: where to add.
        source: name of the raw zoo.
        zoo: name in the registry, or None.
    """
    dataset = ZOOS[zoo].dataset if zoo else Dataset(name="unknown")
    cell_ids = {run.model_id: cell.cell_id for cell in plan.cells for run in cell.runs}
    configs = [
        {
            "model_id": model_id,
            "cell_id": cell_ids[model_id],
            "trial_name": trial.name,
            "load": float(trial.settings[plan.load]),
            "temperature": float(trial.settings[plan.temperature]),
            **{key: value for key, value in trial.settings.items() if key != "model_type"},
            **_architecture(trial, layouts.get(model_id)),
            "dataset": dataset.name if zoo else None,
            "source": f"Ray Tune experiment {source}",
        }
        for model_id, trial in plan.trials.items()
    ]
    results = [
        {
            "model_id": model_id,
            "epoch": epoch,
            **{("time" if key == TIME else key): value for key, value in row.items()},
            **_corrected(trial, epoch, row),
        }
        for model_id, trial in plan.trials.items()
        for epoch, row in sorted(trial.results.items())
    ]
    landscape = _of_cells(plan, configs, results, findings, dataset)
    return {"configs": _table("configs", configs), "results": _table("results", results), "landscape": landscape}


def _architecture(trial: Trial, layout: Layout | None) -> dict[str, Any]:
    declared = declared_architecture(trial)
    name = declared[0] if declared else str(trial.settings.get("model_type", "unknown")).lower()
    arguments = json.dumps(declared[1] if declared else {}, sort_keys=True)
    topology = arguments if declared else layout.layout_id if layout else None
    return {
        "architecture": name,
        "architecture_config": arguments,
        "n_params": sum(math.prod(s.shape) for s in layout.tensors if not _is_buffer(s.name)) if layout else None,
        "topology_id": topology_id(name, topology) if topology else None,
    }


def _is_buffer(name: str) -> bool:
    return name.endswith(("running_mean", "running_var", "num_batches_tracked"))


def _corrected(trial: Trial, epoch: int, row: Mapping[str, float | None]) -> dict[str, float | None]:
    """Undo the division of the training loss by the accumulation steps; epoch 0 is evaluated, not accumulated."""
    loss, steps = row.get("train_loss"), trial.settings["accumulation_steps"]
    return {"train_loss_corrected": None if loss is None else loss * (steps if epoch else 1)}


def _of_cells(
    plan: Plan, configs: list[dict[str, Any]], results: list[dict[str, Any]], findings: list[Finding], dataset: Dataset
) -> pa.Table:
    """Take what is true of cells out of the rows of their models: flag means in `results`, return the landscape."""
    rank = {config["model_id"]: i for i, config in enumerate(configs)}
    rows = [
        {name: row.get(name) for name in (*annotation.METRICS, "epoch")}
        | plan.trials[row["model_id"]].landscape.get(row["epoch"], {})
        for row in results
    ]
    table = from_rows(
        rows, ("epoch", *annotation.METRICS, *(n for n in annotation.LANDSCAPE if any(n in row for row in rows)))
    )
    model = np.array([rank[row["model_id"]] for row in results], np.int64)
    for row, flag in zip(results, annotation.means(table, model, configs, dataset), strict=True):
        row["cell_mean_columns"] = flag
        if flag:
            what = f"epoch {row['epoch']}: {flag} hold the mean over the seeds of the cell, not this model's value"
            findings.append(Finding("cell-mean", plan.trials[row["model_id"]].name, what))
    return annotation.landscape(table, model, configs, findings)


def _table(name: str, rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Make a table of the columns that must be there or occur."""
    present = {key for row in rows for key, value in row.items() if value is not None} | {*REQUIRED[name]}
    return from_rows(rows, [name for name in COLUMNS if name in present])
