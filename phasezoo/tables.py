"""Standard columns, and how tables and the manifest get onto disk: deterministically, and all or nothing."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from phasezoo.errors import FormatError
from phasezoo.manifest import MANIFEST, Manifest, Table
from phasezoo.parquet import DERIVED, REQUIRED
from phasezoo.source import partial_name

# column -> (Arrow type, unit or None, description); a table may have more columns, which describe themselves.
COLUMNS: dict[str, tuple[pa.DataType, str | None, str]] = {
    "model_id": (pa.string(), None, "id of the model"),
    "cell_id": (pa.string(), None, "id of the grid cell (load x temperature) that the model belongs to"),
    "trial_name": (pa.string(), None, "name of the trial in the raw zoo"),
    "trial_id": (pa.string(), None, "id of the trial in the raw zoo"),
    "load": (pa.float64(), None, "value on the load axis"),
    "temperature": (pa.float64(), None, "value on the temperature axis"),
    "seed": (pa.int64(), None, "seed of initialisation and data order"),
    "width": (pa.int64(), None, "model width"),
    "embedding_dim": (pa.int64(), None, "size of a token's embedding: the model width of a transformer"),
    "model_dim": (pa.int64(), None, "size of a token's embedding: the model width of a language model"),
    "beta": (pa.float64(), None, "convection coefficient"),
    "scheduler": (pa.string(), None, "learning-rate schedule"),
    "epochs": (pa.int64(), "epochs", "epochs that were planned"),
    "activation": (pa.string(), None, "non-linearity, as the raw zoo names it"),
    "dropout": (pa.float64(), None, "dropout, as the raw zoo names it"),
    "num_classes": (pa.int64(), None, "outputs"),
    "in_channels": (pa.int64(), None, "channels of the input"),
    "lr": (pa.float64(), None, "learning rate (the maximum, where it is scheduled)"),
    "momentum": (pa.float64(), None, "momentum of the optimiser"),
    "weight_decay": (pa.float64(), None, "weight decay, on all parameters"),
    "optimizer": (pa.string(), None, "optimiser"),
    "batch_size": (pa.int64(), "samples", "nominal batch size: samples per update"),
    "micro_batch_size": (pa.int64(), "samples", "samples per forward pass"),
    "accumulation_steps": (pa.int64(), None, "micro-batches per update"),
    "init_type": (pa.string(), None, "distribution of the initial weights"),
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
    "relative_l2": (pa.float64(), "fraction", "L2 norm of the error on the grid, relative to that of the solution"),
    "val_loss": (pa.float64(), "nats", "mean cross-entropy on the validation set"),
    "val_acc": (pa.float64(), "fraction", "accuracy on the validation set"),
    "time": (pa.float64(), "s", "wall-clock time of the epoch"),
    "train_loss_corrected": (
        pa.float64(),
        "nats",
        "train_loss times accumulation_steps where the published value was divided by them (from epoch 1 on)",
    ),
    "cell_mean_columns": (
        pa.string(),
        None,
        "columns of this row that hold the mean over the seeds of the cell, not the model's own value; "
        "separated by commas, null if none is known",
    ),
    "protocol": (pa.string(), None, "every setting that changes the metrics of the row"),
    "representation_similarity": (pa.float64(), None, "linear CKA of the logits of two seeds, mean over pairs"),
    "curve_mc_train_error": (pa.float64(), "percentage points", "mode connectivity in train error; < 0: barrier"),
    "curve_mc_test_error": (pa.float64(), "percentage points", "mode connectivity in test error; < 0: barrier"),
    "curve_mc_train_loss": (pa.float64(), "nats", "mode connectivity in train loss; < 0: barrier"),
    "curve_mc_test_loss": (pa.float64(), "nats", "mode connectivity in test loss; < 0: barrier"),
    "wiseft_acc_test": (pa.float64(), "fraction", "test accuracy of the mean over five epochs, mean over seeds"),
    "wiseft_acc_test_delta": (pa.float64(), "fraction", "wiseft_acc_test minus the mean accuracy of the seeds"),
    "gitrebasin_acc_test": (pa.float64(), "fraction", "test accuracy of the mean of the aligned seeds"),
    "gitrebasin_acc_test_delta": (pa.float64(), "fraction", "gitrebasin_acc_test minus the mean accuracy of the seeds"),
    "log_hessian_trace": (pa.float64(), "ln", "natural logarithm of hessian_trace"),
    "hessian_trace": (pa.float64(), None, "trace of the Hessian, split unknown, mean over the seeds"),
    "log_hessian_trace_val": (pa.float64(), "ln", "natural logarithm of hessian_trace_val"),
    "hessian_trace_val": (pa.float64(), None, "trace of the Hessian of the test loss, mean over the seeds"),
    "log_hessian_top_ev": (pa.float64(), "ln", "natural logarithm of hessian_top_ev"),
    "hessian_top_ev": (pa.float64(), None, "eigenvalue of largest size of the Hessian, split unknown, seed mean"),
    "log_hessian_top_ev_train": (pa.float64(), "ln", "natural logarithm of hessian_top_ev_train"),
    "hessian_top_ev_train": (pa.float64(), None, "eigenvalue of largest size of the Hessian of the training loss"),
    "log_hessian_trace_train": (
        pa.float64(),
        "ln",
        "natural logarithm of hessian_trace_train; null where that is not positive or not measured",
    ),
    "log_hessian_top_ev_val": (
        pa.float64(),
        "ln",
        "natural logarithm of hessian_top_ev_val; null where that is not positive or not measured",
    ),
    "hessian_trace_train": (pa.float64(), None, "trace of the Hessian of the training loss, mean over the seeds"),
    "hessian_top_ev_val": (pa.float64(), None, "eigenvalue of largest size of the Hessian of the test loss, seed mean"),
    "representation_similarity_pairs": (pa.list_(pa.float64()), None, "representation_similarity of each pair"),
    **{
        f"hessian_{what}_{split}_{error}": (pa.float64(), None, f"{text} of hessian_{what}_{split}")
        for what, error, text in (("trace", "stderr", "standard error"), ("top_ev", "error", "estimated error"))
        for split in ("train", "val")
    },
    "reasons": (pa.string(), None, "column to the reason why it is null, as JSON"),
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


def topology_id(architecture: str, arguments: str) -> str:
    """Return the id that models have in common if, and only if, they can be stacked.

    Args:
        architecture: its name.
        arguments: the column `architecture_config`: JSON with sorted keys.

    >>> topology_id("mlp", '{"width": 8}')
    'mlp-fa0dfd44'
    """
    return f"{architecture}-{hashlib.sha256(f'{architecture} {arguments}'.encode()).hexdigest()[:8]}"


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


def write_table(name: str, table: pa.Table, out: Path) -> Table:
    """Write ``tables/<name>.parquet``, deterministically, and return its entry for the manifest."""
    missing = [column for column in REQUIRED.get(name, ()) if column not in table.column_names]
    if missing:
        raise FormatError(f"table {name!r} lacks the columns {missing}.")
    taken = [column for column in DERIVED if column in table.column_names]
    if taken and name in ("configs", "results"):
        raise FormatError(
            f"table {name!r} brings the columns {taken}, which phasezoo makes itself when a zoo is opened. Drop them: "
            "no zoo with them can be read."
        )
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


def write_tables(out: Path, draft: Manifest, tables: Mapping[str, pa.Table]) -> Manifest:
    """Write all tables into a directory, and last the manifest that names them.

    Args:
        out: the zoo's directory, which exists.
        draft: the manifest without tables.
        tables: table by name.
    """
    (out / "tables").mkdir(exist_ok=True)
    entries = {name: write_table(name, table, out) for name, table in tables.items()}
    manifest = draft.model_copy(update={"tables": entries})
    (out / MANIFEST).write_bytes(manifest.to_bytes())
    return manifest


@contextmanager
def staged(out: Path) -> Iterator[Path]:
    """Give a directory to fill, which takes the place of `out` when all went well and is removed when not.

    Args:
        out: where the directory shall be; may exist if it is empty.
    """
    staging = partial_name(out)
    try:
        staging.mkdir(parents=True)
        yield staging
        if out.exists():
            out.rmdir()
        os.replace(staging, out)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
