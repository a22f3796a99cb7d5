"""Readers that know nothing of phasezoo: datasets, DuckDB, Polars, safetensors."""

from __future__ import annotations

from pathlib import Path

import datasets
import duckdb
import polars
import pytest
import torch
from safetensors import safe_open

import phasezoo


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)


@pytest.mark.parametrize("name", ["configs", "results", "landscape", "checkpoints", "layouts", "digests"])
def test_load_dataset_reads_every_table_from_the_directory(zoo: phasezoo.Zoo, embedded_path: Path, name: str) -> None:
    loaded = datasets.load_dataset(str(embedded_path), name, split="train")
    assert loaded.num_rows == zoo.table(name).num_rows
    assert set(loaded.column_names) <= set(zoo.table(name).column_names)  # phases are computed, not stored


def test_load_dataset_without_a_name_gives_configs_and_streams(embedded_path: Path) -> None:
    assert datasets.load_dataset(str(embedded_path), split="train").num_rows == 264
    stream = datasets.load_dataset(str(embedded_path), "results", split="train", streaming=True)
    assert next(iter(stream))["epoch"] == 0


def test_duckdb_and_polars_read_the_tables(embedded_path: Path) -> None:
    path = embedded_path / "tables" / "results.parquet"
    (best,) = duckdb.sql(f"select max(test_acc) from '{path}' where epoch = 150").fetchall()[0]
    frame = polars.scan_parquet(path).filter(polars.col("epoch") == 150).select(polars.max("test_acc")).collect()
    assert best == frame.item() > 0.97


def test_safetensors_reads_every_shard_and_agrees_on_every_tensor(zoo: phasezoo.Zoo, embedded_path: Path) -> None:
    stock = {str(p): safe_open(p, framework="pt") for p in embedded_path.rglob("*.safetensors")}
    keys = {key for file in stock.values() for key in file.keys() if not key.startswith("__pad__/")}  # noqa: SIM118
    table = zoo.table("checkpoints").to_pydict()
    compared = set()
    for model in zoo:
        for ckpt in model.checkpoints():
            row = table["model_id"].index(model.id) + model.epochs.index(ckpt.epoch)
            file = stock[str(embedded_path / table["shard"][row])]
            for name, tensor in ckpt.state_dict().items():
                key = f"{model.id}/e{ckpt.epoch}/{name}"
                if key in keys:  # an initial network is stored under one of the models that share it
                    assert torch.equal(file.get_tensor(key), tensor)
                    compared.add(key)
    assert compared == keys
