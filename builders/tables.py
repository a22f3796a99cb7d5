"""Write the tables and the manifest of a zoo."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from phasezoo.builders.card import write_card
from phasezoo.builders.pack import Packed, Run, pack
from phasezoo.errors import FormatError, WriteError
from phasezoo.index import REQUIRED
from phasezoo.layout import Layout
from phasezoo.manifest import MANIFEST, Manifest, Shard, Table

# column -> (Arrow type, unit or None, description); a table may have more columns, which describe themselves.
COLUMNS: dict[str, tuple[pa.DataType, str | None, str]] = {
    "model_id": (pa.string(), None, "id of the model"),
    "cell_id": (pa.string(), None, "id of the grid cell (load x temperature) that the model belongs to"),
    "trial_name": (pa.string(), None, "name of the trial in the raw zoo"),
    "load": (pa.float64(), None, "value on the load axis"),
    "temperature": (pa.float64(), None, "value on the temperature axis"),
    "seed": (pa.int64(), None, "seed of initialisation and data order"),
    "width": (pa.int64(), None, "model width"),
    "lr": (pa.float64(), None, "learning rate (the maximum, where it is scheduled)"),
    "momentum": (pa.float64(), None, "momentum of the optimiser"),
    "weight_decay": (pa.float64(), None, "weight decay, on all parameters"),
    "optimizer": (pa.string(), None, "optimiser"),
    "batch_size": (pa.int64(), "samples", "nominal batch size: samples per update"),
    "micro_batch_size": (pa.int64(), "samples", "samples per forward pass"),
    "accumulation_steps": (pa.int64(), None, "micro-batches per update"),
    "dataset": (pa.string(), None, "data set the model was trained on"),
    "architecture": (pa.string(), None, "name that phasezoo.nets.build takes"),
    "architecture_config": (pa.string(), None, "arguments of phasezoo.nets.build, as JSON"),
    "n_params": (pa.int64(), None, "trainable parameters"),
    "topology_id": (pa.string(), None, "models with one topology_id can be stacked"),
    "source": (pa.string(), None, "where the model comes from"),
    "epoch": (pa.int64(), "epochs", "epochs of training done; 0 is the initial network"),
    "train_loss": (pa.float64(), "nats", "mean cross-entropy on the training set"),
    "train_acc": (pa.float64(), "fraction", "accuracy on the training set"),
    "test_loss": (pa.float64(), "nats", "mean cross-entropy on the test set"),
    "test_acc": (pa.float64(), "fraction", "accuracy on the test set"),
    "protocol": (pa.string(), None, "every setting that changes the metrics of the row"),
    "shard": (pa.string(), None, "file with the weights"),
    "offset": (
        pa.int64(),
        "bytes",
        "first byte: of a checkpoint in its shard, of a tensor in its checkpoint",
    ),
    "nbytes": (pa.int64(), "bytes", "length"),
    "sha256": (pa.string(), None, "hash of the checkpoint's bytes"),
    "layout_id": (pa.string(), None, "layout of the checkpoint in the table layouts"),
    "position": (pa.int64(), None, "position of the tensor in the state dict"),
    "name": (pa.string(), None, "name of the tensor"),
    "dtype": (pa.string(), None, "safetensors code of the element type"),
    "shape": (pa.list_(pa.int64()), None, "shape of the tensor"),
    "digests": (pa.binary(), None, "64-bit blake2b digest of each tensor, in layout order"),
}


def field(name: str) -> pa.Field:
    """Return the Arrow field of a standard column, with unit and description as metadata.

    >>> field("train_acc").metadata[b"unit"]
    b'fraction'
    """
    kind, unit, description = COLUMNS[name]
    return describe(pa.field(name, kind), unit=unit, description=description)


def describe(plain: pa.Field, *, unit: str | None, description: str) -> pa.Field:
    """Attach unit and description to an Arrow field."""
    return plain.with_metadata({"description": description, **({"unit": unit} if unit else {})})


def from_rows(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> pa.Table:
    """Make a table of standard columns from rows."""
    return pa.Table.from_pylist(list(rows), schema=pa.schema([field(name) for name in columns]))


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

    Raises:
        WriteError: the directory exists and is not empty, or cannot be written.
        FormatError: a table lacks a required column.
    """
    out = vacant(out)
    staging = out.with_name(f".{out.name}.partial-{os.getpid()}")
    try:
        (staging / "tables").mkdir(parents=True)
        packed = pack(runs, staging)
        order = {model_id: i for i, model_id in enumerate(configs["model_id"].to_pylist())}
        tables = {
            "configs": configs,
            "results": results,
            "landscape": from_rows([], REQUIRED["landscape"]) if landscape is None else landscape,
            **(index_tables(packed, order) if runs else {}),
        }
        manifest = draft.model_copy(
            update={
                "tables": {name: write_table(name, table, staging) for name, table in tables.items()},
                "shards": tuple(
                    Shard(path=path, nbytes=f.nbytes, sha256=f.sha256, n_tensors=f.n_tensors) for path, f in packed
                ),
            }
        )
        write_card(manifest, tables, staging)
        (staging / MANIFEST).write_bytes(manifest.to_bytes())
        if out.exists():
            out.rmdir()
        os.replace(staging, out)
    except OSError as error:
        if isinstance(error, WriteError) or not error.strerror:
            raise
        raise WriteError(f"cannot write the zoo to {out}: {error.strerror}. Nothing was left behind.") from None
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return manifest


def vacant(out: str | Path) -> Path:
    """Return the absolute path of a directory that does not exist yet or is empty, for `write_zoo` to fill.

    Raises:
        WriteError: there is something at that place.
    """
    out = Path(out).expanduser().absolute()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise WriteError(f"{out} exists and is not an empty directory. Give another place, or remove it first.")
    return out


def write_table(name: str, table: pa.Table, out: Path) -> Table:
    """Write ``tables/<name>.parquet``, deterministically, and return its entry for the manifest."""
    missing = [column for column in REQUIRED.get(name, ()) if column not in table.column_names]
    if missing:
        raise FormatError(f"table {name!r} lacks the columns {missing}.")
    path = f"tables/{name}.parquet"
    floats = [f.name for f in table.schema if pa.types.is_floating(f.type)]
    others = [f.name for f in table.schema if f.name not in floats and not pa.types.is_nested(f.type)]
    with pq.ParquetWriter(
        out / path, table.schema, compression="zstd", use_dictionary=others, use_byte_stream_split=floats
    ) as writer:
        if table.num_rows:  # `datasets` cannot read a row group without rows
            writer.write_table(table)
    data = (out / path).read_bytes()
    return Table(path=path, nbytes=len(data), sha256=hashlib.sha256(data).hexdigest(), rows=table.num_rows)
