"""What is asked of a matrix that is known by its products, and random vectors to multiply it with."""

from __future__ import annotations

from typing import Protocol

import torch

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


def signs(op: Operator, k: int, generator: torch.Generator) -> torch.Tensor:
    """Draw K vectors of random signs ``[K, *shape]``; the same on every device."""
    return (torch.randint(2, (k, *op.shape), generator=generator) * 2 - 1).to(op.device, op.dtype)
