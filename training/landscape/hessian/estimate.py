"""Trace and diagonal: exactly where mathematics allows, else with a standard error."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch

from phasezoo.errors import MeasureError
from phasezoo.training.landscape import gauss_newton
from phasezoo.training.landscape.hessian.operator import MEMORY, Operator, signs
from phasezoo.training.landscape.hvp import HessianOperator
from phasezoo.training.landscape.xtrace import xtrace

Method = Literal["auto", "exact", "dense", "control", "xtrace", "hutchinson"]


@dataclass(frozen=True)
class Estimate:
    """A value, how well it is known, and what it cost.

    Attributes:
        value: float64; of shape ``[]`` for a trace of one network.
        stderr: standard error of `value`; zero where the method is exact.
        products: Hessian-vector products used.
        method: how it was computed.
        reason: why `method` is no exact one; None if it is, or if the caller chose it.

    >>> net = torch.nn.Sequential(torch.nn.Linear(2, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2)).double()
    >>> op = HessianOperator(net, batches=[(torch.eye(2), torch.tensor([0, 1]))])
    >>> found = trace(op, method="hutchinson", products=8)
    >>> found.method, found.products, found.stderr.item() > 0
    ('hutchinson', 8, True)
    """

    value: torch.Tensor
    stderr: torch.Tensor
    products: int
    method: str
    reason: str | None


def trace(op: Operator, *, method: Method = "auto", products: int = 60, rtol: float = 0.0, seed: int = 0) -> Estimate:
    """Compute the trace: exactly where mathematics allows, else by an estimator with a standard error.

    ``"auto"`` takes the first of these methods that applies:

    - ``"exact"``: tr H = tr G, for cross-entropy on a piecewise-linear network (see `structure`); no products.
    - ``"dense"``: one product per parameter, where there are at most `products` of them.
    - ``"control"``: tr H = E v'Hv - b (E v'Gv - tr G), v of random signs and b by regression. tr G is exact and v'Gv
      cheap; on trained networks the standard error is a quarter (tanh) to a twentieth (GELU) of Hutchinson's.
    - ``"xtrace"``: see `xtrace`; holds `products` vectors.
    - ``"hutchinson"``: E v'Hv (Hutchinson 1990).

    Args:
        op: the Hessian.
        method: one of the above.
        products: how many products may be used.
        rtol: stop sampling (``"control"``, ``"hutchinson"``) at this standard error, relative to the value.
        seed: seed of the random vectors.

    Raises:
        MeasureError: the method does not apply.

    >>> net = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2))
    >>> found = trace(HessianOperator(net, batches=[(torch.eye(2), torch.tensor([0, 1]))]))
    >>> found.method, found.stderr.item(), found.products
    ('exact', 0.0, 0)
    """
    method, reason = _choose(op, method, products)
    if method == "exact":
        value = gauss_newton.gauss_newton_trace(_hessian(op))
        return Estimate(value, torch.zeros_like(value), 0, method, None)
    if method == "dense":
        value = _matrix(op).diagonal(dim1=0, dim2=-1).double().sum(-1)
        return Estimate(value, torch.zeros_like(value), op.shape[-1], method, None)
    if method == "xtrace":
        half = max(2, min(products // 2, op.shape[-1] - 1))
        value, stderr = xtrace(op.matmat, vectors=signs(op, half, torch.Generator().manual_seed(seed)))
        return Estimate(value, stderr, 2 * half, method, reason)
    control = method == "control"

    def sample(v: torch.Tensor, product: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        form = (v.double() * product).sum(-1)
        return form, gauss_newton.gauss_newton_form(_hessian(op), v) if control else None

    known = gauss_newton.gauss_newton_trace(_hessian(op)) if control else None
    value, stderr, used = _sampled(op, sample, known=known, products=products, rtol=rtol, seed=seed)
    return Estimate(value, stderr, used, method, reason)


def diagonal(
    op: Operator, *, method: Method = "auto", products: int = 60, rtol: float = 0.0, seed: int = 0
) -> Estimate:
    """Compute the diagonal, in the shape of the operator's vectors; like `trace`, but there is no ``"xtrace"``.

    The estimators are E v * Hv (Bekas, Kokiopoulou & Saad 2007), and the same with v * Gv as its control.

    Args:
        op: the Hessian.
        method: as for `trace`.
        products: how many products may be used.
        rtol: stop sampling when every standard error is at most this part of the largest entry.
        seed: seed of the random vectors.

    Raises:
        MeasureError: the method does not apply.

    >>> net = torch.nn.Linear(1, 2, bias=False)
    >>> _ = torch.nn.init.zeros_(net.weight)  # p = 1/2, so that H = [[1, -1], [-1, 1]] p (1 - p) x^2
    >>> found = diagonal(HessianOperator(net, batches=[(torch.tensor([[2.0]]), torch.tensor([0]))]))
    >>> [round(entry, 6) for entry in found.value.tolist()], found.method
    ([1.0, 1.0], 'exact')
    """
    method, reason = _choose(op, method, products)
    if method == "xtrace":
        method = "hutchinson"
    if method == "exact":
        value = gauss_newton.gauss_newton_diagonal(_hessian(op))
        return Estimate(value, torch.zeros_like(value), 0, method, None)
    if method == "dense":
        value = _matrix(op).diagonal(dim1=0, dim2=-1).double()
        return Estimate(value, torch.zeros_like(value), op.shape[-1], method, None)
    control = method == "control"

    def sample(v: torch.Tensor, product: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        return v.double() * product, v * gauss_newton.gauss_newton_product(_hessian(op), v) if control else None

    known = gauss_newton.gauss_newton_diagonal(_hessian(op)) if control else None
    value, stderr, used = _sampled(op, sample, known=known, products=products, rtol=rtol, seed=seed)
    return Estimate(value, stderr, used, method, reason)


def _choose(op: Operator, method: Method, products: int) -> tuple[Method, str | None]:
    """Return the method to use, and why it is no exact one."""
    if isinstance(op, HessianOperator):
        no_control, no_exact = op.structure.no_gauss_newton, op.structure.not_piecewise_linear
    else:
        no_control = no_exact = "the operator is known by its products alone"
    if (method == "exact" and no_exact) or (method == "control" and no_control):
        raise MeasureError(
            f"method {method!r} does not apply: {no_exact if method == 'exact' else no_control}. "
            "Use method='auto', which picks one that does."
        )
    if method != "auto":
        return method, None
    if not no_exact:
        return "exact", None
    if op.shape[-1] <= products:
        return "dense", None
    if not no_control:
        return "control", no_exact
    fits = 2 * products * math.prod(op.shape) * op.dtype.itemsize <= MEMORY
    return ("xtrace" if fits else "hutchinson"), no_exact


def _hessian(op: Operator) -> HessianOperator:
    assert isinstance(op, HessianOperator)
    return op


def _matrix(op: Operator) -> torch.Tensor:
    """Return the whole matrix as rows ``[P, *shape]``."""
    rows = torch.eye(op.shape[-1], dtype=op.dtype, device=op.device)
    return op.matmat(rows.view(-1, *[1] * (len(op.shape) - 1), op.shape[-1]).expand(-1, *op.shape).contiguous())


def _sampled(
    op: Operator,
    sample: Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor | None]],
    *,
    known: torch.Tensor | None,
    products: int,
    rtol: float,
    seed: int,
) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Average samples until their standard error is small or the products are used up; no luck stops it early.

    A sample is a, or a pair (a, g) where the mean of g is known: then the estimate is mean a - b (mean g - known) with
    b = cov(a, g) / var g. Returns the estimate, its standard error, and the products used.
    """
    generator = torch.Generator().manual_seed(seed)
    zero = torch.zeros((), dtype=torch.float64, device=op.device)
    a_mean, g_mean, aa, ag, gg = zero, zero, zero, zero, zero
    value, stderr, n = zero, zero, 0
    while n < products:
        block = signs(op, min(4, products - n), generator)
        for v, product in zip(block, op.matmat(block), strict=True):
            n += 1
            a, g = sample(v, product)
            da, dg = a - a_mean, (g if g is not None else zero) - g_mean
            a_mean, g_mean = a_mean + da / n, g_mean + dg / n  # Welford (1962)
            aa, ag, gg = aa + da * (a - a_mean), ag + dg * (a - a_mean), gg + dg * dg * (n - 1) / n
        b = torch.where(gg > 0, ag / gg, zero)
        value = a_mean - b * (g_mean - known) if known is not None else a_mean
        freedom = n - 1 if known is None else n - 2
        stderr = (
            ((aa - b * ag).clamp(min=0) / (n * freedom)).sqrt() if freedom > 0 else torch.full_like(value, math.inf)
        )
        if n >= 8 and bool((stderr <= rtol * value.abs().max()).all()):
            break
    return value, stderr, n


def natural_log(value: float) -> tuple[float | None, str | None]:
    """Return the logarithm of a metric, or None and the reason why there is none.

    >>> natural_log(1.0)
    (0.0, None)
    >>> natural_log(-2.0)
    (None, 'the value is not positive: -2')
    """
    if not math.isfinite(value):
        return None, f"the value is not finite: {value}"
    return (math.log(value), None) if value > 0 else (None, f"the value is not positive: {value:g}")
