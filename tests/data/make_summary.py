"""Write a summary table in the published format, with the defects of the published ones where asked.

    python tests/data/make_summary.py OUT.csv    # 192 models x 151 epochs, 7 MB

One row per model and epoch, ordered by size, seed, epoch and trial; landscape columns only at annotated epochs, with
the value of the cell in the row of each seed.
"""

from __future__ import annotations

import math
import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

LANDSCAPE = (
    "representation_similarity",
    "curve_mc_train_error",
    "curve_mc_test_error",
    "log_hessian_trace_train",
    "log_hessian_top_ev_val",
)
WIDTHS = (2, 4, 8, 16, 32, 64, 128, 256)
BATCHES = (1024, 512, 256, 128, 64, 32, 16, 8)
TRAIN, TEST = 50_000, 10_000


@dataclass
class Table:
    """What to write; `rows` collects (width, seed, epoch, trial id, line)."""

    load: str = "width"
    widths: Sequence[int] = WIDTHS
    batches: Sequence[int] = BATCHES
    seeds: Sequence[int] = (0, 1, 2)
    epochs: int = 151
    annotated: Sequence[int] = (150,)
    wd: float = 0.0005
    run: str = "0ada0"
    means: bool = False  # train_loss and test_acc of annotated rows are means over the seeds of the cell
    accumulated: dict[tuple[int, int], int] = field(default_factory=dict)  # (width, batch) -> micro-batch
    rows: list[tuple[int, int, int, str, str]] = field(default_factory=list)

    def header(self) -> str:
        init = ["init_type"] if self.load == "width" else []
        columns = ["model", "trial_id", self.load, "seed", "lr", "wd", "batchsize", *init, "epoch"]
        return ",".join([*columns, "train_loss", "train_acc", "test_loss", "test_acc", *LANDSCAPE])

    def trial(self, width: int, batch: int, seed: int, *, run: str | None = None) -> tuple[str, str]:
        """Return name and id of a trial; a re-created one has an 8-digit id of its own."""
        per_batch = len(self.seeds) * len(self.widths)
        place = self.widths.index(width) + len(self.widths) * self.seeds.index(seed)
        index = self.batches.index(batch) * per_batch + place
        trial_id = f"{run or self.run}_{index:05d}"
        if (width, batch) in self.accumulated:
            trial_id = f"{random.Random(index).getrandbits(32):08x}"
        settings = f"model_{self.load}={width},optim_lr=0.1000,optim_wd={self.wd:.4f},seed={seed}"
        name = f"NN_tune_trainable_{trial_id}_{index}_{settings},training_batchsize={batch}_2024-05-21_13-14-23"
        return name, trial_id

    def metrics(self, width: int, batch: int, seed: int, epoch: int) -> tuple[float, float, float, float]:
        """Return train loss and accuracy, test loss and accuracy: made up, and reproducible."""
        rng = random.Random(f"{width} {batch} {seed} {epoch}")
        progress = (epoch / max(1, self.epochs - 1)) * (0.6 + 0.05 * math.log2(width))
        loss = 2.3 * (1 - 0.9 * progress) + 0.01 * rng.random()
        train = round(TRAIN * (0.1 + 0.85 * progress + 0.01 * rng.random())) / TRAIN
        test = round(TEST * (0.1 + 0.7 * progress + 0.01 * rng.random())) / TEST
        if epoch and (micro := self.accumulated.get((width, batch))):
            loss /= batch // micro
        return loss, train, 1.1 * loss + 0.01 * rng.random(), test

    def landscape(self, width: int, batch: int) -> list[float | None]:
        """Return the metrics of a cell; the logarithms of the widest, hottest one have no value."""
        rng = random.Random(f"{width} {batch}")
        logs: list[float | None] = [8 - math.log2(width) / 2 + rng.random(), 7 + rng.random()]
        if width == max(self.widths) and batch == min(self.batches):
            logs = [None, None]
        return [0.7 + 0.2 * rng.random(), -20 * rng.random(), -8 * rng.random(), *logs]

    def add(self, width: int, batch: int, seed: int, *, epochs: int | None = None, run: str | None = None) -> None:
        """Add the rows of one trial."""
        name, trial_id = self.trial(width, batch, seed, run=run)
        micro = self.accumulated.get((width, batch), batch)
        init = ["kaiming_uniform"] if self.load == "width" else []
        for epoch in range(self.epochs if epochs is None else epochs):
            loss, train, test_loss, test = self.metrics(width, batch, seed, epoch)
            cell: list[float | None] = [None] * len(LANDSCAPE)
            if epoch in self.annotated:
                cell = self.landscape(width, batch)
                if self.means:
                    siblings = [self.metrics(width, batch, s, epoch) for s in self.seeds]
                    loss, test = (sum(m[i] for m in siblings) / len(siblings) for i in (0, 3))
            values = [trial_id, width, seed, 0.1, self.wd, micro, *init, epoch, loss, train, test_loss, test, *cell]
            line = ",".join([f'"{name}"', *("" if value is None else str(value) for value in values)])
            self.rows.append((width, seed, epoch, trial_id, line))

    def fill(self) -> Table:
        """Add the whole grid."""
        for width in self.widths:
            for seed in self.seeds:
                for batch in self.batches:
                    self.add(width, batch, seed)
        return self

    def to_bytes(self) -> bytes:
        """Return the file."""
        return "".join(line + "\n" for line in [self.header(), *(row[-1] for row in sorted(self.rows))]).encode()


if __name__ == "__main__":
    Path(sys.argv[1]).write_bytes(Table().fill().to_bytes())
