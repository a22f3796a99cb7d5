"""Running statistics of BatchNorm for weights that were not trained, by passes over training data."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Literal

import torch
from torch import nn
from torch.func import functional_call

BatchNorm = nn.modules.batchnorm._BatchNorm
Protocol = Literal["corrected", "published"]


def norm_layers(model: nn.Module) -> dict[str, BatchNorm]:
    """Return the BatchNorm layers that keep running statistics, by name."""
    named = model.named_modules()
    return {name: m for name, m in named if isinstance(m, BatchNorm) and m.running_mean is not None}


def reestimate(
    model: nn.Module,
    *,
    state: Mapping[str, torch.Tensor],
    batches: Iterable[tuple[torch.Tensor, torch.Tensor]],
    protocol: Protocol = "corrected",
) -> dict[str, torch.Tensor]:
    """Return `state` with the running statistics of every BatchNorm layer estimated anew.

    ``"corrected"`` starts from nothing and averages over the batches, each weighted by its samples, with Dropout off.
    ``"published"`` goes on from the statistics in `state` with momentum 0.1, in training mode: what the published
    averages were conditioned with. Neither the model nor `state` is changed; a network without BatchNorm costs nothing.

    Args:
        model: the network; its own weights are not used.
        state: parameters and buffers, by name.
        batches: (inputs, labels) pairs of training data.
        protocol: see above.

    >>> net = nn.Sequential(nn.BatchNorm1d(1))
    >>> x = torch.tensor([[1.0], [3.0]])
    >>> reestimate(net, state=net.state_dict(), batches=[(x, x)])["0.running_mean"]
    tensor([2.])
    """
    state = {name: tensor.clone() if "running_" in name else tensor for name, tensor in state.items()}
    layers = norm_layers(model)
    if not layers:
        return state
    published = protocol == "published"
    if not published:
        for name in layers:
            state[_key(name, "running_mean")].zero_()
            state[_key(name, "running_var")].fill_(1)
    for name in layers:
        counter = _key(name, "num_batches_tracked")
        state[counter] = state[counter].clone() if published else torch.zeros_like(state[counter])
    seen = 0
    with training_mode(model, list(layers.values()), dropout=published), torch.no_grad():
        for x, _ in batches:
            seen += len(x)
            for layer in layers.values():
                layer.momentum = 0.1 if published else len(x) / seen  # m <- m + (batch - m) b / n
            functional_call(model, state, (x,))
    return state


@contextmanager
def training_mode(model: nn.Module, layers: list[BatchNorm], *, dropout: bool) -> Iterator[None]:
    """Put the layers, or with `dropout` the whole network, in training mode; put everything back afterwards."""
    modes = {module: module.training for module in model.modules()}
    momenta = [layer.momentum for layer in layers]
    model.train(dropout)
    for layer in layers:
        layer.training = True
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum


def _key(layer: str, name: str) -> str:
    return f"{layer}.{name}" if layer else name
