"""The zoos that have a name: facts, not code."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Entry:
    """One named zoo.

    Attributes:
        name: what `phasezoo.load` takes.
        title: one line for people.
        models: how many models it holds.
        source: where its files are: ``embedded`` in the package.
    """

    name: str
    title: str
    models: int
    source: str


ZOOS: dict[str, Entry] = {
    entry.name: entry for entry in (Entry("mlp-digits", "Multi-layer perceptrons on 8x8 digits", 264, "embedded"),)
}


def embedded(name: str) -> Path:
    """Return the directory of a zoo that comes with the package."""
    return Path(__file__).parent / "zoos" / name
