"""The parts of a data set, and how a batch of one becomes what a network takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import overload

import torch

Batch = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class Split:
    """Inputs and labels.

    Large image sets stay as they are on disk, a byte a value: TinyImageNet takes 1.2 GB, as float32 it would take 4.9.
    Their batches are normalised when they are asked for.

    Attributes:
        x: inputs ``[n, ...]``: normalised float32, pixels ``[n, channels, h, w]`` (uint8), or tokens (integers).
        y: labels ``[n, ...]`` (integers).
        mean: mean of each channel of pixels in 0..1; None if `x` holds no pixels.
        std: standard deviation of each channel.

    >>> pixels, labels = torch.arange(6, dtype=torch.uint8).view(3, 1, 1, 2), torch.tensor([0, 1, 0])
    >>> split = Split(pixels, labels, mean=(0.5,), std=(0.25,))
    >>> x, y = split.take([0, 2]).batch(slice(None))
    >>> x.dtype, y  # pixels become what a network takes
    (torch.float32, tensor([0, 0]))
    """

    x: torch.Tensor
    y: torch.Tensor
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    def __len__(self) -> int:
        return len(self.y)

    def normalise(self, x: torch.Tensor) -> torch.Tensor:
        """Make inputs of this split what a network takes; augmentation comes before.

        Pixels (uint8) become float32: (x / 255 - mean) / std. Tokens become int64. Floats stay as they are.

        >>> pixels = torch.tensor([[[[255, 0]]]], dtype=torch.uint8)
        >>> Split(pixels, torch.tensor([3]), mean=(0.5,), std=(0.25,)).normalise(pixels)
        tensor([[[[ 2., -2.]]]])
        """
        if x.is_floating_point():
            return x
        if self.mean is None or self.std is None:
            return x.long()
        mean, std = (torch.tensor(values, device=x.device).view(-1, 1, 1) for values in (self.mean, self.std))
        return x.float().div_(255).sub_(mean).div_(std)

    def batch(self, index: torch.Tensor | slice | Sequence[int]) -> Batch:
        """Return some samples as a network takes them: inputs, and labels in int64."""
        return self.normalise(self.x[index]), self.y[index].long()

    def batches(self, size: int) -> Batches:
        """Cut the split into batches of at most `size` samples, in order.

        >>> [len(y) for _, y in Split(torch.zeros(10, 2), torch.zeros(10)).batches(4)]
        [4, 4, 2]
        """
        return Batches(self, size)

    def take(self, index: torch.Tensor | slice | Sequence[int]) -> Split:
        """Return some samples as a split."""
        return replace(self, x=self.x[index], y=self.y[index])

    def to(self, device: str | torch.device) -> Split:
        """Return the split with its tensors on a device."""
        return replace(self, x=self.x.to(device), y=self.y.to(device))


class Batches(Sequence[Batch]):
    """The batches of a split, made when they are touched; as often as one likes."""

    def __init__(self, split: Split, size: int) -> None:
        self.split, self.size = split, size

    def __len__(self) -> int:
        return -(-len(self.split) // self.size)

    @overload
    def __getitem__(self, i: int) -> Batch: ...
    @overload
    def __getitem__(self, i: slice) -> list[Batch]: ...
    def __getitem__(self, i: int | slice) -> Batch | list[Batch]:
        if isinstance(i, slice):
            return [self[j] for j in range(len(self))[i]]
        start = range(len(self))[i] * self.size
        return self.split.batch(slice(start, start + self.size))


@dataclass(frozen=True)
class Data:
    """Samples with a label each, split as the zoo that uses them was trained.

    >>> from phasezoo.training.data import load_data
    >>> data = load_data("digits")
    >>> len(data.train), len(data.test), data.classes
    (1000, 797, 10)
    """

    train: Split
    test: Split
    classes: int

    def to(self, device: str | torch.device) -> Data:
        """Return the data set with its tensors on a device."""
        return replace(self, train=self.train.to(device), test=self.test.to(device))
