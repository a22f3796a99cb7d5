"""Train the whole grid of a recipe and write it as a zoo: here, on processes, or on a Ray cluster.

Trials keep journals beside the zoo; a cell is packed into shards when its last trial is done, and its journals are
let go. A training that was stopped, by whatever, goes on from the journals when it is called again.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

from phasezoo import load
from phasezoo.builders.jobs import run_all
from phasezoo.builders.pack import Packed, Run, file_from_json, file_to_json, pack_cell
from phasezoo.builders.tables import write_index
from phasezoo.errors import TrainError, WriteError
from phasezoo.layout import Layout
from phasezoo.manifest import Manifest
from phasezoo.progress import bar
from phasezoo.source import vacant
from phasezoo.training.data import Convection, Data, Text
from phasezoo.training.draft import draft
from phasezoo.training.journal import Journal
from phasezoo.training.recipe import Recipe, Trial
from phasezoo.training.run import groups, run
from phasezoo.training.select import select
from phasezoo.training.tables import config_of, configs_table, count_parameters, results_table
from phasezoo.training.train import Precision, Protocol

RECORDS = ".records"


def train_grid(
    recipe: Recipe,
    out: str | Path,
    *,
    where: str | None = None,
    workers: int = 1,
    ray: str | None = None,
    raw: bool = False,
    protocol: Protocol = "corrected",
    precision: Precision = "float32",
    compiled: bool = False,
    data: Data | Text | Convection | None = None,
) -> Manifest:
    """Train every model of a recipe and write the zoo.

    Args:
        recipe: what to train.
        out: directory that does not exist yet or is empty; all workers must see it.
        where: condition on the models, such as ``"width <= 8"``.
        workers: processes that train at the same time.
        ray: address of a Ray cluster that trains instead; ``"auto"``.
        raw: also write ``<out>-raw``, the folders that code for the published zoos reads.
        protocol: of gradient accumulation; see `phasezoo.training.train.train`.
        precision: see there.
        compiled: see there.
        data: the data set; by default the one that the recipe names.

    Raises:
        WriteError: the directory exists and is not empty, cannot be written, or holds a stopped training of another
            grid.
        FilterError: no model meets the condition.
        TrainError: some trials did not finish.

    >>> import tempfile
    >>> from phasezoo.training.recipes import recipe
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = train_grid(recipe("mlp-digits").shortened(1), f"{folder}/zoo", where="width == 8 and lr == 0.1")
    ...     zoo = load(f"{folder}/zoo")
    ...     print(zoo, zoo[0].epochs)
    Zoo(mlp-digits: 3 models in 1 cells of width x lr, ... kB of weights) [0, 1]
    """
    out = vacant(out)  # before the work, not after it
    trials = select(recipe, where)
    work = groups(recipe, trials)
    staging = out.with_name(f".{out.name}.partial")
    _start(staging, recipe, trials, [protocol, precision])
    records = staging / RECORDS
    job = partial(
        run, recipe=recipe, records=str(records), protocol=protocol, precision=precision, compiled=compiled, data=data
    )
    cells = {cell: tuple(of_cell) for cell, of_cell in groupby(trials, key=lambda trial: trial.cell_id)}
    stored_by = owners(trials)
    waiting = {cell: {t.model_id for t in of_cell} for cell, of_cell in cells.items() if not _record(records, cell)}
    todo = [group for group in work if any(trial.cell_id in waiting for trial in group)]
    with bar(f"training {recipe.name}", total=len(trials), unit="model") as progress:
        progress.update(len(trials) - sum(map(len, todo)))
        for group in _finished(job, todo, recipe, records, workers=workers, ray=ray):
            progress.update(len(group))
            for trial in group:
                waiting.get(trial.cell_id, set()).discard(trial.model_id)
            for cell in [cell for cell, missing in waiting.items() if not missing]:
                del waiting[cell]
                _pack(cell, cells[cell], recipe, staging, stored_by)
    return _write(out, staging, recipe, cells, trials, raw=raw)


def _start(staging: Path, recipe: Recipe, trials: Sequence[Trial], switches: Sequence[str]) -> None:
    """Prepare the working directory, or find the one of the same training."""
    content = json.dumps([recipe.model_dump(mode="json"), [t.model_id for t in trials], *switches], sort_keys=True)
    key = hashlib.sha256(content.encode()).hexdigest()
    plan = staging / RECORDS / "plan"
    try:
        if not plan.is_file():
            plan.parent.mkdir(parents=True, exist_ok=True)
            plan.write_text(key)
    except OSError as error:
        raise WriteError(f"cannot write the zoo to {staging.parent}: {error.strerror}.") from None
    if plan.read_text() != key:
        raise WriteError(
            f"{staging} holds a stopped training of another recipe, grid or number of epochs. Repeat that command, "
            "give another place, or remove the directory."
        )


def _finished(
    job: Any, todo: Sequence[tuple[Trial, ...]], recipe: Recipe, records: Path, *, workers: int, ray: str | None
) -> Iterator[tuple[Trial, ...]]:
    """Yield the groups as they are finished, in any order; those that an earlier command finished come first."""
    kept = recipe.epochs, recipe.checkpoint_epochs
    left = []
    for group in todo:
        if all(Journal(records / trial.model_id).covers(*kept) for trial in group):
            yield group
        else:
            left.append(group)
    if ray is not None:
        from phasezoo.training.cluster import run_on_ray

        yield from run_on_ray(job, left, address=ray, resources=recipe.resources, storage=records / "ray")
    else:
        yield from run_all(partial(_exhaust, job), left, workers=workers)


def _exhaust(job: Any, group: tuple[Trial, ...]) -> tuple[Trial, ...]:
    for _ in job(group):
        pass
    return group


def owners(trials: Sequence[Trial]) -> dict[str, str]:
    """Map each model to the one that stores its initial network: the first with that network and seed."""
    first: dict[tuple[str, int], str] = {}
    return {t.model_id: first.setdefault((t.architecture_config, t.seed), t.model_id) for t in trials}


def _record(records: Path, cell: str) -> dict[str, Any] | None:
    path = records / f"{cell}.json"
    found: dict[str, Any] | None = json.loads(path.read_text()) if path.is_file() else None
    return found


def _pack(cell: str, trials: Sequence[Trial], recipe: Recipe, staging: Path, owners: dict[str, str]) -> None:
    """Pack a cell whose trials are complete; its record appears last, then its journals lose their weights."""
    records = staging / RECORDS
    journals = {trial.model_id: Journal(records / trial.model_id) for trial in trials}
    short = [i for i, journal in journals.items() if not journal.covers(recipe.epochs, recipe.checkpoint_epochs)]
    if short:
        raise TrainError(f"{', '.join(short)} did not finish. The same command goes on from what is there.")
    runs = []
    for trial in trials:
        journal = journals[trial.model_id]
        epochs = sorted(recipe.checkpoint_epochs)
        if owners[trial.model_id] != trial.model_id and 0 in epochs:
            epochs.remove(0)
        same = tuple(i for i, owner in owners.items() if owner == trial.model_id and i != trial.model_id)
        layout = Layout.of_state_dict(journal.weights(epochs[0])) if epochs else Layout(())
        runs.append(Run(trial.model_id, cell, layout, tuple(epochs), journal.weights, {0: same} if same else {}))
    work = records / f"work-{os.getpid()}"
    shutil.rmtree(work, ignore_errors=True)
    packed = pack_cell(cell, runs, work)
    for path, _ in packed:
        (staging / path).parent.mkdir(parents=True, exist_ok=True)
        os.replace(work / path, staging / path)
    shutil.rmtree(work)
    n_params = count_parameters(trials[0])
    record = {
        "shards": [[path, file_to_json(file)] for path, file in packed],
        "configs": [config_of(recipe, trial, n_params=n_params) for trial in trials],
        "results": [
            {"model_id": i, "epoch": epoch, **metrics}
            for i, journal in journals.items()
            for epoch, metrics in journal.results().items()
            if epoch <= recipe.epochs
        ],
    }
    temporary = records / f"{cell}.tmp"
    temporary.write_text(json.dumps(record))
    os.replace(temporary, records / f"{cell}.json")
    for journal in journals.values():
        journal.forget_weights()


def _write(
    out: Path,
    staging: Path,
    recipe: Recipe,
    cells: dict[str, tuple[Trial, ...]],
    trials: Sequence[Trial],
    *,
    raw: bool,
) -> Manifest:
    """Write tables, card and manifest beside the shards, and move the zoo to its place."""
    packed: list[Packed] = []
    configs: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    for cell in cells:
        record = _record(staging / RECORDS, cell)
        if record is None:
            raise TrainError(f"cell {cell} is not complete. The same command goes on from what is there.")
        packed += [(path, file_from_json(data)) for path, data in record["shards"]]
        configs += record["configs"]
        results += record["results"]
    manifest = write_index(
        staging,
        draft(recipe),
        configs=configs_table(configs),
        results=results_table(results, task=recipe.task),
        landscape=None,
        packed=packed,
    )
    shutil.rmtree(staging / RECORDS)
    if out.exists():
        out.rmdir()
    os.replace(staging, out)
    if raw:
        load(out).export(out.with_name(f"{out.name}-raw"))
    return manifest
