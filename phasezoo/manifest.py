"""zoo.json: what a zoo is, and which files it has, by size and hash.

The manifest is written last and read first: a directory without it is not a zoo.
"""

from __future__ import annotations

import json
import re
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from phasezoo.errors import FormatError

FORMAT_VERSION = 1
MANIFEST = "zoo.json"


def _inside(path: str) -> str:
    parts = PurePosixPath(path).parts
    if not parts or path.startswith("/") or "\\" in path or ":" in parts[0] or ".." in parts or not path.isprintable():
        raise ValueError(f"path {path[:200]!r} must be relative and stay inside the zoo")
    return path


InsidePath = Annotated[str, AfterValidator(_inside)]
SHA256 = re.compile("[0-9a-f]{64}")
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Axis(_Record):
    """One axis of the grid.

    Attributes:
        column: the column of `configs` that holds the value (``width``, ``lr``, ``batch_size``).
        label: what to print on a figure.
        unit: the unit of the value, or None for a pure number.
        values: the grid, ascending.
        scale: how the grid is spaced.
        hot: for the temperature axis, at which end of `values` training is noisiest.

    >>> import phasezoo
    >>> axis = phasezoo.load("mlp-digits").manifest.temperature
    >>> axis.column, axis.values[-1], axis.hot  # the largest learning rate is the hottest
    ('lr', 0.1, 'high')
    """

    column: str
    label: str
    unit: str | None = None
    values: tuple[float, ...]
    scale: Literal["linear", "log"] = "log"
    hot: Literal["low", "high"] | None = None


class File(_Record):
    """A file of the zoo: where it lies, how long it is, and what it hashes to."""

    path: InsidePath
    nbytes: Annotated[int, Field(ge=0)]
    sha256: Sha256


class Table(File):
    """A Parquet table of the zoo."""

    rows: Annotated[int, Field(ge=0)]


class Shard(File):
    """A safetensors file that holds many checkpoints."""

    n_tensors: Annotated[int, Field(ge=0)]


class Provenance(_Record):
    """Where the models come from.

    Attributes:
        source: the raw zoo, recipe or publication.
        method: ``trained``, or ``converted`` from a raw zoo.
        recipe: the settings that regenerate the zoo, as data.
        software: versions of the libraries that produced the numbers.
        notes: caveats that a reader of the numbers must know.

    >>> import phasezoo
    >>> provenance = phasezoo.load("mlp-digits").manifest.provenance
    >>> provenance.method, provenance.recipe["epochs"]
    ('trained', 150)
    """

    source: str
    method: Literal["trained", "converted"]
    recipe: dict[str, Any] = Field(default_factory=dict)
    software: dict[str, str] = Field(default_factory=dict)
    notes: tuple[str, ...] = ()


class Manifest(_Record):
    """Everything that zoo.json says.

    Attributes:
        name: short name, as `phasezoo.load` takes it.
        title: one line for people.
        description: a paragraph for people.
        architecture: name that `phasezoo.nets.build` takes.
        dataset: what the models were trained on.
        task: ``classification``, ``language-modelling`` or ``pde``.
        load: the load axis.
        temperature: the temperature axis.
        tables: table name to file.
        shards: all files with weights; empty for a zoo of tables only.
        protocols: protocol id of the landscape table to its settings.

    >>> import phasezoo
    >>> manifest = phasezoo.load("mlp-digits").manifest
    >>> manifest.architecture, manifest.load.column, manifest.temperature.column, manifest.tables["configs"].rows
    ('mlp', 'width', 'lr', 264)
    """

    format: Literal["phasezoo"] = "phasezoo"
    format_version: Literal[1] = 1
    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")]
    title: str
    description: str = ""
    architecture: str
    dataset: str
    task: str
    load: Axis
    temperature: Axis
    provenance: Provenance
    license: str
    citation: str
    tables: dict[str, Table]
    shards: tuple[Shard, ...] = ()
    protocols: dict[str, dict[str, Any]] = Field(default_factory=dict)

    def to_bytes(self) -> bytes:
        """Serialise to the bytes of zoo.json (stable: the same manifest gives the same bytes).

        >>> import phasezoo
        >>> manifest = phasezoo.load("mlp-digits").manifest
        >>> Manifest.from_bytes(manifest.to_bytes()) == manifest
        True
        """
        return (json.dumps(self.model_dump(mode="json"), indent=1, ensure_ascii=False) + "\n").encode()

    @classmethod
    def from_bytes(cls, data: bytes, *, where: str = MANIFEST) -> Manifest:
        """Parse zoo.json and check its format version before anything else.

        Args:
            data: the bytes of zoo.json.
            where: place to name in an error.

        Raises:
            FormatError: the bytes are not a manifest that this release can read.

        >>> Manifest.from_bytes(b'{"format": "phasezoo", "format_version": 9}')
        Traceback (most recent call last):
        ...
        phasezoo.errors.FormatError: zoo.json has format version 9; this release reads version 1. Upgrade with ...
        """
        try:
            raw = json.loads(data)
            json.dumps(raw, ensure_ascii=False).encode()  # half of a surrogate pair is no text: a ValueError
        except (ValueError, RecursionError) as error:
            raise FormatError(
                f"{where} is not valid JSON ({error}). Copy the zoo again, or rebuild it with `phasezoo build`."
            ) from None
        if not isinstance(raw, dict) or raw.get("format") != "phasezoo":
            raise FormatError(f'{where} is not a phasezoo manifest: it lacks \'"format": "phasezoo"\'.')
        version = raw.get("format_version")
        if version != FORMAT_VERSION:
            raise FormatError(
                f"{where} has format version {version!r}; this release reads version {FORMAT_VERSION}. "
                "Upgrade with `pip install -U phasezoo`, or ask the zoo's author for that version."
            )
        try:
            return cls.model_validate(raw)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(str(part) for part in first["loc"])
            raise FormatError(
                f"{where} breaks the format at '{place}': {first['msg']} "
                f"({error.error_count()} problem(s) in all). Rebuild the zoo, or see the README's format section."
            ) from None
