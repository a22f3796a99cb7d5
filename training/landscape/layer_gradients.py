"""The squares of per-sample gradients, layer by layer, from what a layer took and the errors at what it gave.

No gradient of a weight is ever formed for its sum of squares where a Gram matrix over positions is cheaper. Which
layers are known is written here and in `structure`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

import torch
from torch import nn
from torch.nn.functional import unfold

from phasezoo.training.landscape.hvp import HessianOperator


@dataclass(frozen=True)
class Call:
    """What a layer took and gave in one pass, and which of its parameters are meant."""

    name: str
    module: nn.Module
    state: Mapping[str, torch.Tensor]
    chosen: frozenset[str]
    x: torch.Tensor
    out: torch.Tensor


@contextmanager
def recorded(op: HessianOperator, state: Mapping[str, torch.Tensor], layers: tuple[str, ...]) -> Iterator[list[Call]]:
    """Record what the named layers take and give."""
    calls: list[Call] = []
    handles = []
    for name in layers:
        prefix = f"{name}." if name else ""
        chosen = frozenset(key.removeprefix(prefix) for key in op.names if key.rpartition(".")[0] == name)
        module = op.model.get_submodule(name)
        own = {key.removeprefix(prefix): value for key, value in state.items() if key.rpartition(".")[0] == name}

        def record(
            module: nn.Module,
            args: tuple[torch.Tensor, ...],
            out: torch.Tensor,
            name: str = name,
            own: Mapping[str, torch.Tensor] = own,
            chosen: frozenset[str] = chosen,
        ) -> torch.Tensor:
            if not out.requires_grad:
                out.requires_grad_()
            calls.append(Call(name, module, own, chosen, args[0].detach(), out))
            return out.clone()  # the network may go on in place

        handles.append(module.register_forward_hook(record))
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def summed(call: Call, error: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return the sum of squares of a layer's per-sample gradients; `error` is ``[C - 1, n, ...]``."""
    if isinstance(call.module, (nn.BatchNorm1d, nn.BatchNorm2d)):
        return {call.name: sum(g.square().sum() for g in _norm_gradients(call, error).values()) + torch.zeros(())}
    a, d = _patches(call), _errors(call, error)  # [m, k, L], [m, q, L]: the gradient is d a', [m, q, k]
    (k, positions), q = a.shape[1:], d.shape[1]
    weight, bias = "weight" in call.chosen, "bias" in call.chosen
    if positions**2 * (q + k) < positions * q * k:
        # |d a'|^2 = <a'a, d'd>, and a constant input of 1 for the bias
        gram = a.transpose(1, 2) @ a + float(bias) if weight else torch.ones(())
        return {call.name: (gram * (d.transpose(1, 2) @ d)).sum()}
    total = (d @ a.transpose(1, 2)).square().sum() if weight else torch.zeros(())
    return {call.name: total + d.sum(2).square().sum() if bias else total}


def elementwise(call: Call, error: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return the squares of a layer's per-sample gradients, summed over classes and samples, by parameter."""
    prefix = f"{call.name}." if call.name else ""
    if isinstance(call.module, (nn.BatchNorm1d, nn.BatchNorm2d)):
        return {f"{prefix}{key}": g.square().sum((0, 1)) for key, g in _norm_gradients(call, error).items()}
    a, d = _patches(call), _errors(call, error)
    groups = getattr(call.module, "groups", 1)
    n, classes = error.shape[1], error.shape[0]
    found = {}
    if "weight" in call.chosen:
        weight = call.state["weight"]
        if a.shape[2] == 1:  # (d a)^2 = d^2 a^2, and the sum over samples is one product
            squares = d.view(n, classes, -1).square().sum(1).T @ a[:, :, 0].square()
        else:
            g = (d @ a.transpose(1, 2)).view(n, groups, classes, -1, a.shape[1])
            squares = g.square().sum((0, 2))
        found[f"{prefix}weight"] = squares.view_as(weight)
    if "bias" in call.chosen:
        found[f"{prefix}bias"] = d.sum(2).view(n, groups, classes, -1).square().sum((0, 2)).view(-1)
    return found


def _norm_gradients(call: Call, error: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return the per-sample gradients ``[C - 1, n, channels]`` of BatchNorm's scale and shift, in eval mode."""
    d = error.flatten(3) if error.dim() > 3 else error.unsqueeze(-1)
    shift = d.sum(-1)
    found = {"bias": shift} if "bias" in call.chosen else {}
    if "weight" in call.chosen:
        x = call.x.flatten(2) if call.x.dim() > 2 else call.x.unsqueeze(-1)
        deviation = (call.state["running_var"] + cast(float, call.module.eps)).sqrt()
        # sum_l d_l (x_l - mean) / deviation
        found["weight"] = (torch.einsum("cnhl,nhl->cnh", d, x) - call.state["running_mean"] * shift) / deviation
    return found


def _patches(call: Call) -> torch.Tensor:
    """Return the inputs that meet the weight, ``[m, k, L]``: m samples (times groups), L positions."""
    module, x = call.module, call.x
    if isinstance(module, nn.Linear):
        return x.reshape(len(x), -1, x.shape[-1]).transpose(1, 2)
    assert isinstance(module, (nn.Conv1d, nn.Conv2d))
    padding = cast("tuple[int, ...]", module.padding)
    kernel, stride, dilation = module.kernel_size, module.stride, module.dilation
    if isinstance(module, nn.Conv1d):
        x, kernel, padding, stride, dilation = x.unsqueeze(2), (1, *kernel), (0, *padding), (1, *stride), (1, *dilation)
    columns = unfold(x, kernel, dilation=dilation, padding=padding, stride=stride)  # [n, channels * kernel, L]
    return columns.view(len(x) * module.groups, -1, columns.shape[2])


def _errors(call: Call, error: torch.Tensor) -> torch.Tensor:
    """Return the errors ``[m, q, L]``: classes times outputs, for each sample (and group) and position."""
    classes, n = error.shape[:2]
    if isinstance(call.module, nn.Linear):
        d = error.reshape(classes, n, -1, error.shape[-1])  # [c, n, L, o]
        return d.permute(1, 0, 3, 2).reshape(n, -1, d.shape[2])
    groups = getattr(call.module, "groups", 1)
    d = error.reshape(classes, n, groups, error.shape[2] // groups, -1)  # [c, n, g, o / g, L]
    return d.permute(1, 2, 0, 3, 4).reshape(n * groups, -1, d.shape[-1])
