"""Image sets, from a local directory or the Hub, as bytes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from phasezoo import settings
from phasezoo.errors import DataNotFoundError, DependencyError, FormatError
from phasezoo.training.data.idx import read_idx
from phasezoo.training.data.split import Data, Split
from phasezoo.training.data.wordnet import TINYIMAGENET


@dataclass(frozen=True, kw_only=True)
class ImageSet:
    """Where an image set is and what its images are.

    Attributes:
        title: name for people.
        repository: data set on the Hub.
        folder: where its Parquet files lie there.
        image: column of the images.
        label: column of the labels.
        test: name of the split for testing.
        shape: channels, height and width.
        classes: number of classes.
        mean: mean of each channel, of pixels in 0..1.
        std: standard deviation of each channel.
        class_names: the classes in the order in which the zoos number them, where the Hub has another.
        idx: directory with the files in idx format, where a package of the system installs them.
        package: that package.
    """

    title: str
    repository: str
    folder: str
    image: str = "image"
    label: str = "label"
    test: str = "test"
    shape: tuple[int, int, int]
    classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    class_names: Sequence[str] = ()
    idx: str | None = None
    package: str | None = None


# Means and standard deviations are those of the published recipes; for Fashion-MNIST those of its training images.
IMAGE_SETS: dict[str, ImageSet] = {
    "cifar10": ImageSet(
        title="CIFAR-10",
        repository="uoft-cs/cifar10",
        folder="plain_text",
        image="img",
        shape=(3, 32, 32),
        classes=10,
        mean=(125.3 / 255, 123.0 / 255, 113.9 / 255),
        std=(63.0 / 255, 62.1 / 255, 66.7 / 255),
    ),
    "cifar100": ImageSet(
        title="CIFAR-100",
        repository="uoft-cs/cifar100",
        folder="cifar100",
        image="img",
        label="fine_label",
        shape=(3, 32, 32),
        classes=100,
        mean=(0.5071, 0.4867, 0.4408),
        std=(0.2675, 0.2565, 0.2761),
    ),
    "svhn": ImageSet(
        title="SVHN, cropped digits",
        repository="ufldl-stanford/svhn",
        folder="cropped_digits",
        shape=(3, 32, 32),
        classes=10,
        mean=(0.4377, 0.4438, 0.4728),
        std=(0.198, 0.201, 0.197),
    ),
    "tinyimagenet": ImageSet(
        title="TinyImageNet",
        repository="zh-plus/tiny-imagenet",
        folder="data",
        test="valid",
        shape=(3, 64, 64),
        classes=200,
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        class_names=TINYIMAGENET,
    ),
    "fashion-mnist": ImageSet(
        title="Fashion-MNIST",
        repository="zalando-datasets/fashion_mnist",
        folder="fashion_mnist",
        shape=(1, 28, 28),
        classes=10,
        mean=(0.2860,),
        std=(0.3530,),
        idx="/usr/share/datasets/fashion-mnist",
        package="dataset-fashion-mnist",
    ),
}


def images(name: str) -> Data:
    """Return an image set with its pixels as bytes ``[n, channels, h, w]``; batches of its splits are normalised.

    Looked for in this order: the folder of that name in ``PHASEZOO_DATA`` (Parquet files as on the Hub, or files in
    idx format), the directory in which a package of the system installs it, the Hub.

    Args:
        name: a key of `IMAGE_SETS`.

    Raises:
        DataNotFoundError: the files are in none of these places.
        FormatError: the files do not hold what they should.
        DependencyError: a library that reads them is not installed.
    """
    found = IMAGE_SETS[name]
    splits = [_split(name, found, split) for split in ("train", found.test)]
    return Data(splits[0], splits[1], classes=found.classes)


def _split(name: str, found: ImageSet, split: str) -> Split:
    tried = []
    for folder in local_folders(name, found):
        if parquet := parquet_files(folder / found.folder, split) or parquet_files(folder, split):
            return _decoded(found, split, _parquet(parquet), str(folder))
        if idx := _idx_files(folder, split):
            return _checked(found, split, *(read_idx(path) for path in idx), where=str(folder))
        tried.append(f"{folder} has neither Parquet nor idx files of its split {split!r}")
    try:
        rows = _hub(found, split)
    except (OSError, ValueError, RuntimeError) as error:
        raise DataNotFoundError(missing(name, found.title, found.repository, tried, error, found.package)) from None
    return _decoded(found, split, rows, f"the Hub's {found.repository}")


def local_folders(name: str, found: ImageSet | None = None) -> list[Path]:
    """Return the directories in which a data set may lie."""
    places = [Path(root) / name] if (root := settings.data()) else []
    return places + ([Path(found.idx)] if found and found.idx else [])


def parquet_files(folder: Path, split: str) -> list[str]:
    """Return the Parquet files of a split in a directory, in the order of their names."""
    return sorted(map(str, folder.glob(f"{split}-*.parquet")))


def missing(
    name: str, title: str, repository: str, tried: Iterable[str], error: Exception, package: str | None = None
) -> str:
    """Say where a data set was looked for, and how to get it."""
    root = settings.data()
    places = [*tried, f"the Hub's {repository} cannot be read ({str(error).splitlines()[0]})"]
    ways = f"hf download --repo-type dataset {repository} --local-dir {root or 'DIR'}/{name}"
    setting = "" if root else " and set PHASEZOO_DATA=DIR"
    system = f", or install the package {package} of Debian or Ubuntu" if package else ""
    return (
        f"{title} is not here: {'; '.join(places)}. Connect to the network, or copy it from a machine that is: "
        f"{ways}{setting}{system}."
    )


def _idx_files(folder: Path, split: str) -> list[Path]:
    stem = "train" if split == "train" else "t10k"
    for suffix in (".gz", ""):
        paths = [folder / f"{stem}-{what}-ubyte{suffix}" for what in ("images-idx3", "labels-idx1")]
        if all(path.is_file() for path in paths):
            return paths
    return []


def _parquet(paths: Sequence[str]) -> Any:
    import datasets

    # Streamed: the rows are read once, and the library would copy them into its cache first.
    return datasets.load_dataset("parquet", data_files={"rows": list(paths)}, split="rows", streaming=True)


def _hub(found: ImageSet, split: str) -> Any:
    import datasets

    # By file, not by configuration, all of whose splits the library would fetch: SVHN has another one of 1 GB.
    files = {split: f"{found.folder}/{split}-*.parquet"}
    return datasets.load_dataset(found.repository, data_files=files, split=split)


def _decoded(found: ImageSet, split: str, rows: Any, where: str) -> Split:
    """Decode the rows of a data set; they come with the columns and classes that their files state."""
    import datasets

    columns = rows.features or {}
    for column in (found.image, found.label):
        if column not in columns:
            raise FormatError(
                f"{where} has no column {column!r}, but {', '.join(columns)}. It should be a copy of the Hub's "
                f"{found.repository}."
            )
    number = _renumber(found, getattr(columns[found.label], "names", None), where)
    channels, height, width = found.shape
    mode = "L" if channels == 1 else "RGB"
    rows = rows.select_columns([found.image, found.label]).cast_column(found.image, datasets.Image(mode=mode))
    pixels = bytearray()
    labels: list[int] = []
    try:
        for row in rows:
            image = row[found.image]
            if image.size != (width, height):
                raise FormatError(
                    f"image {len(labels)} of {split!r} in {where} is {image.width}x{image.height} pixels; those of "
                    f"{found.title} are {width}x{height}."
                )
            pixels += image.tobytes()
            labels.append(row[found.label])
    except ImportError:
        raise DependencyError("images are decoded by Pillow: pip install 'phasezoo[train]'.") from None
    if not labels:
        raise FormatError(f"the split {split!r} in {where} is empty.")
    x = torch.frombuffer(pixels, dtype=torch.uint8).view(-1, height, width, channels).movedim(3, 1).contiguous()
    y = torch.tensor(labels)
    return _checked(found, split, x, y if number is None else number[y], where=where)


def _renumber(found: ImageSet, names: Sequence[str] | None, where: str) -> torch.Tensor | None:
    """Return the number that the zoos give to each class of the files, where the two differ."""
    if not found.class_names:
        return None
    if names is None or set(names) != set(found.class_names):
        raise FormatError(
            f"the labels in {where} do not name the {found.classes} classes of {found.title} by their WordNet ids, "
            f"without which they cannot be numbered as in the zoos. Use a copy of the Hub's {found.repository}."
        )
    return torch.tensor([found.class_names.index(name) for name in names])


def _checked(found: ImageSet, split: str, x: torch.Tensor, y: torch.Tensor, *, where: str) -> Split:
    x, y = x.view(-1, *found.shape), y.long()
    if len(x) != len(y) or not 0 <= int(y.min()) <= int(y.max()) < found.classes:
        raise FormatError(
            f"the split {split!r} in {where} holds {len(x)} images and {len(y)} labels from {y.min()} to {y.max()}; "
            f"{found.title} has one label an image, from 0 to {found.classes - 1}."
        )
    return Split(x, y, mean=found.mean, std=found.std)
