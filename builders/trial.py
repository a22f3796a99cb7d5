"""One trial of a Ray Tune experiment: its name, its parameters, its results line by line.

Result lines are keyed by `training_iteration`, never by line number. Hostnames, addresses, process ids and paths
stay behind: only known columns and plain settings are taken over.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from phasezoo.annotation import LANDSCAPE, METRICS
from phasezoo.report import Finding

# <trainable>_<id>_<index>_<parameters>_<time>; the id is 5 hex digits and a number, or 8 hex digits when the trial
# was made again after an error.
NAME = re.compile(
    r"(?P<trainable>.+?)_(?P<id>[0-9a-f]{5}_\d{5}|[0-9a-f]{8})_(?P<index>\d+)_(?P<parameters>.*)"
    r"_(?P<time>\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d)"
)

# last part of a parameter's name -> (column, type)
SETTINGS: dict[str, tuple[str, type]] = {
    "seed": ("seed", int),
    "width": ("width", int),
    "embedding_dim": ("embedding_dim", int),
    "model_dim": ("model_dim", int),
    "beta": ("beta", float),
    "lr": ("lr", float),
    "wd": ("weight_decay", float),
    "weight_decay": ("weight_decay", float),
    "momentum": ("momentum", float),
    "optimizer": ("optimizer", str),
    "scheduler": ("scheduler", str),
    "batchsize": ("batch_size", int),
    "batch_size": ("batch_size", int),
    "epochs_train": ("epochs", int),
    "init_type": ("init_type", str),
    "dropout": ("dropout", float),
    "nlin": ("activation", str),
    "type": ("model_type", str),
    "o_dim": ("num_classes", int),
    "channels_in": ("in_channels", int),
}

PER_MODEL = (*METRICS, "val_loss", "val_acc")
TIME = "time_this_iter_s"
MAX_EPOCHS = 10**6
MAX_STEPS = 10**6  # of accumulation
MAX_NAME = 200  # characters of a setting


@dataclass
class Trial:
    """A trial as it was read.

    Attributes:
        name: name of its folder.
        settings: known parameters, by column.
        results: epoch to per-model metrics.
        landscape: epoch to loss-landscape metrics; at few epochs, and true of the cell rather than the model.
        directories: checkpoint folder named in a result line, to its epoch.
        findings: what is wrong with it.
    """

    name: str
    settings: dict[str, Any] = field(default_factory=dict)
    results: dict[int, dict[str, float | None]] = field(default_factory=dict)
    landscape: dict[int, dict[str, float]] = field(default_factory=dict)
    directories: dict[str, int] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)


def read_trial(name: str, params: bytes, results: bytes, *, where: str) -> Trial:
    """Read a trial from the bytes of its `params.json` and `result.json`.

    Args:
        name: name of the trial's folder.
        params: bytes of ``params.json`` (or ``config.json``).
        results: bytes of ``result.json``; may be empty.
        where: the trial's folder, for findings.
    """
    trial = Trial(name)

    def find(kind: str, what: str) -> None:
        trial.findings.append(Finding(kind, where, what))

    try:
        raw = json.loads(params)
        trial.settings = settings_of(raw if isinstance(raw, Mapping) else {})
    except (ValueError, RecursionError):
        find("broken-params", "its parameters are not valid JSON; the trial is left out")
        return trial
    last: Mapping[str, Any] = {}
    for row in _rows(results, find):
        epoch = row["training_iteration"]
        if epoch in trial.results:
            find("epoch-twice", f"epoch {epoch} occurs more than once; its last line counts")
        trial.results[epoch] = {k: _number(row[k]) for k in (*PER_MODEL, TIME) if k in row}
        measured = {k: v for k in LANDSCAPE if k in row and (v := _number(row[k])) is not None}
        absent = [k for k in LANDSCAPE if k in row and k not in measured]
        if measured or absent:
            trial.landscape[epoch] = measured
        if absent:
            find("metric-missing", f"epoch {epoch}: {', '.join(absent)} not a number (a logarithm of a negative value)")
        if isinstance(row.get("checkpoint_dir_name"), str):
            trial.directories[row["checkpoint_dir_name"]] = epoch
        last = row.get("config") if isinstance(row.get("config"), Mapping) else last
    _batch(trial, last, find)
    epochs = sorted(trial.results)
    missing = sorted(set(range(epochs[0], epochs[-1])) - set(epochs)) if epochs else []
    if missing:
        find("epoch-missing", f"results lack the epochs {_brief(missing)}")
    return trial


def settings_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """Take the known settings from a Ray configuration, by column.

    >>> settings_of({"model::width": 64, "optim::lr": 0.1, "training::data_path": "/home/me"})
    {'width': 64, 'lr': 0.1}
    """
    settings: dict[str, Any] = {}
    for key, value in config.items():
        column, kind = SETTINGS.get(re.split(r"::|/|\.", key)[-1], ("", str))
        if column and column not in settings and (_text(value) if kind is str else _fits(value, kind)):
            settings[column] = kind(value)
    return settings


def _text(value: Any) -> bool:
    """Is it a plain name: no path, and nothing that cannot be printed?"""
    return isinstance(value, str) and len(value) <= MAX_NAME and value.isprintable() and not re.search(r"[\\/~]", value)


def _fits(value: Any, kind: type) -> bool:
    """Is it a number that the column can hold, as it is?"""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return abs(value) < 2**63 and (kind is float or value == int(value))


def _batch(trial: Trial, mutated: Mapping[str, Any], find: Any) -> None:
    """Tell nominal and micro batch size apart.

    A run that accumulates gradients overwrites its batch size in the configuration that result lines repeat, and
    divides the training loss by the number of steps; `params.json` and the folder's name keep the nominal size.
    """
    match = NAME.fullmatch(trial.name)
    named = re.search(r"batch_?size=([0-9]{1,9})(?![0-9])", match["parameters"]) if match else None
    nominal = trial.settings.get("batch_size")
    if named and nominal is not None and int(named[1]) != nominal:
        find("batch-size", f"params say {nominal}, the folder's name {named[1]}; the name is the nominal size")
    if named:
        trial.settings["batch_size"] = nominal = int(named[1])
    steps = _number(mutated.get("training::accumulate_gradients_steps"))
    trial.settings["accumulation_steps"] = accumulation = int(steps) if steps and 1 <= steps < MAX_STEPS else 1
    micro = settings_of(mutated).get("batch_size", nominal)
    trial.settings["micro_batch_size"] = micro
    if accumulation > 1:
        find(
            "accumulation",
            f"{accumulation} accumulation steps of {micro} samples; train_loss_corrected = train_loss x {accumulation}",
        )
    if nominal is not None and micro is not None and micro * accumulation != nominal:
        find("batch-size", f"{accumulation} steps of {micro} samples do not make the nominal batch of {nominal}")


def _rows(data: bytes, find: Any) -> Any:
    """Yield the lines that are complete and have an iteration."""
    for number, line in enumerate(data.split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)  # accepts the bare NaN that Ray writes
        except (ValueError, RecursionError):
            find("cut-line", f"line {number} of result.json is not complete JSON; left out")
            continue
        epoch = row.get("training_iteration") if isinstance(row, dict) else None
        if type(epoch) is not int or not 0 <= epoch < MAX_EPOCHS:
            find("cut-line", f"line {number} of result.json has no training_iteration; left out")
            continue
        yield row


def _number(value: Any) -> float | None:
    """Return a finite float; lists (as the original code stored pairs) by their mean."""
    if isinstance(value, list) and value:
        numbers = [None if isinstance(item, list) else _number(item) for item in value]
        return None if None in numbers else _number(sum(filter(None, numbers)) / len(numbers))
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:  # JSON has integers of any length
        return None


def _brief(numbers: list[int]) -> str:
    text = ", ".join(map(str, numbers[:5]))
    return text + (f" and {len(numbers) - 5} more" if len(numbers) > 5 else "")
