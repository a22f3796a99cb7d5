"""The diagonal of the Gauss-Newton matrix of cross-entropy, exactly, and its quadratic form.

    G = 1/N sum_n J_n' (diag(p_n) - p_n p_n') J_n,      J_n = d z_n / d w, z the logits, p = softmax(z)

With diag(p) - pp' = B B' (C - 1 columns) the diagonal is a sum of squares: G_ii = 1/N sum_nc (J_n' B_n)_ic^2. C - 1
backward passes to the outputs of the layers give all that is needed; no gradient of a weight is ever formed for its sum
of squares where a Gram matrix over positions is cheaper.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

import torch
from torch import nn
from torch.func import functional_call, jvp
from torch.nn.functional import unfold

from phasezoo.errors import MeasureError
from phasezoo.training.landscape.hvp import HessianOperator

SCRATCH_BYTES = 128e6  # for the errors at the outputs of all layers; small enough to stay near the processor

Squares = Callable[["Call", torch.Tensor], dict[str, torch.Tensor]]


def gauss_newton_trace(op: HessianOperator) -> torch.Tensor:
    """Return the trace of the Gauss-Newton matrix, exactly, float64 of shape ``op.shape[:-1]``.

    Equal to the trace of the Hessian where `structure` finds the network piecewise linear.

    Args:
        op: names the network, the data and the parameters.

    Raises:
        MeasureError: the diagonal is not known for this network, loss or choice of parameters.

    >>> net = nn.Sequential(nn.Linear(1, 2, bias=False))
    >>> _ = nn.init.zeros_(net[0].weight)  # p = 1/2, so that tr G = 2 p (1 - p) x^2
    >>> op = HessianOperator(net, batches=[(torch.tensor([[2.0]]), torch.tensor([0]))])
    >>> round(gauss_newton_trace(op).item(), 6)
    2.0
    """
    members = [torch.stack(list(_totals(op, state, _summed).values())).sum() for state in _members(op)]
    return torch.stack(members).view(op.shape[:-1])


def gauss_newton_diagonal(op: HessianOperator) -> torch.Tensor:
    """Return the diagonal of the Gauss-Newton matrix, exactly, float64 in the shape of the operator's vectors.

    Args:
        op: names the network, the data and the parameters.

    Raises:
        MeasureError: the diagonal is not known for this network, loss or choice of parameters.
    """
    members = []
    for state in _members(op):
        squares = _totals(op, state, _elementwise)
        members.append(torch.cat([squares[name].flatten() for name in op.names]))
    return torch.stack(members).view(op.shape)


def gauss_newton_form(op: HessianOperator, vector: torch.Tensor) -> torch.Tensor:
    """Return v'Gv, float64 of shape ``op.shape[:-1]``; costs a forward derivative.

    Args:
        op: names the network, the data and the parameters.
        vector: v, in the shape of the operator's vectors.
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


@dataclass(frozen=True)
class Call:
    """What a layer took and gave in one pass, and which of its parameters are meant."""

    name: str
    module: nn.Module
    state: Mapping[str, torch.Tensor]
    chosen: frozenset[str]
    x: torch.Tensor
    out: torch.Tensor


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
        with _recorded(op, state, found.layers) as calls:
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
    with _recorded(op, state, layers) as calls:
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


@contextmanager
def _recorded(op: HessianOperator, state: Mapping[str, torch.Tensor], layers: tuple[str, ...]) -> Iterator[list[Call]]:
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


def _summed(call: Call, error: torch.Tensor) -> dict[str, torch.Tensor]:
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


def _elementwise(call: Call, error: torch.Tensor) -> dict[str, torch.Tensor]:
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
