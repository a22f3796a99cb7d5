"""Which permutations of units leave the function of a network alone, as data: one group of units per freedom.

Swapping two hidden units of a layer, with all weights that lead to and from them, changes nothing that the network
computes. Every tensor says which of its axes runs over which group of units; that is all that it takes to permute a
network, to match it to another, or to give it an order of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import nn

Permutations = dict[int, "torch.Tensor"]  # group -> permutation of its units


@dataclass(frozen=True)
class Symmetry:
    """The groups of units whose permutation leaves the function of a network alone.

    Attributes:
        axes: tensor -> {axis: (group, repeats)}; each unit of the group owns `repeats` adjacent entries of the axis. An
            axis longer than units x repeats is a row of blocks of that length, as queries, keys and values are.
        sizes: group -> number of units.
        parameters: names of the tensors that are parameters; the others are running statistics.

    >>> import phasezoo
    >>> ckpt = phasezoo.load("mlp-digits")["w8-lr0.03-s100"].checkpoint()
    >>> spec = ckpt.symmetry()
    >>> spec.sizes  # two layers of 8 units
    {1: 8, 2: 8}
    >>> moved = spec.apply(ckpt.state_dict(), spec.draw(seed=0))
    >>> moved["layers.0.weight"].shape
    torch.Size([8, 64])
    """

    axes: dict[str, dict[int, tuple[int, int]]]
    sizes: dict[int, int]
    parameters: frozenset[str]

    def draw(self, *, seed: int | None) -> Permutations:
        """Draw a uniformly random permutation of each group; with None as the seed, from torch's own generator.

        >>> Symmetry({}, {1: 3}, frozenset()).draw(seed=0)
        {1: tensor([2, 0, 1])}
        """
        import torch

        generator = None if seed is None else torch.Generator().manual_seed(seed)
        return {group: torch.randperm(size, generator=generator) for group, size in self.sizes.items()}

    def apply(self, state: Mapping[str, torch.Tensor], permutations: Permutations) -> dict[str, torch.Tensor]:
        """Permute the units of a network: unit i becomes what unit ``permutations[group][i]`` was.

        All tensors move with their units, BatchNorm's running statistics too, so that the function stays the same up to
        the order in which sums are taken: 1e-12 of its scale in float64, 1e-5 in float32.

        Args:
            state: its state dict.
            permutations: group -> permutation; groups left out stay as they are.

        >>> import torch
        >>> spec = Symmetry({"w": {0: (1, 1)}, "v": {0: (1, 2)}}, {1: 2}, frozenset({"w", "v"}))
        >>> moved = spec.apply({"w": torch.tensor([0, 1]), "v": torch.arange(4)}, {1: torch.tensor([1, 0])})
        >>> moved["w"], moved["v"]
        (tensor([1, 0]), tensor([2, 3, 0, 1]))
        """
        moved = dict(state)
        for name, axes in self.axes.items():
            for axis, (group, repeats) in axes.items():
                if group in permutations:
                    tensor = moved[name]
                    places = entries(permutations[group], repeats=repeats, length=tensor.shape[axis])
                    moved[name] = tensor.index_select(axis, places.to(tensor.device))
        return moved


def entries(permutation: torch.Tensor, *, repeats: int, length: int) -> torch.Tensor:
    """Return where each entry of an axis comes from when its units are permuted.

    >>> import torch
    >>> entries(torch.tensor([1, 0]), repeats=2, length=4), entries(torch.tensor([1, 0]), repeats=1, length=4)
    (tensor([2, 3, 0, 1]), tensor([1, 0, 3, 2]))
    """
    import torch

    block = (permutation[:, None] * repeats + torch.arange(repeats)).flatten()
    return (torch.arange(0, length, len(block))[:, None] + block).flatten()


def by_unit(tensor: torch.Tensor, *, axis: int, units: int, repeats: int) -> torch.Tensor:
    """Return all entries that belong to each unit of an axis, ``[units, ...]`` flattened to two axes.

    >>> import torch
    >>> by_unit(torch.arange(6).view(1, 6), axis=1, units=3, repeats=1)
    tensor([[0, 3],
            [1, 4],
            [2, 5]])
    """
    blocks = tensor.movedim(axis, 0).reshape(-1, units, repeats * (tensor.numel() // tensor.shape[axis]))
    return blocks.transpose(0, 1).reshape(units, -1)


def symmetry(model: nn.Module) -> Symmetry:
    """Find the permutations of units that an architecture allows.

    Transformers are known by the names of their tensors: the residual stream, the heads of each block, the hidden units
    of its perceptron. Others are read from their graph: convolutions, linear layers, normalisations, sums, pools.

    Args:
        model: the network; only its graph, names and shapes count.

    Raises:
        MeasureError: the network is no known transformer and cannot be traced.

    >>> from torch import nn
    >>> found = symmetry(nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1)))
    >>> found.sizes, found.axes
    ({1: 3}, {'0.weight': {0: (1, 1)}, '0.bias': {0: (1, 1)}, '2.weight': {1: (1, 1)}})
    """
    from phasezoo.symmetry_graph import traced
    from phasezoo.symmetry_names import named

    return named(model) or traced(model)
