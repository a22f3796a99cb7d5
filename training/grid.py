"""Train the whole grid of a recipe and write it as a zoo."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from phasezoo.builders.pack import Run
from phasezoo.builders.tables import vacant, write_zoo
from phasezoo.layout import Layout
from phasezoo.manifest import Manifest, Provenance
from phasezoo.progress import bar
from phasezoo.tables import from_rows, topology_id
from phasezoo.training.data import Data, load_data
from phasezoo.training.population import Epoch, Member, train
from phasezoo.training.recipes import Recipe

CONFIGS = (
    *("model_id", "cell_id", "load", "temperature", "seed", "width", "lr", "batch_size", "micro_batch_size"),
    *("accumulation_steps", "optimizer", "momentum", "weight_decay", "dataset", "architecture"),
    *("architecture_config", "n_params", "topology_id", "source"),
)
RESULTS = ("model_id", "epoch", "train_loss", "train_acc", "test_loss", "test_acc")


def train_grid(recipe: Recipe, out: str | Path) -> Manifest:
    """Train every model of a recipe and write the zoo.

    Models of one width are one population over learning rates and seeds.

    Args:
        recipe: what to train.
        out: directory that does not exist yet or is empty.

    Raises:
        WriteError: the directory exists and is not empty, or cannot be written.
    """
    out = vacant(out)  # before the work, not after it
    data = load_data(recipe.dataset)
    assert isinstance(data, Data)  # a population is of classifiers
    configs: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    runs: list[Run] = []
    with bar(f"training {recipe.name}", total=len(recipe.load.values) * recipe.epochs, unit="epoch") as progress:
        for width in map(int, recipe.load.values):
            members = [Member(seed, lr) for lr in recipe.temperature.values for seed in recipe.seeds]
            ids = [f"{_cell_id(width, m.lr)}-s{m.seed}" for m in members]
            saved: dict[str, dict[int, dict[str, torch.Tensor]]] = {model_id: {} for model_id in ids}
            for state in _train_width(recipe, width, members, data):
                results += _results(ids, state)
                if state.epoch in recipe.checkpoint_epochs:
                    for i, model_id in enumerate(ids):
                        saved[model_id][state.epoch] = state.population.state_dict(i)
                progress.update(state.epoch > 0)
            configs += [_config(recipe, width, m, i, saved[i]) for m, i in zip(members, ids, strict=True)]
            runs += _runs(width, members, ids, saved)
    # In configs a cell's seeds follow one another; in results a model's epochs do.
    rank = {config["model_id"]: i for i, config in enumerate(configs)}
    results.sort(key=lambda row: (rank[row["model_id"]], row["epoch"]))
    return write_zoo(
        out,
        _draft(recipe),
        configs=from_rows(configs, CONFIGS),
        results=from_rows(results, RESULTS),
        runs=runs,
    )


def _train_width(recipe: Recipe, width: int, members: Sequence[Member], data: Data) -> Any:
    return train(
        members,
        data,
        config={**recipe.architecture_config, "width": width},
        epochs=recipe.epochs,
        batch_size=recipe.batch_size,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
    )


def _cell_id(width: int, lr: float) -> str:
    return f"w{width}-lr{lr:g}"


def _config(
    recipe: Recipe, width: int, member: Member, model_id: str, saved: dict[int, dict[str, torch.Tensor]]
) -> dict[str, Any]:
    arguments = json.dumps({**recipe.architecture_config, "width": width}, sort_keys=True)
    return {
        "model_id": model_id,
        "cell_id": _cell_id(width, member.lr),
        "load": float(width),
        "temperature": member.lr,
        "seed": member.seed,
        "width": width,
        "lr": member.lr,
        "batch_size": recipe.batch_size,
        "micro_batch_size": recipe.batch_size,
        "accumulation_steps": 1,
        "optimizer": "sgd",
        "momentum": recipe.momentum,
        "weight_decay": recipe.weight_decay,
        "dataset": recipe.dataset,
        "architecture": recipe.architecture,
        "architecture_config": arguments,
        "n_params": sum(tensor.numel() for tensor in next(iter(saved.values())).values()),
        "topology_id": topology_id(recipe.architecture, arguments),
        "source": f"phasezoo train {recipe.name}",
    }


def _results(ids: Sequence[str], state: Epoch) -> list[dict[str, Any]]:
    return [
        {"model_id": model_id, "epoch": state.epoch, **{k: values[i] for k, values in state.metrics.items()}}
        for i, model_id in enumerate(ids)
    ]


def _runs(
    width: int,
    members: Sequence[Member],
    ids: Sequence[str],
    saved: dict[str, dict[int, dict[str, torch.Tensor]]],
) -> list[Run]:
    """Make the runs of one width; the first learning rate stores the initial network for all."""
    runs = []
    first: dict[int, str] = {}
    for member, model_id in zip(members, ids, strict=True):
        epochs = list(saved[model_id])
        owner = first.setdefault(member.seed, model_id)
        if owner != model_id and 0 in epochs:
            epochs.remove(0)
        same = tuple(i for m, i in zip(members, ids, strict=True) if m.seed == member.seed and i != model_id)
        runs.append(
            Run(
                model_id,
                _cell_id(width, member.lr),
                Layout.of_state_dict(saved[model_id][epochs[0]]),
                tuple(epochs),
                saved[model_id].__getitem__,
                {0: same} if owner == model_id else {},
            )
        )
    return runs


def _draft(recipe: Recipe) -> Manifest:
    from importlib.metadata import version

    return Manifest(
        name=recipe.name,
        title=recipe.title,
        description=recipe.description,
        architecture=recipe.architecture,
        dataset=recipe.dataset,
        task="classification",
        load=recipe.load,
        temperature=recipe.temperature,
        provenance=Provenance(
            source=recipe.source,
            method="trained",
            recipe=recipe.model_dump(
                mode="json",
                include={
                    *("architecture_config", "seeds", "epochs", "checkpoint_epochs"),
                    *("batch_size", "momentum", "weight_decay"),
                },
            ),
            software={name: version(name) for name in ("phasezoo", "torch", "scikit-learn")},
            notes=recipe.notes,
        ),
        license=recipe.license,
        citation=recipe.citation,
        tables={},
    )
