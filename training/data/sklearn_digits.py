"""Scikit-learn's digits."""

from __future__ import annotations

from phasezoo.errors import DependencyError
from phasezoo.training.data.split import Data, Split


def digits() -> Data:
    """Return scikit-learn's 8x8 digits: 1,000 training and 797 test images, flattened.

    Pixels are divided by 16, then shifted and scaled by the mean and standard deviation (scalars) of the
    training images. The split is stratified with random state 0.

    Source: UCI "Optical Recognition of Handwritten Digits", test part, as shipped with scikit-learn.

    >>> data = digits()
    >>> data.train.x.shape, data.test.x.shape, data.classes
    (torch.Size([1000, 64]), torch.Size([797, 64]), 10)
    """
    import torch

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


def digits_8x8() -> Data:
    """Return the digits as images ``[n, 1, 8, 8]``, with the same values and the same split.

    >>> digits_8x8().train.x.shape
    torch.Size([1000, 1, 8, 8])
    """
    flat = digits()
    train, test = (Split(split.x.view(-1, 1, 8, 8), split.y) for split in (flat.train, flat.test))
    return Data(train, test, classes=10)
