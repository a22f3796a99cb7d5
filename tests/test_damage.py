"""Bad zoos: each defect gets a clear error, and nothing half-read is ever returned."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import phasezoo
from phasezoo import store
from phasezoo.builders.pack import Run
from phasezoo.builders.tables import index_tables, write_zoo
from phasezoo.errors import FormatError, IntegrityError, MissingFileError, WriteError, ZooNotFoundError
from phasezoo.layout import Layout
from phasezoo.tables import write_table
from phasezoo.verify import verify
from tests.conftest import draft, weights


@pytest.fixture
def path(small: Callable[..., Path]) -> Path:
    store._verified.clear()
    return small()


def shard_of(path: Path) -> Path:
    return path / "shards" / "w2-lr0.1" / "00000.safetensors"


def edit_manifest(path: Path, change: Callable[[dict], object]) -> None:
    manifest = json.loads((path / "zoo.json").read_text())
    change(manifest)
    (path / "zoo.json").write_text(json.dumps(manifest))


def replace_table(path: Path, name: str, table: pa.Table) -> None:
    """Swap a table for another one and let the manifest agree."""
    entry = write_table("other", table, path)
    (path / "tables" / "other.parquet").rename(path / "tables" / f"{name}.parquet")
    new = entry.model_dump() | {"path": f"tables/{name}.parquet"}
    edit_manifest(path, lambda m: m["tables"].update({name: new}))


def test_a_sound_zoo_verifies(path: Path) -> None:
    report = verify(phasezoo.load(path))
    assert report.problems == ()
    assert (report.tables, report.shards, report.checkpoints, report.tensors) == (6, 4, 24, 96)


def test_a_shard_cut_short(path: Path) -> None:
    data = shard_of(path).read_bytes()
    shard_of(path).write_bytes(data[:-10])
    model = phasezoo.load(path)["w2-lr0.1-s1"]
    assert model.checkpoint(0).state_dict()
    with pytest.raises(IntegrityError, match=r"cut short.*phasezoo verify"):
        model.checkpoint(5).state_dict()
    assert any("w2-lr0.1/00000" in problem for problem in verify(phasezoo.load(path)).problems)


def test_a_flipped_byte_is_found_by_whole_and_by_partial_reads(path: Path) -> None:
    model = phasezoo.load(path)["w2-lr0.1-s0"]
    place = model._index.locations[0]
    data = bytearray(shard_of(path).read_bytes())
    data[place.offset + place.layout["layers.1.bias"].offset] ^= 1
    shard_of(path).write_bytes(data)
    for read in (
        lambda: model.checkpoint(0).state_dict(),
        lambda: model.checkpoint(0).module(),
        lambda: model.checkpoint(0)["layers.1.bias"],
        lambda: model.trajectory("layers.1.bias"),
    ):
        with pytest.raises(IntegrityError, match=r"damaged.*w2-lr0.1|w2-lr0.1.*damaged") as caught:
            read()
        assert isinstance(caught.value, OSError)
    assert model.checkpoint(0)["layers.0.bias"].shape == (2,)  # another tensor of it is sound
    assert model.checkpoint(2).state_dict()


def test_bytes_are_hashed_at_the_first_read_only(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = phasezoo.load(path)[0]
    model.checkpoint(0).state_dict()
    monkeypatch.setattr(store.hashlib, "sha256", lambda data: pytest.fail("hashed again"))
    assert model.checkpoint(0).state_dict()
    assert model.checkpoint(0)["layers.0.bias"] is not None


def test_a_missing_table_and_a_missing_shard(path: Path) -> None:
    (path / "tables" / "results.parquet").unlink()
    shutil.rmtree(path / "shards" / "w4-lr0.2")
    zoo = phasezoo.load(path)
    with pytest.raises(MissingFileError, match=r"results\.parquet.*zoo\.json names"):
        zoo.table("results")
    assert zoo.table("configs").num_rows == 8
    with pytest.raises(FileNotFoundError, match=r"w4-lr0.2"):
        zoo["w4-lr0.2-s0"].checkpoint().state_dict()
    assert zoo["w4-lr0.1-s0"].checkpoint().state_dict()
    problems = verify(phasezoo.load(path)).problems
    assert len(problems) == 2


def test_a_table_with_other_bytes(path: Path) -> None:
    data = bytearray((path / "tables" / "configs.parquet").read_bytes())
    data[100] ^= 1
    (path / "tables" / "configs.parquet").write_bytes(data)
    with pytest.raises(IntegrityError, match=r"not the file that zoo.json describes"):
        phasezoo.load(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.update(format_version=2), "format version 2; this release reads version 1.*pip install -U"),
        (lambda m: m.pop("format_version"), "format version None"),
        (lambda m: m.update(format="zip"), "not a phasezoo manifest"),
        (lambda m: m.update(nmae="x"), "breaks the format at 'nmae'"),
        (lambda m: m["tables"]["configs"].update(path="../configs.parquet"), "stay inside the zoo"),
        (lambda m: m["tables"]["configs"].update(path="/etc/passwd"), "stay inside the zoo"),
        (lambda m: m["shards"][0].update(path="c:\\x"), "stay inside the zoo"),
        (lambda m: m["shards"][0].update(sha256="0"), "breaks the format at 'shards.0.sha256'"),
        (lambda m: m.update(title="\ud800"), "not valid JSON .*surrogates not allowed"),
        (lambda m: m["load"].pop("column"), "breaks the format at 'load.column'"),
    ],
)
def test_a_manifest_that_cannot_be_read(path: Path, change: Callable[[dict], object], message: str) -> None:
    edit_manifest(path, change)
    with pytest.raises(FormatError, match=message):
        phasezoo.load(path)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "\x00\xff", "[" * 100_000])
def test_a_manifest_that_is_not_json(path: Path, text: str) -> None:
    (path / "zoo.json").write_text(text)
    with pytest.raises(FormatError, match=r"zoo\.json"):
        phasezoo.load(path)


def test_a_directory_without_a_manifest_is_no_zoo(tmp_path: Path) -> None:
    with pytest.raises(ZooNotFoundError, match=r"holds no zoo\.json"):
        phasezoo.load(tmp_path)


def test_tables_that_contradict_the_format(path: Path) -> None:
    zoo = phasezoo.load(path)
    configs, checkpoints = zoo.table("configs"), zoo.table("checkpoints")
    replace_table(path, "checkpoints", checkpoints.drop_columns(["offset"]))
    with pytest.raises(FormatError, match=r"lacks the columns .'offset'"):
        phasezoo.load(path).table("checkpoints")
    replace_table(path, "checkpoints", checkpoints)
    replace_table(path, "configs", pa.concat_tables([configs, configs.slice(0, 1)]))
    with pytest.raises(FormatError, match=r"occurs twice"):
        phasezoo.load(path)["w2-lr0.1-s0"]
    replace_table(path, "configs", configs.slice(0, 3))
    with pytest.raises(FormatError, match=r"which `configs` does not list"):
        phasezoo.load(path).table("checkpoints")


def test_a_file_that_is_not_parquet(path: Path) -> None:
    text = b"not parquet"
    (path / "tables" / "results.parquet").write_bytes(text)
    import hashlib

    sha256 = hashlib.sha256(text).hexdigest()
    edit_manifest(path, lambda m: m["tables"]["results"].update(sha256=sha256, nbytes=len(text)))
    with pytest.raises(FormatError, match=r"not a readable Parquet file"):
        phasezoo.load(path).table("results")


def test_a_layout_that_contradicts_itself(path: Path) -> None:
    layouts = phasezoo.load(path).table("layouts")
    rows = layouts.to_pylist()
    rows[1]["offset"] += 4
    replace_table(path, "layouts", pa.Table.from_pylist(rows, schema=layouts.schema))
    with pytest.raises(FormatError, match=r"contradicts itself"):
        phasezoo.load(path)[0].checkpoint()


def test_an_index_that_points_elsewhere_is_found_before_a_tensor_is_returned(path: Path) -> None:
    checkpoints = phasezoo.load(path).table("checkpoints")
    rows = checkpoints.to_pylist()
    rows[0]["offset"], rows[1]["offset"] = rows[1]["offset"], rows[0]["offset"]
    replace_table(path, "checkpoints", pa.Table.from_pylist(rows, schema=checkpoints.schema))
    zoo = phasezoo.load(path)
    with pytest.raises(IntegrityError, match=r"damaged"):
        zoo[0].checkpoint(0).state_dict()
    with pytest.raises(IntegrityError, match=r"damaged"):
        zoo[0].checkpoint(0)["layers.0.weight"]
    assert len(verify(zoo).problems) == 2


def test_a_read_only_directory_can_be_read_and_not_written(small, tmp_path: Path, unprivileged) -> None:
    path = small()
    for parent in [*tmp_path.parents][:3]:
        if parent.stat().st_mode & 0o077 == 0:
            parent.chmod(0o711)
    tmp_path.chmod(0o555)
    with unprivileged():
        assert phasezoo.load(path)[0].checkpoint().state_dict()
        with pytest.raises(WriteError, match=r"Permission denied. Nothing was left behind"):
            write_zoo(tmp_path / "new", draft(), configs=pa.table({"model_id": []}), results=pa.table({}))
    tmp_path.chmod(0o755)
    assert [p.name for p in tmp_path.iterdir()] == ["small"]


def test_a_directory_with_something_in_it_is_never_overwritten(path: Path) -> None:
    before = (path / "zoo.json").read_bytes()
    with pytest.raises(WriteError, match=r"not an empty directory"):
        write_zoo(path, draft(), configs=pa.table({"model_id": []}), results=pa.table({}))
    assert (path / "zoo.json").read_bytes() == before


def test_a_build_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def read(epoch: int) -> dict:
        raise RuntimeError("the disk of the raw zoo is gone")

    run = Run("m", "c", Layout.of_state_dict(weights(2, 0)), (0,), read)
    with pytest.raises(RuntimeError, match=r"raw zoo"):
        write_zoo(tmp_path / "z", draft(), configs=pa.table({"model_id": ["m"]}), results=pa.table({}), runs=[run])
    assert list(tmp_path.iterdir()) == []


def test_building_twice_gives_identical_bytes_in_every_file(small) -> None:
    a, b = small("a"), small("b")
    files = sorted(p.relative_to(a) for p in a.rglob("*") if p.is_file())
    assert files == sorted(p.relative_to(b) for p in b.rglob("*") if p.is_file())
    assert len(files) == 4 + 6 + 2
    for file in files:
        assert (a / file).read_bytes() == (b / file).read_bytes(), file


def rebuilt_index(path: Path) -> dict[str, pa.Table]:
    from phasezoo import shard

    packed = []
    manifest = json.loads((path / "zoo.json").read_text())
    for entry in manifest["shards"]:
        data = (path / entry["path"]).read_bytes()
        written = tuple(shard.scan(lambda a, b, data=data: data[a:b], len(data), where=entry["path"]))
        packed.append((entry["path"], shard.File(written, len(data), "", 0)))
    ids = pq.read_table(path / "tables" / "configs.parquet")["model_id"].to_pylist()
    return index_tables(packed, {model_id: i for i, model_id in enumerate(ids)})


def test_rebuilding_the_index_from_the_shards_gives_the_written_index(path: Path, embedded_path: Path) -> None:
    for place in (path, embedded_path):
        for name, table in rebuilt_index(place).items():
            assert table.equals(pq.read_table(place / "tables" / f"{name}.parquet")), name


def test_the_same_checkpoint_twice_or_of_no_model_is_refused(tmp_path: Path) -> None:
    layout = Layout.of_state_dict(weights(2, 0))
    runs = [Run("m", cell, layout, (0,), lambda epoch: weights(2, 0)) for cell in ("a", "b")]
    with pytest.raises(FormatError, match=r"two checkpoints at epoch 0"):
        write_zoo(tmp_path / "z", draft(), configs=pa.table({"model_id": ["m"]}), results=pa.table({}), runs=runs)
    with pytest.raises(FormatError, match=r"belong to no model"):
        write_zoo(tmp_path / "z", draft(), configs=pa.table({"model_id": ["n"]}), results=pa.table({}), runs=runs[:1])


def test_a_table_that_no_zoo_may_have_is_not_written(tmp_path: Path) -> None:
    zoo = phasezoo.load("mlp-digits")
    with pytest.raises(FormatError, match=r"table 'configs' brings the columns \['phase', .*Drop them"):
        write_zoo(tmp_path / "z", zoo.manifest, configs=zoo.table("configs"), results=zoo.table("results"))
    assert list(tmp_path.iterdir()) == []
