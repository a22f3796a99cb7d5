"""How much simple statistics of the weights tell about a network: the baseline of weight-space learning."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from phasezoo.errors import ArchitectureError, ColumnNotFoundError, MeasureError, nearest

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from phasezoo.checkpoint import Checkpoint
    from phasezoo.model import Model
    from phasezoo.state import State

QUANTILES = (0.0, 0.25, 0.5, 0.75, 1.0)
PENALTIES: tuple[float, ...] = tuple(10.0 ** (k / 2) for k in range(-8, 13))
FOLDS = 5


@dataclass(frozen=True)
class Probe:
    """What a ridge regression on statistics of the weights predicts on models that it has not seen.

    Attributes:
        r2: coefficient of determination on the held-out models, against their own mean; NaN if they are all equal.
        penalty: the penalty that cross-validation on the other models chose.
        n_train: number of models that it was fitted on.
        n_test: number of held-out models.
        test_ids: ids of the held-out models.
        actual: their targets ``[n_test]``.
        predicted: what was predicted for them ``[n_test]``.
        left_out: ids of models without a finite target or with weights that are not finite.
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
    models: Iterable[Model],
    target: str,
    *,
    epoch: int | str = "last",
    by: Literal["cell", "run"] = "cell",
    test: float = 0.2,
    seed: int = 0,
) -> Probe:
    """Predict a metric from the weights by ridge regression on per-layer statistics (Unterthiner et al. 2020).

    Features are mean, standard deviation and quantiles (0, 1/4, 1/2, 3/4, 1) of each tensor, standardised on the models
    that are fitted. The split is by hash of ids, so that it depends neither on order nor on machine; the penalty is
    chosen by five-fold cross-validation over the groups of the same split, never on a held-out model. Models with the
    very same weights, such as an initial network that several learning rates share, are never on both sides.

    Args:
        models: a view of a zoo; widths may differ, names of tensors may not.
        target: a column of `results` at that epoch, such as ``"test_acc"``, or of `configs`, such as ``"lr"``.
        epoch: which checkpoint of each model.
        by: hold out whole cells, so that no seed of a cell is on both sides, or single runs.
        test: fraction to hold out, as a probability for each group.
        seed: seed of the split.

    Raises:
        ColumnNotFoundError: no such target.
        ArchitectureError: the models differ in the names of their tensors.
        MeasureError: too few models to fit and to hold out.

    >>> import phasezoo
    >>> found = phasezoo.probe(phasezoo.load("mlp-digits").filter("width >= 16"), "lr")
    >>> found.n_train, found.n_test, found.r2 > 0.8
    (87, 33, True)
    """
    checkpoints = [model.checkpoint(epoch) for model in models]
    if len({tuple(ckpt) for ckpt in checkpoints}) > 1:
        raise ArchitectureError("the models differ in the names of their tensors. Probe models of one architecture.")
    targets = np.array([_target(ckpt, target) for ckpt in checkpoints], dtype=np.float64)
    features = np.array([statistics(ckpt) for ckpt in checkpoints], dtype=np.float64)
    finite = np.isfinite(targets) & np.isfinite(features).all(1) if checkpoints else np.zeros(0, bool)
    known = [ckpt for ckpt, keep in zip(checkpoints, finite, strict=True) if keep]
    X, y = features[finite], targets[finite]
    own = [ckpt.config["cell_id"] if by == "cell" else ckpt.model_id for ckpt in known]
    groups = np.array(joined(own, [ckpt.sha256 for ckpt in known]))
    place = {group: _uniform(group, seed) for group in groups.tolist()}
    held = np.array([place[group] < test for group in groups.tolist()], dtype=bool)
    folds = len(set(groups[~held].tolist()))
    if folds < FOLDS or held.sum() < 2:
        raise MeasureError(
            f"{len(known)} models in {len(place)} groups are too few to fit on {FOLDS} and to hold out two. Take a "
            "larger view, another fraction, or by='run'."
        )
    penalty = cross_validated(X[~held], y[~held], folds=deal(groups[~held].tolist(), seed=seed))
    predicted = ridge(X[~held], y[~held], X[held], penalties=[penalty])[0]
    return Probe(
        r2=r2(y[held], predicted),
        penalty=penalty,
        n_train=int((~held).sum()),
        n_test=int(held.sum()),
        test_ids=tuple(ckpt.model_id for ckpt, out in zip(known, held, strict=True) if out),
        actual=y[held],
        predicted=predicted,
        left_out=tuple(ckpt.model_id for ckpt, keep in zip(checkpoints, finite, strict=True) if not keep),
    )


def statistics(state: State) -> list[float]:
    """Return mean, standard deviation and quantiles of each tensor in floating point, one after another.

    >>> import torch
    >>> from phasezoo.state import Variant
    >>> statistics(Variant({"w": torch.tensor([1.0, 3.0])}, config={}, origin=""))
    [2.0, 1.0, 1.0, 1.5, 2.0, 2.5, 3.0]
    """
    found: list[float] = []
    for tensor in state.state_dict().values():
        if tensor.is_floating_point():
            values = tensor.double().flatten().numpy()
            found += [float(values.mean()), float(values.std()), *np.quantile(values, QUANTILES).tolist()]
    return found


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
    """Deal groups to folds in the order of their hashes; models of one group share a fold.

    >>> folds = deal(["a", "b", "a", "c"], seed=0)
    >>> bool(folds[0] == folds[2]), sorted(set(folds.tolist()))
    (True, [0, 1, 2])
    """
    order = sorted(set(groups), key=lambda group: _uniform(group, seed))
    fold = {group: i % FOLDS for i, group in enumerate(order)}
    return np.array([fold[group] for group in groups], dtype=np.int64)


def r2(actual: NDArray[np.float64], predicted: NDArray[np.float64]) -> float:
    """Return 1 - (squared error) / (squared deviation from the mean); NaN without deviation.

    >>> r2(np.array([1.0, 3.0]), np.array([1.0, 2.0]))
    0.5
    """
    total = float(((actual - actual.mean()) ** 2).sum())
    return 1 - float(((actual - predicted) ** 2).sum()) / total if total > 0 else float("nan")


def _uniform(group: str, seed: int) -> float:
    """Return a number in [0, 1) that depends on the id and the seed alone."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{group}".encode()).digest()[:8], "big") / 2**64


def _target(ckpt: Checkpoint, name: str) -> float:
    row: dict[str, Any] = {**ckpt.config, **ckpt.metrics}
    if name not in row:
        raise ColumnNotFoundError(f"no target {name!r} in results or configs. {nearest(name, row, limit=40)}")
    value = row[name]
    if value is None:
        return float("nan")
    if not isinstance(value, (int, float)):
        raise ColumnNotFoundError(
            f"target {name!r} is {value!r}, no number. Choose a column of numbers, such as test_acc."
        )
    return float(value)
