"""Eigenvalues at one end of the spectrum, by Lanczos."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch

from phasezoo.errors import MeasureError
from phasezoo.training.landscape.hessian.operator import Operator
from phasezoo.training.landscape.lanczos import lanczos


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

    >>> from phasezoo.training.landscape.hvp import HessianOperator
    >>> net = torch.nn.Linear(1, 2, bias=False).double()
    >>> op = HessianOperator(net, batches=[(torch.tensor([[2.0]]), torch.tensor([0]))])
    >>> found = top_eigenvalues(op, k=2)
    >>> residual = op.matvec(found.vectors[0]) - found.values[0] * found.vectors[0]
    >>> found.converged, bool(residual.norm() < 1e-9)
    (True, True)
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

    >>> from phasezoo.training.landscape.hvp import HessianOperator
    >>> net = torch.nn.Linear(1, 2, bias=False).double()
    >>> _ = torch.nn.init.zeros_(net.weight)  # p = 1/2, so that H = [[1, -1], [-1, 1]] p (1 - p) x^2
    >>> op = HessianOperator(net, batches=[(torch.tensor([[2.0]]), torch.tensor([0]))])
    >>> [round(abs(value), 6) for value in top_eigenvalues(op, k=2).values.tolist()]
    [2.0, 0.0]
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
