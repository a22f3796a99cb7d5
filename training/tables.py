"""The tables `configs` and `results` of a zoo that is trained."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from phasezoo.nets import build
from phasezoo.tables import COLUMNS, describe, from_rows, topology_id
from phasezoo.training.recipe import Recipe, Trial

CONFIGS = (
    *("model_id", "cell_id", "load", "temperature", "seed", "width", "embedding_dim", "model_dim", "beta", "lr"),
    *("batch_size", "micro_batch_size", "accumulation_steps", "optimizer", "momentum", "weight_decay", "scheduler"),
    *("dataset", "architecture", "architecture_config", "n_params", "topology_id", "source"),
)
# What is no cross-entropy.
LOSSES_OF_AN_EQUATION = {
    "train_loss": "squared residual, initial error and periodicity error, each a mean, summed",
    "test_loss": "mean squared error on the grid",
}


def config_of(recipe: Recipe, trial: Trial, *, n_params: int) -> dict[str, Any]:
    """Return the row of a trial; columns that do not apply are missing or None."""
    return {
        "model_id": trial.model_id,
        "cell_id": trial.cell_id,
        "load": trial.load,
        "temperature": trial.temperature,
        "seed": trial.seed,
        **{k: v for k, v in trial.arguments.items() if k in ("width", "embedding_dim", "model_dim")},
        "beta": trial.beta,
        "lr": trial.lr,
        "batch_size": trial.batch_size or None,
        "micro_batch_size": trial.micro_batch_size or None,
        "accumulation_steps": trial.accumulation_steps,
        "optimizer": recipe.optimizer,
        "momentum": recipe.momentum if recipe.optimizer == "sgd" else None,
        "weight_decay": recipe.weight_decay,
        "scheduler": recipe.schedule.kind if recipe.schedule.kind != "constant" else None,
        "dataset": recipe.dataset,
        "architecture": recipe.architecture,
        "architecture_config": trial.architecture_config,
        "n_params": n_params,
        "topology_id": topology_id(trial.architecture, trial.architecture_config),
        "source": f"phasezoo train {recipe.name}",
    }


def count_parameters(trial: Trial) -> int:
    """Return the number of trainable parameters, without allocating them."""
    return sum(p.numel() for p in build(trial.architecture, device="meta", **trial.arguments).parameters())


def configs_table(rows: Sequence[dict[str, Any]]) -> pa.Table:
    """Make `configs` from rows of `config_of`, with the columns that occur."""
    return _present(rows, CONFIGS)


def results_table(rows: Sequence[dict[str, Any]], *, task: str) -> pa.Table:
    """Make `results` from rows of metrics, with the columns that occur and descriptions that fit the task."""
    table = _present(rows, ("model_id", "epoch", *(name for name in COLUMNS if name in rows[0])))
    described = LOSSES_OF_AN_EQUATION if task == "pde" else {}
    fields = [
        describe(field.remove_metadata(), unit=None, description=described[field.name])
        if field.name in described
        else field
        for field in table.schema
    ]
    return table.cast(pa.schema(fields))


def _present(rows: Sequence[dict[str, Any]], columns: Sequence[str]) -> pa.Table:
    """Make a table of the columns that occur, each once."""
    return from_rows(rows, [n for n in dict.fromkeys(columns) if any(row.get(n) is not None for row in rows)])
