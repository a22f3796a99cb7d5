"""Ways to hand weights to another network, one a file.

A representation turns ``{name: [models, ...]}`` into something that batches, and (all but the statistics) back again,
bit for bit. Each is a small frozen object, so that it has options, compares and pickles.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

from phasezoo.errors import nearest
from phasezoo.layout import Layout
from phasezoo.representations.flat import Flat
from phasezoo.representations.graph import Graph
from phasezoo.representations.layers import Layers
from phasezoo.representations.nfn import Nfn
from phasezoo.representations.statistics import Statistics
from phasezoo.representations.tokens import Tokens

if TYPE_CHECKING:
    import torch

__all__ = ["REPRESENTATIONS", "Flat", "Graph", "Layers", "Nfn", "Representation", "Statistics", "Tokens", "of"]


class Representation(Protocol):
    """What `Zoo.to_torch` takes: one of this package, or your own.

    >>> import phasezoo, torch
    >>> class Norms:
    ...     def encode(self, tensors, layout):
    ...         return torch.stack([t.flatten(1).norm(dim=1) for t in tensors.values()], dim=1)
    ...     def decode(self, x, layout):
    ...         raise NotImplementedError
    >>> phasezoo.load("mlp-digits").filter(width=8).to_torch(Norms())[0].shape
    torch.Size([6])
    """

    def encode(self, tensors: Mapping[str, torch.Tensor], layout: Layout) -> Any:
        """Turn ``{name: [models, ...]}`` into tensors, lists or tuples of tensors ``[models, ...]``."""
        ...

    def decode(self, x: Any, layout: Layout) -> dict[str, torch.Tensor]:
        """Turn them back."""
        ...


REPRESENTATIONS: dict[str, Representation] = {
    "flat": Flat(),
    "layers": Layers(),
    "tokens": Tokens(),
    "nfn": Nfn(),
    "graph": Graph(),
    "statistics": Statistics(),
}


def of(representation: str | Representation) -> Representation:
    """Return a representation by name, or the object that was given.

    Raises:
        ValueError: no representation of that name.

    >>> of("tokens")
    Tokens(size=None, batchnorm=True)
    """
    if not isinstance(representation, str):
        return representation
    if representation not in REPRESENTATIONS:
        raise ValueError(f"no representation {representation!r}. {nearest(representation, REPRESENTATIONS)}")
    return REPRESENTATIONS[representation]
