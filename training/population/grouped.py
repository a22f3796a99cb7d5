"""Turn S convolutional networks of one shape into one network that computes all of them.

The members' channels lie side by side, ``[batch, S * C, h, w]``: convolutions become grouped ones, batch normalisation
over S * C channels is each member's own, and what works channel by channel (ReLU, pooling, sums) stays as it is. So the
forward pass of any network made of these is its grouped form's, and no architecture is written twice.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import nn
from torch.nn.functional import pad

from phasezoo.nets.layer import layer
from phasezoo.training.population.padding import padded

# Layers that treat every channel alike and apart from the others.
CHANNELWISE = (nn.ReLU, nn.Identity, nn.Flatten, nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)


class GroupedLinear(nn.Module):
    """S linear layers side by side: ``[batch, S * in]`` to ``[batch, S * out]``, by one batched product."""

    def __init__(self, members: int, in_features: int, out_features: int, *, bias: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(members, out_features, in_features, device="meta"))
        self.bias = nn.Parameter(torch.empty(members, out_features, device="meta")) if bias else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map ``[batch, S * in]`` to ``[batch, S * out]``, member by member."""
        h = x.reshape(len(x), len(self.weight), -1).transpose(0, 1)  # [S, batch, in]
        weight: torch.Tensor = self.weight
        if self.bias is not None:  # [h 1] [W b]^T
            h = torch.cat([h, h.new_ones(*h.shape[:2], 1)], 2)
            weight = torch.cat([weight, self.bias.unsqueeze(2)], 2)
        n_out, n_in = weight.shape[1:]
        h = pad(h, (0, padded(n_in) - n_in))
        weight = pad(weight, (0, padded(n_in) - n_in, 0, padded(n_out) - n_out))
        return torch.bmm(h, weight.transpose(1, 2))[..., :n_out].transpose(0, 1).flatten(1)


def group(nets: Sequence[nn.Module]) -> nn.Module:
    """Return the grouped form of networks, with a copy of their weights.

    It maps ``[batch, S * channels, h, w]`` to ``[batch, S * outputs]``. Its state has the names and the order of one
    network's; each tensor is those of the members behind one another along the first axis.

    Args:
        nets: networks of one shape whose parameters and buffers are those of `Conv2d`, `BatchNorm2d` and `Linear`, and
            whose forward passes keep channels apart otherwise.

    Raises:
        ValueError: a layer has no grouped form, or the networks have different shapes.

    >>> net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 5))
    >>> group([net] * 3)(torch.zeros(7, 3, 4, 4)).shape
    torch.Size([7, 15])
    """
    states = [net.state_dict() for net in nets]
    shapes = {tuple((name, tensor.shape, tensor.dtype) for name, tensor in state.items()) for state in states}
    if len(shapes) != 1 or len({type(net) for net in nets}) != 1:
        raise ValueError(f"a population has networks of one shape; got {sorted({repr(net) for net in nets})[:4]}.")
    grouped = copy.deepcopy(nets[0])
    for name, module in list(grouped.named_modules()):
        made = _grouped(name, module, len(nets))
        if made is not None:
            parent, _, child = name.rpartition(".")
            made.train(module.training)
            setattr(grouped.get_submodule(parent), child, made)
    example = next(nets[0].parameters())
    grouped.to(example.dtype).to_empty(device=example.device)
    with torch.no_grad():
        for name, tensor in grouped.state_dict().items():
            parts = torch.stack([state[name] for state in states])
            if not tensor.dim() and (parts != parts[0]).any():
                raise ValueError(f"the networks of a population have taken equally many steps; {name} is {parts}.")
            tensor.copy_(parts.view(tensor.shape) if tensor.dim() else parts[0])
    return grouped


def member_state(grouped: nn.Module, *, member: int, like: nn.Module) -> dict[str, torch.Tensor]:
    """Copy one member's state out of a grouped form.

    Args:
        grouped: what `group` returned.
        member: its place.
        like: a network of the members' shape.

    >>> nets = [nn.Conv2d(1, 2, 3), nn.Conv2d(1, 2, 3)]
    >>> net = nn.Sequential(nets[0])
    >>> state = member_state(group([net, nn.Sequential(nets[1])]), member=1, like=net)
    >>> torch.equal(state["0.weight"], nets[1].weight)
    True
    """
    solo = like.state_dict()
    return {
        name: (tensor.view(-1, *solo[name].shape)[member] if tensor.dim() else tensor).detach().clone()
        for name, tensor in grouped.state_dict().items()
    }


def _grouped(name: str, module: nn.Module, members: int) -> nn.Module | None:
    """Return the grouped form of a layer, on the meta device; None for what stays as it is."""
    make = _FORMS.get(type(module))
    if make is not None:
        return make(module, members)
    own = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
    if own or not (isinstance(module, CHANNELWISE) or any(module.children()) or isinstance(module, nn.Sequential)):
        raise ValueError(f"{name or 'the network'}, a {type(module).__name__}, has no grouped form.")
    return None


def _conv(module: nn.Module, members: int) -> nn.Module:
    conv = cast(nn.Conv2d, module)
    return layer(
        nn.Conv2d,
        members * conv.in_channels,
        members * conv.out_channels,
        cast(Any, conv.kernel_size),
        stride=conv.stride,
        padding=conv.padding,
        dilation=conv.dilation,
        groups=members * conv.groups,
        bias=conv.bias is not None,
        padding_mode=conv.padding_mode,
        device="meta",
    )


def _norm(module: nn.Module, members: int) -> nn.Module:
    norm = cast(nn.BatchNorm2d, module)
    options = {"eps": norm.eps, "momentum": norm.momentum, "affine": norm.affine}
    return layer(
        nn.BatchNorm2d,
        members * norm.num_features,
        track_running_stats=norm.track_running_stats,
        device="meta",
        **options,
    )


def _linear(module: nn.Module, members: int) -> nn.Module:
    linear = cast(nn.Linear, module)
    return GroupedLinear(members, linear.in_features, linear.out_features, bias=linear.bias is not None)


_FORMS: dict[type[nn.Module], Callable[[nn.Module, int], nn.Module]] = {
    nn.Conv2d: _conv,
    nn.BatchNorm2d: _norm,
    nn.Linear: _linear,
}
