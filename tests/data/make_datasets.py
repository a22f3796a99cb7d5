"""Write small data sets in the files and columns in which the real ones are distributed.

    python tests/data/make_datasets.py DIR    # then PHASEZOO_DATA=DIR

Copies of repositories of the Hub (a card with the configuration, Parquet files with encoded images or text), idx files
compressed by gzip, and byte pairs of GPT-2's format.
"""

from __future__ import annotations

import gzip
import io
import json
import struct
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class Kind:
    """Facts about one image set as it is on the Hub."""

    config: str
    columns: tuple[str, str]  # image, label
    shape: tuple[int, int, int]  # height, width, channels
    classes: int
    files: str = "{config}/{split}-00000-of-00001.parquet"
    splits: tuple[str, str] = ("train", "test")
    format: str = "PNG"


KINDS = {
    "cifar10": Kind("plain_text", ("img", "label"), (32, 32, 3), 10),
    "cifar100": Kind("cifar100", ("img", "fine_label"), (32, 32, 3), 100),
    "svhn": Kind("cropped_digits", ("image", "label"), (32, 32, 3), 10),
    "tinyimagenet": Kind(
        "default",
        ("image", "label"),
        (64, 64, 3),
        200,
        files="data/{split}-00000-of-00001-0123456789abcdef.parquet",
        splits=("train", "valid"),
        format="JPEG",
    ),
    "fashion-mnist": Kind("fashion_mnist", ("image", "label"), (28, 28, 1), 10),
}
DOCUMENTS = ("The cat sat.\n\nOn a mat!", "naïve – 12,345 déjà vu…", "It spells <|endoftext|> out.", "end", "")
Arrays = dict[str, tuple[np.ndarray, np.ndarray]]


def write_images(root: Path, name: str, *, samples: int = 6, seed: int = 0, **changes: object) -> Arrays:
    """Write the copy of an image set into ``root/name``.

    Returns:
        split -> images ``[n, h, w, c]`` as a decoder gives them, and labels as they are in the file.
    """
    import datasets
    from PIL import Image

    kind = Kind(**{**KINDS[name].__dict__, **changes})
    rng = np.random.default_rng(seed)
    names = class_names(name, kind.classes)
    arrays, card = {}, ["configs:", f"- config_name: {kind.config}", "  data_files:"]
    for number, split in enumerate(kind.splits):
        n = samples - number  # splits of different lengths
        images, encoded = [], []
        for i in range(n):
            pixels = rng.integers(0, 256, kind.shape, dtype=np.uint8)
            image = Image.fromarray(
                pixels[..., 0] if kind.shape[2] == 1 or (name == "tinyimagenet" and i == 0) else pixels
            )
            file = io.BytesIO()
            image.save(file, kind.format)
            encoded.append({"bytes": file.getvalue(), "path": f"{i}.{kind.format.lower()}"})
            decoded = np.asarray(Image.open(file))
            images.append(np.broadcast_to(decoded.reshape(*kind.shape[:2], -1), kind.shape))
        labels = rng.integers(0, kind.classes, n)
        labels[:2] = 0, kind.classes - 1
        extra = {"coarse_label": np.zeros(n, int)} if name == "cifar100" else {}
        features = datasets.Features(
            {
                kind.columns[0]: datasets.Image(),
                kind.columns[1]: datasets.ClassLabel(names=names),
                **{key: datasets.Value("int64") for key in extra},
            }
        )
        rows = {kind.columns[0]: encoded, kind.columns[1]: labels.tolist(), **{k: v.tolist() for k, v in extra.items()}}
        path = root / name / kind.files.format(config=kind.config, split=split)
        path.parent.mkdir(parents=True, exist_ok=True)
        datasets.Dataset.from_dict(rows, features=features).to_parquet(path)
        card += [f"  - split: {split}", f"    path: {path.relative_to(root / name)}"]
        arrays[split] = (np.stack(images), labels)
    (root / name / "README.md").write_text("\n".join(["---", *card, "---", ""]))
    return arrays


def class_names(name: str, classes: int) -> list[str]:
    """Return the names of the classes, in the order of the Hub."""
    if name == "tinyimagenet":
        from phasezoo.training.data.wordnet import TINYIMAGENET

        return sorted(TINYIMAGENET)
    return [f"class {i}" for i in range(classes)]


def idx(array: np.ndarray) -> bytes:
    """Return an array of bytes in idx format."""
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()


def write_idx(folder: Path, *, samples: int = 6, seed: int = 0) -> Arrays:
    """Write the four files of Fashion-MNIST as Debian installs them."""
    rng = np.random.default_rng(seed)
    arrays = {}
    folder.mkdir(parents=True, exist_ok=True)
    for number, stem in enumerate(("train", "t10k")):
        images = rng.integers(0, 256, (samples - number, 28, 28), dtype=np.uint8)
        labels = rng.integers(0, 10, samples - number)
        (folder / f"{stem}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(images)))
        (folder / f"{stem}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(labels)))
        arrays["test" if number else "train"] = (images[..., None], labels)
    return arrays


def write_text(root: Path, *, documents: tuple[str, ...] = DOCUMENTS) -> None:
    """Write a copy of OpenWebText: two Parquet files with a column of texts."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder = root / "openwebtext" / "plain_text"
    folder.mkdir(parents=True, exist_ok=True)
    for i, part in enumerate((documents[:2], documents[2:])):
        pq.write_table(pa.table({"text": list(part)}), folder / f"train-0000{i}-of-00002.parquet")


def write_byte_pairs(root: Path, *, merges: tuple[str, ...] = ("t h", "th e", "a t", "Ġ s")) -> int:
    """Write ``vocab.json`` and ``merges.txt`` of a small byte-pair encoding; return its number of tokens."""
    printable = [b for b in range(256) if chr(b).isprintable() and chr(b) != " "]
    others = [b for b in range(256) if b not in printable]
    symbols = [chr(b) for b in printable] + [chr(256 + i) for i in range(len(others))]
    tokens = [*symbols, *(merge.replace(" ", "") for merge in merges), "<|endoftext|>"]
    folder = root / "gpt2"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]))
    return len(tokens)


if __name__ == "__main__":
    out = Path(sys.argv[1])
    for each in KINDS:
        write_images(out, each)
    write_text(out)
    write_byte_pairs(out)
