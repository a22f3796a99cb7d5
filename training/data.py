"""Data sets by name, as tensors in memory."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from phasezoo.errors import DependencyError, ZooNotFoundError, nearest


@dataclass(frozen=True)
class Split:
    """Inputs ``[n, ...]`` (normalised float32) and labels ``[n]`` (int64)."""

    x: torch.Tensor
    y: torch.Tensor

    def __len__(self) -> int:
        return len(self.y)


@dataclass(frozen=True)
class Data:
    """A data set, split as the zoo that uses it was trained."""

    train: Split
    test: Split
    classes: int


def digits() -> Data:
    """Return scikit-learn's 8x8 digits: 1,000 training and 797 test images, flattened.

    Pixels are divided by 16, then shifted and scaled by the mean and standard deviation (scalars) of the
    training images. The split is stratified with random state 0.

    Source: UCI "Optical Recognition of Handwritten Digits", test part, as shipped with scikit-learn.

    >>> data = digits()
    >>> data.train.x.shape, data.test.x.shape, data.classes
    (torch.Size([1000, 64]), torch.Size([797, 64]), 10)
    """
    try:
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split
    except ImportError:
        raise DependencyError("the digits come with scikit-learn: pip install 'phasezoo[train]'.") from None
    x, y = load_digits(return_X_y=True)
    x_train, x_test, y_train, y_test = train_test_split(x / 16, y, train_size=1000, random_state=0, stratify=y)
    mean, std = x_train.mean(), x_train.std()

    def split(x: object, y: object) -> Split:
        return Split(torch.as_tensor((x - mean) / std, dtype=torch.float32), torch.as_tensor(y, dtype=torch.int64))

    return Data(split(x_train, y_train), split(x_test, y_test), classes=10)


DATASETS = {"digits": digits}


def load_data(name: str) -> Data:
    """Return a data set by the name that a zoo's manifest gives.

    Raises:
        ZooNotFoundError: no data set of that name.
        DependencyError: the library that brings it is not installed.
    """
    if name not in DATASETS:
        raise ZooNotFoundError(f"no data set {name!r}. {nearest(name, DATASETS)}")
    return DATASETS[name]()
