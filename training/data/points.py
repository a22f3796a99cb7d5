"""Points for one-dimensional convection, u_t + beta u_x = 0, and its solution."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import torch

NX, NT = 256, 100  # of the grid; x has no right end, as the solution is periodic


@dataclass(frozen=True)
class Convection:
    """Points (x, t) at which a network u(x, t) is held against the equation; they do not depend on beta.

    The problem is u_t + beta u_x = 0 on x in [0, 2 pi), t in [0, 1], with u(x, 0) = sin x and u(0, t) = u(2 pi, t).
    Its solution is u = sin(x - beta t).

    Attributes:
        collocation: where the residual is taken ``[n, 2]``: drawn from the grid without its first column and row.
        initial: the grid at t = 0 ``[256, 2]``.
        left: x = 0 at the times of the grid ``[100, 2]``.
        right: x = 2 pi at the same times ``[100, 2]``.
        grid: all points for evaluation ``[25600, 2]``, time by time.

    >>> points = convection(collocation=64)
    >>> u = points.solution(torch.tensor([1.0, 30.0]))
    >>> u.shape
    torch.Size([2, 25600])
    >>> torch.allclose(u[0, :256], points.initial[:, 0].sin())  # at t = 0, whatever beta
    True
    """

    collocation: torch.Tensor
    initial: torch.Tensor
    left: torch.Tensor
    right: torch.Tensor
    grid: torch.Tensor

    def solution(self, beta: float | torch.Tensor) -> torch.Tensor:
        """Return the solution on the grid, ``[..., 25600]`` for beta of shape ``[...]``."""
        return exact(self.grid, beta=beta)

    def to(self, device: str | torch.device) -> Convection:
        """Return the points on a device."""
        return Convection(**{field.name: getattr(self, field.name).to(device) for field in fields(self)})


def exact(points: torch.Tensor, *, beta: float | torch.Tensor) -> torch.Tensor:
    """Return u(x, t) = sin(x - beta t).

    Args:
        points: (x, t) pairs ``[n, 2]``.
        beta: convection coefficient, a number or a tensor ``[...]`` of them.

    Returns:
        ``[..., n]``.

    >>> exact(torch.tensor([[0.0, 0.0], [3.0, 1.5]]), beta=2.0)
    tensor([0., 0.])
    """
    x, t = points.unbind(-1)
    if isinstance(beta, torch.Tensor):
        beta = beta[..., None]
    return torch.sin(x - beta * t)


def convection(*, collocation: int = 1000, seed: int = 0) -> Convection:
    """Return the points of the convection problem on its grid of 256 x and 100 t.

    Zoos draw one set of collocation points for all networks of a beta, so that their losses can be compared.

    Source: Krishnapriyan et al., *Characterizing possible failure modes in physics-informed neural networks*,
    NeurIPS 2021 (grid, points and the sampling of the collocation points from the inside of the grid).

    Args:
        collocation: number of collocation points, at most 255 x 99.
        seed: seed of their draw.

    Raises:
        ValueError: more collocation points than the inside of the grid has.

    >>> points = convection(collocation=64)
    >>> points.collocation.shape, points.grid.shape
    (torch.Size([64, 2]), torch.Size([25600, 2]))
    """
    inside = (NX - 1) * (NT - 1)
    if not 0 < collocation <= inside:
        raise ValueError(f"{collocation} collocation points were asked; the inside of the grid has {inside}.")
    x = 2 * math.pi * torch.arange(NX, dtype=torch.float64) / NX
    t = torch.linspace(0, 1, NT, dtype=torch.float64)
    grid = torch.stack([x.expand(NT, NX), t[:, None].expand(NT, NX)], -1)  # [t, x, 2]
    chosen = torch.randperm(inside, generator=torch.Generator().manual_seed(seed))[:collocation]
    left = grid[:, 0]
    right = left + torch.tensor([2 * math.pi, 0.0])
    parts = (grid[1:, 1:].reshape(-1, 2)[chosen], grid[0], left, right, grid.reshape(-1, 2))
    return Convection(*(part.float().contiguous() for part in parts))
