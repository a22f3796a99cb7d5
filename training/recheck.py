"""Recompute recorded losses and accuracies from the weights of a zoo, and report the differences.

What is verified never replaces what was reported: it is written beside, into ``verified.json``.
"""

from __future__ import annotations

import json
import math
import os
import re
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from phasezoo.errors import MeasureError
from phasezoo.manifest import MANIFEST
from phasezoo.progress import bar
from phasezoo.training.data import Convection, Data, Text, load_data
from phasezoo.training.task import task_of_zoo
from phasezoo.zoo import Zoo

VERIFIED = "verified.json"
AVERAGES = "reported as an average over the epoch, in training mode"
OF_CELL = "reported as the mean over the seeds of the cell"


@dataclass(frozen=True)
class Check:
    """One recorded number and what the weights give.

    Attributes:
        model_id: id of the model.
        epoch: epoch of the checkpoint.
        column: what was recorded.
        reported: the number in the table `results`.
        verified: the number that the weights give on the whole split, in eval mode, without augmentation.
        difference: verified minus reported.
        incomparable: why the two are not the same thing, if they are not.

    >>> import phasezoo
    >>> check = recheck(phasezoo.load("mlp-digits")[:1], "sample:1")[0]
    >>> check.model_id, check.column, round(check.difference, 3), check.incomparable
    ('w2-lr0.005-s100', 'train_loss', 0.0, None)
    """

    model_id: str
    epoch: int
    column: str
    reported: float
    verified: float
    difference: float
    incomparable: str | None


def recheck(zoo: Zoo, which: str = "all", *, data: Data | Text | Convection | None = None) -> list[Check]:
    """Recompute the recorded metrics of checkpoints on the zoo's data set.

    Args:
        zoo: the zoo or view; if it is a directory that can be written, ``verified.json`` is left in it.
        which: ``"all"`` checkpoints, or ``"sample:N"`` of them, drawn with a fixed seed.
        data: the data set; by default the one that the manifest names.

    Returns:
        One check for each recorded number, in the order of the models and epochs.

    Raises:
        MeasureError: `which` is neither.
        WeightsUnavailableError: the zoo has tables only.

    >>> import phasezoo
    >>> checks = recheck(phasezoo.load("mlp-digits").filter(width=8), "sample:2")
    >>> len({(check.model_id, check.epoch) for check in checks}), max(abs(check.difference) for check in checks) < 1e-5
    (2, True)
    """
    manifest = zoo.manifest
    places = [(model, epoch) for model in zoo for epoch in model.epochs if model.checkpoint(epoch).metrics]
    found = re.fullmatch(r"all|sample:([1-9]\d*)", which)
    if not found:
        raise MeasureError(f"metrics {which!r} cannot be verified. Give all, or sample:N for N checkpoints.")
    if found[1]:
        chosen = torch.randperm(len(places), generator=torch.Generator().manual_seed(0))[: int(found[1])]
        places = [places[i] for i in sorted(chosen.tolist())]
    data = load_data(manifest.dataset) if data is None else data
    # The published trainers reported averages; a zoo that was trained here says what it reports.
    running = manifest.provenance.recipe.get("metrics") == "running" or manifest.provenance.method == "converted"
    device = "cuda" if torch.cuda.is_available() else "cpu"
    checks = []
    with bar("verifying metrics", total=len(places), unit="checkpoint") as progress:
        for model, epoch in places:
            checkpoint = model.checkpoint(epoch)
            recorded = checkpoint.metrics
            task = task_of_zoo(manifest, model.config, data, device=device)
            for column, verified in task.evaluate(checkpoint.module().to(device)).items():
                if (reported := recorded.get(column)) is None:
                    continue
                of_cell = column in (recorded.get("cell_mean_columns") or "").split(",")
                why = AVERAGES if running and epoch and column.startswith("train_") else OF_CELL if of_cell else None
                checks.append(Check(model.id, epoch, column, reported, verified, verified - reported, why))
            progress.update(1)
    _keep(zoo, which, checks)
    return checks


def summary(checks: list[Check]) -> list[list[str | int]]:
    """Return, for each column, how many numbers were compared, and the largest difference and where it is."""
    rows: list[list[str | int]] = []
    for column in dict.fromkeys(check.column for check in checks):
        ours = [check for check in checks if check.column == column]
        for comparable in (True, False):
            part = [check for check in ours if (check.incomparable is None) == comparable]
            if not part:
                continue
            worst = max(part, key=lambda c: abs(c.difference) if math.isfinite(c.difference) else math.inf)
            where = f"{worst.model_id} epoch {worst.epoch}"
            rows.append([column, len(part), f"{worst.difference:+.2e}", where, worst.incomparable or ""])
    return rows


def _keep(zoo: Zoo, which: str, checks: list[Check]) -> None:
    place = zoo._index.source.local(MANIFEST)
    if place is None or not os.access(place.parent, os.W_OK) or len(zoo) < len(zoo._index.rows):
        return
    content = {
        "what": f"recorded metrics against those that the weights give: {which}, in eval mode, without augmentation",
        "torch": torch.__version__,
        "checks": [asdict(check) for check in checks],
    }
    temporary = place.with_name(f"{VERIFIED}.{os.getpid()}.tmp")
    temporary.write_text(json.dumps(content, indent=1) + "\n")
    os.replace(temporary, Path(place.parent, VERIFIED))
