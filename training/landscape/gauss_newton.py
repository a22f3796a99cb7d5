"""The diagonal of the Gauss-Newton matrix of cross-entropy, exactly, and its quadratic form.

    G = 1/N sum_n J_n' (diag(p_n) - p_n p_n') J_n,      J_n = d z_n / d w, z the logits, p = softmax(z)

With diag(p) - pp' = B B' (C - 1 columns) the diagonal is a sum of squares: G_ii = 1/N sum_nc (J_n' B_n)_ic^2. C - 1
backward passes to the outputs of the layers give all that is needed; `layer_gradients` says how, layer by layer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import cast

import torch
from torch.func import functional_call, jvp

from phasezoo.errors import MeasureError
from phasezoo.training.landscape.hvp import HessianOperator
from phasezoo.training.landscape.layer_gradients import Call, elementwise, recorded, summed

SCRATCH_BYTES = 128e6  # for the errors at the outputs of all layers; small enough to stay near the processor

Squares = Callable[[Call, torch.Tensor], dict[str, torch.Tensor]]


def gauss_newton_trace(op: HessianOperator) -> torch.Tensor:
    """Return the trace of the Gauss-Newton matrix, exactly, float64 of shape ``op.shape[:-1]``.

    Equal to the trace of the Hessian where `structure` finds the network piecewise linear.

    Args:
        op: names the network, the data and the parameters.

    Raises:
        MeasureError: the diagonal is not known for this network, loss or choice of parameters.

    >>> net = torch.nn.Sequential(torch.nn.Linear(1, 2, bias=False))
    >>> _ = torch.nn.init.zeros_(net[0].weight)  # p = 1/2, so that tr G = 2 p (1 - p) x^2
    >>> op = HessianOperator(net, batches=[(torch.tensor([[2.0]]), torch.tensor([0]))])
    >>> round(gauss_newton_trace(op).item(), 6)
    2.0
    """
    members = [torch.stack(list(_totals(op, state, summed).values())).sum() for state in _members(op)]
    return torch.stack(members).view(op.shape[:-1])


def gauss_newton_diagonal(op: HessianOperator) -> torch.Tensor:
    """Return the diagonal of the Gauss-Newton matrix, exactly, float64 in the shape of the operator's vectors.

    Args:
        op: names the network, the data and the parameters.

    Raises:
        MeasureError: the diagonal is not known for this network, loss or choice of parameters.

    >>> net = torch.nn.Linear(1, 2, bias=False)
    >>> _ = torch.nn.init.zeros_(net.weight)  # p = 1/2, so that G = [[1, -1], [-1, 1]] p (1 - p) x^2
    >>> op = HessianOperator(net, batches=[(torch.tensor([[2.0]]), torch.tensor([0]))])
    >>> [round(entry, 6) for entry in gauss_newton_diagonal(op).tolist()]
    [1.0, 1.0]
    """
    members = []
    for state in _members(op):
        squares = _totals(op, state, elementwise)
        members.append(torch.cat([squares[name].flatten() for name in op.names]))
    return torch.stack(members).view(op.shape)


def gauss_newton_form(op: HessianOperator, vector: torch.Tensor) -> torch.Tensor:
    """Return v'Gv, float64 of shape ``op.shape[:-1]``; costs a forward derivative.

    Args:
        op: names the network, the data and the parameters.
        vector: v, in the shape of the operator's vectors.

    >>> net = torch.nn.Linear(1, 2, bias=False)
    >>> _ = torch.nn.init.zeros_(net.weight)  # p = 1/2, so that G = [[1, -1], [-1, 1]] p (1 - p) x^2
    >>> op = HessianOperator(net, batches=[(torch.tensor([[2.0]]), torch.tensor([0]))])
    >>> [round(gauss_newton_form(op, torch.tensor(v)).item(), 6) for v in ([1.0, -1.0], [1.0, 1.0])]
    [4.0, 0.0]
    """
    members = []
    for state, v in zip(_members(op), vector.view(-1, op.shape[-1]), strict=True):
        total = torch.zeros((), dtype=torch.float64, device=op.device)
        for x, _ in op.batches:
            with torch.no_grad():
                z, dz = _pushed(op, state, v, x)
                p = z.softmax(-1)
                total += ((p * dz.square()).sum(-1) - (p * dz).sum(-1).square()).sum().double()
        members.append(total / op.samples)
    return torch.stack(members).view(op.shape[:-1])


def gauss_newton_product(op: HessianOperator, vector: torch.Tensor) -> torch.Tensor:
    """Return G v, in the shape of the operator's vectors; costs a forward derivative and a gradient.

    Args:
        op: names the network, the data and the parameters.
        vector: v, in the shape of the operator's vectors.

    >>> net = torch.nn.Linear(1, 2, bias=False)
    >>> _ = torch.nn.init.zeros_(net.weight)  # p = 1/2, so that G = [[1, -1], [-1, 1]] p (1 - p) x^2
    >>> op = HessianOperator(net, batches=[(torch.tensor([[2.0]]), torch.tensor([0]))])
    >>> gauss_newton_product(op, torch.tensor([1.0, -1.0]))
    tensor([ 2., -2.])
    """
    out = torch.zeros(vector.numel() // op.shape[-1], op.shape[-1], dtype=op.dtype, device=op.device)
    for state, v, total in zip(_members(op), vector.view_as(out), out, strict=True):
        params = {name: state[name].clone().requires_grad_() for name in op.names}
        for x, _ in op.batches:
            with torch.no_grad():
                z, dz = _pushed(op, state, v, x)
                p = z.softmax(-1)
                weights = p * (dz - (p * dz).sum(-1, keepdim=True)) / op.samples  # (diag(p) - pp') J v / N
            logits = functional_call(op.model, {**state, **params}, (x,))
            grads = torch.autograd.grad(logits, list(params.values()), weights, materialize_grads=True)
            for view, grad in zip(op.named(total).values(), grads, strict=True):
                view.add_(grad)
    return out.view(op.shape)


def _pushed(
    op: HessianOperator, state: Mapping[str, torch.Tensor], v: torch.Tensor, x: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the logits z and J v."""

    def logits(params: Mapping[str, torch.Tensor]) -> torch.Tensor:
        out: torch.Tensor = functional_call(op.model, {**state, **params}, (x,))
        return out

    tangents = op.named(v)
    pushed = jvp(logits, ({name: state[name] for name in tangents},), (tangents,))
    return cast("tuple[torch.Tensor, torch.Tensor]", pushed)


