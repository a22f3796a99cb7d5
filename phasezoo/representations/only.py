"""One layer of a network, in any representation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from phasezoo.errors import TensorNotFoundError, nearest
from phasezoo.layout import Layout
from phasezoo.representations.structure import layers

if TYPE_CHECKING:
    import torch

    from phasezoo.representations import Representation


@dataclass(frozen=True)
class Only:
    """The tensors of one module in another representation; inverts as that one does, to that module's entries.

    Attributes:
        layer: name of the module.
        representation: what to make of its tensors.
    """

    layer: str
    representation: Representation

    def encode(self, tensors: Mapping[str, torch.Tensor], layout: Layout) -> Any:
        """Turn the layer's entries of ``{name: [models, ...]}`` into the representation.

        Raises:
            TensorNotFoundError: no layer of that name.

        >>> import torch
        >>> from phasezoo.representations import Flat
        >>> state_dict = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Linear(2, 1)).state_dict()
        >>> batch = {name: t[None] for name, t in state_dict.items()}
        >>> Only("1", Flat()).encode(batch, Layout.of_state_dict(state_dict)).shape
        torch.Size([1, 3])
        """
        return self.representation.encode(tensors, self._part(layout))

    def decode(self, x: Any, layout: Layout) -> dict[str, torch.Tensor]:
        """Turn it back into the layer's entries of ``{name: [models, ...]}``."""
        return self.representation.decode(x, self._part(layout))

    def _part(self, layout: Layout) -> Layout:
        names = [layer.name for layer in layers(layout)]
        if self.layer not in names:
            raise TensorNotFoundError(f"no layer {self.layer!r} in this layout. {nearest(self.layer, names)}")
        inside = [s for s in layout.tensors if s.name.rpartition(".")[0] == self.layer]
        return Layout.of((s.name, s.dtype, s.shape) for s in inside)
