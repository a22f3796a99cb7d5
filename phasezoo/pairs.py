"""Pairs of checkpoints that belong together."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch.utils.data import DataLoader, Dataset

from phasezoo.batches import Batches
from phasezoo.dataset import WeightDataset, to_torch
from phasezoo.errors import EpochNotFoundError, nearest
from phasezoo.normalise import Normaliser
from phasezoo.representations import Representation, of
from phasezoo.representations.only import Only
from phasezoo.weights import Epochs

if TYPE_CHECKING:
    from phasezoo.view import View

WITHIN = ("run", "cell", "layer")


class Pair(NamedTuple):
    """Two networks; with a first dimension for the pairs where it is a batch.

    Attributes:
        a: the first one: the earlier epoch, or the seed that comes first in the view.
        b: the second one.
        targets: target of either, ``[2]``, or ``[2, columns]`` for several; ``[0]`` without a target.
        epochs: epoch of either, ``[2]``.

    >>> import phasezoo
    >>> view = phasezoo.load("mlp-digits").filter(width=8)
    >>> pair = view.pairs(within="run", epochs=[0, 150], target="test_acc")[0]
    >>> pair.epochs.tolist(), bool(pair.targets[0] < pair.targets[1])
    ([0, 150], True)
    """

    a: Any
    b: Any
    targets: torch.Tensor
    epochs: torch.Tensor


class PairDataset(Dataset[Pair]):
    """A map-style dataset of pairs; ``dataset[[3, 1]]`` is a batch.

    Attributes:
        single: the dataset that the networks come from.
        places: (a, b) of each pair, as indices into it.

    >>> import phasezoo
    >>> view = phasezoo.load("mlp-digits").filter(width=8)
    >>> seeds = view.pairs(within="cell", target="test_acc")
    >>> pair = seeds[[0, 1]]  # a batch
    >>> pair.a.shape, pair.targets.shape
    (torch.Size([2, 682]), torch.Size([2, 2]))
    """

    def __init__(self, single: WeightDataset, places: Sequence[tuple[int, int]]) -> None:
        self.single = single
        self.places = list(places)

    @property
    def ids(self) -> list[tuple[str, str]]:
        """Ids of the two models of each pair."""
        ids = self.single.ids
        return [(ids[a], ids[b]) for a, b in self.places]

    @property
    def seed(self) -> int:
        """Seed of the order."""
        return self.single.seed

    @property
    def epoch(self) -> int:
        """Epoch of the training that reads the dataset; see `set_epoch`."""
        return self.single.epoch

    def set_epoch(self, epoch: int) -> None:
        """Draw another order, the same for the same number."""
        self.single.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int | Sequence[int]) -> Pair:
        several = not isinstance(index, int)
        chosen = [self.places[i] for i in ([index] if isinstance(index, int) else index)]
        flat = [place for pair in chosen for place in pair]
        numbers = self.single.epochs
        epochs = torch.tensor([[numbers[a], numbers[b]] for a, b in chosen])
        targets = torch.empty((len(chosen), 0))
        if self.single.targets is not None:
            targets = self.single.targets[torch.tensor(chosen)]
        if not several:
            a, b = (x if self.single.targets is None else x[0] for x in self.single.__getitems__(flat))
            return Pair(a, b, targets[0], epochs[0])
        a, b = (self.single[part] for part in (flat[::2], flat[1::2]))
        if self.single.targets is not None:
            a, b = a[0], b[0]
        return Pair(a, b, targets, epochs)

    def loader(self, *, batch_size: int = 32, shuffle: bool = True, num_workers: int = 0) -> DataLoader[Any]:
        """Return a DataLoader of whole batches, in an order that depends on seed and epoch only."""
        batches = Batches(self, batch_size=batch_size, shuffle=shuffle)
        return DataLoader(self, batch_size=None, sampler=batches, num_workers=num_workers)


def pairs(
    view: View,
    *,
    within: str,
    representation: str | Representation = "flat",
    target: str | Sequence[str] | None = None,
    epochs: Epochs | None = None,
    gap: int | None = None,
    layer: str | None = None,
    normaliser: Normaliser | None = None,
    seed: int = 0,
) -> PairDataset:
    """Make a dataset of pairs.

    Args:
        view: the models.
        within: ``"run"``: an earlier and a later epoch of one run, for learned optimisers; ``"cell"``: two seeds of one
            cell at one epoch, for connectivity and alignment; ``"layer"``: one layer of two seeds of one cell.
        representation: as in `Zoo.to_torch`.
        target: as in `Zoo.to_torch`, for either network of a pair.
        epochs: which checkpoints; all of a run, or the last ones of a cell, by default.
        gap: within a run, only pairs that are so many checkpoints apart; all by default.
        layer: name of the module, for ``within="layer"``.
        normaliser: as in `Zoo.to_torch`.
        seed: of the order.

    Raises:
        ValueError: no such kind of pairs, or an option that does not belong to it.
        EpochNotFoundError: there is no pair, because each run has one of the epochs only, or each cell one seed.

    >>> import phasezoo
    >>> dataset = pairs(phasezoo.load("mlp-digits").filter(width=8), within="run", target="train_loss", gap=1)
    >>> len(dataset), dataset[0].epochs.tolist(), dataset[0].targets.shape
    (72, [0, 10], torch.Size([2]))
    """
    if within not in WITHIN:
        raise ValueError(f"no pairs within {within!r}. {nearest(within, WITHIN)}")
    if (layer is not None) != (within == "layer") or (gap is not None and within != "run"):
        raise ValueError("give layer= with within='layer', and only then; give gap= with within='run' only.")
    if layer is not None:
        representation = Only(layer, of(representation))
    chosen: Epochs = ("all" if within == "run" else "last") if epochs is None else epochs
    single = to_torch(view, representation, target=target, epochs=chosen, normaliser=normaliser, seed=seed)
    cells = dict(zip(*(view.table("configs")[name].to_pylist() for name in ("model_id", "cell_id")), strict=True))
    groups: dict[tuple[object, ...], list[int]] = {}
    numbers = single.epochs
    # Seeds are compared at the same epoch, which "last" may not be: then at the last one of each.
    at = [0] * len(single) if isinstance(chosen, str) and chosen != "all" else numbers
    for i, model_id in enumerate(single.ids):
        key = (model_id,) if within == "run" else (cells[model_id], at[i])
        groups.setdefault(key, []).append(i)
    places: list[tuple[int, int]] = []
    for group in groups.values():
        if within == "run":
            group.sort(key=lambda i: numbers[i])
        places += [(group[i], group[j]) for i, j in combinations(range(len(group)), 2) if gap is None or j - i == gap]
    if not places:
        raise EpochNotFoundError(
            f"there is no pair within a {within} among these {len(single)} checkpoints. Take more epochs "
            "or a wider view."
        )
    return PairDataset(single, places)
