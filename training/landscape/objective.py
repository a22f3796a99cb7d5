"""What is differentiated: the loss of each task, as a mean over samples of what a network puts out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from phasezoo.manifest import Manifest
from phasezoo.training.data import Convection, Data, Split, Text, exact
from phasezoo.training.landscape.replay import Loss
from phasezoo.training.task import labelled


@dataclass(frozen=True)
class Objective:
    """The loss of the models of a zoo.

    Attributes:
        data: samples to train and test on; for an equation the collocation points, and the grid with the solution.
        loss: mean loss of outputs and labels.
        points: of an equation; None for labelled samples.
    """

    data: Data
    loss: Loss = cross_entropy
    points: Convection | None = None

    def network(self, net: nn.Module, config: Mapping[str, Any]) -> nn.Module:
        """Return the network whose outputs `loss` takes: of an equation, one that puts out what a point costs."""
        return net if self.points is None else Convected(net, points=self.points, beta=config["beta"])


def objective_of(manifest: Manifest, config: Mapping[str, Any], data: Data | Text | Convection) -> Objective:
    """Return what the models of a zoo minimise, on the part of the data set that they were trained on.

    Args:
        manifest: of the zoo.
        config: row of `configs` of one of its models.
        data: the data set.
    """
    if isinstance(data, Convection):
        points, grid = data.collocation, data.grid
        nothing = torch.zeros(len(points), dtype=torch.int64)
        solved = Data(Split(points, nothing), Split(grid, torch.zeros(len(grid), dtype=torch.int64)), classes=0)
        return Objective(solved, loss=mean_of_outputs, points=data)
    used = manifest.provenance.recipe
    samples = labelled(
        data,
        samples=used.get("samples"),
        normalize=used.get("normalize"),
        arguments=json.loads(config["architecture_config"] or "{}"),
    )
    return Objective(samples, loss=cross_entropy if samples.train.y.dim() == 1 else cross_entropy_of_tokens)


def cross_entropy_of_tokens(logits: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Return the mean cross-entropy over all tokens of logits ``[n, length, classes]``.

    >>> cross_entropy_of_tokens(torch.zeros(2, 3, 4), torch.zeros(2, 3, dtype=torch.int64))
    tensor(1.3863)
    """
    return cross_entropy(logits.flatten(0, -2), y.flatten())


def mean_of_outputs(out: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Return the mean of outputs that are losses themselves; labels are not looked at."""
    return out.mean()


class Convected(nn.Module):
    """What a collocation point costs a network u: the squared residual there, and the mean errors at the edges.

    The mean over the points is the training loss.

    Args:
        net: maps ``[n, 2]`` to ``[n, 1]``.
        points: of the problem.
        beta: convection coefficient.

    >>> from phasezoo.nets import build
    >>> from phasezoo.training.data import convection
    >>> net = build("mlp", in_features=2, width=4, depth=1, out_features=1, activation="tanh")
    >>> for parameter in net.parameters(): _ = nn.init.zeros_(parameter)
    >>> round(Convected(net, points=convection(collocation=8), beta=3.0)(torch.zeros(5, 2)).mean().item(), 6)
    0.5
    """

    def __init__(self, net: nn.Module, *, points: Convection, beta: float) -> None:
        super().__init__()
        self.net, self.points, self.beta = net, points, beta
        self.initial = exact(points.initial, beta=beta)
        self.train(net.training)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map points ``[n, 2]`` to their costs ``[n, 1]``."""
        with torch.enable_grad():  # the slope takes a graph, even where nothing else does
            x = x.detach().requires_grad_()
            (slope,) = torch.autograd.grad(self.net(x).sum(), x, create_graph=True)
        residual = slope[:, 1:] + self.beta * slope[:, :1]  # u_t + beta u_x
        edges = (self.points.initial, self.points.left, self.points.right)
        u = self.net(torch.cat(edges).to(x)).squeeze(1)
        initial, left, right = u.split([len(edge) for edge in edges])
        fixed = (initial - self.initial.to(x)).square().mean() + (left - right).square().mean()
        cost: torch.Tensor = residual.square() + fixed
        return cost
