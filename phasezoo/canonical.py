"""An order of a network's units that all of its permuted copies agree on.

Units are told apart by what does not change when others move: first by the sorted values of their weights, then, where
those are equal, by which units the values belong to, as colours are refined on a graph (Weisfeiler and Leman 1968).
What stays equal is either interchangeable, so that any order gives the same tensors (pruned or duplicated units), or is
tried in every order, of which the tensors with the smallest hash are kept. Values are compared bit by bit: no rounding.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from phasezoo.errors import MeasureError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from phasezoo.symmetry import Permutations, Symmetry

Array = Any  # an integer array, by its bits
Colours = dict[int, "NDArray[np.int64]"]  # group -> colour of each unit: 0, 1, ...; equal ones are not told apart yet

_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_TRIALS = 1000


def canonical_order(state: Mapping[str, torch.Tensor], *, spec: Symmetry) -> Permutations:
    """Return the permutations that put a network's units in canonical order, for `Symmetry.apply`.

    Permutations only: a unit that was rescaled, or whose sign was flipped, is another unit.

    Args:
        state: its state dict.
        spec: the permutations that its architecture allows.

    Raises:
        MeasureError: there are more than 1,000 orders of units that nothing tells apart and that are not
            interchangeable one by one, such as in a network of identity matrices.

    >>> from phasezoo.symmetry import Symmetry
    >>> spec = Symmetry({"w": {0: (1, 1)}}, {1: 3}, frozenset({"w"}))
    >>> [canonical_order({"w": torch.tensor(w)}, spec=spec)[1].tolist() for w in ([3.0, 1.0, 2.0], [1.0, 2.0, 3.0])]
    [[1, 2, 0], [0, 1, 2]]
    """
    tensors = {name: _Tensor(state[name], spec.axes[name], spec.sizes) for name in spec.axes}
    colours = {group: _ranks(_values(group, tensors)) for group in spec.sizes}
    trials = [0]
    _, colours = _settle(tensors, colours, trials)
    return {group: torch.from_numpy(np.argsort(found)) for group, found in colours.items()}


class _Tensor:
    """The bits of a tensor with an axis of units for each of its groups in front, and all else behind.

    Attributes:
        groups: group of each axis in front.
        bits: ``[units, ..., rest]``.
    """

    def __init__(self, tensor: torch.Tensor, axes: dict[int, tuple[int, int]], sizes: dict[int, int]) -> None:
        bits = tensor.detach().cpu().contiguous().view(_BITS[tensor.element_size()]).numpy()
        self.groups = [group for group, _ in axes.values()]
        shape: list[int] = []
        front: list[int] = []
        for axis, length in enumerate(bits.shape):
            if axis in axes:
                group, repeats = axes[axis]
                front.append(len(shape) + 1)
                shape += [length // (sizes[group] * repeats), sizes[group], repeats]
            else:
                shape.append(length)
        # The axes in front come in the order of `axes`, which need not be that of the tensor.
        front = [front[sorted(axes).index(axis)] for axis in axes]
        split = np.moveaxis(bits.reshape(shape), front, range(len(front)))
        self.bits: Array = np.ascontiguousarray(split).reshape(*(sizes[group] for group in self.groups), -1)

    def units(self, place: int) -> Array:
        """Return the bits ``[units, other units..., rest]`` with one group's axis first."""
        return np.moveaxis(self.bits, place, 0)

    def permuted(self, orders: Colours) -> Array:
        """Return the bits with the units of some groups in another order."""
        bits = self.bits
        for place, group in enumerate(self.groups):
            if group in orders:
                bits = np.take(bits, orders[group], axis=place)
        return bits


def _values(group: int, tensors: dict[str, _Tensor]) -> list[bytes]:
    """Return a key for each unit of a group that no permutation changes: its values, sorted tensor by tensor."""
    parts = [
        np.sort(tensor.units(place).reshape(len(tensor.units(place)), -1), axis=1)
        for tensor in tensors.values()
        for place, other in enumerate(tensor.groups)
        if other == group
    ]
    # Most significant byte first: the order of keys is that of the numbers, for those above zero, on every machine.
    ordered = [part.astype(part.dtype.newbyteorder(">")) for part in parts]
    return [b"".join(part[i].tobytes() for part in ordered) for i in range(len(ordered[0]))]


