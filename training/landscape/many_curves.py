"""Bezier curves between many pairs of small perceptrons, trained as one population.

What `fit_bezier` does one curve after another, for networks whose training step is all overhead: the points w(t) of
all curves are the members of a `Population`, which differentiates them by batched matrix products.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch

from phasezoo.nets.mlp import MLP
from phasezoo.training.data import Split
from phasezoo.training.landscape.connectivity import Path
from phasezoo.training.population import Population


def fit_many(
    pairs: Sequence[tuple[MLP, MLP]],
    *,
    data: Split,
    rates: Sequence[float],
    batch_size: int,
    momentum: float,
    weight_decay: float,
    clip: float = math.inf,
    seed: int = 0,
) -> tuple[Population, torch.Tensor]:
    """Train the middle point of one quadratic Bezier curve for each pair of networks.

    Every curve sees the same batches and the same t, as each would alone with this seed.

    Args:
        pairs: the ends of each curve, all of one shape, with ReLU.
        data: training data.
        rates: learning rate of each epoch.
        batch_size: samples per step.
        momentum: momentum of SGD.
        weight_decay: of the regulariser on the weights at t.
        clip: largest norm of a curve's gradient.
        seed: seed of order and t.

    Returns:
        A population to evaluate points with, and the control points ``[3, S, P]``.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.no_grad():
            return _fit(pairs, data, rates, batch_size, momentum, weight_decay, clip, seed)
    finally:
        torch.set_num_threads(threads)


def _fit(
    pairs: Sequence[tuple[MLP, MLP]],
    data: Split,
    rates: Sequence[float],
    batch_size: int,
    momentum: float,
    weight_decay: float,
    clip: float,
    seed: int,
) -> tuple[Population, torch.Tensor]:
    first, last = (Population([pair[i] for pair in pairs], momentum=0.0, weight_decay=0.0) for i in (0, 1))
    points = torch.stack([first.params, (first.params + last.params) / 2, last.params])
    moving = Population([pair[0] for pair in pairs], momentum=0.0, weight_decay=0.0)
    velocity = torch.zeros_like(points[1])
    x = moving.pad(data.x)
    generator = torch.Generator().manual_seed(seed)
    for rate in rates:
        order = torch.randperm(len(data), generator=generator)
        for batch in torch.split(order, batch_size):
            t = torch.rand((), generator=generator).item()
            place(moving, points, t)
            moving.differentiate(x[batch].expand(len(pairs), -1, -1), data.y[batch].expand(len(pairs), -1))
            # d loss(w(t)) / d w_1 = 2 t (1 - t) dL/dw
            grad = (moving.grads + weight_decay * moving.params) * (2 * t * (1 - t))
            grad *= (clip / (grad.norm(dim=1, keepdim=True) + 1e-6)).clamp(max=1)
            velocity.mul_(momentum).add_(grad)
            points[1].sub_(velocity, alpha=rate)
    return moving, points


def place(population: Population, points: torch.Tensor, t: float) -> None:
    """Set the members to w(t) = (1 - t)^2 w_0 + 2 t (1 - t) w_1 + t^2 w_2."""
    weights = points.new_tensor([(1 - t) ** 2, 2 * t * (1 - t), t**2])
    population.params.copy_(torch.einsum("k,ksp->sp", weights, points))


def evaluate_many(
    population: Population, points: torch.Tensor, *, data: Mapping[str, Split], t: Sequence[float]
) -> list[dict[str, Path]]:
    """Evaluate the curves on data sets; one dictionary of paths for each curve, as `Curve.evaluate` gives."""
    paths = [{name: Path(list(t), [], [], []) for name in data} for _ in range(len(population))]
    with torch.no_grad():
        for s in t:
            place(population, points, s)
            for name, split in data.items():
                losses, accuracies = population.evaluate(split)
                for path, loss, accuracy in zip(paths, losses.tolist(), accuracies.tolist(), strict=True):
                    path[name].nll.append(loss)
                    path[name].loss.append(loss)
                    path[name].error.append(100 * (1 - accuracy))
    return paths
