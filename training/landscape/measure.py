"""Measure the loss landscape of a zoo: every model and every cell, into its landscape table.

The work is cut into jobs: one metric group of one model, one cell, or all cells of one topology where measuring them
together is faster. Each job leaves a record beside the zoo, so that a stopped measurement goes on where it was.
What cannot be measured is null, with the reason in the column `reasons`.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from phasezoo import load
from phasezoo.builders.card import write_card
from phasezoo.builders.jobs import run_all
from phasezoo.errors import MeasureError, WriteError, nearest
from phasezoo.manifest import MANIFEST
from phasezoo.progress import bar
from phasezoo.tables import COLUMNS, from_rows, write_table
from phasezoo.training.data import Convection, Data, Text, load_data
from phasezoo.training.landscape.groups import GROUPS
from phasezoo.training.landscape.objective import objective_of
from phasezoo.training.landscape.protocols import MeasureProtocol, protocol_for
from phasezoo.training.landscape.row import Row
from phasezoo.zoo import Zoo

KEYS = ("model_id", "cell_id", "epoch", "protocol")
HESSIAN = tuple(f"hessian_{what}_{split}" for what in ("trace", "top_ev") for split in ("train", "val"))


@dataclass(frozen=True)
class Job:
    """One metric group of some models at one epoch; models of a cell are together where the group needs pairs."""

    group: str
    model_ids: tuple[str, ...]
    epoch: int
    key: str


def measure(
    zoo: str | Path,
    *,
    metrics: Sequence[str] = tuple(GROUPS),
    epochs: Sequence[int | str] = ("last",),
    protocol: str | MeasureProtocol | None = None,
    data: Data | Text | Convection | None = None,
    where: str | None = None,
    workers: int = 1,
    ray: str | None = None,
) -> pa.Table:
    """Compute landscape metrics and write them into the zoo's landscape table.

    Rows of other protocols, epochs and models stay; rows that are measured again are replaced column by column.

    Args:
        zoo: directory of the zoo, which must be writable.
        metrics: ``hessian``, ``cka``, ``curves``, ``averaging``.
        epochs: epochs with checkpoints; ``"first"`` and ``"last"`` work too.
        protocol: all settings, or the name of a protocol; by default the one of the zoo.
        data: the data set; by default the one that the manifest names.
        where: condition on the models, as `Zoo.filter` takes it.
        workers: processes.
        ray: address of a Ray cluster that measures instead.

    Returns:
        The landscape table.

    Raises:
        MeasureError: no such metric or protocol.
        WriteError: the zoo is not a directory on disk that can be written.
        EpochNotFoundError: no model has a checkpoint at an epoch.

    >>> import tempfile
    >>> from phasezoo.training.grid import train_grid
    >>> from phasezoo.training.recipes import recipe
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = train_grid(recipe("mlp-digits").shortened(1), f"{folder}/zoo", where="width == 8 and lr == 0.1")
    ...     table = measure(f"{folder}/zoo", metrics=["cka"])
    ...     print(len(load(f"{folder}/zoo").landscape), "row")
    1 row
    >>> table["cell_id"].to_pylist(), 0 < table["representation_similarity"][0].as_py() < 1
    (['w8-lr0.1'], True)
    """
    for name in metrics:
        if name not in GROUPS:
            raise MeasureError(f"no metric {name!r}. {nearest(name, GROUPS)}")
    opened = load(zoo)
    chosen = protocol if isinstance(protocol, MeasureProtocol) else protocol_for(opened.name, protocol)
    root = _writable(opened)
    if data is None:
        _data(opened.manifest.dataset)  # fail before the work, not in the middle of it
    jobs = _jobs(opened.filter(where), metrics, epochs, chosen)
    records = root.with_name(f".{root.name}.measure")
    records.mkdir(exist_ok=True)
    todo = [job for job in jobs if not (records / f"{job.key}.json").is_file()]
    run = partial(_run, source=str(root), records=str(records), protocol=chosen, data=data)
    with bar("measuring", total=sum(len(job.model_ids) for job in jobs), unit="model") as progress:
        progress.update(sum(len(job.model_ids) for job in jobs) - sum(len(job.model_ids) for job in todo))
        for done in run_all(run, todo, workers=workers, ray=ray):
            progress.update(done)
    rows = [row for job in jobs for row in json.loads((records / f"{job.key}.json").read_text())]
    table = _merge(opened, rows, chosen)
    _write(opened, root, table, chosen)
    shutil.rmtree(records)
    return table


def _writable(zoo: Zoo) -> Path:
    place = zoo._index.source.local(MANIFEST)
    if place is None or not os.access(place.parent, os.W_OK):
        raise WriteError(
            f"zoo {zoo.name!r} at {zoo._index.source.url} cannot be written. Copy its directory to a place of yours "
            "and measure the copy."
        )
    return place.parent


def _jobs(zoo: Zoo, metrics: Sequence[str], epochs: Sequence[int | str], protocol: MeasureProtocol) -> list[Job]:
    """Cut the work; perceptrons of one topology are measured together, of others one model or cell at a time."""
    jobs = []
    checkpoints = zoo.table("checkpoints").select(["model_id", "epoch", "sha256"]).to_pylist()
    hashes = {(row["model_id"], row["epoch"]): row["sha256"] for row in checkpoints}
    units: dict[Any, list[tuple[str, str]]] = {}
    for model in zoo:
        config = model.config
        classifies = zoo.manifest.task == "classification"
        together = classifies and config["architecture"] == "mlp" and config.get("topology_id")
        units.setdefault(config["topology_id"] if together else config["cell_id"], []).append(
            (model.id, config["cell_id"])
        )
    for name in metrics:
        for members in units.values():
            alone = name == "hessian" and len({cell for _, cell in members}) == 1
            for part in [[member] for member in members] if alone else [members]:
                for epoch in epochs:
                    # "last" may be another number for each model; a job has one.
                    at: dict[int, list[str]] = {}
                    for model_id, _ in part:
                        at.setdefault(zoo[model_id].checkpoint(epoch).epoch, []).append(model_id)
                    for number, ids in at.items():
                        content = [name, protocol.id, number, *(hashes[i, number] for i in ids), *ids]
                        key = hashlib.sha256(json.dumps(content).encode()).hexdigest()[:32]
                        jobs.append(Job(name, tuple(ids), number, key))
    return jobs


@lru_cache(maxsize=1)
def _data(name: str) -> Data | Text | Convection:
    return load_data(name)


def _run(
    job: Job, *, source: str, records: str, protocol: MeasureProtocol, data: Data | Text | Convection | None
) -> int:
    """Measure, and leave a record that appears only when it is complete."""
    import torch

    torch.set_num_threads(1)
    zoo = load(source)
    models = [zoo[model_id] for model_id in job.model_ids]
    objective = objective_of(zoo.manifest, models[0].config, data or _data(zoo.manifest.dataset))
    rows: list[Row] = GROUPS[job.group](models, job.epoch, protocol, objective)
    temporary = Path(records, f"{job.key}.{os.getpid()}.tmp")
    temporary.write_text(json.dumps(rows))
    os.replace(temporary, Path(records, f"{job.key}.json"))
    return len(job.model_ids)


def _merge(zoo: Zoo, rows: Sequence[Row], protocol: MeasureProtocol) -> pa.Table:
    """Put new rows over those that the table has, and add the seed means of cells."""
    merged: dict[tuple[Any, ...], Row] = {}
    old = zoo._index.table("landscape").to_pylist() if "landscape" in zoo.manifest.tables else []
    for row in [*old, *({**row, "protocol": protocol.id} for row in rows)]:
        key = tuple(row[name] for name in KEYS)
        into = merged.setdefault(key, {})
        reasons = {**json.loads(into.get("reasons") or "{}")}
        reasons = {k: v for k, v in reasons.items() if row.get(k) is None}
        found = row.get("reasons") or {}
        reasons |= json.loads(found) if isinstance(found, str) else found
        into.update({k: v for k, v in row.items() if v is not None or k in KEYS})
        into["reasons"] = json.dumps(reasons, sort_keys=True) if reasons else None
    for key, row in _hessian_of_cells(merged, protocol).items():
        merged[key] = merged.get(key, {}) | row
    order = {model_id: i for i, model_id in enumerate(zoo._index.rows)}
    cells = {cell_id: i for i, cell_id in enumerate(zoo.table("configs")["cell_id"].to_pylist())}
    ordered = sorted(
        merged.values(),
        key=lambda r: (
            r["protocol"],
            r["epoch"],
            cells[r["cell_id"]],
            r["model_id"] is not None,
            order.get(r["model_id"], 0),
        ),
    )
    present = {name for row in ordered for name, value in row.items() if value is not None} | set(KEYS)
    return from_rows(ordered, [name for name in COLUMNS if name in present])


def _hessian_of_cells(merged: Mapping[tuple[Any, ...], Row], protocol: MeasureProtocol) -> dict[tuple[Any, ...], Row]:
    """Average over the seeds of each cell; the logarithm is that of the mean, as published."""
    from phasezoo.training.landscape.hessian import natural_log

    by_cell: dict[tuple[str, int], list[Row]] = {}
    for row in merged.values():
        if row["protocol"] == protocol.id and row["model_id"] is not None:
            by_cell.setdefault((row["cell_id"], row["epoch"]), []).append(row)
    cells = {}
    for (cell_id, epoch), rows in by_cell.items():
        cell: Row = {"model_id": None, "cell_id": cell_id, "epoch": epoch, "protocol": protocol.id}
        for name in HESSIAN:
            values = [row.get(name) for row in rows]
            if None not in values:
                cell[name] = sum(values) / len(values)  # type: ignore[arg-type]
                cell[f"log_{name}"] = natural_log(cell[name])[0]
        cells[None, cell_id, epoch, protocol.id] = cell
    return cells


def _write(zoo: Zoo, root: Path, table: pa.Table, protocol: MeasureProtocol) -> None:
    """Replace table, card and manifest; both are complete before the first takes its place."""
    staging = root / f".measured-{os.getpid()}"
    try:
        (staging / "tables").mkdir(parents=True)
        entry = write_table("landscape", table, staging)
        manifest = zoo.manifest.model_copy(
            update={
                "tables": {**zoo.manifest.tables, "landscape": entry},
                "protocols": {**zoo.manifest.protocols, protocol.id: protocol.settings()},
            }
        )
        tables = {name: table if name == "landscape" else zoo._index.table(name) for name in manifest.tables}
        write_card(manifest, tables, staging)
        (staging / MANIFEST).write_bytes(manifest.to_bytes())
        for name in (entry.path, MANIFEST, "README.md"):
            os.replace(staging / name, root / name)
    except OSError as error:
        raise WriteError(f"cannot write the landscape table of {root}: {error.strerror}. Check the disk.") from None
    finally:
        shutil.rmtree(staging, ignore_errors=True)
