"""What a trial leaves on disk while it trains: results line by line, weights, and the state to go on from.

A trial that was stopped, wherever and however, goes on behind the last epoch that it finished. Every file appears
under its name when it is complete; lines are keyed by their epoch, and the last one counts.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

import torch

STATE = "state"
RESULTS = "results.jsonl"


class Journal:
    """The folder of one trial.

    Args:
        folder: made when something is written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def state(self) -> Path:
        """File for the state of the run."""
        return self.folder / STATE

    def write(self, epoch: int, metrics: Mapping[str, float], weights: Mapping[str, torch.Tensor] | None) -> None:
        """Record an epoch: first the weights, if they are kept, then the line that says that it is done."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if weights is not None:
            temporary = self.folder / f"e{epoch}.{os.getpid()}.tmp"
            torch.save(dict(weights), temporary)
            os.replace(temporary, self._weights(epoch))
        with open(self.folder / RESULTS, "a") as file:
            # A line that was cut by a crash must not swallow the next: start on a new one.
            file.write("\n" + json.dumps({"epoch": epoch, **metrics}))

    def results(self) -> dict[int, dict[str, float]]:
        """Return the metrics by epoch."""
        path = self.folder / RESULTS
        found: dict[int, dict[str, float]] = {}
        for line in path.read_text().splitlines() if path.is_file() else ():
            try:
                row = json.loads(line)
            except ValueError:
                continue
            found[row.pop("epoch")] = row
        return dict(sorted(found.items()))

    def weights(self, epoch: int) -> dict[str, torch.Tensor]:
        """Read the weights of an epoch."""
        found: dict[str, torch.Tensor] = torch.load(self._weights(epoch), map_location="cpu", weights_only=True)
        return found

    def covers(self, epoch: int, checkpoint_epochs: tuple[int, ...]) -> bool:
        """Say whether all epochs from 0 to this one are there, with the weights that are kept."""
        return set(range(epoch + 1)) <= set(self.results()) and all(
            self._weights(kept).is_file() for kept in checkpoint_epochs if kept <= epoch
        )

    def forget_weights(self) -> None:
        """Remove weights and state; results stay."""
        for path in (*self.folder.glob("e*.pt"), self.state):
            path.unlink(missing_ok=True)

    def _weights(self, epoch: int) -> Path:
        return self.folder / f"e{epoch:06d}.pt"
