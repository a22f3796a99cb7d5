"""Lanczos tridiagonalisation with full reorthogonalisation, for several start vectors in lockstep."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Krylov:
    """The first m steps: Q' A Q = T, tridiagonal, and what is left outside.

    Attributes:
        alpha: diagonal of T, ``[..., m]``, float64.
        beta: off-diagonal of T, ``[..., m]``; the last entry is the norm of the residual.
        basis: Q', ``[..., m, P]``.
    """

    alpha: torch.Tensor
    beta: torch.Tensor
    basis: torch.Tensor

    def ritz(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return eigenvalues ``[..., m]``, ascending, and eigenvectors ``[..., m, m]`` (columns) of T."""
        off = self.beta[..., :-1]
        T = torch.diag_embed(self.alpha) + torch.diag_embed(off, 1) + torch.diag_embed(off, -1)
        values, vectors = torch.linalg.eigh(T)
        return values, vectors


def lanczos(
    matmat: Callable[[torch.Tensor], torch.Tensor], *, start: torch.Tensor, steps: int, seed: int
) -> Iterator[Krylov]:
    """Yield the Krylov space after each step, from K start vectors ``[K, ..., P]`` at once.

    Where the space is invariant, the next vector is a random one from its complement, joined by a zero in `beta`.

    Args:
        matmat: maps ``[K, ..., P]`` to its products with a symmetric matrix.
        start: start vectors; need not have norm 1.
        steps: at most so many, and never more than P.
        seed: seed of the random vectors.

    >>> A = torch.diag(torch.tensor([1.0, 2.0, 4.0], dtype=torch.float64))
    >>> *_, last = lanczos(lambda v: v @ A, start=torch.ones(1, 3, dtype=torch.float64), steps=3, seed=0)
    >>> [round(value, 12) for value in last.ritz()[0][0].tolist()]
    [1.0, 2.0, 4.0]
    """
    generator = torch.Generator().manual_seed(seed)
    lead, n = start.shape[:-1], start.shape[-1]
    steps = min(steps, n)
    alpha = torch.zeros(*lead, steps, dtype=torch.float64)
    beta = torch.zeros(*lead, steps, dtype=torch.float64)
    basis = start.new_empty(*lead, min(steps, 16), n)
    rounding = 10 * torch.finfo(start.dtype).eps
    q = start / start.norm(dim=-1, keepdim=True)
    for j in range(steps):
        if j == basis.shape[-2]:  # grow by doubling: few runs need all of their steps
            basis = torch.cat([basis, basis.new_empty(*lead, min(j, steps - j), n)], -2)
        basis[..., j, :] = q
        Q = basis[..., : j + 1, :]
        w, c = orthogonalised(matmat(q), Q)
        alpha[..., j] = c[..., j].double().cpu()
        norm = w.norm(dim=-1, keepdim=True)
        beta[..., j] = norm[..., 0].double().cpu()
        scale = alpha.abs().amax(-1) + beta[..., :j].abs().amax(-1) if j else alpha[..., 0].abs()
        ended = beta[..., j] <= rounding * scale
        if ended.any() and j + 1 < steps:
            fresh, _ = orthogonalised(torch.randn(start.shape, generator=generator, dtype=w.dtype).to(w.device), Q)
            stop = ended.to(w.device)[..., None]
            w, norm = torch.where(stop, fresh, w), torch.where(stop, fresh.norm(dim=-1, keepdim=True), norm)
            beta[..., j] = beta[..., j].masked_fill(ended, 0.0)
        yield Krylov(alpha[..., : j + 1], beta[..., : j + 1], Q)
        q = w / norm


def orthogonalised(w: torch.Tensor, Q: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return w - Q'Q w and the coefficients Q w; twice is enough (Giraud et al. 2005).

    Args:
        w: vectors ``[..., P]``.
        Q: orthonormal rows ``[..., j, P]``.
    """
    total = w.new_zeros(*Q.shape[:-1])
    for _ in range(2):
        c = (Q @ w.unsqueeze(-1)).squeeze(-1)
        w = w - (c.unsqueeze(-2) @ Q).squeeze(-2)
        total = total + c
    return w, total
