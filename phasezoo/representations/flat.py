"""All weights of a network as one vector."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from phasezoo.layout import DTYPES, Layout, TensorSpec
from phasezoo.representations.structure import FLOATS

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Flat:
    """One vector ``[values]``: every floating tensor in module order, row by row.

    Integers (BatchNorm's counters) are no weights and stay out. Inverts bit for bit.

    >>> import phasezoo
    >>> view = phasezoo.load("mlp-digits").filter(width=8)
    >>> x = view.to_torch("flat")[0]
    >>> len(x)
    682
    """

    def encode(self, tensors: Mapping[str, torch.Tensor], layout: Layout) -> torch.Tensor:
        """Turn ``{name: [models, ...]}`` into ``[models, values]``.

        >>> import torch
        >>> state_dict = torch.nn.Linear(3, 2).state_dict()
        >>> Flat().encode({name: t[None] for name, t in state_dict.items()}, Layout.of_state_dict(state_dict)).shape
        torch.Size([1, 8])
        """
        import torch

        return torch.cat(
            [tensors[s.name].flatten(1) if s.shape else tensors[s.name][:, None] for s in _floats(layout)], 1
        )

    def decode(self, x: torch.Tensor, layout: Layout) -> dict[str, torch.Tensor]:
        """Turn ``[models, values]`` back into ``{name: [models, ...]}``.

        >>> import torch
        >>> state_dict = torch.nn.Linear(3, 2).state_dict()
        >>> layout, batch = Layout.of_state_dict(state_dict), {name: t[None] for name, t in state_dict.items()}
        >>> back = Flat().decode(Flat().encode(batch, layout), layout)
        >>> bool((back["weight"] == batch["weight"]).all())
        True
        """
        import torch

        specs = _floats(layout)
        parts = torch.split(x, [prod(spec.shape) for spec in specs], dim=1)
        return {
            spec.name: part.reshape(len(x), *spec.shape).to(getattr(torch, DTYPES[spec.dtype][1]))
            for spec, part in zip(specs, parts, strict=True)
        }


def _floats(layout: Layout) -> list[TensorSpec]:
    return [spec for spec in layout.tensors if spec.dtype in FLOATS]
