"""How much a phase map depends on its thresholds, and on the seeds that it was measured with."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

from phasezoo.thresholds import Thresholds, thresholds_for

if TYPE_CHECKING:
    from phasezoo.zoo import Zoo

CUTS = ("fit_cut", "mc_eps", "cka_cut")


@dataclass(frozen=True)
class Change:
    """What moving one cut does.

    Attributes:
        cut: name of the threshold.
        value: where it was moved to.
        changed: cells whose label changes.
        cells: all cells.

    >>> import phasezoo
    >>> zoo = phasezoo.load("mlp-digits")
    >>> worst = max(sensitivity(zoo), key=lambda change: change.changed)
    >>> worst.cut, worst.changed, worst.cells
    ('mc_eps', 30, 88)
    """

    cut: str
    value: float
    changed: int
    cells: int


def sensitivity(zoo: Zoo, *, epoch: int | None = None, factor: float = 2.0) -> list[Change]:
    """Move each cut down and up by a factor and count the cells whose label changes.

    The similarity is moved by its distance from 1: a cut of 0.9 goes to 0.95 and 0.8.

    Args:
        zoo: the zoo or view.
        epoch: which; by default the last one with landscape metrics.
        factor: by how much.

    >>> import phasezoo
    >>> [change.cut for change in sensitivity(phasezoo.load("mlp-digits"))][:2]
    ['fit_cut', 'fit_cut']
    """
    own = thresholds_for(zoo.name)
    before = _labels(zoo, epoch, own)
    changes = []
    for cut in CUTS:
        for scale in (1 / factor, factor):
            if cut == "cka_cut":
                name = cut if own.cka_cut is not None else "cka_of_max"
                value = 1 - (1 - float(getattr(own, name))) * scale
            else:
                name, value = cut, getattr(own, cut) * scale
            after = _labels(zoo, epoch, own.override({name: value}))
            changes.append(Change(name, value, sum(a != b for a, b in zip(before, after, strict=True)), len(before)))
    return changes


def _labels(zoo: Zoo, epoch: int | None, thresholds: Thresholds) -> list[str | None]:
    labels: list[str | None] = zoo.phases(epoch=epoch, thresholds=thresholds)["phase"].to_pylist()
    return labels


def stability(zoo: Zoo, *, epoch: int | None = None, draws: int = 100, seed: int = 0) -> dict[str, float]:
    """Return for each cell how often it keeps its label when its seeds are drawn anew (bootstrap).

    The training loss is that of the seeds drawn; pair metrics are redrawn where the landscape table has them for each
    pair (`representation_similarity_pairs`), else they stay.

    Args:
        zoo: the zoo or view.
        epoch: which; by default the last one with landscape metrics.
        draws: how many bootstrap draws.
        seed: seed of the draws.

    Returns:
        Share of draws with the label of all seeds, by cell id.

    >>> import phasezoo
    >>> zoo = phasezoo.load("mlp-digits")
    >>> kept = stability(zoo, draws=20)
    >>> len(kept), sum(share >= 0.9 for share in kept.values()) > 70
    (88, True)
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    from phasezoo.phases import label

    own = thresholds_for(zoo.name)
    cells = zoo.phases(epoch=epoch, thresholds=own)
    at = cells["epoch"][0].as_py() if len(cells) else None
    keep = [name for name in cells.column_names if not name.startswith(("phase", "p_", "margin", "thresholds"))]
    plain = cells.select(keep)
    losses, pairs = _by_cell(zoo, at)
    rng = random.Random(seed)
    same = dict.fromkeys(cells["cell_id"].to_pylist(), 0)
    truth = dict(zip(cells["cell_id"].to_pylist(), cells["phase"].to_pylist(), strict=True))
    for _ in range(draws):
        drawn = plain
        for name, source, mean in (("train_loss", losses, _geometric), (own.cka, pairs, _arithmetic)):
            if name in plain.column_names:
                old = plain[name].to_pylist()
                values = [
                    mean(rng.choices(source[c], k=len(source[c]))) if source.get(c) else v
                    for c, v in zip(plain["cell_id"].to_pylist(), old, strict=True)
                ]
                place = drawn.column_names.index(name)
                drawn = drawn.set_column(
                    place, plain.schema.field(name), pa.array(values, pc.cast(plain[name], "double").type)
                )
        found = label(drawn, own, classes=zoo._index.classes)
        for cell_id, phase in zip(found["cell_id"].to_pylist(), found["phase"].to_pylist(), strict=True):
            same[cell_id] += phase == truth[cell_id]
    return {cell_id: n / draws for cell_id, n in same.items()}


def _by_cell(zoo: Zoo, epoch: int | None) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    cell_of = dict(zip(*(zoo.table("configs")[name].to_pylist() for name in ("model_id", "cell_id")), strict=True))
    losses: dict[str, list[float]] = {}
    for row in zoo.table("results").to_pylist():
        if row["epoch"] == epoch:
            loss = row.get("train_loss_corrected")
            loss = row.get("train_loss") if loss is None else loss
            if loss is not None:
                losses.setdefault(cell_of[row["model_id"]], []).append(loss)
    pairs = {
        row["cell_id"]: row["representation_similarity_pairs"]
        for row in zoo.table("landscape").to_pylist()
        if row["epoch"] == epoch and row.get("representation_similarity_pairs")
    }
    return losses, pairs


def _geometric(values: list[float]) -> float:
    from math import exp, log

    return exp(sum(log(max(value, 1e-12)) for value in values) / len(values))


def _arithmetic(values: list[float]) -> float:
    return sum(values) / len(values)
