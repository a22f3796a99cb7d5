"""The spectral density, by quadrature from Lanczos."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from phasezoo.training.landscape.hessian.operator import MEMORY, Operator, signs
from phasezoo.training.landscape.lanczos import lanczos


@dataclass(frozen=True)
class Density:
    """Quadrature rules whose average is the spectral density: unit mass, spread over `nodes` by `weights`.

    Attributes:
        nodes: eigenvalue estimates ``[..., probes, steps]``, float64.
        weights: their masses; they sum to 1 for each probe.

    >>> density = Density(torch.tensor([[0.0, 2.0]]), torch.tensor([[0.75, 0.25]]))  # three quarters of it at zero
    >>> (density.nodes * density.weights).sum().item()  # the mean eigenvalue
    0.5
    >>> grid = torch.linspace(-2, 4, 601, dtype=torch.float64)
    >>> round(torch.trapezoid(density.smooth(grid, sigma=0.1), grid).item(), 6)
    1.0
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

    >>> from phasezoo.training.landscape.hvp import HessianOperator
    >>> x, half_square = torch.diag(torch.tensor([1.0, 3.0])), lambda out, y: (out - y).square().mean() / 2
    >>> net = torch.nn.Linear(2, 1, bias=False)
    >>> op = HessianOperator(net, batches=[(x, torch.zeros(2, 1))], loss=half_square)  # H = x'x / 2
    >>> density = spectral_density(op, probes=1)
    >>> [round(node, 3) for node in density.nodes[0].tolist()], [round(mass, 3) for mass in density.weights[0].tolist()]
    ([0.5, 4.5], [0.5, 0.5])
    """
    start = signs(op, probes, torch.Generator().manual_seed(seed))
    size = math.prod(op.shape) * op.dtype.itemsize * min(steps, op.shape[-1])
    rules = []
    for block in torch.split(start, max(1, int(MEMORY / size))):
        *_, last = lanczos(op.matmat, start=block, steps=steps, seed=seed)
        nodes, vectors = last.ritz()
        rules.append((nodes, vectors[..., 0, :].square()))
    nodes, weights = (torch.cat(parts).movedim(0, -2) for parts in zip(*rules, strict=True))
    return Density(nodes, weights)
