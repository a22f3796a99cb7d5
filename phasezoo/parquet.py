"""From the bytes of Parquet files that somebody else wrote to Arrow tables that the rest of the package can trust."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from phasezoo.errors import FormatError

if TYPE_CHECKING:
    import pyarrow as pa

# Columns without which a table cannot be used; a table may have more.
REQUIRED: dict[str, tuple[str, ...]] = {
    "configs": ("model_id", "cell_id", "load", "temperature", "seed", "architecture", "architecture_config"),
    "results": ("model_id", "epoch"),
    "landscape": ("model_id", "cell_id", "epoch", "protocol"),
    "checkpoints": ("model_id", "epoch", "shard", "offset", "nbytes", "sha256", "layout_id"),
    "layouts": ("layout_id", "position", "name", "dtype", "shape", "offset", "nbytes"),
    "digests": ("model_id", "epoch", "digests"),
}
# Required columns that may lack values.
OPTIONAL = {("configs", name) for name in ("seed", "architecture", "architecture_config")} | {("landscape", "model_id")}
# Columns that `Zoo` adds to `configs` and `results`.
DERIVED = ("phase", "phase_confidence", "phase_reasons", "fit", "seed_disagrees", "__row__")
MAX_VALUES = 2**28  # of a table; the largest zoo that is planned has 2**23
MAX_TEXT = 2**31  # bytes of a column of texts


def read_table(name: str, data: memoryview, *, rows: int, where: str) -> pa.Table:
    """Read a table of a zoo and check that it is one.

    A few bytes of Parquet can stand for any number of rows, and texts need not be text: both are found out here,
    before they are unpacked. Standard columns come out with their standard types.

    Args:
        name: name of the table.
        data: the file.
        rows: how many rows it must have.
        where: the file, for errors.

    Raises:
        FormatError: it is not Parquet, has not these rows, or its columns are not those of the format.
    """
    import pyarrow as pa

    try:
        table = _unpack(pa.py_buffer(data), name, rows, where)
        table.validate(full=True)
        table = _standard(name, table, where)
    except (pa.ArrowException, OSError, ValueError, OverflowError, UnicodeError) as error:
        if isinstance(error, FormatError):
            raise
        raise FormatError(f"{where} is not a readable Parquet file: {error}. Copy it again, or rebuild it.") from None
    _check(name, table, where)
    return table


def _unpack(buffer: pa.Buffer, name: str, rows: int, where: str) -> pa.Table:
    """Read all columns; long columns of texts as dictionaries first, to see how long they will be."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    # Not read_table: it imports pyarrow.dataset, and with it pandas, for 0.15 s.
    file = pq.ParquetFile(pa.BufferReader(buffer))
    names, found = file.schema_arrow.names, file.metadata.num_rows
    missing = [column for column in REQUIRED.get(name, ()) if column not in names]
    if missing or found != rows:
        raise FormatError(
            f"{where} has {found} rows and lacks the columns {missing}; the manifest promises {rows} rows. Rebuild the "
            "zoo with `phasezoo build`."
        )
    if len(set(names)) < len(names):
        raise FormatError(f"{where} has several columns of one name. Rebuild the zoo with `phasezoo build`.")
    groups = [file.metadata.row_group(i) for i in range(file.metadata.num_row_groups)]
    chunks = [group.column(i) for group in groups for i in range(group.num_columns)]
    values = max(sum(chunk.num_values for chunk in chunks), rows * len(names))
    if values > MAX_VALUES:
        raise FormatError(f"{where} unpacks to {values:,} values; no zoo has more than {MAX_VALUES:,}.")
    long = [
        chunk.path_in_schema
        for chunk in chunks
        if chunk.physical_type == "BYTE_ARRAY" and chunk.total_uncompressed_size * rows > MAX_TEXT
    ]
    if not long:
        return file.read()
    table = pq.ParquetFile(pa.BufferReader(buffer), read_dictionary=long).read()
    for i, column in enumerate(table.schema.names):
        chunked = table[column]
        if not pa.types.is_dictionary(chunked.type):
            continue
        nbytes = sum(
            pc.sum(pc.binary_length(chunk.dictionary).take(chunk.indices)).as_py() or 0 for chunk in chunked.chunks
        )
        if nbytes > MAX_TEXT:
            raise FormatError(
                f"{where}: column {column!r} unpacks to {nbytes:,} bytes; none has more than {MAX_TEXT:,}."
            )
        plain = table.schema.field(i).with_type(chunked.type.value_type)
        table = table.set_column(i, plain, chunked.cast(chunked.type.value_type))
    return table


