"""Tables that somebody else wrote, with hashes that fit: whatever they say, what is read is right, or it is refused."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import phasezoo
from phasezoo import store
from phasezoo.builders.pack import Run
from phasezoo.builders.tables import write_zoo
from phasezoo.cache import Cache
from phasezoo.errors import ArchitectureError, FormatError, IntegrityError, MissingFileError, PhaseZooError
from phasezoo.layout import Layout
from phasezoo.manifest import Manifest
from phasezoo.nets import build
from phasezoo.tables import from_rows
from phasezoo.verify import verify
from tests.conftest import SHAPE, draft, weights
from tests.fuzz import long, quick, values

TABLES = ("configs", "results", "landscape", "checkpoints", "layouts", "digests")
METRICS = ("curve_mc_train_error", "representation_similarity", "log_hessian_trace", "hessian_trace")


class Victim:
    """A small zoo whose tables are swapped for others, and the manifest made to agree."""

    def __init__(self, path: Path) -> None:
        self.path = path
        configs, results, landscape, runs = [], [], [], []
        for width in (2, 4):
            cell_id = f"w{width}"
            for seed in (0, 1):
                model_id = f"{cell_id}-s{seed}"
                layout = Layout.of_state_dict(weights(width, seed))
                arguments = json.dumps({**SHAPE, "width": width})
                config = {
                    "model_id": model_id,
                    "cell_id": cell_id,
                    "load": float(width),
                    "temperature": 0.1,
                    "seed": seed,
                }
                configs.append({**config, "width": width, "architecture": "mlp", "architecture_config": arguments})
                results += [
                    {"model_id": model_id, "epoch": e, "train_loss": 10.0**-e, "test_acc": 0.5} for e in range(3)
                ]
                runs.append(Run(model_id, cell_id, layout, (0, 2), lambda e, w=width, s=seed: weights(w, 9 * s + e)))
            landscape.append({"cell_id": cell_id, "epoch": 2, "protocol": "p", **dict.fromkeys(METRICS, 0.5)})
        write_zoo(
            path,
            draft(),
            configs=pa.Table.from_pylist(configs),
            results=pa.Table.from_pylist(results),
            landscape=from_rows(landscape, ("model_id", "cell_id", "epoch", "protocol", *METRICS)),
            runs=runs,
        )
        self.manifest = json.loads((path / "zoo.json").read_text())
        self.tables = {name: pq.read_table(path / "tables" / f"{name}.parquet") for name in TABLES}
        self.digest_of = {m.checkpoint(e).sha256 for m in phasezoo.load(path) for e in m.epochs}

    def swap(self, tables: dict[str, pa.Table | bytes], *, rows: int | None = None) -> phasezoo.Zoo:
        manifest = json.loads(json.dumps(self.manifest))
        for name, table in tables.items():
            data = table if isinstance(table, bytes) else parquet(table)
            (self.path / "tables" / f"other-{name}.parquet").write_bytes(data)
            manifest["tables"][name] = {
                "path": f"tables/other-{name}.parquet",
                "nbytes": len(data),
                "sha256": hashlib.sha256(data).hexdigest(),
                "rows": table.num_rows if rows is None and isinstance(table, pa.Table) else rows or 0,
            }
        (self.path / "zoo.json").write_text(json.dumps(manifest))
        store._verified.clear()
        return phasezoo.load(self.path)

    def edit(self, name: str, column: str, change: Callable[[Any], Any], *, row: int = 0) -> phasezoo.Zoo:
        table = self.tables[name]
        entries = table[column].to_pylist()
        entries[row] = change(entries[row])
        place = table.column_names.index(column)
        field = table.schema.field(column)
        return self.swap({name: table.set_column(place, field, pa.array(entries, field.type))})


def parquet(table: pa.Table) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def victim(tmp_path_factory: pytest.TempPathFactory) -> Victim:
    return Victim(tmp_path_factory.mktemp("victim") / "zoo")


def read_states(zoo: phasezoo.Zoo, victim: Victim) -> None:
    for model in zoo:
        for checkpoint in model.checkpoints():
            flat = [tensor.reshape(-1).view(torch.uint8) for tensor in checkpoint.state_dict().values()]
            assert hashlib.sha256(torch.cat(flat).numpy().data).hexdigest() in victim.digest_of


USES: dict[str, Callable[[phasezoo.Zoo, Victim], object]] = {
    "configs": lambda zoo, _: [model.config for model in zoo],
    "results": lambda zoo, _: [model.results.to_pylist() for model in zoo],
    "summary": lambda zoo, _: zoo.table("summary").to_pylist(),
    "cells": lambda zoo, _: zoo.table("cells").to_pylist(),
    "phases": lambda zoo, _: (zoo.phases(), zoo.phases(thresholds="otsu")),
    "landscape": lambda zoo, _: ([model.landscape for model in zoo], zoo[:2].table("landscape")),
    "filter": lambda zoo, _: (zoo.filter(width=2), zoo.filter("test_acc > 0.1 and width in (2, 3)")),
    "sort": lambda zoo, _: (zoo.sort("test_acc"), list(zoo.groupby("width", "seed"))),
    "states": read_states,
    "modules": lambda zoo, _: [model.checkpoint().module() for model in zoo],
    "tensors": lambda zoo, _: [model.trajectory("layers.0.weight") for model in zoo],
    "metrics": lambda zoo, _: [model.checkpoint("first").metrics for model in zoo],
    "verify": lambda zoo, _: verify(zoo),
    "text": lambda zoo, _: (repr(zoo), [repr(model) for model in zoo], zoo.nbytes),
}

TYPES = [
    *(pa.int8(), pa.int32(), pa.uint64(), pa.float16(), pa.float32(), pa.bool_(), pa.string(), pa.large_string()),
    *(pa.binary(), pa.null(), pa.date32(), pa.timestamp("ms"), pa.decimal128(38, 10), pa.list_(pa.int64())),
    *(pa.list_(pa.string()), pa.struct([("a", pa.int64())]), pa.dictionary(pa.int32(), pa.string()), pa.duration("ms")),
]
NUMBERS = st.sampled_from([0, 1, -1, 3, 64, 2**31, 2**62, 2**63 - 1, -(2**63)])
FLOATS = st.sampled_from([0.0, 1.0, -1.0, 1e308, -1e308, 5e-324, float("nan"), float("inf"), -float("inf")])
TEXTS = st.sampled_from(
    [
        *("", "x", "../../etc/passwd", "/etc/passwd", "zoo.json", "é\0", "F32", "I64", "w2-s0", "mlp", "resnet18"),
        *("[]", "{", "null", '{"width": -1}', '{"width": "x"}', '{"device": "cpu"}', '{"architecture": "x"}'),
        '{"in_features": 5, "width": 2, "depth": 1000000000, "out_features": 3}',
        '{"in_features": 9223372036854775807, "width": 9223372036854775807, "depth": 1, "out_features": 3}',
    ]
)
SHAPES = st.sampled_from([[], [0], [-1], [None], [2**62, 4], [2**63 - 1, 0], [1] * 70, [3, 2]])


def entries(kind: pa.DataType) -> st.SearchStrategy[Any]:
    for is_one, some in (
        (pa.types.is_integer, NUMBERS),
        (pa.types.is_floating, FLOATS),
        (pa.types.is_string, TEXTS),
        (pa.types.is_binary, st.binary(max_size=40)),
        (pa.types.is_list, SHAPES),
    ):
        if is_one(kind):
            return st.none() | some
    return st.none()


def column(kind: pa.DataType, n: int, draw: st.DrawFn) -> pa.Array:
    """A column of any type, of what it may hold and Python may not."""
    if pa.types.is_string(kind) and draw(st.booleans()):
        return pa.array([b"\xff\xfe"] * n, pa.binary()).view(kind)  # no text
    if pa.types.is_timestamp(kind) or pa.types.is_duration(kind):
        return pa.array([draw(NUMBERS)] * n, pa.int64()).view(kind)
    if pa.types.is_date32(kind):
        return pa.array([draw(st.sampled_from([0, 2**31 - 1, -(2**31)]))] * n, pa.int32()).view(kind)
    return pa.nulls(n, kind)


@st.composite
def changed(draw: st.DrawFn, table: pa.Table) -> pa.Table:
    n, name = table.num_rows, draw(st.sampled_from(table.column_names))
    place, field = table.column_names.index(name), table.schema.field(name)
    how = draw(st.integers(0, 8))
    if how <= 3 and n:
        new = table[name].to_pylist()
        for row in draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=3)):
            new[row] = draw(entries(field.type))
        return table.set_column(place, field, pa.array(new, field.type))
    if how == 4:
        kind = draw(st.sampled_from(TYPES))
        try:
            return table.set_column(place, name, table[name].cast(kind, safe=False))
        except pa.ArrowException:
            return table.set_column(place, name, column(kind, n, draw))
    if how == 5:
        new_name = draw(
            st.sampled_from(["phase", "__row__", "train_loss", "model_id", "epoch", "shape", "cell", "", "x"])
        )
        return table.append_column(new_name, column(draw(st.sampled_from(TYPES)), n, draw))
    if how == 6:
        return table.drop_columns([name])
    if how == 7:
        return pa.concat_tables([table, table.slice(0, draw(st.integers(0, 3)))])
    return table.take(pa.array(draw(st.permutations(range(n)))[: draw(st.integers(0, n))], pa.int64()))


def check_tables(victim: Victim, data: st.DataObject) -> None:
    names = data.draw(st.lists(st.sampled_from(TABLES), min_size=1, max_size=2, unique=True))
    swapped = {name: data.draw(changed(victim.tables[name])) for name in names}
    for use in data.draw(st.lists(st.sampled_from(sorted(USES)), min_size=1, max_size=3, unique=True)):
        try:
            USES[use](victim.swap(swapped), victim)
        except PhaseZooError as error:
            assert len(str(error)) < 3000  # noqa: PT017


@quick(120)
@given(data=st.data())
def test_other_tables_are_read_rightly_or_refused(victim: Victim, data: st.DataObject) -> None:
    check_tables(victim, data)


@pytest.mark.slow
@long(1_500)
@given(data=st.data())
def test_other_tables_are_read_rightly_or_refused_at_length(victim: Victim, data: st.DataObject) -> None:
    check_tables(victim, data)


# What was found.


@pytest.mark.parametrize(
    ("column", "change"),
    [
        ("offset", lambda offset: -64),
        ("offset", lambda offset: offset + 2**40),
        ("offset", lambda offset: 2**63 - 1),
        ("shard", lambda shard: "../../../../etc/passwd"),
        ("shard", lambda shard: "/etc/passwd"),
        ("shard", lambda shard: "zoo.json"),
        ("sha256", lambda sha256: "/etc/passwd"),
        ("sha256", lambda sha256: "x"),
        ("nbytes", lambda nbytes: -nbytes),
        ("layout_id", lambda layout_id: "x"),
        ("shard", lambda shard: None),
    ],
)
def test_an_index_cannot_lead_out_of_the_zoo(victim: Victim, column: str, change: Callable[[Any], Any]) -> None:
    zoo = victim.edit("checkpoints", column, change)
    for read in (lambda: zoo[0].checkpoint(0), lambda: zoo[0].trajectory("layers.0.bias")):
        with pytest.raises(FormatError):
            read()
    assert verify(zoo).problems


def test_a_hostile_index_can_neither_delete_nor_write_files_through_the_cache(victim: Victim, tmp_path: Path) -> None:
    fsspec = pytest.importorskip("fsspec")
    nbytes = victim.tables["checkpoints"]["nbytes"][0].as_py()
    mine = tmp_path / "mine"
    mine.write_bytes(bytes(nbytes))  # as long as the checkpoint, so that the cache would take it for a damaged one
    victim.edit("checkpoints", "sha256", lambda _: str(mine))
    memory = fsspec.filesystem("memory")
    memory.put(str(victim.path), "/hostile", recursive=True)
    zoo = phasezoo.load("memory://hostile", cache_dir=tmp_path / "cache")
    for read in (lambda: zoo[0].checkpoint(0).state_dict(), lambda: zoo[0].checkpoint(0)["layers.0.bias"]):
        with pytest.raises(FormatError, match=r"knows no such place"):
            read()
    assert mine.read_bytes() == bytes(nbytes)
    memory.rm("/hostile", recursive=True)
    cache = Cache(tmp_path / "cache")
    for key in (str(mine), "../../mine", "x", f"{'0' * 64}/../x"):
        with pytest.raises(ValueError, match=r"is no hash"):
            cache.path(key)


def test_digests_of_other_checkpoints_or_of_fewer_tensors_are_refused(victim: Victim) -> None:
    with pytest.raises(FormatError, match=r"one digest for each tensor"):
        victim.edit("digests", "digests", lambda digests: digests[:-8])[0].checkpoint(0)["layers.0.bias"]
    for other in (victim.tables["digests"].slice(1), victim.tables["digests"].take([0] * 3)):
        zoo = victim.swap({"digests": other})
        with pytest.raises(FormatError):
            zoo[0].checkpoint(0)["layers.0.bias"]
        assert verify(zoo).problems


def test_columns_that_phasezoo_makes_are_refused(victim: Victim) -> None:
    for name, column in (("configs", "phase"), ("configs", "__row__"), ("results", "__row__")):
        table = victim.tables[name]
        with pytest.raises(FormatError, match=f"{column}.*made by phasezoo"):
            victim.swap({name: table.append_column(column, pa.nulls(len(table)))}).filter(width=2)


def test_rows_that_are_there_twice_are_refused(victim: Victim) -> None:
    for name in ("results", "checkpoints"):
        table = victim.tables[name]
        with pytest.raises(FormatError, match=r"several rows of model w2-s0 at epoch 0"):
            victim.swap({name: pa.concat_tables([table, table.slice(0, 1)])}).table(name)


@pytest.mark.parametrize("text", ["[]", "{", "5", "[" * 50_000, '"x"', "NaN", "\\"])
def test_arguments_that_are_no_json_object_are_refused(victim: Victim, text: str) -> None:
    with pytest.raises(FormatError, match=r"no JSON object"):
        victim.edit("configs", "architecture_config", lambda _: text)


@pytest.mark.parametrize(
    "changes",
    [
        {"width": -1},
        {"width": "x"},
        {"width": 3},
        {"depth": 10**9},
        {"width": 2**62},
        {"more": 1},
        {"in_features": 1e400},
    ],
)
def test_arguments_that_do_not_fit_the_weights_are_refused(victim: Victim, changes: dict[str, Any]) -> None:
    zoo = victim.edit("configs", "architecture_config", lambda text: json.dumps({**json.loads(text), **changes}))
    with pytest.raises(ArchitectureError):
        zoo[0].checkpoint().module()


@pytest.mark.parametrize(
    ("architecture", "arguments"),
    [
        ("vit", {"image_size": 8, "patch_size": 4, "embedding_dim": 8, "heads": 2, "num_classes": 3}),
        ("gpt2", {"model_dim": 8, "heads": 2}),
        ("mlp", {**SHAPE, "width": 2}),
    ],
)
def test_no_architecture_is_built_for_ever(architecture: str, arguments: dict[str, Any]) -> None:
    for depth in (10**9, -1):
        with pytest.raises(ArchitectureError, match=f"depth {depth}"):
            build(architecture, **{**arguments, "depth": depth}, device="meta")


def test_a_device_in_the_arguments_is_not_obeyed(victim: Victim) -> None:
    zoo = victim.edit("configs", "architecture_config", lambda text: json.dumps({**json.loads(text), "device": "cuda"}))
    assert zoo[0].checkpoint().module().layers[0].weight.device.type == "cpu"


def test_texts_that_are_no_text_and_dates_that_are_no_dates_are_refused(victim: Victim) -> None:
    configs = victim.tables["configs"]
    for other in (
        pa.array([b"\xff"] * len(configs), pa.binary()).view(pa.string()),
        pa.array([2**61] * len(configs), pa.int64()).view(pa.timestamp("ms")),
    ):
        with pytest.raises(FormatError):
            victim.swap({"configs": configs.append_column("more", other)})


def test_other_widths_of_standard_types_are_read(victim: Victim) -> None:
    checkpoints = victim.tables["checkpoints"]
    for name, kind in (("epoch", pa.int16()), ("offset", pa.uint64()), ("shard", pa.large_string())):
        place = checkpoints.column_names.index(name)
        checkpoints = checkpoints.set_column(place, name, checkpoints[name].cast(kind))
    place = checkpoints.column_names.index("model_id")
    checkpoints = checkpoints.set_column(
        place, "model_id", checkpoints["model_id"].combine_chunks().dictionary_encode()
    )
    zoo = victim.swap({"checkpoints": checkpoints})
    assert zoo.table("checkpoints").cast(victim.tables["checkpoints"].schema).equals(victim.tables["checkpoints"])
    assert zoo[0].checkpoint().module()


def bomb(name: str, n: int, text: str | None = None) -> bytes:
    """A table of a few kB that unpacks to `n` rows of one value."""
    chunk = pa.array([0.5 if text is None else text]).take(pa.array([0] * 2**16))
    schema = pa.schema([("model_id", pa.string()), ("epoch", pa.int64()), (name, chunk.type)])
    buffer = io.BytesIO()
    with pq.ParquetWriter(buffer, schema, compression="zstd") as writer:
        rows = pa.table({"model_id": ["w2-s0"] * 2**16, "epoch": [0] * 2**16, name: chunk}, schema=schema)
        writer.write_table(pa.concat_tables([rows] * (n // 2**16)), row_group_size=n)
    return buffer.getvalue()


def test_a_table_that_unpacks_to_more_than_memory_holds_is_refused_before(victim: Victim) -> None:
    import resource

    short = bomb("time", 2**16)
    with pytest.raises(FormatError, match=r"has 65536 rows"):
        victim.swap({"results": short}, rows=6).table("results")
    text = bomb("note", 2**18, "x" * 10_000)  # 2.6 GB of text
    assert len(text) < 100_000
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(FormatError, match=r"column 'note' unpacks to 2,621,440,000 bytes"):
        victim.swap({"results": text}, rows=2**18).table("results")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000  # kB


def test_a_damaged_parquet_file_is_refused(victim: Victim) -> None:
    data = parquet(victim.tables["results"])
    rows = victim.tables["results"].num_rows
    for broken in (b"", data[:-4], data[: len(data) // 2], data[:4] + bytes(len(data) - 8) + data[-4:]):
        with pytest.raises(FormatError):
            victim.swap({"results": broken}, rows=rows).table("results")


def test_a_file_that_is_longer_than_stated_or_is_a_pipe_is_not_read(victim: Victim) -> None:
    zoo = victim.swap({})
    place = victim.path / "tables" / "results.parquet"
    kept = place.read_bytes()
    try:
        with open(place, "r+b") as file:
            file.truncate(2**40)  # sparse: nothing is on the disk, and all of it would be in memory
        with pytest.raises(IntegrityError, match=r"1099511627776 bytes"):
            zoo.table("results")
        place.unlink()
        os.mkfifo(place)
        with pytest.raises(PhaseZooError):
            phasezoo.load(victim.path).table("results")
    finally:
        place.unlink()
        place.write_bytes(kept)
    shard = victim.path / victim.manifest["shards"][0]["path"]
    moved = shutil.move(shard, shard.with_suffix(".moved"))
    try:
        os.mkfifo(shard)
        with pytest.raises(MissingFileError, match=r"no regular file"):
            phasezoo.load(victim.path)[0].checkpoint(0).state_dict()
    finally:
        shard.unlink()
        shutil.move(moved, shard)


def test_a_cell_of_similarity_zero_has_a_phase(victim: Victim) -> None:
    table = victim.tables["landscape"]
    place = table.column_names.index("representation_similarity")
    zeros = table.set_column(place, table.schema.field(place), pa.array([0.0] * len(table)))
    assert victim.swap({"landscape": zeros}).phases()["phase"].to_pylist() == ["IV-B", "IV-B"]


# Manifests.


def paths(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield at
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from paths(inner, (*at, key))


def check_manifest(victim: Victim, data: st.DataObject) -> None:
    raw = json.loads(json.dumps(victim.manifest))
    for _ in range(data.draw(st.integers(1, 3))):
        *to, last = data.draw(st.sampled_from([path for path in paths(raw) if path]))
        parent = raw
        for key in to:
            parent = parent[key]
        parent[last] = data.draw(values)
    text = json.dumps(raw, ensure_ascii=data.draw(st.booleans())).encode("utf-8", "surrogatepass")
    try:
        manifest = Manifest.from_bytes(text)
    except FormatError as error:
        assert len(str(error)) < 3000  # noqa: PT017
        return
    again = manifest.to_bytes()
    assert Manifest.from_bytes(again).to_bytes() == again
    for file in (*manifest.tables.values(), *manifest.shards):
        assert (Path("/zoo") / file.path).resolve().is_relative_to("/zoo")
    (victim.path / "zoo.json").write_bytes(text)
    try:
        zoo = phasezoo.load(victim.path)
        USES["states"](zoo, victim)
        USES["phases"](zoo, victim)
        repr(zoo)
    except PhaseZooError:
        pass


@quick(150)
@given(data=st.data())
def test_another_manifest_is_read_or_refused(victim: Victim, data: st.DataObject) -> None:
    check_manifest(victim, data)


@pytest.mark.slow
@long(5_000)
@given(data=st.data())
def test_another_manifest_is_read_or_refused_at_length(victim: Victim, data: st.DataObject) -> None:
    check_manifest(victim, data)
