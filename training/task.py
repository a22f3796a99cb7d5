"""What networks are trained for: the loss of a batch, and what is reported of a whole data set."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from phasezoo.training.data import Split
from phasezoo.training.recipe import Recipe, Trial

# Maps (network, inputs, targets) to means over the batch; "loss" among them has a gradient.
Objective = Callable[[nn.Module, torch.Tensor, torch.Tensor], dict[str, torch.Tensor]]


class Means:
    """Means of what batches report, weighted by their samples, in float64."""

    def __init__(self) -> None:
        self.sums: dict[str, torch.Tensor] = {}
        self.samples = 0

    def add(self, means: Mapping[str, torch.Tensor], n: int) -> None:
        """Add the means over n samples."""
        for name, value in means.items():
            self.sums[name] = self.sums.get(name, 0) + value.detach().double() * n
        self.samples += n

    def items(self) -> dict[str, float]:
        """Return the means.

        >>> means = Means()
        >>> means.add({"loss": torch.tensor(1.0)}, 3)
        >>> means.add({"loss": torch.tensor(5.0)}, 1)
        >>> means.items()
        {'loss': 2.0}
        """
        return {name: (total / self.samples).item() for name, total in self.sums.items()}


def classification(*, label_smoothing: float = 0.0) -> Objective:
    """Return cross-entropy and accuracy, of images ``[n, ...]`` or, token by token, of texts ``[n, length]``.

    >>> net = nn.Linear(2, 3)
    >>> means = classification()(net, torch.zeros(5, 2), torch.zeros(5, dtype=torch.int64))
    >>> sorted(means)
    ['acc', 'loss']
    """

    def objective(net: nn.Module, x: torch.Tensor, y: torch.Tensor) -> dict[str, torch.Tensor]:
        logits = net(x).flatten(0, -2)  # [samples or tokens, classes]
        y = y.flatten()
        return {
            "loss": cross_entropy(logits, y, label_smoothing=label_smoothing),
            "acc": (logits.detach().argmax(-1) == y).double().mean(),
        }

    return objective


def objective_of(recipe: Recipe, trial: Trial) -> Objective:
    """Return what a trial minimises in training."""
    return classification(label_smoothing=recipe.label_smoothing)


def evaluate(objective: Objective, net: nn.Module, split: Split, *, batch_size: int = 512) -> dict[str, float]:
    """Return the means over a whole split, in eval mode; the mode that the network was in is restored."""
    device = next(net.parameters()).device
    training, means = net.training, Means()
    net.eval()
    with torch.no_grad():
        for x, y in zip(split.x.split(batch_size), split.y.split(batch_size), strict=True):
            means.add(objective(net, x.to(device), y.to(device)), len(y))
    net.train(training)
    return means.items()
