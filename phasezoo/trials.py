"""The trials of a published summary table (CSV): read, told apart, and reduced to one for each place in the grid."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import reduce
from itertools import groupby
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
from numpy.typing import NDArray

from phasezoo.annotation import LANDSCAPE, METRICS
from phasezoo.errors import FormatError
from phasezoo.registry import Entry
from phasezoo.report import Finding

# Column of the file -> its type.
_REQUIRED = {"model": pa.string(), "seed": pa.int64(), "lr": pa.float64(), "wd": pa.float64(), "batchsize": pa.int64()}
_REQUIRED |= {"epoch": pa.int64(), **dict.fromkeys(METRICS, pa.float64())}
_OPTIONAL = {"trial_id": pa.string(), "init_type": pa.string(), **dict.fromkeys(LANDSCAPE, pa.float64())}


@dataclass(frozen=True)
class Trial:
    """One trial of the file: its first row, and how much of it there is."""

    row: dict[str, Any]
    code: int
    load: int
    batch_size: int
    epochs: int
    filled: int

    @property
    def name(self) -> str:
        """Name in the file."""
        return str(self.row["model"])

    @property
    def place(self) -> tuple[int, int, int]:
        """Place in the grid: load, nominal batch size, seed."""
        return self.load, self.batch_size, self.row["seed"]

    @property
    def steps(self) -> int | None:
        """Micro-batches per update; None if the two batch sizes do not fit together."""
        micro = self.row["batchsize"]
        return self.batch_size // micro if micro > 0 and self.batch_size % micro == 0 else None


def looks_like_summary(head: bytes) -> bool:
    """Say whether a file that starts so is a summary table.

    >>> looks_like_summary(b"model,seed,lr,wd,batchsize,epoch,train_loss,train_acc,test_loss,test_acc")
    True
    """
    return _REQUIRED.keys() <= set(_header(head))


def _header(data: bytes) -> list[str]:
    return data.split(b"\n", 1)[0].decode(errors="replace").strip().split(",")


def find_models(
    data: bytes, entry: Entry, findings: list[Finding], *, where: str
) -> tuple[pa.Table, NDArray[np.int64], list[Trial]]:
    """Find the models of a zoo in a summary table.

    Args:
        data: the bytes of the CSV file.
        entry: which zoo it describes.
        findings: to add to.
        where: place to name in an error.

    Returns:
        The rows of the models, by model and epoch; the number of each row's model; the models, by place in the grid.

    Raises:
        FormatError: not a summary table, or not one of this zoo.
    """
    load = entry.load.column
    for name in sorted(set(_header(data)) - {load} - _REQUIRED.keys() - _OPTIONAL.keys()):
        findings.append(Finding("column-unknown", name, "this release does not know the column; left out."))
    table = _rows(read(data, load, where), load, findings)
    models = _unique(_run(_trials(table, load, findings), entry, where, findings), findings)
    if not models:
        raise FormatError(f"{where} holds no model of the zoo {entry.name!r}.")
    rank = np.full(1 + table["trial"].to_numpy().max(), -1)
    rank[[trial.code for trial in models]] = np.arange(len(models))
    model = rank[table["trial"].to_numpy()]
    order = np.lexsort((table["epoch"].to_numpy(), model))
    order = order[model[order] >= 0]
    return table.take(order), model[order], models


def read(data: bytes, load: str, where: str) -> pa.Table:
    """Parse the CSV, exactly; empty values are null, and columns that are not known are left out."""
    required = {**_REQUIRED, load: pa.int64()}
    names = _header(data)
    missing = [name for name in required if name not in names]
    if missing:
        raise FormatError(
            f"{where} is not a summary table of this zoo: it lacks the columns {', '.join(missing)}. "
            f"It starts with {data[:60]!r}."
        )
    if not data.endswith(b"\n"):
        raise FormatError(f"{where} is cut short: its last line has no end. Download it again.")
    types = {name: kind for name, kind in {**required, **_OPTIONAL}.items() if name in names}
    try:
        table = pacsv.read_csv(
            pa.BufferReader(data),
            convert_options=pacsv.ConvertOptions(
                column_types=types, include_columns=list(types), strings_can_be_null=True
            ),
        )
    except pa.ArrowException as error:
        raise FormatError(f"{where} is not a readable CSV file: {str(error).splitlines()[0]}") from None
    return table.combine_chunks()


def _rows(table: pa.Table, load: str, findings: list[Finding]) -> pa.Table:
    """Drop rows without a key and all but the last of several rows on one epoch; number the trials."""
    keys = (*_REQUIRED.keys() - METRICS, load)
    valid = reduce(pc.and_, [pc.is_valid(table[name]) for name in keys])
    whole = table.filter(valid).combine_chunks()
    if len(whole) < len(table):
        what = f"{len(table) - len(whole)} rows lack one of {', '.join(sorted(keys))}; left out."
        findings.append(Finding("row-incomplete", "rows", what))
    names = pc.dictionary_encode(whole["model"]).combine_chunks()
    code, epoch = names.indices.to_numpy().astype(np.int64), whole["epoch"].to_numpy()
    whole = whole.append_column("trial", pa.array(code))
    if not len(whole):
        return whole
    # A resumed trial writes epochs again.
    _, from_end = np.unique((code * (epoch.max() + 1) + epoch)[::-1], return_index=True)
    if len(from_end) == len(whole):
        return whole
    rows = np.sort(len(whole) - 1 - from_end)
    twice = np.delete(code, rows)
    for i in np.unique(twice):
        what = f"{(twice == i).sum()} rows are on an epoch that has a later row; the last row of each epoch is kept."
        findings.append(Finding("row-duplicated", str(names.dictionary[i]), what))
    return whole.take(rows)


def _trials(table: pa.Table, load: str, findings: list[Finding]) -> list[Trial]:
    if not len(table):
        return []
    code = table["trial"].to_numpy()
    measured = [name for name in LANDSCAPE if name in table.column_names]
    filled = sum((table[name].is_valid().to_numpy().astype(int) for name in measured), np.zeros(len(code), int))
    epochs, values = np.bincount(code), np.bincount(code, weights=filled)
    trials = []
    _, first = np.unique(code, return_index=True)
    for row in table.take(first).to_pylist():
        name, i = row["model"], row["trial"]
        stated = {key: int(value) for key, value in re.findall(r"_?([a-z_]+)=([0-9]{1,18})(?=[,_])", name)}
        if "training_batchsize" not in stated:
            what = "its name has no training_batchsize, and the column may hold a micro-batch size; left out."
            findings.append(Finding("trial-unreadable", name, what))
            continue
        for column, key in ((load, f"model_{load}"), ("seed", "seed")):
            if stated.get(key, row[column]) != row[column]:
                what = f"column {column} is {row[column]}, the name says {stated[key]}; the column is kept."
                findings.append(Finding("name-contradicts", name, what))
        trials.append(Trial(row, i, row[load], stated["training_batchsize"], int(epochs[i]), int(values[i])))
    for column in (load, "seed", "lr", "wd", "batchsize"):
        values_of = table[column].to_numpy()
        for i in np.unique(code[values_of != values_of[first][code]]):
            what = f"column {column} changes from row to row; the first value is kept."
            findings.append(Finding("settings-vary", str(table["model"][int(first[i])]), what))
    return trials


def _run(trials: list[Trial], entry: Entry, where: str, findings: list[Finding]) -> list[Trial]:
    """Keep the trials of the one run that makes up the zoo."""
    wanted = entry.summary.weight_decay if entry.summary else None
    runs: dict[tuple[float, float], list[Trial]] = {}
    for trial in trials:
        runs.setdefault((trial.row["lr"], trial.row["wd"]), []).append(trial)
    ours = {run: members for run, members in runs.items() if wanted in (None, run[1])}
    if len(ours) > 1:
        found = "; ".join(f"lr {lr:g}, weight decay {wd:g}: {len(ours[lr, wd])} trials" for lr, wd in sorted(ours))
        raise FormatError(f"{where} holds several runs ({found}), and the zoo {entry.name!r} does not say which it is.")
    for lr, wd in runs.keys() - ours.keys():
        what = f"{len(runs[lr, wd])} trials with lr {lr:g} and weight decay {wd:g} are another run; left out."
        findings.append(Finding("other-run", f"weight decay {wd:g}", what))
    return next(iter(ours.values()), [])


def _unique(trials: list[Trial], findings: list[Finding]) -> list[Trial]:
    """Order by place in the grid, and keep the most complete trial of each place."""
    kept = []
    for _, group in groupby(sorted(trials, key=lambda trial: (trial.place, trial.name)), key=lambda trial: trial.place):
        best, *others = sorted(group, key=lambda trial: (-trial.epochs, -trial.filled))
        kept.append(best)
        for other in others:
            what = (
                f"{other.epochs} epochs of the model that {best.name} has {best.epochs} of; the most complete is kept, "
                "this one left out."
            )
            findings.append(Finding("trial-duplicated", other.name, what))
    return kept