def _members(op: HessianOperator) -> Iterator[dict[str, torch.Tensor]]:
    """Yield the tensors of each model, detached."""
    tensors = {name: tensor.detach() for name, tensor in (*op.params.items(), *op.fixed.items())}
    if len(op.shape) == 1:
        yield tensors
        return
    for i in range(op.shape[0]):
        yield {name: tensor[i] for name, tensor in tensors.items()}


def _totals(op: HessianOperator, state: Mapping[str, torch.Tensor], squares: Squares) -> dict[str, torch.Tensor]:
    """Sum the squares of per-sample gradients over classes and samples, by parameter."""
    found = op.structure
    if found.no_gauss_newton:
        raise MeasureError(
            f"the Gauss-Newton diagonal is not known exactly: {found.no_gauss_newton}. Estimate it with "
            "phasezoo.training.landscape.hessian.trace, which picks a method that works."
        )
    totals: dict[str, torch.Tensor] = {}
    for x in _pieces(op, state, found.layers):
        with recorded(op, state, found.layers) as calls:
            z = functional_call(op.model, dict(state), (x,))
        factors = covariance_factor(z.detach().softmax(-1)).to(z.dtype)
        errors = torch.autograd.grad(z, [call.out for call in calls], factors, is_grads_batched=True)
        for call, error in zip(calls, errors, strict=True):
            for name, value in squares(call, error).items():
                value = value.double() / op.samples
                totals[name] = totals[name] + value if name in totals else value
    return totals


def covariance_factor(p: torch.Tensor) -> torch.Tensor:
    """Factor diag(p) - pp' = B B' with C - 1 columns, ``[n, C] -> [C - 1, n, C]``.

    With u = sqrt(p), diag(p) - pp' = diag(u) (I - uu') diag(u), and the Householder reflection that takes u to the last
    axis spans the complement of u with its other columns: B = diag(u) (I - w w' / (1 + u_C)), w = u + e_C.

    >>> p = torch.tensor([[0.2, 0.3, 0.5]])
    >>> B = covariance_factor(p)[:, 0]
    >>> torch.allclose(B.T @ B, p.diag_embed()[0] - p.T @ p)
    True
    """
    u = p.sqrt()
    w = torch.cat([u[:, :-1], u[:, -1:] + 1], 1)
    complement = torch.eye(p.shape[1], dtype=p.dtype, device=p.device) - w[:, :, None] * (
        w / (1 + u[:, -1:])
    ).unsqueeze(1)
    return (u[:, :, None] * complement)[:, :, :-1].permute(2, 0, 1).contiguous()


def _pieces(op: HessianOperator, state: Mapping[str, torch.Tensor], layers: tuple[str, ...]) -> Iterator[torch.Tensor]:
    """Cut the batches so that the errors of one piece fit the scratch memory."""
    x = op.batches[0][0]
    with torch.no_grad():
        pair = functional_call(op.model, dict(state), (x[:2],))
    with recorded(op, state, layers) as calls:
        z = functional_call(op.model, dict(state), (x[:1],))
    if not torch.allclose(pair[:1], z, rtol=1e-2, atol=1e-3 * float(z.detach().abs().max())):
        raise MeasureError(
            f"the outputs of {type(op.model).__name__} for a sample depend on the rest of its batch, so that there are "
            "no gradients of samples. Use method='xtrace' with the micro-batches that are meant."
        )
    if z.dim() != 2 or any(y.dim() != 1 or bool((y < 0).any()) for _, y in op.batches):
        raise MeasureError(
            f"the Gauss-Newton diagonal is known for logits [n, C] and labels [n]; the logits are {list(z.shape)}. "
            "Estimate it with phasezoo.training.landscape.hessian.trace(method='xtrace')."
        )
    per_sample = z.shape[1] * sum(call.out.numel() * call.out.element_size() for call in calls)
    size = max(1, int(SCRATCH_BYTES / per_sample))
    for x, _ in op.batches:
        yield from torch.split(x, size)
