"""How much simple statistics of the weights tell about a network: the baseline of weight-space learning."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from phasezoo.errors import MeasureError, nearest
from phasezoo.split import UNITS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from phasezoo.weights import Epochs
    from phasezoo.zoo import Zoo

PENALTIES: tuple[float, ...] = tuple(10.0 ** (k / 2) for k in range(-8, 13))
FOLDS = 5


@dataclass(frozen=True)
class Probe:
    """What a ridge regression on statistics of the weights predicts on networks that it has not seen.

    Attributes:
        r2: coefficient of determination on the held-out checkpoints, against their own mean; NaN if they are all equal.
        penalty: the penalty that cross-validation on the other checkpoints chose.
        n_train: number of checkpoints that it was fitted on.
        n_test: number of held-out checkpoints.
        test_ids: model of each held-out checkpoint.
        actual: their targets ``[n_test]``.
        predicted: what was predicted for them ``[n_test]``.
        left_out: models of checkpoints with a target or weights that are not finite.

    >>> import phasezoo
    >>> found = phasezoo.probe(phasezoo.load("mlp-digits").filter("width >= 16"), "lr")
    >>> len(found.test_ids), found.actual.shape == found.predicted.shape
    (24, True)
    """

    r2: float
    penalty: float
    n_train: int
    n_test: int
    test_ids: tuple[str, ...] = field(repr=False)
    actual: NDArray[np.float64] = field(repr=False)
    predicted: NDArray[np.float64] = field(repr=False)
    left_out: tuple[str, ...] = field(repr=False)


def probe(
    zoo: Zoo, target: str, *, epochs: Epochs = "last", by: str = "cell", test: float = 0.2, seed: int = 0
) -> Probe:
    """Predict a metric from the weights by ridge regression on per-layer statistics (Unterthiner et al. 2020).

    The features are those of the representation ``"statistics"``, standardised on what is fitted. The split is that of
    `Zoo.split`, checked for leakage; the penalty is chosen by cross-validation over the units of the same split, five
    folds if there are as many, and never on what is held out.

    Args:
        zoo: the zoo or view; widths may differ, the number of tensors may not.
        target: a column of numbers, as in `Zoo.to_torch`: of `results` or `landscape` at the epoch, or of `configs`.
        epochs: which checkpoints of each model.
        by: what is never divided: ``"cell"``, ``"run"``, ``"seed"``, ``"phase"`` or ``"load"``.
        test: share of the units to hold out.
        seed: another seed, another split.

    Raises:
        ColumnNotFoundError: no such target.
        LeakageError: both sides share weights, such as an initial network that several learning rates have in common.
        MeasureError: a target is no number or missing, the unit unknown, or there is too little to fit on.
        TopologyError: the networks differ in the number of their tensors.

    >>> import phasezoo
    >>> found = phasezoo.probe(phasezoo.load("mlp-digits").filter("width >= 16"), "lr")
    >>> found.n_train, found.n_test, found.r2 > 0.8
    (96, 24, True)
    """
    units = [unit for unit, column in UNITS.items() if column is not None]
    if by not in units:
        raise MeasureError(f"cannot hold out by {by!r}. {nearest(by, units)}")
    splits = zoo.split(by=by, test=test, val=0, seed=seed)
    splits.check_leakage(epochs=epochs)
    X, y, ids = _known(splits.train, target, epochs)
    new, actual, test_ids = _known(splits.test, target, epochs)
    finite, finite_new = (np.isfinite(part).all(1) for part in (np.c_[X, y], np.c_[new, actual]))
    unit = dict(zip(*(zoo.table("configs")[name].to_pylist() for name in ("model_id", str(UNITS[by]))), strict=True))
    groups = [str(unit[model_id]) for model_id, keep in zip(ids, finite, strict=True) if keep]
    if len(set(groups)) < 2 or not finite_new.any():
        raise MeasureError(
            f"{len(groups)} checkpoints of {len(set(groups))} units to fit on and {finite_new.sum()} held out are too "
            "few. Take a larger view, another share, or split by another unit."
        )
    penalty = cross_validated(X[finite], y[finite], folds=deal(groups, seed=seed))
    predicted = ridge(X[finite], y[finite], new[finite_new], penalties=[penalty])[0]
    return Probe(
        r2=r2(actual[finite_new], predicted),
        penalty=penalty,
        n_train=len(groups),
        n_test=len(predicted),
        test_ids=tuple(model_id for model_id, keep in zip(test_ids, finite_new, strict=True) if keep),
        actual=actual[finite_new],
        predicted=predicted,
        left_out=tuple(i for i, keep in zip(ids + test_ids, [*finite, *finite_new], strict=True) if not keep),
    )


def _known(part: Zoo, target: str, epochs: Epochs) -> tuple[NDArray[np.float64], NDArray[np.float64], list[str]]:
    """Return statistics ``[n, features]``, targets ``[n]`` and models of the checkpoints of a part."""
    dataset = part.to_torch("statistics", target=target, epochs=epochs)
    if dataset.classes is not None:
        raise MeasureError(f"target {target!r} has words, no numbers. Choose a column of numbers, such as test_acc.")
    features, targets = dataset[list(range(len(dataset)))]
    return features.flatten(1).double().numpy(), targets.double().numpy(), dataset.ids


def ridge(
    X: NDArray[np.float64], y: NDArray[np.float64], new: NDArray[np.float64], *, penalties: Sequence[float]
) -> NDArray[np.float64]:
    """Fit a ridge regression with each penalty and predict, ``[penalties, len(new)]``.

        min over w, b of |y - b - Z w|^2 + penalty |w|^2,     Z = X standardised

    Args:
        X: features ``[n, features]``; those that are constant take no part.
        y: targets ``[n]``.
        new: features to predict for.
        penalties: the penalties.

    >>> X = np.array([[0.0], [1.0], [2.0]])
    >>> ridge(X, X[:, 0], np.array([[3.0]]), penalties=[0.0, 3.0]).round(3).tolist()
    [[3.0], [2.0]]
    """
    mean, std = X.mean(0), X.std(0)
    varies = std > 1e-12 * np.abs(X).max(0)
    scale = np.where(varies, std, 1.0)
    U, s, Vt = np.linalg.svd(np.where(varies, (X - mean) / scale, 0.0), full_matrices=False)
    inner = U.T @ (y - y.mean())
    known = s > s.max(initial=0.0) * 1e-12
    rows = np.where(varies, (new - mean) / scale, 0.0) @ Vt.T
    gains = np.array([np.where(known, s / np.where(known, s**2 + penalty, 1.0), 0.0) for penalty in penalties])
    predicted: NDArray[np.float64] = (gains * inner) @ rows.T + y.mean()
    return predicted


def cross_validated(X: NDArray[np.float64], y: NDArray[np.float64], *, folds: NDArray[np.int64]) -> float:
    """Return the one of `PENALTIES` with the smallest squared error over folds, summed over all models.

    Args:
        X: features ``[n, features]``.
        y: targets ``[n]``.
        folds: fold of each model ``[n]``.
    """
    errors = np.zeros(len(PENALTIES))
    for fold in np.unique(folds):
        out = folds == fold
        errors += ((ridge(X[~out], y[~out], X[out], penalties=PENALTIES) - y[out]) ** 2).sum(1)
    return PENALTIES[int(errors.argmin())]


def joined(groups: Sequence[str], hashes: Sequence[str]) -> list[str]:
    """Make groups one that hold the same weights; the first name, in their order, stands for all.

    >>> joined(["a", "b", "c", "c"], ["1", "2", "3", "1"])
    ['a', 'b', 'a', 'a']
    """
    parents = {group: group for group in groups}

    def root(group: str) -> str:
        while parents[group] != group:
            group = parents[group]
        return group

    first: dict[str, str] = {}
    for group, found in zip(groups, hashes, strict=True):
        a, b = sorted((root(group), root(first.setdefault(found, group))))
        parents[b] = a
    return [root(group) for group in groups]


def deal(groups: Sequence[str], *, seed: int) -> NDArray[np.int64]:
    """Deal groups to folds in the order of their hashes; what belongs to one group shares a fold.

    >>> folds = deal(["a", "b", "a", "c"], seed=0)
    >>> bool(folds[0] == folds[2]), sorted(set(folds.tolist()))
    (True, [0, 1, 2])
    """
    order = sorted(set(groups), key=lambda group: hashlib.sha256(f"{seed}:{group}".encode()).digest())
    fold = {group: i % FOLDS for i, group in enumerate(order)}
    return np.array([fold[group] for group in groups], dtype=np.int64)


def r2(actual: NDArray[np.float64], predicted: NDArray[np.float64]) -> float:
    """Return 1 - (squared error) / (squared deviation from the mean); NaN without deviation.

    >>> r2(np.array([1.0, 3.0]), np.array([1.0, 2.0]))
    0.5
    """
    total = float(((actual - actual.mean()) ** 2).sum())
    return 1 - float(((actual - predicted) ** 2).sum()) / total if total > 0 else float("nan")
