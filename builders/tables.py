"""Write a whole zoo: shards, tables, card and manifest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from phasezoo.builders.card import write_card
from phasezoo.builders.pack import Packed, Run, pack
from phasezoo.errors import FormatError, WriteError
from phasezoo.layout import Layout
from phasezoo.manifest import Manifest, Shard
from phasezoo.parquet import REQUIRED
from phasezoo.source import vacant
from phasezoo.tables import from_rows, staged, write_tables


def index_tables(packed: Sequence[Packed], order: Mapping[str, int]) -> dict[str, pa.Table]:
    """Make `checkpoints`, `layouts` and `digests` from what was written (or found by `shard.scan`).

    Args:
        packed: the shards.
        order: model id to its row in `configs`.

    Raises:
        FormatError: one checkpoint is stored twice, or belongs to no model.
    """
    checkpoints: list[dict[str, Any]] = []
    layouts: dict[str, Layout] = {}
    for path, file in packed:
        for w in file.written:
            layout = layouts.setdefault(w.entry.layout.layout_id, w.entry.layout)
            checkpoints += [
                {
                    "model_id": model_id,
                    "epoch": w.entry.epoch,
                    "shard": path,
                    "offset": w.offset,
                    "nbytes": layout.nbytes,
                    "sha256": w.sha256,
                    "layout_id": layout.layout_id,
                    "digests": w.digests,
                }
                for model_id in (w.entry.model_id, *w.entry.shared_with)
            ]
    stray = {row["model_id"] for row in checkpoints} - set(order)
    if stray:
        raise FormatError(f"checkpoints of {sorted(stray)[:4]} belong to no model in `configs`.")
    checkpoints.sort(key=lambda row: (order[row["model_id"]], row["epoch"]))
    keys = [(row["model_id"], row["epoch"]) for row in checkpoints]
    if len(set(keys)) != len(keys):
        twice = next(key for i, key in enumerate(keys) if keys[i - 1] == key)
        raise FormatError(f"model {twice[0]} has two checkpoints at epoch {twice[1]}.")
    tensors = [
        {
            "layout_id": layout_id,
            "position": position,
            "name": spec.name,
            "dtype": spec.dtype,
            "shape": list(spec.shape),
            "offset": spec.offset,
            "nbytes": spec.nbytes,
        }
        for layout_id, layout in layouts.items()
        for position, spec in enumerate(layout.tensors)
    ]
    return {
        "checkpoints": from_rows(checkpoints, REQUIRED["checkpoints"]),
        "layouts": from_rows(tensors, REQUIRED["layouts"]),
        "digests": from_rows(checkpoints, REQUIRED["digests"]),
    }


def write_zoo(
    out: str | Path,
    draft: Manifest,
    *,
    configs: pa.Table,
    results: pa.Table,
    landscape: pa.Table | None = None,
    runs: Sequence[Run] = (),
    extra: Mapping[str, bytes] | None = None,
) -> Manifest:
    """Write a whole zoo: shards, tables, card, and the manifest last.

    The zoo appears under its name only when it is complete; the same input gives the same bytes.

    Args:
        out: directory that does not exist yet or is empty.
        draft: the manifest without tables and shards.
        configs: one row per model.
        results: one row per model and epoch.
        landscape: metrics; an empty table if there are none yet.
        runs: the checkpoints.
        extra: further files beside the manifest, by name.

    Raises:
        WriteError: the directory exists and is not empty, or cannot be written.
        FormatError: a table lacks a required column, or brings one that phasezoo makes itself, such as `phase`.

    >>> import phasezoo, tempfile
    >>> one = phasezoo.load("mlp-digits")[:1]
    >>> model, configs = one[0], one.table("configs").select(REQUIRED["configs"])
    >>> states = {epoch: model.checkpoint(epoch).state_dict() for epoch in model.epochs}
    >>> run = Run(model.id, model.config["cell_id"], Layout.of_state_dict(states[0]), tuple(states), states.get)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = write_zoo(f"{folder}/zoo", one.manifest, configs=configs, results=one.table("results"), runs=[run])
    ...     print(phasezoo.load(f"{folder}/zoo")[model.id].checkpoint("last"))
    Checkpoint(w2-lr0.005-s100, epoch 150, 6 tensors, 664 bytes)
    """
    out = vacant(out)
    try:
        with staged(out) as staging:
            packed = pack(runs, staging)
            for name, data in (extra or {}).items():
                (staging / name).write_bytes(data)
            manifest = write_index(staging, draft, configs=configs, results=results, landscape=landscape, packed=packed)
    except OSError as error:
        if isinstance(error, WriteError) or not error.strerror:
            raise
        raise WriteError(f"cannot write the zoo to {out}: {error.strerror}. Nothing was left behind.") from None
    return manifest


def write_index(
    staging: Path,
    draft: Manifest,
    *,
    configs: pa.Table,
    results: pa.Table,
    landscape: pa.Table | None,
    packed: Sequence[Packed],
) -> Manifest:
    """Write tables, card and manifest beside shards that are already in place."""
    order = {model_id: i for i, model_id in enumerate(configs["model_id"].to_pylist())}
    tables = {
        "configs": configs,
        "results": results,
        "landscape": from_rows([], REQUIRED["landscape"]) if landscape is None else landscape,
        **(index_tables(packed, order) if packed else {}),
    }
    shards = tuple(Shard(path=path, nbytes=f.nbytes, sha256=f.sha256, n_tensors=f.n_tensors) for path, f in packed)
    manifest = write_tables(staging, draft.model_copy(update={"shards": shards}), tables)
    write_card(manifest, tables, staging)
    return manifest
