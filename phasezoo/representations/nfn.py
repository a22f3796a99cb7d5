"""The weights of a network as the lists that neural functionals take.

Layout of the package nfn 0.1.2 (Zhou et al., *Permutation equivariant neural functionals*, NeurIPS 2023):
``WeightSpaceFeatures(weights, biases)``, with one feature channel behind the models.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from phasezoo.errors import TopologyError
from phasezoo.layout import DTYPES, Layout, TensorSpec
from phasezoo.representations.structure import layers

if TYPE_CHECKING:
    import torch


class WeightsAndBiases(NamedTuple):
    """A network layer by layer; with a first dimension for the models where it is a batch.

    ``nfn.common.WeightSpaceFeatures(*batch)`` is what the layers of nfn take.

    Attributes:
        weights: ``[1, out, in]`` or ``[1, out, in, height, width]`` of each layer.
        biases: ``[1, out]`` of each layer.
    """

    weights: list[torch.Tensor]
    biases: list[torch.Tensor]


@dataclass(frozen=True)
class Nfn:
    """Weights and biases, layer by layer, for plain networks in which every layer has both. Inverts bit for bit.

    >>> import phasezoo
    >>> view = phasezoo.load("mlp-digits").filter(width=8)
    >>> x = view.to_torch("nfn")[0]
    >>> [w.shape for w in x.weights]
    [torch.Size([1, 8, 64]), torch.Size([1, 8, 8]), torch.Size([1, 10, 8])]
    """

    def encode(self, tensors: Mapping[str, torch.Tensor], layout: Layout) -> WeightsAndBiases:
        """Turn ``{name: [models, ...]}`` into weights and biases with a feature channel.

        Raises:
            TopologyError: a layer has no bias, or something beside weight and bias, which nfn cannot represent.

        >>> import torch
        >>> state_dict = torch.nn.Linear(3, 2).state_dict()
        >>> x = Nfn().encode({name: t[None] for name, t in state_dict.items()}, Layout.of_state_dict(state_dict))
        >>> x.weights[0].shape, x.biases[0].shape
        (torch.Size([1, 1, 2, 3]), torch.Size([1, 1, 2]))
        """
        pairs = _pairs(layout)
        return WeightsAndBiases(
            [tensors[w.name][:, None] for w, _ in pairs], [tensors[b.name][:, None] for _, b in pairs]
        )

    def decode(self, x: Any, layout: Layout) -> dict[str, torch.Tensor]:
        """Turn weights and biases, or the WeightSpaceFeatures of nfn, back into ``{name: [models, ...]}``.

        >>> import torch
        >>> state_dict = torch.nn.Linear(3, 2).state_dict()
        >>> layout, batch = Layout.of_state_dict(state_dict), {name: t[None] for name, t in state_dict.items()}
        >>> back = Nfn().decode(Nfn().encode(batch, layout), layout)
        >>> bool((back["weight"] == batch["weight"]).all())
        True
        """
        import torch

        weights, biases = (x.weights, x.biases) if hasattr(x, "weights") else x
        found = {}
        for (weight, bias), w, b in zip(_pairs(layout), weights, biases, strict=True):
            for spec, tensor in ((weight, w), (bias, b)):
                found[spec.name] = tensor.squeeze(1).to(getattr(torch, DTYPES[spec.dtype][1]))
        return {name: found[name] for name in layout.names}


def _pairs(layout: Layout) -> list[tuple[TensorSpec, TensorSpec]]:
    """Return weight and bias of each layer."""
    odd = [
        layer.name
        for layer in layers(layout)
        if set(layer.floats) != {"weight", "bias"} or layer.counters or len(layer.floats["weight"].shape) not in (2, 4)
    ]
    if odd:
        raise TopologyError(
            "neural functionals of nfn take networks whose layers all have a weight and a bias and nothing else; "
            f"here {', '.join(odd[:3])}{' and others do' if len(odd) > 3 else ' do'} not. "
            "Use another representation: 'tokens', 'flat', 'layers' or 'statistics'."
        )
    return [(layer.floats["weight"], layer.floats["bias"]) for layer in layers(layout)]
