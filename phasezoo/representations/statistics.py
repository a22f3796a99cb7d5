"""The weights of a network as a few statistics of each tensor.

After Unterthiner et al., *Predicting neural network accuracy from weights*, 2020: mean, variance and quantiles.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

from phasezoo.errors import TopologyError
from phasezoo.layout import Layout
from phasezoo.representations.structure import FLOATS

if TYPE_CHECKING:
    import torch

QUANTILES = (0.0, 0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True)
class Statistics:
    """Mean, variance and the quantiles 0, 1/4, 1/2, 3/4 and 1 of each floating tensor, ``[tensors, 7]``.

    The shape depends on the number of tensors only, so that networks of several widths fit into one batch. It cannot
    be inverted.

    >>> import phasezoo
    >>> view = phasezoo.load("mlp-digits").filter(width=8)
    >>> x = view.to_torch("statistics")[0]
    >>> x.shape
    torch.Size([6, 7])
    """

    def encode(self, tensors: Mapping[str, torch.Tensor], layout: Layout) -> torch.Tensor:
        """Turn ``{name: [models, ...]}`` into ``[models, tensors, 7]``.

        >>> import torch
        >>> layout = Layout.of([("weight", "F32", (5,))])
        >>> Statistics().encode({"weight": torch.tensor([[4.0, 0.0, 1.0, 2.0, 3.0]])}, layout)
        tensor([[[2., 2., 0., 1., 2., 3., 4.]]])
        """
        import torch

        rows = []
        for name in (spec.name for spec in layout.tensors if spec.dtype in FLOATS):
            ordered = tensors[name].float().reshape(len(tensors[name]), -1).sort(1).values
            # Not torch.quantile, which refuses more than 16 million values.
            place = torch.tensor(QUANTILES) * (ordered.shape[1] - 1)
            low, high = ordered[:, place.floor().long()], ordered[:, place.ceil().long()]
            quantiles = torch.lerp(low, high, place - place.floor())
            variance, mean = torch.var_mean(ordered, 1, correction=0)
            rows.append(torch.cat([mean[:, None], variance[:, None], quantiles], 1))
        return torch.stack(rows, 1)

    def decode(self, x: torch.Tensor, layout: Layout) -> NoReturn:
        """Raise TopologyError: statistics do not say what the weights were."""
        raise TopologyError("statistics cannot be turned back into weights. Use 'tokens', 'flat', 'layers' or 'graph'.")
