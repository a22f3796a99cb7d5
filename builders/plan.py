"""From the files of a raw zoo to a plan: which trials become which models, and which checkpoints they have."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import PurePosixPath
from typing import Any

from phasezoo.builders.tree import Tree
from phasezoo.builders.trial import Trial, read_trial
from phasezoo.errors import ArchitectureError, FormatError
from phasezoo.layout import Layout
from phasezoo.nets import architectures, build
from phasezoo.progress import bar
from phasezoo.report import Finding

PARAMS = ("params.json", "config.json")
RESULTS = "result.json"
WEIGHTS = ("checkpoints", "checkpoint", "checkpoint.pt", "model.pt", "state_dict.pt")
CHECKPOINT = re.compile(r"checkpoint_([0-9]{1,9})")
MAX_TEXT = 256 * 2**20  # of a result.json
SHORT = {"width": "w", "embedding_dim": "e", "model_dim": "m", "batch_size": "b"}  # others stand as they are


@dataclass(frozen=True)
class PlannedRun:
    """One model to be built: where its checkpoints lie, and the layout its architecture declares (or None)."""

    model_id: str
    folder: str
    checkpoints: dict[int, str]
    layout: Layout | None


@dataclass(frozen=True)
class PlannedCell:
    """The runs of one cell, by seed."""

    cell_id: str
    runs: tuple[PlannedRun, ...]


@dataclass
class Plan:
    """What will be built.

    Attributes:
        load: the column that is the load.
        temperature: the column that is the temperature.
        cells: by load, then temperature, ascending.
        trials: model id to its trial.
        findings: what is wrong with the raw zoo.
        nbytes: bytes of raw checkpoints that will be read.
    """

    load: str
    temperature: str
    cells: list[PlannedCell] = field(default_factory=list)
    trials: dict[str, Trial] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    nbytes: int = 0

    def key(self) -> str:
        """Hash of the plan: a build that was stopped goes on only if nothing changed."""
        content = json.dumps([asdict(cell) for cell in self.cells], sort_keys=True, default=str)
        results = json.dumps([[t.settings, t.results, t.landscape] for t in self.trials.values()], default=str)
        return hashlib.sha256(f"{content} {results} {self.nbytes}".encode()).hexdigest()


def make_plan(tree: Tree, *, axes: tuple[str, str] | None = None) -> Plan:
    """Read every trial's parameters and results, and settle duplicates.

    Args:
        tree: the raw zoo.
        axes: columns of load and temperature; found from what the trials vary by default.

    Raises:
        FormatError: there is no trial in it.
    """
    folders = _trial_folders(tree)
    root = _common_root(folders)
    findings = [replace(finding, where=_relative(finding.where, root)) for finding in tree.refused]
    trials: dict[str, Trial] = {}
    with bar("reading results", total=len(folders), unit="trial") as progress:
        for folder, names in folders.items():
            trial = _read(tree, folder, names, _relative(folder, root))
            findings += trial.findings
            if trial.settings:
                trials[folder] = trial
            progress.update()
    if not trials:
        raise FormatError(
            f"no trial found in {tree.name!r}: no folder with params.json (or config.json) and result.json or "
            f"checkpoint_*. It holds {len(tree.sizes)} files. Give the folder that contains the trials."
        )
    load, temperature = axes or _axes(trials)
    plan = Plan(load, temperature, findings=findings)
    chosen = _choose(trials, plan, root)
    if not chosen:
        raise FormatError(
            f"no trial of {tree.name!r} has {load}, {temperature} and seed among its parameters, so that none has a "
            "place in the grid. Name the zoo with --zoo if it is a published one."
        )
    for place, by_seed in sorted(chosen.items()):
        runs = []
        for seed, folder in sorted(by_seed.items()):
            trial = trials[folder]
            model_id = f"{_cell_id(plan, *place)}-s{seed}"
            checkpoints = _checkpoints(tree, folder, folders[folder], trial, plan, root)
            plan.nbytes += sum(tree.sizes[path] for path in checkpoints.values())
            plan.trials[model_id] = trial
            try:
                layout = declared_layout(trial)
            except (ArchitectureError, FormatError) as error:
                what = f"its parameters describe no network: {error} Its checkpoints say what it is"
                plan.findings.append(Finding("architecture", _relative(folder, root), what))
                layout = None
            runs.append(PlannedRun(model_id, _relative(folder, root), checkpoints, layout))
        plan.cells.append(PlannedCell(_cell_id(plan, *place), tuple(runs)))
    return plan


def _trial_folders(tree: Tree) -> dict[str, list[str]]:
    """Return the folders that are trials, sorted, each with its files (relative to it)."""
    folders: dict[str, list[str]] = {}
    for path in tree.sizes:
        parts = PurePosixPath(path).parts
        at = next((i for i, part in enumerate(parts[:-1]) if CHECKPOINT.fullmatch(part)), len(parts) - 1)
        folders.setdefault("/".join(parts[:at]), []).append("/".join(parts[at:]))
    return {
        folder: sorted(names)
        for folder, names in sorted(folders.items())
        if RESULTS in names or any(CHECKPOINT.match(name) for name in names)
    }


def _common_root(folders: Mapping[str, Any]) -> str:
    parents = {str(PurePosixPath(folder).parent) for folder in folders}
    return parents.pop() if len(parents) == 1 else ""


def _relative(path: str, root: str) -> str:
    return path[len(root) + 1 :] if root and path.startswith(f"{root}/") else path


def _read(tree: Tree, folder: str, names: list[str], where: str) -> Trial:
    name = PurePosixPath(folder).name
    params = next((name for name in PARAMS if name in names), None)
    if params is None:
        kind = "failed-trial" if "error.txt" in names else "no-params"
        return Trial(name, findings=[Finding(kind, where, "the folder has no params.json or config.json; left out")])
    texts = []
    for file in (params, RESULTS):
        path = f"{folder}/{file}" if folder else file
        if path not in tree.sizes:
            texts.append(b"")
        elif tree.sizes[path] > MAX_TEXT:
            return Trial(name, findings=[Finding("too-large", where, f"{file} has {tree.sizes[path]} bytes; left out")])
        else:
            try:
                texts.append(tree.read(path))
            except OSError as error:
                return Trial(name, findings=[Finding("unreadable", where, f"{file} cannot be read: {error}; left out")])
    trial = read_trial(name, *texts, where=where)
    if not texts[1].strip():
        trial.findings.append(Finding("no-results", where, "there are no results"))
    return trial


def _axes(trials: Mapping[str, Trial]) -> tuple[str, str]:
    """Find load and temperature: some width (else beta), and batch size unless only the learning rate varies."""
    loads = ("width", "embedding_dim", "model_dim", "beta")
    varied = {
        column: len({trial.settings.get(column) for trial in trials.values()} - {None})
        for column in (*loads, "batch_size", "lr")
    }
    load = max(loads, key=lambda column: min(varied[column], 2))  # the first that varies, else the first there is
    temperature = "lr" if varied["batch_size"] < 2 <= varied["lr"] or not varied["batch_size"] else "batch_size"
    if not varied[load] or not varied[temperature]:
        raise FormatError(
            f"the trials have no {load if not varied[load] else temperature} among their parameters, so that they "
            "cannot be laid out over load x temperature. Name the zoo with --zoo if it is a published one."
        )
    return load, temperature


def _choose(trials: Mapping[str, Trial], plan: Plan, root: str) -> dict[tuple[float, float], dict[int, str]]:
    """Keep the most complete trial of each (load, temperature, seed) and record the others."""
    candidates: dict[tuple[float, float, int], list[str]] = {}
    for folder, trial in trials.items():
        missing = [c for c in (plan.load, plan.temperature, "seed") if trial.settings.get(c) is None]
        if missing:
            where = _relative(folder, root)
            plan.findings.append(Finding("no-params", where, f"parameters lack {', '.join(missing)}; left out"))
            continue
        place = (trial.settings[plan.load], trial.settings[plan.temperature], trial.settings["seed"])
        candidates.setdefault(place, []).append(folder)
    chosen: dict[tuple[float, float], dict[int, str]] = {}
    for (load, temperature, seed), folders in candidates.items():
        # The most epochs; among equals the one made last, as its folder's name tells.
        best = max(folders, key=lambda folder: (len(trials[folder].results), folder[-19:], folder))
        chosen.setdefault((load, temperature), {})[seed] = best
        for folder in folders:
            if folder != best:
                what = (
                    f"has {len(trials[folder].results)} epochs; {_relative(best, root)} has the same load, temperature "
                    f"and seed and {len(trials[best].results)} epochs; left out"
                )
                plan.findings.append(Finding("duplicate-trial", _relative(folder, root), what))
    return chosen


def _cell_id(plan: Plan, load: float, temperature: float) -> str:
    first, second = SHORT.get(plan.load, plan.load), SHORT.get(plan.temperature, plan.temperature)
    return f"{first}{_exact(load)}-{second}{_exact(temperature)}"


def _exact(value: float) -> str:
    """Write a number shortly, and such that no other number is written so.

    >>> _exact(64), _exact(0.1), _exact(1234567), _exact(0.1234567)
    ('64', '0.1', '1234567', '0.1234567')
    """
    short = f"{value:g}"
    return short if float(short) == value else repr(value)


def _checkpoints(tree: Tree, folder: str, names: list[str], trial: Trial, plan: Plan, root: str) -> dict[int, str]:
    """Return epoch -> path of the weights of a trial."""
    found: dict[int, str] = {}
    by_directory: dict[str, list[str]] = {}
    for name in names:
        directory, _, file = name.partition("/")
        if file:
            by_directory.setdefault(directory, []).append(file)
    for directory, files in sorted(by_directory.items()):
        match = CHECKPOINT.fullmatch(directory)
        if not match:
            continue
        where = _relative(f"{folder}/{directory}", root)
        weights = next((name for name in WEIGHTS if name in files), None)
        # Newer Ray numbers checkpoints by report and names the folder in the result line.
        epoch = trial.directories.get(directory, int(match[1]))
        if weights is None:
            plan.findings.append(Finding("no-weights", where, f"none of {', '.join(WEIGHTS)} is in it; left out"))
        elif epoch in found:
            plan.findings.append(Finding("checkpoint-twice", where, f"epoch {epoch} has another checkpoint; left out"))
        else:
            found[epoch] = f"{folder}/{directory}/{weights}" if folder else f"{directory}/{weights}"
    return dict(sorted(found.items()))


def declared_architecture(trial: Trial) -> tuple[str, dict[str, Any]] | None:
    """Return architecture and arguments of `phasezoo.nets.build` that a trial's parameters declare, if known."""
    name = str(trial.settings.get("model_type", "")).lower().removesuffix("_width")
    if name not in architectures() or not name.startswith("resnet"):
        return None
    arguments = {key: trial.settings.get(key) for key in ("width", "num_classes")}
    if trial.settings.get("in_channels", 3) != 3:
        arguments["in_channels"] = trial.settings["in_channels"]
    return None if None in arguments.values() else (name, arguments)


def declared_layout(trial: Trial) -> Layout | None:
    """Return the layout of the architecture that a trial's parameters declare, if known."""
    declared = declared_architecture(trial)
    if declared is None:
        return None
    name, arguments = declared
    return Layout.of_state_dict(build(name, device="meta", **arguments).state_dict())
