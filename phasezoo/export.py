"""Write a zoo as other code expects it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phasezoo.errors import WriteError
from phasezoo.progress import bar
from phasezoo.source import vacant

if TYPE_CHECKING:
    from phasezoo.zoo import Zoo

LAYOUTS = ("ray",)

# column -> key that code for model zoos looks up in params.json
KEYS = {
    "seed": "seed",
    "width": "model::width",
    "num_classes": "model::o_dim",
    "in_channels": "model::channels_in",
    "activation": "model::nlin",
    "dropout": "model::dropout",
    "init_type": "model::init_type",
    "architecture": "model::type",
    "lr": "optim::lr",
    "momentum": "optim::momentum",
    "optimizer": "optim::optimizer",
    "scheduler": "optim::scheduler",
    "weight_decay": "optim::wd",
    "batch_size": "training::batchsize",
    "epochs": "training::epochs_train",
}


def export(zoo: Zoo, out: str | Path, *, layout: str = "ray") -> Path:
    """Write the models of a view as the folders that existing code for model zoos reads.

    One folder per model: ``params.json``; ``result.json`` with one JSON object a line, line e being epoch e;
    ``checkpoint_%06d/checkpoints``, written by `torch.save` in module key order.

    Args:
        zoo: the zoo or view.
        out: directory that does not exist yet or is empty.
        layout: ``"ray"``, the layout of Ray Tune and of the published raw zoos.

    Returns:
        The directory.

    Raises:
        WriteError: the directory is not empty, or a model's results do not start at epoch 0 or have gaps.
        ValueError: no layout of that name.

    >>> import phasezoo, tempfile
    >>> folder = export(phasezoo.load("mlp-digits")[:1], tempfile.mkdtemp())
    >>> sorted(path.name for path in (folder / "w2-lr0.005-s100").iterdir())[:2]
    ['checkpoint_000000', 'checkpoint_000010']
    """
    import torch

    if layout not in LAYOUTS:
        raise ValueError(f"no layout {layout!r}. There are: {', '.join(LAYOUTS)}.")
    out = vacant(out)
    landscape = _landscape(zoo)
    with bar("exporting", total=zoo.nbytes, unit="B") as progress:
        for model in zoo:
            folder = out / model.id
            folder.mkdir(parents=True)
            params = {KEYS.get(key, key): value for key, value in model.config.items() if value is not None}
            (folder / "params.json").write_text(json.dumps(params, indent=2, sort_keys=True))
            lines = _lines(model.id, model.results.to_pylist(), params)
            for line in lines:
                line.update(landscape.get((model.config["cell_id"], line["training_iteration"]), {}))
            (folder / "result.json").write_text("".join(json.dumps(line) + "\n" for line in lines))
            for checkpoint in model.checkpoints():
                place = folder / f"checkpoint_{checkpoint.epoch:06d}"
                place.mkdir()
                torch.save(checkpoint.state_dict(), place / "checkpoints")
                progress.update(checkpoint.nbytes)
    return out


def _lines(model_id: str, rows: list[dict[str, Any]], params: dict[str, Any]) -> list[dict[str, Any]]:
    if [row["epoch"] for row in rows] != list(range(len(rows))):
        raise WriteError(
            f"the results of {model_id} do not hold every epoch from 0 on, so that line e cannot be epoch e. "
            "Leave this model out with zoo.filter(...)."
        )
    return [
        {
            **{key: value for key, value in row.items() if key not in ("model_id", "epoch") and value is not None},
            "training_iteration": row["epoch"],
            "config": params,
            "done": row is rows[-1],
        }
        for row in rows
    ]


def _landscape(zoo: Zoo) -> dict[tuple[str, int], dict[str, float]]:
    """Return the metrics of cells, to be repeated in the line of each seed as the raw zoos have them."""
    if "landscape" not in zoo.manifest.tables:
        return {}
    rows = [row for row in zoo.table("landscape").to_pylist() if row["model_id"] is None]
    return {
        (row["cell_id"], row["epoch"]): {k: v for k, v in row.items() if isinstance(v, float)}
        for row in rows
        if row["protocol"] == "published"
    }
