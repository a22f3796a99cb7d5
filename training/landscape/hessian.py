"""Trace, diagonal, extreme eigenvalues and spectral density of a Hessian.

Values are raw, with sign, and come with how well they are known. Every function takes an operator of one network,
whose results are scalars, or of M networks, whose results are ``[M]``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch

from phasezoo.errors import MeasureError
from phasezoo.training.landscape import gauss_newton
from phasezoo.training.landscape.hvp import HessianOperator
from phasezoo.training.landscape.lanczos import lanczos
from phasezoo.training.landscape.xtrace import xtrace

Method = Literal["auto", "exact", "dense", "control", "xtrace", "hutchinson"]
MEMORY = 2e9  # bytes that basis vectors may take


class Operator(Protocol):
    """A symmetric matrix, known by its products; `HessianOperator` is one."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the vectors: ``(P,)`` or ``(M, P)``."""

    @property
    def dtype(self) -> torch.dtype:
        """Type of the vectors."""

    @property
    def device(self) -> torch.device:
        """Where the vectors lie."""

    def matmat(self, vectors: torch.Tensor, /) -> torch.Tensor:
        """Return the products with K vectors ``[K, *shape]``."""


@dataclass(frozen=True)
class Estimate:
    """A value, how well it is known, and what it cost.

    Attributes:
        value: float64; of shape ``[]`` for a trace of one network.
        stderr: standard error of `value`; zero where the method is exact.
        products: Hessian-vector products used.
        method: how it was computed.
        reason: why `method` is no exact one; None if it is, or if the caller chose it.
    """

    value: torch.Tensor
    stderr: torch.Tensor
    products: int
    method: str
    reason: str | None


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
        value, stderr = xtrace(op.matmat, vectors=_signs(op, half, torch.Generator().manual_seed(seed)))
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


def _signs(op: Operator, k: int, generator: torch.Generator) -> torch.Tensor:
    """Draw K vectors of random signs ``[K, *shape]``; the same on every device."""
    return (torch.randint(2, (k, *op.shape), generator=generator) * 2 - 1).to(op.device, op.dtype)


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
        block = _signs(op, min(4, products - n), generator)
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


@dataclass(frozen=True)
class Eigen:
    """Eigenvalues at one end of the spectrum.

    Attributes:
        values: ``[..., k]``, float64, the most extreme first.
        vectors: ``[..., k, P]``, of norm 1.
        errors: estimates of the errors of `values`, from residuals and gaps between Ritz values; bounds only where
            the next eigenvalue has been found too.
        products: Hessian-vector products used.
        converged: whether all errors are within the tolerance.
    """

    values: torch.Tensor
    vectors: torch.Tensor
    errors: torch.Tensor
    products: int
    converged: bool


def top_eigenvalues(
    op: Operator,
    *,
    k: int = 1,
    which: Literal["LA", "LM", "SA"] = "LA",
    rtol: float = 1e-3,
    max_products: int = 100,
    seed: int = 0,
) -> Eigen:
    """Compute extreme eigenvalues by Lanczos, until the estimates of their errors are small.

    An estimate takes gaps between eigenvalues from the Ritz values, which early on are too far apart: it has to be a
    fifth of the tolerance, after a step at which it was ten times the tolerance at most. An eigenvalue that occurs
    several times is found once.

    Args:
        op: the Hessian.
        k: how many.
        which: the largest (``"LA"``), the largest by magnitude (``"LM"``) or the smallest (``"SA"``).
        rtol: tolerated error, relative to each eigenvalue.
        max_products: stop there, converged or not.
        seed: seed of the start vector.

    Raises:
        MeasureError: there are fewer than `k` eigenvalues.
    """
    if not 1 <= k <= min(op.shape[-1], max_products):
        raise MeasureError(
            f"cannot compute {k} eigenvalues of {op.shape[-1]} with {max_products} products. Ask for fewer."
        )
    near = False
    start = torch.randn((1, *op.shape), generator=torch.Generator().manual_seed(seed), dtype=op.dtype).to(op.device)
    for krylov in lanczos(op.matmat, start=start, steps=max_products, seed=seed):
        m = krylov.alpha.shape[-1]
        if m < k:
            continue
        values, vectors = (t[0] for t in krylov.ritz())
        order = {"LA": -values, "SA": values, "LM": -values.abs()}[which].argsort(-1)[..., :k]
        errors = _errors(values, vectors, krylov.beta[0, ..., -1:]).gather(-1, order)
        values = values.gather(-1, order)
        relative = float((errors / values.abs()).max())
        converged = (near and relative <= 0.2 * rtol) or m == op.shape[-1]
        if converged:
            break
        near = relative <= 10 * rtol
    vectors = vectors.gather(-1, order.unsqueeze(-2).expand(*vectors.shape[:-1], k))
    basis = krylov.basis[0]
    return Eigen(values, vectors.mT.to(basis) @ basis, errors, m, converged)


def _errors(values: torch.Tensor, vectors: torch.Tensor, beta: torch.Tensor) -> torch.Tensor:
    """Estimate |theta_i - lambda_i| by min(r_i, r_i^2 / gap_i), r_i = beta_m |s_mi| (Parlett 1998, 11.7)."""
    residuals = beta * vectors[..., -1, :].abs()
    if values.shape[-1] == 1:
        return residuals
    between = values.diff(dim=-1)
    far = torch.full_like(values[..., :1], math.inf)
    gaps = torch.minimum(torch.cat([far, between], -1), torch.cat([between, far], -1))
    return torch.minimum(residuals, residuals.square() / gaps)


@dataclass(frozen=True)
class Density:
    """Quadrature rules whose average is the spectral density: unit mass, spread over `nodes` by `weights`.

    Attributes:
        nodes: eigenvalue estimates ``[..., probes, steps]``, float64.
        weights: their masses; they sum to 1 for each probe.
    """

    nodes: torch.Tensor
    weights: torch.Tensor

    def smooth(self, grid: Sequence[float] | torch.Tensor, *, sigma: float) -> torch.Tensor:
        """Return the density per unit of eigenvalue on a grid, ``[..., G]``, each node a Gaussian of width sigma."""
        x = torch.as_tensor(grid, dtype=torch.float64)
        bumps = torch.exp(-(((x - self.nodes.unsqueeze(-1)) / sigma) ** 2) / 2) / (sigma * math.sqrt(2 * math.pi))
        return (self.weights.unsqueeze(-1) * bumps).sum(-2).mean(-2)


def spectral_density(op: Operator, *, probes: int = 4, steps: int = 80, seed: int = 0) -> Density:
    """Estimate the spectral density by stochastic Lanczos quadrature (Ubaru, Chen & Saad 2017).

    For a start vector v of norm 1, the Ritz values theta_i with weights tau_i = (e_1' s_i)^2 give v' f(H) v exactly for
    polynomials f up to degree 2 m - 1.

    Args:
        op: the Hessian.
        probes: start vectors of random signs.
        steps: Lanczos steps, and so nodes, for each.
        seed: seed of the start vectors.
    """
    start = _signs(op, probes, torch.Generator().manual_seed(seed))
    size = math.prod(op.shape) * op.dtype.itemsize * min(steps, op.shape[-1])
    rules = []
    for block in torch.split(start, max(1, int(MEMORY / size))):
        *_, last = lanczos(op.matmat, start=block, steps=steps, seed=seed)
        nodes, vectors = last.ritz()
        rules.append((nodes, vectors[..., 0, :].square()))
    nodes, weights = (torch.cat(parts).movedim(0, -2) for parts in zip(*rules, strict=True))
    return Density(nodes, weights)
