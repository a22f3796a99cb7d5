"""The weights of a network as one vector per layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from phasezoo.layout import Layout
from phasezoo.representations.flat import Flat
from phasezoo.representations.structure import layers

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Layers:
    """A list of vectors, one per module with weights: weight, bias and running statistics joined.

    Integers (BatchNorm's counters) are no weights and stay out. Inverts bit for bit.

    >>> import phasezoo
    >>> view = phasezoo.load("mlp-digits").filter(width=8)
    >>> x = view.to_torch("layers")[0]
    >>> [len(part) for part in x]
    [520, 72, 90]
    """

    def encode(self, tensors: Mapping[str, torch.Tensor], layout: Layout) -> list[torch.Tensor]:
        """Turn ``{name: [models, ...]}`` into ``[models, values]`` for each layer.

        >>> import torch
        >>> state_dict = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Linear(2, 2)).state_dict()
        >>> batch = {name: t[None] for name, t in state_dict.items()}
        >>> [x.shape[1] for x in Layers().encode(batch, Layout.of_state_dict(state_dict))]
        [8, 6]
        """
        return [Flat().encode(tensors, part) for part in _parts(layout)]

    def decode(self, x: Sequence[torch.Tensor], layout: Layout) -> dict[str, torch.Tensor]:
        """Turn the vectors of the layers back into ``{name: [models, ...]}``.

        >>> import torch
        >>> state_dict = torch.nn.Linear(3, 2).state_dict()
        >>> layout, batch = Layout.of_state_dict(state_dict), {name: t[None] for name, t in state_dict.items()}
        >>> back = Layers().decode(Layers().encode(batch, layout), layout)
        >>> bool((back["weight"] == batch["weight"]).all())
        True
        """
        found: dict[str, torch.Tensor] = {}
        for values, part in zip(x, _parts(layout), strict=True):
            found.update(Flat().decode(values, part))
        return {name: found[name] for name in layout.names if name in found}


def _parts(layout: Layout) -> list[Layout]:
    """Return a layout for each layer that has floating tensors."""
    return [
        Layout.of((spec.name, spec.dtype, spec.shape) for spec in layer.floats.values())
        for layer in layers(layout)
        if layer.floats
    ]
