"""The Hessian of many small perceptrons at once, with the products written out.

A product on a small perceptron is all overhead: nodes of a graph, and memory that is allocated and returned. Batched
matrix products into buffers that stay share the one and avoid the other.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch.nn.functional import cross_entropy, one_hot

from phasezoo.errors import MeasureError
from phasezoo.nets.mlp import MLP
from phasezoo.training.landscape.hvp import HessianOperator
from phasezoo.training.landscape.replay import Batch


class PerceptronHessian(HessianOperator):
    """The Hessian of the mean cross-entropy of M perceptrons with ReLU, ``[M, P]``: faster than its base class.

    For z_i = W_i h_{i-1} + b_i and h_i = relu(z_i), with errors e_i = dL/dz_i and R{.} the derivative along
    v = (V_i, c_i) (Pearlmutter 1994):

        R{z_i} = V_i h_{i-1} + W_i R{h_{i-1}} + c_i          R{e_{i-1}} = 1[h_{i-1} > 0] (W_i' R{e_i} + V_i' e_i)
        R{e_L} = (diag(p) - pp') R{z_L} / N                  (Hv)_i = R{e_i} h_{i-1}' + e_i R{h_{i-1}}'

    Args:
        models: perceptrons of one shape.
        batches: (inputs, labels) pairs, fixed and replayed.
        dtype: type to compute in; by default that of the parameters.

    Raises:
        MeasureError: the models are no perceptrons with ReLU of one shape.

    >>> nets = [MLP(in_features=2, width=3, depth=1, out_features=2) for _ in range(5)]
    >>> PerceptronHessian(nets, batches=[(torch.eye(2), torch.tensor([0, 1]))]).matvec(torch.ones(5, 17)).shape
    torch.Size([5, 17])
    """

    def __init__(self, models: Sequence[MLP], *, batches: Iterable[Batch], dtype: torch.dtype | None = None) -> None:
        if not fits(models):
            got = sorted(set(map(repr, models)))[:4]
            raise MeasureError(
                f"products are written out for perceptrons with ReLU of one shape; got {got}. Use HessianOperator."
            )
        super().__init__(models, batches=batches, loss=cross_entropy, dtype=dtype)
        params = [tensor.detach() for tensor in self.params.values()]
        self._layers = list(zip(params[::2], params[1::2], strict=True))
        self._passes = [self._pass(x, y) for x, y in self.batches]
        self._buffers: dict[int, list[tuple[torch.Tensor, torch.Tensor]]] = {}

    def _pass(self, x: torch.Tensor, y: torch.Tensor) -> _Pass:
        """Run forward and backward once; all products start from here."""
        h = [x.flatten(1).expand(self.shape[0], -1, -1)]  # [M, N, units]
        for i, (weight, bias) in enumerate(self._layers):
            z = torch.baddbmm(bias[:, None], h[-1], weight.mT)
            h.append(z.relu() if i < len(self._layers) - 1 else z)
        p = h.pop().softmax(-1)
        errors = [(p - one_hot(y, p.shape[-1])) / len(y)]
        for (weight, _), inputs in zip(self._layers[:0:-1], h[:0:-1], strict=True):
            errors.insert(0, (errors[0] @ weight).mul_(inputs > 0))
        return _Pass(h, [inputs > 0 for inputs in h], errors, p)

    def matmat(self, vectors: torch.Tensor) -> torch.Tensor:
        """Return H v for K vectors ``[K, M, P]``, one row each."""
        out = torch.zeros_like(vectors)
        for vector, total in zip(vectors, out, strict=True):
            v, hv = list(self.named(vector).values()), list(self.named(total).values())
            for one, weight in zip(self._passes, self._weights, strict=True):
                self._accumulate(one, list(zip(v[::2], v[1::2], strict=True)), hv, weight)
        self.products += len(vectors)
        return out

    def _accumulate(
        self, one: _Pass, v: list[tuple[torch.Tensor, torch.Tensor]], hv: list[torch.Tensor], scale: float
    ) -> None:
        buffers, last = self._scratch(one), len(v) - 1
        for i, ((V, c), (W, _)) in enumerate(zip(v, self._layers, strict=True)):
            Rz = torch.baddbmm(c[:, None], one.h[i], V.mT, out=buffers[i][0])
            if i:
                Rz.baddbmm_(buffers[i - 1][0], W.mT)
            if i < last:
                Rz.mul_(one.fires[i + 1])  # now R{h_i}
        Re, Rz = buffers[last][1], buffers[last][0]
        torch.mul(one.p, Rz, out=Re)
        Re.sub_(one.p * Re.sum(-1, keepdim=True)).div_(one.p.shape[1])
        for i in reversed(range(len(v))):
            Re = buffers[i][1]
            hv[2 * i].baddbmm_(Re.mT, one.h[i], alpha=scale)
            if i:
                hv[2 * i].baddbmm_(one.errors[i].mT, buffers[i - 1][0], alpha=scale)
                below = torch.bmm(Re, self._layers[i][0], out=buffers[i - 1][1])
                below.baddbmm_(one.errors[i], v[i][0]).mul_(one.fires[i])
            hv[2 * i + 1].add_(Re.sum(1), alpha=scale)

    def _scratch(self, one: _Pass) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Return room for R{h} and R{e} of each layer."""
        n = one.p.shape[1]
        if n not in self._buffers:
            self._buffers[n] = [(torch.empty_like(e), torch.empty_like(e)) for e in one.errors]
        return self._buffers[n]


@dataclass(frozen=True)
class _Pass:
    """What a forward and a backward pass leave behind, for one micro-batch.

    Attributes:
        h: input of each layer ``[M, N, units]``.
        fires: where it is positive.
        errors: dL/dz of each layer.
        p: probabilities ``[M, N, classes]``.
    """

    h: list[torch.Tensor]
    fires: list[torch.Tensor]
    errors: list[torch.Tensor]
    p: torch.Tensor


def fits(models: Sequence[object]) -> bool:
    """Whether products are written out for these models.

    >>> fits([torch.nn.Linear(1, 1)])
    False
    """
    nets = [model for model in models if type(model) is MLP]
    return (
        len(nets) == len(models) and len({net.sizes for net in nets}) == 1 and {n.activation for n in nets} == {"relu"}
    )
