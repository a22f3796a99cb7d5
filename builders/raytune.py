"""Build a zoo from a Ray Tune experiment: a directory or a zip, with hostile, broken and doubled parts.

Cells are built one by one, in any order, on any number of processes; each leaves a record when its shards are
complete. A build that was stopped goes on from the records and ends with the same bytes.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from phasezoo.builders.jobs import run_all
from phasezoo.builders.pack import Packed, Run, file_from_json, file_to_json, pack_cell
from phasezoo.builders.plan import Plan, PlannedCell, PlannedRun, make_plan
from phasezoo.builders.raw_tables import draft, raw_tables
from phasezoo.builders.tables import write_index
from phasezoo.builders.tree import Tree, open_tree
from phasezoo.builders.weights import BadCheckpoint, check_layout, read_weights
from phasezoo.errors import WriteError
from phasezoo.layout import Layout
from phasezoo.progress import bar
from phasezoo.report import REPORT, Built, Finding, to_json
from phasezoo.source import local_place, vacant

RECORDS = ".records"


def build_raytune(
    source: str | Path,
    out: str | Path,
    *,
    zoo: str | None = None,
    workers: int = 1,
    ray: str | None = None,
    dry_run: bool = False,
) -> Built:
    """Build a zoo from a Ray Tune experiment.

    Args:
        source: a directory, a zip, or the URL of a zip (read by range).
        out: directory that does not exist yet or is empty.
        zoo: name of the published zoo that this is; gives title, axes, licence and citation.
        workers: processes that build cells at the same time.
        ray: address of a Ray cluster that builds the cells instead (``"auto"`` for the one that runs here).
        dry_run: read parameters and results only, and say what would be built.

    Returns:
        Counts, and every finding. The zoo holds them too, in ``build_report.json``.

    Raises:
        ZooNotFoundError: there is nothing at `source`.
        FormatError: it holds no trial.
        WriteError: `out` is not empty or cannot be written.

    >>> import phasezoo, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     raw = phasezoo.load("mlp-digits")[:1].export(f"{folder}/digits")
    ...     file = raw / "w2-lr0.005-s100" / "checkpoint_000050" / "checkpoints"
    ...     _ = file.write_bytes(file.read_bytes()[:1000])  # a download that broke off
    ...     built = build_raytune(raw, f"{folder}/zoo")
    ...     print(built.checkpoints, [(finding.kind, finding.where) for finding in built.findings])
    3 [('unreadable', 'w2-lr0.005-s100/epoch 50')]
    """
    out = vacant(out)
    if "://" not in str(source):
        source = local_place(source)  # processes of a cluster stand elsewhere
    tree = open_tree(source)
    skeleton, axes = draft(tree.name, zoo)
    plan = make_plan(tree, axes=axes)
    planned = sum(len(run.checkpoints) for cell in plan.cells for run in cell.runs)
    if dry_run:
        return Built(len(plan.trials), len(plan.cells), planned, plan.nbytes, tuple(sorted(set(plan.findings))))
    staging = out.with_name(f".{out.name}.partial")
    try:
        _start(staging, plan)
        todo = [cell for cell in plan.cells if not _record(staging, cell.cell_id).is_file()]
        job = partial(_build_cell, source=str(source), staging=str(staging))
        with bar("building", total=plan.nbytes, unit="B") as progress:
            progress.update(plan.nbytes - sum(_nbytes(tree, cell) for cell in todo))
            sizes = {cell.cell_id: _nbytes(tree, cell) for cell in todo}
            for cell_id in run_all(job, todo, workers=workers, ray=ray):
                progress.update(sizes[cell_id])
        packed, findings, layouts = _collect(staging, plan)
        tables = raw_tables(plan, packed, layouts, findings, source=tree.name, zoo=zoo)
        findings = sorted({*plan.findings, *findings})
        manifest = write_index(staging, skeleton(plan, packed), packed=packed, **tables)
        counts = {
            "models": manifest.tables["configs"].rows,
            "cells": len(plan.cells),
            "checkpoints": sum(len(file.written) for _, file in packed),
        }
        (staging / REPORT).write_bytes(to_json(findings, counts))
        shutil.rmtree(staging / RECORDS)
        if out.exists():
            out.rmdir()
        os.replace(staging, out)
    except OSError as error:
        if isinstance(error, WriteError) or error.filename is None or str(staging) not in str(error.filename):
            raise
        raise WriteError(
            f"cannot write the zoo to {out}: {error.strerror}. What was built so far is kept in {staging}; "
            "the same command goes on from there."
        ) from None
    return Built(**counts, nbytes=sum(file.nbytes for _, file in packed), findings=tuple(findings))


def _start(staging: Path, plan: Plan) -> None:
    """Prepare the working directory; forget what an earlier, different build left in it."""
    key = staging / RECORDS / "plan"
    if not key.is_file() or key.read_text() != plan.key():
        shutil.rmtree(staging, ignore_errors=True)
        (staging / RECORDS).mkdir(parents=True)
        key.write_text(plan.key())


def _nbytes(tree: Tree, cell: PlannedCell) -> int:
    return sum(tree.sizes[path] for run in cell.runs for path in run.checkpoints.values())


def _record(staging: str | Path, cell_id: str) -> Path:
    return Path(staging, RECORDS, f"{cell_id}.json")


@lru_cache(maxsize=2)
def _open_once(source: str, key: str) -> Tree:
    """Open the raw zoo once a process and plan: the same place may hold other files later."""
    return open_tree(source)


def _build_cell(cell: PlannedCell, *, source: str, staging: str) -> str:
    """Build the shards of one cell and leave its record; the record appears only when all is in place."""
    import torch

    torch.set_num_threads(1)
    tree = _open_once(source, Path(staging, RECORDS, "plan").read_text())
    findings: list[Finding] = []
    runs = []
    for planned in cell.runs:
        layout = planned.layout or _first_layout(tree, planned)
        if layout is not None:
            read = partial(_read, tree, planned, layout, findings)
            runs.append(Run(planned.model_id, cell.cell_id, layout, tuple(planned.checkpoints), read))
        elif planned.checkpoints:
            what = "none of its checkpoints can be read; the model has results only"
            findings.append(Finding("unreadable", planned.folder, what))
    work = Path(staging, RECORDS, f"work-{os.getpid()}")
    shutil.rmtree(work, ignore_errors=True)
    packed = [(path, file) for path, file in pack_cell(cell.cell_id, runs, work) if file.written] if runs else []
    for path, _ in packed:
        Path(staging, path).parent.mkdir(parents=True, exist_ok=True)
        os.replace(work / path, Path(staging, path))
    shutil.rmtree(work, ignore_errors=True)
    record = {
        "shards": [[path, file_to_json(file)] for path, file in packed],
        "findings": [asdict(finding) for finding in findings],
    }
    temporary = _record(staging, f"{cell.cell_id}.{os.getpid()}.tmp")
    temporary.write_text(json.dumps(record))
    os.replace(temporary, _record(staging, cell.cell_id))
    return cell.cell_id


def _load(tree: Tree, path: str) -> tuple[dict[str, Any], bool]:
    try:
        return read_weights(tree.local(path) or tree.read(path))
    except OSError as error:
        raise BadCheckpoint("unreadable", f"cannot be read ({error})") from None


def _first_layout(tree: Tree, planned: PlannedRun) -> Layout | None:
    """Return the layout of the first checkpoint that can be read."""
    for path in planned.checkpoints.values():
        try:
            return Layout.of_state_dict(_load(tree, path)[0])
        except BadCheckpoint:
            continue
    return None


def _read(tree: Tree, planned: PlannedRun, layout: Layout, findings: list[Finding], epoch: int) -> Any:
    """Read one checkpoint, or record why it is left out."""
    where = f"{planned.folder}/epoch {epoch}"
    try:
        state_dict, stripped = _load(tree, planned.checkpoints[epoch])
        checked = check_layout(state_dict, layout)
    except BadCheckpoint as error:
        findings.append(Finding(error.kind, where, f"the checkpoint {error}; left out"))
        return None
    if stripped:
        findings.append(Finding("module-prefix", planned.folder, "the leading 'module.' of its names was stripped"))
    return checked


def _collect(staging: Path, plan: Plan) -> tuple[list[Packed], list[Finding], dict[str, Layout]]:
    """Read all records, in the order of the plan."""
    packed: list[Packed] = []
    findings: list[Finding] = []
    layouts: dict[str, Layout] = {}
    for cell in plan.cells:
        record = json.loads(_record(staging, cell.cell_id).read_text())
        packed += [(path, file_from_json(data)) for path, data in record["shards"]]
        findings += [Finding(**finding) for finding in record["findings"]]
    for _, file in packed:
        layouts.update({w.entry.model_id: w.entry.layout for w in file.written})
    return packed, findings, layouts
