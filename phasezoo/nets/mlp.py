"""Multi-layer perceptrons of one hidden width."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from phasezoo.nets.layer import layer

ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {"relu": torch.relu, "tanh": torch.tanh}


class MLP(nn.Module):
    """A multi-layer perceptron ``in - width - ... - width - out``.

    Its initialisation is torch's default for `nn.Linear`, drawn layer by layer from the global generator.

    Args:
        in_features: size of the input, flattened.
        width: units of each hidden layer.
        depth: number of hidden layers.
        out_features: size of the output.
        activation: ``"relu"`` or ``"tanh"``, after each hidden layer.
        device: where to build it.

    >>> net = MLP(in_features=64, width=8, depth=2, out_features=10)
    >>> net
    MLP(64-8-8-10, relu)
    >>> net(torch.zeros(5, 1, 8, 8)).shape  # images are flattened
    torch.Size([5, 10])
    """

    def __init__(
        self,
        *,
        in_features: int,
        width: int,
        depth: int,
        out_features: int,
        activation: str = "relu",
        device: str | torch.device | None = None,
    ) -> None:
        super().__init__()
        if activation not in ACTIVATIONS:
            raise TypeError(f"activation {activation!r} is not one of {', '.join(ACTIVATIONS)}")
        self.sizes = (in_features, *[width] * depth, out_features)
        self.activation = activation
        self.layers = nn.ModuleList(
            layer(nn.Linear, a, b, device=device) for a, b in zip(self.sizes, self.sizes[1:], strict=False)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map ``[batch, ...]`` to ``[batch, out_features]``."""
        activation = ACTIVATIONS[self.activation]
        h = x.flatten(1)
        for hidden in self.layers[:-1]:
            h = activation(hidden(h))
        out: torch.Tensor = self.layers[-1](h)
        return out

    def __repr__(self) -> str:
        return f"MLP({'-'.join(map(str, self.sizes))}, {self.activation})"
