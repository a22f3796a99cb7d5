"""Tables in pandas, Polars and DuckDB."""

from __future__ import annotations

import sys

import pytest

import phasezoo
from phasezoo.errors import DependencyError, FilterError, TableNotFoundError


def test_a_query_sees_the_tables_of_the_view(zoo: phasezoo.Zoo) -> None:
    pytest.importorskip("duckdb", reason="SQL is answered by DuckDB")
    view = zoo.filter(width=[8, 12])
    counts = view.sql(
        "select (select count(*) from configs), (select count(*) from results), (select count(*) from checkpoints),"
        "(select count(*) from landscape), (select count(*) from cells), (select count(*) from summary)"
    )
    names = ("configs", "results", "checkpoints", "landscape", "cells", "summary")
    assert list(counts.to_pylist()[0].values()) == [view.table(name).num_rows for name in names]


def test_a_query_joins_tables_as_pandas_does(zoo: phasezoo.Zoo) -> None:
    pytest.importorskip("duckdb", reason="SQL is answered by DuckDB")
    ours = zoo.sql(
        "select phase, avg(test_acc) as acc from results join configs using (model_id) where epoch = 50 "
        "group by phase order by phase"
    )
    frame = zoo.to_pandas("results").merge(zoo.to_pandas("configs"), on="model_id")
    theirs = frame[frame.epoch == 50].groupby("phase").test_acc.mean()
    assert ours["phase"].to_pylist() == theirs.index.tolist()
    assert ours["acc"].to_pylist() == pytest.approx(theirs.tolist())


def test_data_frames_hold_the_rows_of_the_view(zoo: phasezoo.Zoo) -> None:
    view = zoo.filter(width=8).sort("test_acc")
    frame = view.to_pandas()
    assert frame.model_id.tolist() == [m.id for m in view]
    assert frame.test_acc.is_monotonic_increasing
    assert len(view.to_pandas("cells")) == view.table("cells").num_rows
    pytest.importorskip("polars", reason="to_polars needs it")
    assert view.to_polars()["model_id"].to_list() == [m.id for m in view]
    assert view.to_polars("results").shape[0] == 24 * 151


def test_mistakes_and_missing_libraries_say_what_to_do(zoo: phasezoo.Zoo, monkeypatch) -> None:
    pytest.importorskip("duckdb", reason="SQL is answered by DuckDB")
    with pytest.raises(FilterError, match="widht.*width"):
        zoo.sql("select widht from configs")
    with pytest.raises(TableNotFoundError, match="Did you mean 'results'"):
        zoo.to_pandas("result")
    for name, call in (
        ("duckdb", lambda: zoo.sql("select 1")),
        ("pandas", zoo.to_pandas),
        ("polars", zoo.to_polars),
    ):
        monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(DependencyError, match=f"pip install {name}"):
            call()