def _ranks(keys: list[Any]) -> NDArray[np.int64]:
    rank = {key: i for i, key in enumerate(sorted(set(keys)))}
    return np.array([rank[key] for key in keys], dtype=np.int64)


def _settle(tensors: dict[str, _Tensor], colours: Colours, trials: list[int]) -> tuple[bytes, Colours]:
    """Refine until every unit has a colour of its own; return a hash of the tensors in that order, and the colours."""
    while True:
        colours = _refine(tensors, colours)
        tied = _first_tie(colours)
        if tied is None:
            trials[0] += 1
            return _hash(tensors, colours), colours
        group, members = tied
        kinds: list[int] = []  # members that no other member can take the place of
        for unit in members:
            if not any(_interchangeable(tensors, group, unit, other) for other in kinds):
                kinds.append(unit)
        if len(kinds) == 1:
            colours = {**colours, group: _split(colours[group], members)}
            continue
        if trials[0] + len(kinds) > _TRIALS:
            raise MeasureError(
                f"more than {_TRIALS:,} orders of units cannot be told apart, so that there is no canonical form at a "
                "reasonable price. Align the networks to one of them instead (align_to)."
            )
        found = [_settle(tensors, {**colours, group: _split(colours[group], [unit])}, trials) for unit in kinds]
        return min(found, key=lambda one: one[0])


def _refine(tensors: dict[str, _Tensor], colours: Colours) -> Colours:
    """Tell units apart by the colours of the units that their values belong to, until that tells no more."""
    while True:
        counts = {group: np.bincount(found) for group, found in colours.items()}
        refined = {}
        for group, found in colours.items():
            tied = counts[group][found] > 1
            keys = [(int(c), _places(tensors, group, i, colours) if tied[i] else b"") for i, c in enumerate(found)]
            refined[group] = _ranks(keys) if tied.any() else found
        if all(refined[group].max() == found.max() for group, found in colours.items()):
            return refined
        colours = refined


def _places(tensors: dict[str, _Tensor], group: int, unit: int, colours: Colours) -> bytes:
    """Return a unit's values, each with the colours of the other units that it belongs to, in no order."""
    key = []
    for tensor in tensors.values():
        for place, own in enumerate(tensor.groups):
            if own != group:
                continue
            others = [other for p, other in enumerate(tensor.groups) if p != place]
            bits = tensor.units(place)[unit]
            rows = bits.reshape(math.prod(bits.shape[:-1]), -1)
            # Whether the other unit is this one counts too: a layer that is used twice connects units of one group.
            marks = [[(int(c), other == group and i == unit) for i, c in enumerate(colours[other])] for other in others]
            key.append(sorted((mark, row.tobytes()) for mark, row in zip(product(*marks), rows, strict=True)))
    return repr(key).encode()


def _first_tie(colours: Colours) -> tuple[int, list[int]] | None:
    for group, found in colours.items():
        counts = np.bincount(found)
        if (counts > 1).any():
            return group, np.flatnonzero(found == np.argmax(counts > 1)).tolist()
    return None


def _interchangeable(tensors: dict[str, _Tensor], group: int, a: int, b: int) -> bool:
    """Does it change nothing when two units change places?"""
    ours = [tensor for tensor in tensors.values() if group in tensor.groups]
    size = ours[0].bits.shape[ours[0].groups.index(group)]
    swap = np.arange(size)
    swap[[a, b]] = b, a
    return all(np.array_equal(tensor.permuted({group: swap}), tensor.bits) for tensor in ours)


def _split(colours: NDArray[np.int64], members: list[int]) -> NDArray[np.int64]:
    """Give members of one colour colours of their own, one after another, before the rest of that colour."""
    keys = [(int(colour), len(members)) for colour in colours]
    for i, unit in enumerate(members):
        keys[unit] = (keys[unit][0], i)
    return _ranks(keys)


def _hash(tensors: dict[str, _Tensor], colours: Colours) -> bytes:
    orders = {group: np.argsort(found) for group, found in colours.items()}
    found = hashlib.sha256()
    for tensor in tensors.values():
        found.update(tensor.permuted(orders).tobytes())
    return found.digest()
