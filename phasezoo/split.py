"""Splits of a zoo into train, validation and test that keep apart what belongs together."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from phasezoo.errors import ColumnNotFoundError, LeakageError, nearest
from phasezoo.weights import Epochs, samples

if TYPE_CHECKING:
    import pyarrow as pa

    from phasezoo.zoo import Zoo

# What is kept together -> the column that says so; single checkpoints have none.
UNITS: dict[str, str | None] = {
    "cell": "cell_id",
    "run": "model_id",
    "seed": "seed",
    "phase": "phase",
    "load": "load",
    "checkpoint": None,
}
PARTS = ("train", "val", "test")


@dataclass(frozen=True)
class Splits:
    """Three views of one zoo that share no unit.

    Attributes:
        train: what to fit on.
        val: what to choose by.
        test: what to report.
        by: the unit that is never divided.

    >>> import phasezoo
    >>> train, val, test = phasezoo.load("mlp-digits").split(by="cell")
    >>> len(train), len(val), len(test)
    (183, 27, 54)
    """

    train: Zoo
    val: Zoo
    test: Zoo
    by: str

    def __iter__(self) -> Iterator[Zoo]:
        return iter((self.train, self.val, self.test))

    @property
    def table(self) -> pa.Table:
        """One row per model (per checkpoint, where those are split): ids, the unit, and the part as column `split`.

        >>> import phasezoo
        >>> splits = phasezoo.load("mlp-digits").split(by="seed")
        >>> splits.table.column_names, splits.table.num_rows
        (['model_id', 'cell_id', 'seed', 'split'], 264)
        """
        import pyarrow as pa

        by_checkpoint = UNITS[self.by] is None
        tables = []
        for name, part in zip(PARTS, self, strict=True):
            if by_checkpoint:
                table = part.table("checkpoints").select(["model_id", "epoch"])
            else:
                columns = dict.fromkeys(["model_id", "cell_id", "seed", str(UNITS[self.by])])
                table = part.table("configs").select(list(columns))
            tables.append(table.append_column("split", pa.array([name] * table.num_rows, pa.string())))
        return pa.concat_tables(tables)

    def check_leakage(self, *, epochs: Epochs = "last") -> dict[str, int]:
        """Look for what two parts share.

        Runs of one seed may start from one initial network, whatever else differs. Then a split by run or cell has
        the same bytes in two parts at epoch 0, and networks that stay near them later; only a split by seed has not.

        Args:
            epochs: the checkpoints that will be used, as in `Zoo.to_torch`.

        Returns:
            How many checkpoints, runs, cells, seeds and initial networks occur in more than one part. Cells and seeds
            are for information: which of them may be shared depends on the question.

        Raises:
            LeakageError: parts share a unit of the split, a run (unless single checkpoints were split), or the bytes
                of a checkpoint.

        >>> import phasezoo
        >>> phasezoo.load("mlp-digits").split(by="seed").check_leakage(epochs="all")
        {'checkpoint': 0, 'run': 0, 'cell': 88, 'seed': 0, 'initial network': 0}
        """
        shared = {
            "checkpoint": self._shared([{s.location.sha256 for s in self._samples(part, epochs)} for part in self]),
            **{unit: self._shared([self._values(part, unit) for part in self]) for unit in ("run", "cell", "seed")},
            "initial network": self._shared([self._initial(part) for part in self]),
        }
        column = UNITS[self.by]
        own = self._shared([self._values(part, self.by) for part in self]) if column else set()
        whole = {"checkpoint": shared["checkpoint"], **({self.by: own, "run": shared["run"]} if column else {})}
        found = [
            f"{len(values)} of unit {unit!r} (such as {min(map(str, values))})"
            for unit, values in whole.items()
            if values
        ]
        if found:
            hint = ""
            if shared["checkpoint"] and shared["seed"]:
                hint = (
                    " Runs of one seed start from the same initial network: split by='seed', or leave the first "
                    "epochs out."
                )
            raise LeakageError(f"parts of the split by {self.by!r} share {'; '.join(found)}.{hint}")
        return {name: len(values) for name, values in shared.items()}

    def _samples(self, part: Zoo, epochs: Epochs) -> Any:
        return samples(part, "all" if UNITS[self.by] is None else epochs) if part._index.has_weights else []

    def _initial(self, part: Zoo) -> set[Any]:
        return {s.location.sha256 for s in self._samples(part, "all") if s.epoch == 0}

    @staticmethod
    def _values(part: Zoo, unit: str) -> set[Any]:
        return set(part.table("configs")[str(UNITS[unit])].to_pylist())

    @staticmethod
    def _shared(values: list[set[Any]]) -> set[Any]:
        return {value for i, a in enumerate(values) for b in values[i + 1 :] for value in a & b}


def split(zoo: Zoo, *, by: str = "cell", test: float = 0.2, val: float = 0.1, seed: int = 0) -> Splits:
    """Divide a view into train, validation and test.

    The units of the view are ordered by the sha256 of seed and id; the first ones are the test set, the next ones the
    validation set. So the split is the same on every machine and after any reordering. Another view has another split:
    to look at some models of a part, narrow the part.

    Args:
        zoo: the zoo or view.
        by: what is kept together: ``"cell"`` (all seeds of one load and temperature), ``"run"``, ``"seed"``,
            ``"phase"`` or ``"load"``; or ``"checkpoint"``, which divides runs and leaks.
        test: share of the units for testing; one unit at least, unless it is 0.
        val: share of the units for validation; one unit at least, unless it is 0.
        seed: another seed, another split.

    Raises:
        ValueError: no unit of that name, or shares that leave nothing to train on.
        ColumnNotFoundError: the zoo does not have the unit, such as phases before it was measured.

    >>> import phasezoo
    >>> [[m.config["seed"] for m in part][:1] for part in phasezoo.load("mlp-digits").split(by="seed")]
    [[100], [102], [101]]
    """
    if by not in UNITS:
        raise ValueError(f"cannot split by {by!r}. {nearest(by, UNITS)}")
    if not (0 <= test < 1 and 0 <= val < 1 and test + val < 1):
        raise ValueError(f"test={test} and val={val} must be shares that leave something to train on.")
    if by == "checkpoint":
        warnings.warn(
            "checkpoints of one run land in several parts of this split, and a network resembles itself some epochs "
            "later: a 1-nearest-neighbour probe on flat weights scored R2 0.85 on such a split and -0.2 on new "
            "networks. Use by='cell', 'run' or 'seed' for anything that is to hold for those, and check_leakage().",
            UserWarning,
            stacklevel=3,
        )
        return _by_checkpoint(zoo, test=test, val=val, seed=seed)
    column = str(UNITS[by])
    configs = zoo._index.configs
    if column not in configs.column_names:
        raise ColumnNotFoundError(
            f"zoo {zoo.name!r} has no column {column!r} to split by. {nearest(column, configs.column_names, limit=40)}"
        )
    of_row = [str(value) for value in configs[column].to_pylist()]
    part_of = _parts([of_row[row] for row in zoo._rows], test=test, val=val, seed=seed, what=f"values of {column!r}")
    parts = [zoo._view([row for row in zoo._rows if part_of[of_row[row]] == name]) for name in PARTS]
    return Splits(train=parts[0], val=parts[1], test=parts[2], by=by)


def _parts(ids: list[str], *, test: float, val: float, seed: int, what: str) -> dict[str, str]:
    """Say in which part each id is."""
    units = sorted(set(ids), key=lambda unit: hashlib.sha256(f"{seed}:{unit}".encode()).digest())
    n_test, n_val = (max(1, round(share * len(units))) if share else 0 for share in (test, val))
    if n_test + n_val >= len(units):
        raise ValueError(
            f"{len(units)} {what} in this view are too few for {n_test} in test, {n_val} in val and the rest in train. "
            "Set test or val to 0, widen the view, or split by another unit."
        )
    return {unit: "test" if i < n_test else "val" if i < n_test + n_val else "train" for i, unit in enumerate(units)}


def _by_checkpoint(zoo: Zoo, *, test: float, val: float, seed: int) -> Splits:
    """Divide single checkpoints; each part is a view of a zoo that has only its own."""
    index = zoo._index
    table = index.table("checkpoints")
    ids = [f"{m}/e{e}" for m, e in zip(table["model_id"].to_pylist(), table["epoch"].to_pylist(), strict=True)]
    ours = [i for row in zoo._rows for i in range(*index.span("checkpoints", row))]
    part_of = _parts([ids[i] for i in ours], test=test, val=val, seed=seed, what="checkpoints")
    parts = []
    for name in PARTS:
        part = index.with_checkpoints([i for i in dict.fromkeys(ours) if part_of[ids[i]] == name])
        parts.append(type(zoo)(part, [row for row in zoo._rows if part.epochs(row)]))
    return Splits(train=parts[0], val=parts[1], test=parts[2], by="checkpoint")
