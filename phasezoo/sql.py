"""The tables of a view in other engines: pandas, Polars, DuckDB."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from phasezoo.errors import DependencyError, FilterError

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl
    import pyarrow as pa

    from phasezoo.view import View

# What a query may name; only what it names is read.
TABLES = ("configs", "results", "landscape", "cells", "checkpoints", "summary")


def sql(view: View, query: str) -> pa.Table:
    """Answer a query with DuckDB, over the Arrow tables as they are in memory.

    Args:
        view: the view; its tables are `configs`, `results`, `landscape`, `cells`, `checkpoints` and `summary`.
        query: SQL.

    Raises:
        DependencyError: duckdb is not installed.
        FilterError: DuckDB cannot run the query.

    >>> import phasezoo
    >>> sql(phasezoo.load("mlp-digits"), "select phase, count(*) n from summary group by 1 order by 1").to_pydict()
    {'phase': ['I', 'II', 'III', 'IV-A', 'IV-B'], 'n': [33, 57, 33, 66, 75]}
    """
    try:
        import duckdb
    except ImportError as error:
        raise _missing("duckdb", error) from None
    with duckdb.connect(":memory:") as connection:
        for name in TABLES:
            known = name in ("summary", "cells") or name in view._index.manifest.tables
            if known and re.search(rf"\b{name}\b", query, re.IGNORECASE):
                connection.register(name, view.table(name))
        try:
            return connection.sql(query).to_arrow_table()
        except duckdb.Error as error:
            raise FilterError(f"cannot run {query!r}: {' '.join(str(error).split())}") from None


def to_pandas(view: View, table: str = "summary") -> pd.DataFrame:
    """Return a table of the view as a pandas data frame.

    Raises:
        DependencyError: pandas is not installed.
        TableNotFoundError: no table of that name.

    >>> import phasezoo
    >>> to_pandas(phasezoo.load("mlp-digits").filter(width=8)).test_acc.size
    24
    """
    try:
        import pandas  # noqa: F401
    except ImportError as error:
        raise _missing("pandas", error) from None
    frame: pd.DataFrame = view.table(table).to_pandas()
    return frame


def to_polars(view: View, table: str = "summary") -> pl.DataFrame:
    """Return a table of the view as a Polars data frame, without a copy where types allow.

    Raises:
        DependencyError: polars is not installed.
        TableNotFoundError: no table of that name.

    >>> import phasezoo
    >>> to_polars(phasezoo.load("mlp-digits").filter(width=8), "configs").height
    24
    """
    try:
        import polars
    except ImportError as error:
        raise _missing("polars", error) from None
    frame = polars.from_arrow(view.table(table))
    assert isinstance(frame, polars.DataFrame)
    return frame


def _missing(library: str, error: ImportError) -> DependencyError:
    return DependencyError(
        f"this needs {library}, which cannot be imported ({error}). Install it: pip install {library}."
    )
