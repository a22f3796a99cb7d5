"""Label the cells of a zoo with phases: pure functions on Arrow tables.

The taxonomy is that of Yang et al. (2021, arXiv:2107.11228), the decisions are taken in this order:

1. validity: a cell without a training loss has no label; a collapsed one has none either, and says so;
2. fit: does it fit its training data? no: phase I or II; yes: III or IV;
3. barrier: is there a barrier between its seeds (mode connectivity below -eps)? I or III; else II or IV;
4. similarity, only within IV: are its seeds similar (CKA)? IV-B; else IV-A.

A missing metric gives a set of phases (``I|II``, ``III|IV``, ``IV``), never a guess. Test accuracy is not an input.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from phasezoo.thresholds import Thresholds

PHASES = ("I", "II", "III", "IV-A", "IV-B")
# Okabe and Ito's colours, which colour-blind people can tell apart; pictures write the label into each cell too.
PHASE_COLORS = {"I": "#D55E00", "II": "#E69F00", "III": "#CC79A7", "IV-A": "#56B4E9", "IV-B": "#009E73"}
OTSU_ACCEPTED = 0.78  # of the variance between classes; uniform data give 0.75, a Gaussian 0.64
OTSU_RANGE = (1e-3, 0.3)
SUSPECT_BARRIER = -20.0  # percentage points, in most cells that fit
SUSPECT_SHARE = 0.8
TINY = 1e-12  # the least width of a soft gate

_FIELDS = (
    ("phase", pa.string(), "phase, or a set of phases where a metric is missing; null if there is none to give"),
    ("phase_confidence", pa.float64(), "probability of the label under soft gates"),
    *((f"p_{p}", pa.float64(), f"probability of phase {p}; null where a gate is missing") for p in PHASES),
    ("margin_fit", pa.float64(), "log10 of the cut over the fit metric; > 0: fits"),
    ("margin_barrier", pa.float64(), "mode connectivity plus eps; > 0: no barrier"),
    ("margin_similarity", pa.float64(), "similarity minus its cut; > 0: similar"),
    ("phase_reasons", pa.list_(pa.string()), "how the label was decided, in sentences"),
    ("phase_flags", pa.list_(pa.string()), "collapsed, mc_protocol_suspect, ends_not_converged"),
    ("thresholds_id", pa.string(), "hash of the thresholds"),
)


def label(cells: pa.Table, thresholds: Thresholds, *, classes: int | None = None) -> pa.Table:
    """Append phases to a table of cells of one epoch.

    Args:
        cells: one row per cell; has the columns that `thresholds` names as far as they exist, and ``train_acc``.
        thresholds: how to decide.
        classes: number of classes, to tell collapsed cells from others; None does not look.

    Returns:
        The table with columns `phase`, `phase_confidence`, one probability per phase, margins, reasons and flags.

    >>> cells = pa.table({"train_loss": [1e-3], "curve_mc_train_error": [-0.5], "representation_similarity": [0.9]})
    >>> label(cells, Thresholds())["phase"].to_pylist()
    ['IV-B']
    """
    rows = cells.to_pylist()
    fits = [_fit_value(row, thresholds) for row in rows]
    collapsed = [_collapsed(row, thresholds, classes) for row in rows]
    fit_cut, how = fit_cut_of_cells(rows, thresholds, classes=classes)
    mcs = [_number(row, thresholds.mc) for row in rows]
    ckas = [_number(row, thresholds.cka) for row in rows]
    fit = [v is not None and not dead and v < fit_cut for v, dead in zip(fits, collapsed, strict=True)]
    connected = [f and mc is not None and mc >= -thresholds.mc_eps for f, mc in zip(fit, mcs, strict=True)]
    cka_cut, largest = _cka_cut([c for c, ok in zip(ckas, connected, strict=True) if ok], thresholds)
    suspect = _suspect([mc for mc, ok in zip(mcs, fit, strict=True) if ok], thresholds)
    labels = [
        _label_cell(value, mc, cka, dead, thresholds, fit_cut, how, cka_cut, largest, suspect)
        for value, mc, cka, dead in zip(fits, mcs, ckas, collapsed, strict=True)
    ]
    for name, kind, description in _FIELDS:
        column = pa.field(name, kind, metadata={"description": description})
        cells = cells.append_column(column, pa.array([one[name] for one in labels], kind))
    return cells


def fit_cut_of(values: Sequence[float], thresholds: Thresholds) -> tuple[float, str]:
    """Return the cut between cells that fit and those that do not, and where it comes from.

    >>> fit_cut_of([0.001, 0.002, 0.9, 1.1], Thresholds(method="otsu"))[1]
    "Otsu's cut on log10, which explains 99 % of the variance"
    """
    if thresholds.method == "rule":
        return thresholds.fit_cut, "the rule"
    low, high = OTSU_RANGE
    logs = [math.log10(max(value, low / 10)) for value in values if value > 0]
    cut, share = otsu(logs)
    if share > OTSU_ACCEPTED and low <= 10**cut <= high:
        return 10**cut, f"Otsu's cut on log10, which explains {share:.0%} of the variance".replace("%", " %")
    return thresholds.fit_cut, f"the rule: the values are not of two modes (Otsu explains {share:.0%})".replace(
        "%", " %"
    )


def fit_cut_of_cells(
    rows: Sequence[Mapping[str, Any]], thresholds: Thresholds, *, classes: int | None = None
) -> tuple[float, str]:
    """Return the cut for the cells of one epoch, as `label` uses it: collapsed cells have no say.

    >>> cells = [{"train_loss": 0.001}, {"train_loss": 0.9}, {"train_loss": None}]
    >>> fit_cut_of_cells(cells, Thresholds(fit_cut=0.1))
    (0.1, 'the rule')
    """
    values = [_fit_value(row, thresholds) for row in rows if not _collapsed(row, thresholds, classes)]
    return fit_cut_of([value for value in values if value is not None], thresholds)


def otsu(values: Sequence[float]) -> tuple[float, float]:
    """Return the cut that maximises the variance between two classes, and its share of the whole (Otsu 1979).

    >>> otsu([0.0, 0.0, 1.0, 1.0])
    (0.5, 1.0)
    """
    ordered = sorted(values)
    n = len(ordered)
    mean = sum(ordered) / n if n else 0.0
    total = sum((value - mean) ** 2 for value in ordered)
    best, cut, below = 0.0, math.nan, 0.0
    for i in range(1, n):
        below += ordered[i - 1]
        between = (below / i - (mean * n - below) / (n - i)) ** 2 * i * (n - i) / n
        if between > best and ordered[i] > ordered[i - 1]:
            best, cut = between, (ordered[i - 1] + ordered[i]) / 2
    return cut, min(1.0, best / total) if total else 0.0


def _fit_value(row: Mapping[str, Any], thresholds: Thresholds) -> float | None:
    if thresholds.fit == "train_error":
        accuracy = _number(row, "train_acc")
        return None if accuracy is None else 1 - accuracy
    return _number(row, "train_loss")


def _number(row: Mapping[str, Any], name: str) -> float | None:
    value = row.get(name)
    return float(value) if value is not None and math.isfinite(value) else None


def _collapsed(row: Mapping[str, Any], thresholds: Thresholds, classes: int | None) -> bool:
    """Did training fail, at the end of a run? Earlier epochs near chance are just early."""
    if classes is None or row.get("final") is False:
        return False
    accuracy, loss = _number(row, "train_acc"), _number(row, "train_loss")
    low = accuracy is not None and accuracy < 1 / classes + thresholds.collapsed_acc
    return low or (loss is not None and loss > thresholds.collapsed_loss * math.log(classes))


def _cka_cut(similarities: Sequence[float | None], thresholds: Thresholds) -> tuple[float | None, float]:
    known = [value for value in similarities if value is not None]
    largest = max(known, default=1.0)
    if thresholds.cka_cut is not None:
        return thresholds.cka_cut, largest
    return (thresholds.cka_of_max * largest if known else None), largest


def _suspect(barriers: Sequence[float | None], thresholds: Thresholds) -> bool:
    """Do nearly all cells that fit have a huge barrier? Then the curves, not the networks, are the likely cause."""
    known = [value for value in barriers if value is not None]
    deep = [value for value in known if value < SUSPECT_BARRIER]
    return thresholds.mc.endswith("error") and len(known) >= 4 and len(deep) >= SUSPECT_SHARE * len(known)


def _gate(margin: float, *, width: float) -> float:
    """Say how surely a margin is positive; of no width, the gate is a step."""
    x = margin / max(width, TINY)
    return 1 / (1 + math.exp(-max(-60.0, min(60.0, x))))


def _label_cell(
    value: float | None,
    mc: float | None,
    cka: float | None,
    collapsed: bool,
    thresholds: Thresholds,
    fit_cut: float,
    how: str,
    cka_cut: float | None,
    largest: float,
    suspect: bool,
) -> dict[str, Any]:
    """Decide one cell."""
    out: dict[str, Any] = dict.fromkeys(name for name, _, _ in _FIELDS)
    reasons: list[str] = []
    flags: list[str] = []
    out.update(phase_reasons=reasons, phase_flags=flags, thresholds_id=thresholds.id)
    if value is None:
        reasons.append(f"no finite {thresholds.fit}: no label")
        return out
    if collapsed:
        flags.append("collapsed")
        reasons.append("training collapsed (near chance at its end): not called a phase")
        return out
    gates: dict[str, float] = {}
    log_value = math.log10(max(value, 1e-300))
    out["margin_fit"] = math.log10(fit_cut) - log_value
    gates["fit"] = _gate(out["margin_fit"], width=thresholds.fit_width)
    fits = value < fit_cut
    reasons.append(f"{thresholds.fit} {value:.3g} {'<' if fits else '>='} {fit_cut:.3g} ({how})")
    if mc is None:
        phases = {"III", "IV-A", "IV-B"} if fits else {"I", "II"}
        reasons.append(f"no {thresholds.mc}: barrier unknown")
        return _with_label(out, gates, phases, "III|IV" if fits else "I|II")
    out["margin_barrier"] = mc + thresholds.mc_eps
    gates["barrier"] = _gate(-out["margin_barrier"], width=thresholds.mc_eps / 3)
    barrier = mc < -thresholds.mc_eps
    reasons.append(f"{thresholds.mc} {mc:.3g} {'<' if barrier else '>='} {-thresholds.mc_eps:.3g}")
    if fits and barrier and suspect:
        flags.append("mc_protocol_suspect")
        reasons.append("nearly every cell that fits has such a barrier: the curves may be at fault")
    if fits and mc > thresholds.mc_eps:
        flags.append("ends_not_converged")
        reasons.append("the curve is better than its ends: they are not converged")
    if not fits or barrier:
        phase = ("I" if barrier else "II") if not fits else "III"
        if cka is not None and cka_cut is not None:
            gates["similarity"] = _similarity(cka, cka_cut, largest)
        return _with_label(out, gates, {phase}, phase)
    if cka is None or cka_cut is None:
        reasons.append(f"no {thresholds.cka}: similarity unknown")
        return _with_label(out, gates, {"IV-A", "IV-B"}, "IV")
    out["margin_similarity"] = cka - cka_cut
    gates["similarity"] = _similarity(cka, cka_cut, largest)
    similar = cka >= cka_cut
    reasons.append(f"{thresholds.cka} {cka:.3g} {'>=' if similar else '<'} {cka_cut:.3g}")
    phase = "IV-B" if similar else "IV-A"
    return _with_label(out, gates, {phase}, phase)


def _similarity(cka: float, cut: float, largest: float) -> float:
    return _gate(cka - cut, width=0.05 * largest)


def _with_label(out: dict[str, Any], gates: Mapping[str, float], phases: set[str], text: str) -> dict[str, Any]:
    """Fill in label, probabilities and confidence from the gates that are known."""
    fit, barrier, similar = gates["fit"], gates.get("barrier"), gates.get("similarity")
    out["phase"] = text
    if barrier is None:
        out["phase_confidence"] = fit if "III" in phases else 1 - fit
        return out
    four = {"I": (1 - fit) * barrier, "II": (1 - fit) * (1 - barrier), "III": fit * barrier}
    fourth = fit * (1 - barrier)
    out.update({f"p_{phase}": p for phase, p in four.items()})
    if similar is not None:
        out.update({"p_IV-A": fourth * (1 - similar), "p_IV-B": fourth * similar})
    out["phase_confidence"] = fourth if text == "IV" else out[f"p_{text}"]
    return out
