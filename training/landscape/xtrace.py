"""XTrace: a trace from m products with random vectors and m with what they span (Epperly, Tropp & Webber 2023)."""

from __future__ import annotations

from collections.abc import Callable

import torch


def xtrace(
    matmat: Callable[[torch.Tensor], torch.Tensor], *, vectors: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Estimate a trace and its standard error from m random vectors, by 2 m products.

    Each vector in turn is left out of the low-rank part and used to sample the rest (their Algorithm 2.1):

        t_i = tr(Q_i' A Q_i) + w_i' (I - Q_i Q_i') A (I - Q_i Q_i') w_i,      Q_i = orth(A W without column i)

    Args:
        matmat: maps ``[m, ..., P]`` to its products with a symmetric matrix A.
        vectors: W', independent vectors of random signs ``[m, ..., P]``, fewer than P.

    Returns:
        The estimates and their standard errors, float64 of shape ``[...]``.

    >>> A = torch.diag(torch.tensor([5.0, 2.0, 0.0, 0.0], dtype=torch.float64))
    >>> W = torch.tensor([[1.0, 1, 1, 1], [1, -1, 1, 1], [1, 1, -1, 1]], dtype=torch.float64)
    >>> round(xtrace(lambda v: v @ A, vectors=W)[0].item(), 6)  # of rank 2, and so exact
    7.0
    """
    m = len(vectors)
    W = vectors.movedim(0, -1)  # [..., P, m]
    Y = matmat(vectors).movedim(0, -1)
    Q, R = torch.linalg.qr(Y)
    Z = matmat(Q.movedim(-1, 0).contiguous()).movedim(0, -1)
    H = (Q.mT @ Z).double()
    whole = H.diagonal(dim1=-2, dim2=-1).sum(-1)
    R = R.double()
    size = R.diagonal(dim1=-2, dim2=-1).abs()
    if bool((size.amin(-1) <= 10 * torch.finfo(Y.dtype).eps * size.amax(-1)).any()):
        return whole, torch.zeros_like(whole)  # rank(A) < m: Q spans its range
    # Q_i Q_i' = Q (I - s_i s_i') Q', with s_i orthogonal to every column of R but the i-th: R' S is diagonal.
    S = torch.linalg.solve_triangular(R.mT, torch.eye(m, dtype=R.dtype, device=R.device).expand_as(R), upper=False)
    S = S / S.norm(dim=-2, keepdim=True)
    V = (Q.mT @ W).double()
    X = V - S * (S * V).sum(-2, keepdim=True)  # Q_i' w_i, in the basis Q
    # Q' A w_i is the i-th column of R, and A is symmetric.
    rest = (W * Y).double().sum(-2) - 2 * (X * R).sum(-2) + (X * (H @ X)).sum(-2)
    t = whole.unsqueeze(-1) - (S * (H @ S)).sum(-2) + rest
    return t.mean(-1), t.std(-1) / m**0.5
