"""A published summary table (CSV, one row per model and epoch) as the tables of a zoo.

What is published is kept as it is; corrections stand in columns of their own, and everything that was left out,
merged or doubtful becomes a finding. Pure: bytes in, tables out.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from phasezoo import annotation
from phasezoo.annotation import METRICS
from phasezoo.manifest import Manifest, Provenance
from phasezoo.registry import COMMIT, REPOSITORY, Entry
from phasezoo.report import Finding
from phasezoo.tables import field, from_rows, topology_id
from phasezoo.trials import Trial, find_models

if TYPE_CHECKING:
    from numpy.typing import NDArray

RESULTS = ("model_id", "epoch", "train_loss", "train_loss_corrected", *METRICS[1:], "cell_mean_columns")

NEAR_CHANCE = 0.85  # of the loss of guessing
FAR_FROM_SIBLINGS = 0.1  # in train accuracy, from the median of the cell


@dataclass(frozen=True)
class Tables:
    """What a summary table says: the tables of a zoo, and what was wrong with it."""

    configs: pa.Table
    results: pa.Table
    landscape: pa.Table
    findings: tuple[Finding, ...]

    @property
    def counts(self) -> dict[str, int]:
        """What was built, for the report."""
        cells = set(self.configs["cell_id"].to_pylist())
        rows = {"models": self.configs, "results": self.results, "landscape": self.landscape}
        return {"cells": len(cells), **{name: table.num_rows for name, table in rows.items()}}


def parse(data: bytes, entry: Entry, *, where: str = "the summary table") -> Tables:
    """Turn a summary table into the tables of a zoo.

    Args:
        data: the bytes of the CSV file.
        entry: which zoo it describes.
        where: place to name in an error.

    Raises:
        FormatError: not a summary table, or not one of this zoo.
    """
    findings: list[Finding] = []
    table, model, models = find_models(data, entry, findings, where=where)
    configs = [_config(trial, entry) for trial in models]
    results = _results(table, model, configs, entry)
    landscape = annotation.landscape(table, model, configs, findings)
    findings += [*_about_models(models, configs, entry), *_about_results(results, configs, entry)]
    return Tables(from_rows(configs, _columns(entry.load.column)), results, landscape, tuple(sorted(set(findings))))


def draft(entry: Entry, tables: Tables, data: bytes) -> Manifest:
    """Return the manifest of the zoo, without tables.

    Args:
        entry: which zoo it is.
        tables: what was parsed.
        data: the file it was parsed from.
    """
    assert entry.summary is not None
    return Manifest(
        name=entry.name,
        title=entry.title,
        description="Published configurations, results of every epoch and landscape metrics; no weights.",
        architecture=entry.architecture,
        dataset=entry.dataset.name,
        task=entry.task,
        load=entry.load.axis(),
        temperature=entry.temperature.axis(),
        provenance=Provenance(
            source=f"{REPOSITORY}, {entry.summary.file}, commit {COMMIT}",
            method="converted",
            recipe={"sha256": hashlib.sha256(data).hexdigest(), "nbytes": len(data)},
            notes=entry.notes,
        ),
        license=entry.license,
        citation=entry.citation,
        tables={},
    )


def _config(trial: Trial, entry: Entry) -> dict[str, Any]:
    load, batch, seed = trial.place
    cell = f"{entry.load.column[0]}{load}-b{batch}"
    known: dict[str, Any] = {}
    if entry.polynomial is not None and entry.dataset.classes is not None:
        (a, b, c), k = entry.polynomial, entry.dataset.classes
        arguments = json.dumps({"num_classes": k, "width": load}, sort_keys=True)
        known = {
            "architecture_config": arguments,
            "n_params": a * load**2 + b * load + c * load * k + k,
            "topology_id": topology_id(entry.architecture, arguments),
        }
    optimizer, momentum = entry.optimizer or (None, None)
    return {
        "model_id": f"{cell}-s{seed}",
        "cell_id": cell,
        "trial_name": trial.name,
        "trial_id": trial.row.get("trial_id"),
        "load": float(load),
        "temperature": float(batch),
        "seed": seed,
        entry.load.column: load,
        "batch_size": batch,
        "micro_batch_size": trial.row["batchsize"],
        "accumulation_steps": trial.steps,
        "lr": trial.row["lr"],
        "weight_decay": trial.row["wd"],
        "optimizer": optimizer,
        "momentum": momentum,
        "init_type": trial.row.get("init_type"),
        "dataset": entry.dataset.name,
        "architecture": entry.architecture,
        "source": f"{REPOSITORY}@{COMMIT[:12]}",
        **known,
    }


def _columns(load: str) -> tuple[str, ...]:
    return (
        *("model_id", "cell_id", "trial_name", "trial_id", "load", "temperature", "seed", load, "batch_size"),
        *("micro_batch_size", "accumulation_steps", "lr", "weight_decay", "optimizer", "momentum", "init_type"),
        *("dataset", "architecture", "architecture_config", "n_params", "topology_id", "source"),
    )


def _results(table: pa.Table, model: NDArray[np.int64], configs: list[dict[str, Any]], entry: Entry) -> pa.Table:
    means = annotation.means(table, model, configs, entry.dataset)
    steps = np.array([config["accumulation_steps"] or 0 for config in configs])
    factor = np.where(table["epoch"].to_numpy() == 0, 1, steps[model])  # epoch 0 is evaluated, not accumulated
    # The mean over seeds of losses that were divided by different numbers cannot be undone.
    of_cell: dict[str, set[int]] = {}
    for config, n in zip(configs, steps, strict=True):
        of_cell.setdefault(config["cell_id"], set()).add(int(n))
    mixed = np.array([len(of_cell[config["cell_id"]]) > 1 for config in configs])[model]
    lost = mixed & np.array([text is not None and "train_loss" in text.split(",") for text in means])
    factors = pa.array(factor, pa.float64(), mask=(factor == 0) | lost)
    columns = {
        "model_id": pa.array([config["model_id"] for config in configs]).take(pa.array(model)),
        "epoch": table["epoch"],
        **{name: table[name] for name in METRICS},
        "train_loss_corrected": pc.multiply(table["train_loss"], factors),
        "cell_mean_columns": pa.array(means, pa.string()),
    }
    return pa.table([columns[name] for name in RESULTS], schema=pa.schema([field(name) for name in RESULTS]))


def _about_models(models: list[Trial], configs: list[dict[str, Any]], entry: Entry) -> Iterator[Finding]:
    """Say which models are missing, short, or trained with accumulated gradients."""
    present = {trial.place for trial in models}
    for load, batch in ((int(a), int(b)) for a in entry.load.values for b in entry.temperature.values):
        for seed in sorted({seed for _, _, seed in present} - {s for a, b, s in present if (a, b) == (load, batch)}):
            what = "not in the file; other cells have this seed."
            yield Finding("model-missing", f"{entry.load.column[0]}{load}-b{batch}-s{seed}", what)
    longest = max(trial.epochs for trial in models)
    for trial, config in zip(models, configs, strict=True):
        if trial.epochs < longest:
            yield Finding("epochs-missing", config["model_id"], f"{trial.epochs} of {longest} epochs.")
        if trial.steps is None:
            what = f"micro-batches of {trial.row['batchsize']} do not add up to {trial.batch_size}."
            yield Finding("batch-contradicts", config["model_id"], what)
        elif trial.steps > 1:
            what = (
                f"{trial.steps} micro-batches of {trial.row['batchsize']} a step; the published train_loss is divided "
                "by that, train_loss_corrected is not."
            )
            yield Finding("accumulated", config["model_id"], what)


def _about_results(results: pa.Table, configs: list[dict[str, Any]], entry: Entry) -> Iterator[Finding]:
    """Say which rows are means over seeds, and which models ended near chance or far from their siblings."""
    flagged = results.filter(results["cell_mean_columns"].is_valid()).select(["epoch", "cell_mean_columns"])
    for row in flagged.group_by(["epoch", "cell_mean_columns"]).aggregate([([], "count_all")]).to_pylist():
        what = f"{row['cell_mean_columns']} of {row['count_all']} rows hold the mean over the seeds of their cell."
        yield Finding("cell-mean", f"epoch {row['epoch']}", what)
    ids = results["model_id"].to_numpy()
    last = np.flatnonzero(np.append(ids[1:] != ids[:-1], True))
    loss = results["train_loss_corrected"].to_numpy()[last]
    accuracy = results["train_acc"].to_numpy()[last]
    chance = math.log(entry.dataset.classes or math.inf)
    for config, value in zip(configs, loss, strict=True):
        if value > NEAR_CHANCE * chance:
            what = f"ends at a train loss of {value:.3g}, where guessing has {chance:.3g}."
            yield Finding("near-chance", config["model_id"], what)
    for cell, members in groupby(range(len(configs)), key=lambda i: configs[i]["cell_id"]):
        rows = list(members)
        middle = float(np.median(accuracy[rows]))
        for i in rows:
            if len(rows) > 2 and abs(accuracy[i] - middle) > FAR_FROM_SIBLINGS:
                what = f"ends at a train accuracy of {accuracy[i]:.3g}, the median of cell {cell} is {middle:.3g}."
                yield Finding("seed-apart", configs[i]["model_id"], what)