def _standard(name: str, table: pa.Table, where: str) -> pa.Table:
    """Give standard columns their standard types; only where no value changes."""
    import pyarrow as pa

    from phasezoo.tables import COLUMNS

    # Types that Arrow itself cannot select rows of.
    views = {"string_view": pa.string(), "binary_view": pa.binary()}
    for i, field in enumerate(table.schema):
        wanted = COLUMNS[field.name][0] if field.name in COLUMNS else views.get(str(field.type))
        if wanted is None or field.type == wanted:
            continue
        if not _alike(field.type, wanted):
            raise FormatError(f"{where}: column {field.name!r} of table {name!r} is {field.type}, it must be {wanted}.")
        table = table.set_column(i, field.with_type(wanted), table[field.name].cast(wanted))
    return table


def _alike(found: Any, wanted: Any) -> bool:
    """Are these the same type but for its width, as other writers choose it?"""
    from pyarrow import types

    if types.is_null(found):
        return True
    if types.is_dictionary(found):
        return _alike(found.value_type, wanted)
    if types.is_list(wanted):
        return (types.is_list(found) or types.is_large_list(found)) and _alike(found.value_type, wanted.value_type)
    if types.is_floating(wanted):
        return bool(types.is_floating(found) or types.is_integer(found))
    if types.is_string(wanted):
        return str(found) in ("string", "large_string", "string_view")
    if types.is_binary(wanted):
        return str(found) in ("binary", "large_binary", "binary_view")
    return bool(types.is_integer(wanted) and types.is_integer(found))


def _check(name: str, table: pa.Table, where: str) -> None:
    """Refuse values that are missing, or that Python cannot hold."""
    import pyarrow as pa
    import pyarrow.compute as pc

    for column in REQUIRED.get(name, ()):
        if (name, column) not in OPTIONAL and table[column].null_count:
            raise FormatError(f"{where}: column {column!r} of table {name!r} lacks values. Rebuild the zoo.")
    if name == "layouts" and pc.list_flatten(table["shape"]).null_count:
        raise FormatError(f"{where}: a shape lacks a size. Rebuild the zoo.")
    taken = [column for column in DERIVED if column in table.column_names]
    if taken and name in ("configs", "results"):
        raise FormatError(f"{where}: the columns {taken} are made by phasezoo, and no table may bring them.")
    if name == "configs":
        for column in ("load", "temperature"):
            if not pc.all(pc.is_finite(table[column])).as_py() and table.num_rows:
                raise FormatError(f"{where}: column {column!r} of table {name!r} holds what is no place in a grid.")
        for text in table["architecture_config"].unique().to_pylist():
            _check_arguments(text, where)
    plain = (pa.types.is_boolean, pa.types.is_integer, pa.types.is_floating, pa.types.is_string, pa.types.is_binary)
    other = [f.name for f in table.schema if not any(is_one(f.type) for is_one in plain) and f.name != "shape"]
    try:
        table.select(other).to_pylist()
    except Exception as error:  # dates of the year 300,000, unknown time zones, ...
        raise FormatError(f"{where}: the columns {other} hold what Python cannot: {error}.") from None


def _check_arguments(text: str | None, where: str) -> None:
    try:
        arguments = {} if text is None else json.loads(text)
    except (ValueError, RecursionError):
        arguments = None
    if not isinstance(arguments, dict):
        raise FormatError(f"{where}: architecture_config holds {str(text)[:80]!r}, which is no JSON object.")
