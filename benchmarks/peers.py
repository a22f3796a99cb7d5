"""Other ways to multiply with a Hessian: PyHessian, what it computes as a plain loop, and curvlinops."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from phasezoo.training.landscape.replay import Batch


class PlainLoop:
    """What the dataloader mode of PyHessian computes, and power iteration and Hutchinson's trace with its rules."""

    def __init__(self, net: nn.Module, batches: Sequence[Batch]) -> None:
        self.params, self.net, self.batches = list(net.parameters()), net, batches

    def product(self, v: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        total = [torch.zeros_like(p) for p in self.params]
        samples = sum(len(y) for _, y in self.batches)
        for x, y in self.batches:
            grads = torch.autograd.grad(cross_entropy(self.net(x), y), self.params, create_graph=True)
            for t, h in zip(total, torch.autograd.grad(grads, self.params, v), strict=True):
                t.add_(h, alpha=len(y) / samples)
        return total

    def eigenvalue(self, seed: int) -> tuple[float, int]:
        """Return the Rayleigh quotient before it moves by less than 1e-3, and the products."""
        torch.manual_seed(seed)
        v, old = [torch.randn_like(p) for p in self.params], math.inf
        for n in range(100):
            norm = math.sqrt(sum(t.square().sum().item() for t in v))
            v = [t / norm for t in v]
            w = self.product(v)
            new = sum((a * b).sum().item() for a, b in zip(v, w, strict=True))
            if n and abs(new - old) / (abs(old) + 1e-6) < 1e-3:
                return old, n + 1
            v, old = w, new
        return old, 100


def pyhessian(net: nn.Module, batches: Sequence[Batch]) -> object | None:
    """Return PyHessian in dataloader mode, if it is installed."""
    try:
        from pyhessian import hessian
    except ImportError:
        return None
    return hessian(net, cross_entropy, dataloader=list(batches), cuda=False)


def peer_product(net: nn.Module, batches: Sequence[Batch]) -> tuple[str, Callable[[], object]]:
    peer = pyhessian(net, batches)
    v = [torch.randn_like(p) for p in net.parameters()]
    if peer is None:
        return "plain loop", lambda: PlainLoop(net, batches).product(v)
    return "PyHessian dataloader", lambda: peer.dataloader_hv_product(v)


def curvlinops(net: nn.Module, batches: Sequence[Batch]) -> Any:
    """Return the Hessian of curvlinops, if it is installed, without its check, which takes two products.

    It goes forward over reverse and rebuilds everything for every product; the vectors of a matrix share one pass.
    """
    try:
        from curvlinops import HessianLinearOperator
    except ImportError:
        return None
    params, samples = list(net.parameters()), sum(len(y) for _, y in batches)
    loss = nn.CrossEntropyLoss()
    return HessianLinearOperator(net, loss, params, list(batches), check_deterministic=False, num_data=samples)
