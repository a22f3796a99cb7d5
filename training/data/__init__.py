"""Data sets by name, as tensors in memory."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from phasezoo.errors import DataNotFoundError, nearest
from phasezoo.training.data.image_sets import IMAGE_SETS, images
from phasezoo.training.data.points import Convection, convection, exact
from phasezoo.training.data.sklearn_digits import digits, digits_8x8
from phasezoo.training.data.split import Batches, Data, Split
from phasezoo.training.data.text import Text, pydoc_topics, text_file
from phasezoo.training.data.webtext import VOCAB, openwebtext

__all__ = [
    "Batches",
    "Convection",
    "Data",
    "Split",
    "Text",
    "convection",
    "digits",
    "digits_8x8",
    "exact",
    "generated",
    "images",
    "load_data",
    "openwebtext",
    "pydoc_topics",
    "text_file",
]

DATASETS: dict[str, Callable[[], Data | Text | Convection]] = {
    "digits": digits,
    "digits-8x8": digits_8x8,
    **{name: partial(images, name) for name in IMAGE_SETS},
    "openwebtext": openwebtext,
    "pydoc-topics": pydoc_topics,
    "convection": convection,
}

# what `generated` makes up where the files are not asked: (shape, classes) of digits, number of tokens of texts
_DIGITS: dict[str, tuple[int, ...]] = {"digits": (64,), "digits-8x8": (1, 8, 8)}
_VOCAB = {"openwebtext": VOCAB, "pydoc-topics": 103}


def load_data(name: str) -> Data | Text | Convection:
    """Return a data set by the name that a zoo's manifest gives, or a text by the path of its file.

    Raises:
        DataNotFoundError: no data set of that name, or its files are neither here nor within reach.
        DependencyError: the library that brings it is not installed.

    >>> load_data("digits").classes
    10
    """
    if name in DATASETS:
        return DATASETS[name]()
    if Path(name).is_file():
        return text_file(name)
    raise DataNotFoundError(f"no data set {name!r}, and no file of that name. {nearest(name, DATASETS, limit=20)}")


def generated(name: str, *, samples: int = 32, seed: int = 0) -> Data | Text | Convection:
    """Make up a small data set with the shapes, types and labels of a real one, without its files.

    Args:
        name: a name that `load_data` takes.
        samples: how many samples to train on, and as many to test on; for text windows of 1,024 tokens, for
            convection collocation points.
        seed: seed of the random numbers.

    Raises:
        DataNotFoundError: no data set of that name.

    >>> data = generated("tinyimagenet", samples=4)
    >>> data.train.x.shape, data.train.x.dtype, data.classes
    (torch.Size([4, 3, 64, 64]), torch.uint8, 200)
    """
    if name not in DATASETS:
        raise DataNotFoundError(f"no data set {name!r}. {nearest(name, DATASETS, limit=20)}")
    generator = torch.Generator().manual_seed(seed)
    draw = partial(torch.randint, generator=generator)
    if name in IMAGE_SETS:
        found = IMAGE_SETS[name]
        train, test = (
            Split(
                draw(256, (samples, *found.shape), dtype=torch.uint8),
                draw(found.classes, (samples,)),
                mean=found.mean,
                std=found.std,
            )
            for _ in range(2)
        )
        return Data(train, test, classes=found.classes)
    if name in _DIGITS:
        shape = (samples, *_DIGITS[name])
        train, test = (Split(torch.randn(shape, generator=generator), draw(10, (samples,))) for _ in range(2))
        return Data(train, test, classes=10)
    if name in _VOCAB:
        vocab = _VOCAB[name]
        parts = [draw(vocab, (samples * 1024 + 1,), dtype=torch.int32) for _ in range(2)]
        return Text(parts[0], parts[1], vocab, sha256="")
    return convection(collocation=samples, seed=seed)
