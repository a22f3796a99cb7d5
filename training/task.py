"""What networks are trained for: batches, the loss of a batch, and what is reported of a whole data set."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from phasezoo.manifest import Manifest
from phasezoo.training.augment import augment
from phasezoo.training.data import Convection, Data, Text, exact
from phasezoo.training.recipe import Augmentation, Recipe, Trial


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


class Task(Protocol):
    """A data set, and what a network shall do on it."""

    def __len__(self) -> int:
        """Return the number of training samples."""

    def batch(self, index: torch.Tensor, *, epoch: int, start: int) -> Any:
        """Return training samples as `means` takes them; the first of them is number `start` that the epoch sees."""

    def means(self, net: nn.Module, batch: Any) -> dict[str, torch.Tensor]:
        """Return the means over a batch; "loss" among them has a gradient."""

    def evaluate(self, net: nn.Module, *, train: bool = True) -> dict[str, float]:
        """Return the metrics of a network in eval mode, on all test samples and, if asked, all training samples."""


class Labelled:
    """Cross-entropy and accuracy: of images ``[n, c, h, w]`` or vectors, or token by token of texts ``[n, length]``.

    Args:
        data: the samples.
        augmentation: what is done to training images, before they are normalised.
        seed: seed of what is drawn for it.
        label_smoothing: of the training loss.
        device: where to compute.
    """

    def __init__(
        self,
        data: Data,
        *,
        augmentation: Augmentation | None = None,
        seed: int = 0,
        label_smoothing: float = 0.0,
        device: str = "cpu",
    ) -> None:
        self.data, self.augmentation, self.seed = data.to(device), augmentation, seed
        self.label_smoothing, self.device = label_smoothing, device
        # Logits of at most 256 MB at a time.
        self.at_a_time = min(512, max(1, 2**26 // (data.classes * data.train.y[0].numel())))

    def __len__(self) -> int:
        return len(self.data.train)

    def batch(self, index: torch.Tensor, *, epoch: int, start: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return training samples, augmented and normalised."""
        train, index = self.data.train, index.to(self.device)
        x = train.x[index]
        if self.augmentation:
            seen = torch.arange(start, start + len(index), device=self.device)
            x = augment(x, seen, seed=self.seed, epoch=epoch, **self.augmentation.model_dump())
        return train.normalise(x), train.y[index].long()

    def means(self, net: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Return loss and accuracy."""
        return self._means(net, batch, self.label_smoothing)

    def evaluate(self, net: nn.Module, *, train: bool = True) -> dict[str, float]:
        """Return loss and accuracy, without augmentation and smoothing."""
        found: dict[str, float] = {}
        with torch.no_grad():
            for name, split in (("train", self.data.train), ("test", self.data.test))[not train :]:
                means = Means()
                for batch in split.batches(self.at_a_time):
                    means.add(self._means(net, batch, 0.0), len(batch[1]))
                found |= {f"{name}_{key}": value for key, value in means.items().items()}
        return found

    def _means(
        self, net: nn.Module, batch: tuple[torch.Tensor, torch.Tensor], smoothing: float
    ) -> dict[str, torch.Tensor]:
        x, y = batch
        logits, y = net(x).flatten(0, -2), y.flatten()  # [samples or tokens, classes]
        return {
            "loss": cross_entropy(logits, y, label_smoothing=smoothing),
            "acc": (logits.detach().argmax(-1) == y).double().mean(),
        }


class Convected:
    """One-dimensional convection, u_t + beta u_x = 0: residual, initial values and period; see `Convection`.

        loss = mean (u(x, 0) - sin x)^2 + mean (u(0, t) - u(2 pi, t))^2 + mean (u_t + beta u_x)^2

    Args:
        points: where the equation has to hold, and the grid on which the error is taken.
        beta: convection coefficient.
        device: where to compute.
    """

    def __init__(self, points: Convection, *, beta: float, device: str = "cpu") -> None:
        self.points, self.beta = points.to(device), beta
        self.initial, self.solution = exact(self.points.initial, beta=beta), self.points.solution(beta)

    def __len__(self) -> int:
        return len(self.points.collocation)

    def batch(self, index: torch.Tensor, *, epoch: int, start: int) -> torch.Tensor:
        """Return collocation points."""
        return self.points.collocation[index.to(self.points.collocation.device)]

    def means(self, net: nn.Module, batch: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the loss."""
        edges = (self.points.initial, self.points.left, self.points.right)
        initial, left, right = net(torch.cat(edges)).squeeze(1).split([len(edge) for edge in edges])
        inside = batch.detach().requires_grad_()
        (slope,) = torch.autograd.grad(net(inside).sum(), inside, create_graph=True)
        u_x, u_t = slope.unbind(1)
        terms = (initial - self.initial, left - right, u_t + self.beta * u_x)
        return {"loss": torch.stack([term.square().mean() for term in terms]).sum()}

    def evaluate(self, net: nn.Module, *, train: bool = True) -> dict[str, float]:
        """Return the loss at the training points, and the error on the grid: mean square, and in L2, relative to u."""
        loss = {"train_loss": self.means(net, self.points.collocation)["loss"].item()} if train else {}
        with torch.no_grad():
            error = net(self.points.grid).squeeze(1) - self.solution
        return loss | {
            "test_loss": error.double().square().mean().item(),
            "relative_l2": (error.norm() / self.solution.norm()).item(),
        }


def task_of(recipe: Recipe, trial: Trial, data: Data | Text | Convection, *, device: str = "cpu") -> Task:
    """Return what a trial is trained for, on a data set as `load_data` gives it."""
    if isinstance(data, Convection):
        assert trial.beta is not None
        return Convected(data, beta=trial.beta, device=device)
    samples = labelled(data, samples=recipe.samples, normalize=recipe.normalize, arguments=trial.arguments)
    return Labelled(
        samples,
        augmentation=recipe.augmentation,
        seed=trial.seed,
        label_smoothing=recipe.label_smoothing,
        device=device,
    )


def task_of_zoo(
    manifest: Manifest, config: Mapping[str, Any], data: Data | Text | Convection, *, device: str = "cpu"
) -> Task:
    """Return the task of one model of a zoo, to evaluate it.

    Args:
        manifest: of the zoo; its provenance says which part of the data set was used.
        config: the model's row of `configs`.
        data: the data set.
        device: where to compute.
    """
    if isinstance(data, Convection):
        return Convected(data, beta=config["beta"], device=device)
    used = manifest.provenance.recipe
    arguments = json.loads(config["architecture_config"])
    samples = labelled(data, samples=used.get("samples"), normalize=used.get("normalize"), arguments=arguments)
    return Labelled(samples, device=device)


def labelled(
    data: Data | Text,
    *,
    samples: Sequence[int] | None,
    normalize: Sequence[Sequence[float]] | None,
    arguments: Mapping[str, Any],
) -> Data:
    """Return samples with labels as a recipe uses them.

    Args:
        data: the data set; a text is cut into windows of the network's context.
        samples: training and test samples to use, the first of each; None is all.
        normalize: mean and standard deviation of the channels, in place of those of the data set.
        arguments: of the architecture.

    >>> from phasezoo.training.data import load_data
    >>> len(labelled(load_data("digits"), samples=(100, 50), normalize=None, arguments={}).train)
    100
    """
    if isinstance(data, Text):
        data = data.windows(arguments["context"])
    splits = [data.train, data.test]
    if samples is not None:
        splits = [split.take(slice(n)) for split, n in zip(splits, samples, strict=True)]
    if normalize is not None:
        mean, std = map(tuple, normalize)
        splits = [replace(split, mean=mean, std=std) for split in splits]
    return Data(splits[0], splits[1], data.classes)
