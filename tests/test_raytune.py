"""Raw zoos with every trap of the published ones, to the format."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import stat
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

import phasezoo
from phasezoo.builders.build import build_zoo
from phasezoo.builders.raytune import Built, build_raytune
from phasezoo.errors import FormatError, SourceError, WriteError, ZooNotFoundError
from phasezoo.nets import build
from phasezoo.verify import verify
from tests import raw_zoo
from tests.serve import serve


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, set[str]]:
    """A raw zoo, the file that would show that something hostile ran, and the kinds of its defects."""
    base = tmp_path_factory.mktemp("raw")
    kinds = raw_zoo.write_raw_zoo(base / "tree" / "zoo", base / "trace")
    return base / "tree" / "zoo", base / "trace", kinds


@pytest.fixture(scope="module")
def built(raw, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Built]:
    out = tmp_path_factory.mktemp("built") / "zoo"
    return out, build_raytune(raw[0], out)


def hashes(root: Path) -> dict[str, str]:
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def pack_zip(root: Path, to: Path, method: int, prefix: str = "") -> Path:
    to.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(to, "w", method) as archive:
        for path in sorted(root.rglob("*")):
            if path.is_symlink():
                entry = zipfile.ZipInfo(prefix + path.relative_to(root).as_posix())
                entry.external_attr = (stat.S_IFLNK | 0o777) << 16
                archive.writestr(entry, os.readlink(path))
            elif path.is_file():
                archive.write(path, prefix + path.relative_to(root).as_posix())
    return to


def expected_models() -> dict[str, tuple[int, int, int]]:
    return {f"w{w}-b{b}-s{s}": (w, b, s) for w in raw_zoo.WIDTHS for b in raw_zoo.BATCHES for s in raw_zoo.SEEDS}


LEFT_OUT = {("w4-b8-s0", 0), ("w4-b8-s0", 2), ("w4-b8-s1", 0), ("w4-b8-s1", 2), *(("w4-b8-s2", e) for e in (0, 2, 3))}


def test_the_zoo_has_exactly_the_right_models_cells_and_epochs(built) -> None:
    zoo = phasezoo.load(built[0])
    assert {m.id: (m.config["width"], m.config["batch_size"], m.config["seed"]) for m in zoo} == expected_models()
    assert {m.config["cell_id"] for m in zoo} == {"w2-b1024", "w2-b8", "w4-b1024", "w4-b8"}
    for model in zoo:
        assert model.epochs == [e for e in raw_zoo.CHECKPOINTS if (model.id, e) not in LEFT_OUT]
        expected = [0, 2, 3] if model.id == "w2-b8-s0" else [0, 1, 2, 3]  # a line is missing there
        assert model.results["epoch"].to_pylist() == expected
    assert verify(zoo).problems == ()


def test_every_network_computes_what_it_did_before_bit_for_bit(built) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, 32, 32)
    for model in phasezoo.load(built[0]):
        width, batch, seed = expected_models()[model.id]
        for checkpoint in model.checkpoints():
            before = build("resnet18", width=width, num_classes=10).eval()
            state_dict = raw_zoo.state_dict(width, batch, seed, checkpoint.epoch)
            before.load_state_dict(state_dict)
            assert list(checkpoint) == list(state_dict)
            with torch.no_grad():
                assert torch.equal(checkpoint.module()(x), before(x))


def test_nothing_hostile_ran_and_every_planted_defect_is_reported(raw, built) -> None:
    assert not raw[1].exists()
    report = json.loads((built[0] / "build_report.json").read_text())
    assert raw[2] <= set(report["findings_by_kind"])
    assert report["built"] == {"models": 12, "cells": 4, "checkpoints": 29}
    assert [f["kind"] for f in report["findings"]] == [f.kind for f in built[1].findings]
    assert not any("\x1b" in f["what"] for f in report["findings"])


def test_hosts_addresses_and_paths_do_not_enter_the_zoo(raw, built) -> None:
    zoo = phasezoo.load(built[0])
    texts = [path.read_bytes() for path in built[0].rglob("*") if path.suffix in (".json", ".md")]
    texts += [str(zoo.table(name).to_pylist()).encode() for name in zoo.manifest.tables if name != "digests"]
    for secret in (*raw_zoo.SECRETS, str(raw[0].parent)):
        assert not [text for text in texts if secret.encode() in text], secret


def test_nominal_and_micro_batch_are_told_apart_and_the_loss_is_corrected(built) -> None:
    model = phasezoo.load(built[0])["w4-b1024-s1"]
    keys = ("batch_size", "micro_batch_size", "accumulation_steps")
    assert [model.config[key] for key in keys] == [1024, 128, 8]
    for row in model.results.to_pylist():
        true = raw_zoo.metrics(4, 1024, 1, row["epoch"])["train_loss"]
        assert row["train_loss_corrected"] == pytest.approx(true)
        assert row["train_loss"] == pytest.approx(true / (8 if row["epoch"] else 1))  # as published


def test_landscape_values_move_to_the_cell(built) -> None:
    zoo = phasezoo.load(built[0])
    rows = {row["cell_id"]: row for row in zoo.landscape}
    assert set(rows) == {"w2-b8", "w4-b8"}
    assert all((row["model_id"], row["epoch"], row["protocol"]) == (None, 3, "published") for row in rows.values())
    assert rows["w4-b8"]["log_hessian_trace_train"] == 4.5
    assert rows["w4-b8"]["hessian_trace_train"] == pytest.approx(90.0171, rel=1e-5)
    assert rows["w2-b8"]["log_hessian_trace_train"] is None  # NaN in the raw zoo: reported, not guessed
    assert rows["w2-b8"]["representation_similarity"] == 0.8
    assert "representation_similarity" not in zoo.table("results").column_names


def test_columns_overwritten_by_cell_means_are_flagged(built) -> None:
    zoo = phasezoo.load(built[0])
    flagged = {(r["model_id"], r["epoch"]): r["cell_mean_columns"] for r in zoo.results if r["cell_mean_columns"]}
    assert flagged == {(f"w{w}-b8-s{s}", 3): "train_loss,test_acc" for w in (2, 4) for s in raw_zoo.SEEDS}


def test_directory_zips_and_url_give_the_same_bytes(raw, built, tmp_path: Path) -> None:
    expected = hashes(built[0])
    stored = pack_zip(raw[0], tmp_path / "stored" / "zoo.zip", zipfile.ZIP_STORED)
    deflated = pack_zip(raw[0], tmp_path / "deflated" / "zoo.zip", zipfile.ZIP_DEFLATED, prefix="some/folders/")
    with serve(stored.parent) as server:
        for i, source in enumerate((stored, deflated, f"{server.url}/zoo.zip")):
            build_zoo(source, tmp_path / f"out{i}")
            assert hashes(tmp_path / f"out{i}") == expected, source
        assert 0 < server.sent < stored.stat().st_size  # optimizer states stay where they are
        assert len(server.requests) < 120


def test_processes_give_the_same_bytes(raw, built, tmp_path: Path) -> None:
    build_raytune(raw[0], tmp_path / "zoo", workers=2)
    assert hashes(tmp_path / "zoo") == hashes(built[0])


def test_a_dry_run_counts_and_writes_nothing(raw, tmp_path: Path) -> None:
    dry = build_raytune(raw[0], tmp_path / "zoo", dry_run=True)
    assert (dry.models, dry.cells) == (12, 4)
    assert dry.nbytes > 10**6
    assert {"duplicate-trial", "accumulation"} <= {f.kind for f in dry.findings}
    assert list(tmp_path.iterdir()) == []


SLOW_BUILD = """
import os, signal, sys
from phasezoo.builders import raytune
calls, stop = 0, int(sys.argv[3])
original = raytune._load
def load(tree, path):
    global calls
    calls += 1
    if calls == stop:
        os.kill(os.getpid(), signal.SIGKILL)
    return original(tree, path)
raytune._load = load
raytune.build_raytune(sys.argv[1], sys.argv[2])
"""


def test_a_killed_build_goes_on_and_ends_with_the_same_bytes(raw, built, tmp_path: Path) -> None:
    stops = sorted(random.Random(0).sample(range(1, 36), 5))
    done = 0
    for i, stop in enumerate(stops):
        out = tmp_path / f"zoo{i}"
        command = [sys.executable, "-c", SLOW_BUILD, str(raw[0]), str(out), str(stop)]
        assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
        assert not out.exists()
        done += len(list((tmp_path / f".zoo{i}.partial" / ".records").glob("*.json")))
        build_raytune(raw[0], out)
        assert hashes(out) == hashes(built[0])
        assert sorted(path.name for path in tmp_path.iterdir()) == [f"zoo{j}" for j in range(i + 1)]
    assert done  # some cells were not built again


def test_what_another_input_left_behind_is_not_used(raw, built, tmp_path: Path) -> None:
    tree = tmp_path / "zoo"
    shutil.copytree(raw[0], tree, symlinks=True)
    out = tmp_path / "out"
    command = [sys.executable, "-c", SLOW_BUILD, str(tree), str(out), "20"]
    subprocess.run(command, check=False)
    folder = raw_zoo.find(tree, 2, 1024, 1)
    shutil.rmtree(folder / "checkpoint_000003")
    build_raytune(tree, out)
    assert phasezoo.load(out)["w2-b1024-s1"].epochs == [0, 2]


def simple_tree(root: Path, model_type: str, state_dicts: dict[int, dict[str, torch.Tensor]]) -> Path:
    for seed in (0, 1):
        folder = root / raw_zoo.trial_name(seed, 8, 16, seed)
        folder.mkdir(parents=True)
        settings = raw_zoo.config(8, 16, seed) | {"model::type": model_type}
        (folder / "params.json").write_text(json.dumps(settings))
        lines = [raw_zoo.line(settings, e, raw_zoo.metrics(8, 16, seed, e)) for e in raw_zoo.EPOCHS]
        (folder / "result.json").write_text("\n".join(lines))
        for epoch, state_dict in state_dicts.items():
            (folder / f"checkpoint_{epoch}").mkdir()
            (folder / f"checkpoint_{epoch}" / "checkpoints").write_bytes(raw_zoo.saved(state_dict))
    return root


def test_an_unknown_architecture_keeps_its_own_names_order_and_types(tmp_path: Path) -> None:
    weights = {"z.module.w": torch.randn(2, 3).bfloat16(), "a": torch.tensor(3), "m": torch.randn(4)}
    out = tmp_path / "out"
    built = build_raytune(simple_tree(tmp_path / "cnns", "CNN", {1: weights, 2: weights | {"b": torch.ones(1)}}), out)
    zoo = phasezoo.load(out)
    checkpoint = zoo[0].checkpoint()
    assert checkpoint.epoch == 1
    assert list(checkpoint) == list(weights)
    assert all(torch.equal(checkpoint[name], tensor) for name, tensor in weights.items())
    assert zoo[0].config["architecture"] == "cnn"
    assert [f.kind for f in built.findings].count("layout") == 2
    with pytest.raises(phasezoo.PhaseZooError, match=r"no architecture 'cnn'"):
        checkpoint.module()


def test_a_named_zoo_takes_its_facts_from_the_registry(raw, tmp_path: Path) -> None:
    build_raytune(raw[0], tmp_path / "zoo", zoo="resnet18-cifar10")
    manifest = phasezoo.load(tmp_path / "zoo").manifest
    assert (manifest.name, manifest.dataset, manifest.license) == ("resnet18-cifar10", "cifar10", "CC-BY-4.0")
    assert manifest.temperature.hot == "low"
    with pytest.raises(ZooNotFoundError, match=r"Did you mean 'resnet18-cifar10'"):
        build_raytune(raw[0], tmp_path / "other", zoo="resnet18-cifar1")


def test_exported_trees_build_the_same_networks_again(built, tmp_path: Path) -> None:
    zoo = phasezoo.load(built[0]).filter("width == 2 and seed != 0")
    zoo.export(tmp_path / "ray")
    for model in zoo:
        folder = tmp_path / "ray" / model.id
        lines = [json.loads(text) for text in (folder / "result.json").read_text().splitlines()]
        assert [line["training_iteration"] for line in lines] == [0, 1, 2, 3]
        for checkpoint in model.checkpoints():
            loaded = torch.load(folder / f"checkpoint_{checkpoint.epoch:06d}" / "checkpoints", weights_only=True)
            assert list(loaded) == list(checkpoint)
    build_raytune(tmp_path / "ray", tmp_path / "again")
    again = phasezoo.load(tmp_path / "again")
    assert len(again) == len(zoo)
    for model in zoo:
        assert [c.sha256 for c in again[model.id].checkpoints()] == [c.sha256 for c in model.checkpoints()]
        assert again[model.id].results["test_acc"].equals(model.results["test_acc"])
    with pytest.raises(WriteError, match=r"line e cannot be epoch e"):
        phasezoo.load(built[0]).filter(width=2, batch_size=8, seed=0).export(tmp_path / "gap")


# Zips that mean harm.


def zip_with(path: Path, add) -> Path:
    weights = {"w": torch.ones(2)}
    tree = simple_tree(path.parent / "cnns", "CNN", {1: weights})
    pack_zip(tree, path, zipfile.ZIP_DEFLATED)
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        add(archive)
    return path


def _link(archive: zipfile.ZipFile) -> None:
    entry = zipfile.ZipInfo("trial/params.json")
    entry.external_attr = (stat.S_IFLNK | 0o777) << 16
    archive.writestr(entry, "/etc/passwd")


@pytest.mark.parametrize(
    ("add", "kind"),
    [
        (lambda z: z.writestr("../../outside/params.json", "{}"), "climbing-name"),
        (lambda z: z.writestr("/absolute/params.json", "{}"), "climbing-name"),
        (lambda z: z.writestr("C:\\windows\\params.json", "{}"), "climbing-name"),
        (_link, "link"),
        (lambda z: z.writestr("x", "{}", compress_type=zipfile.ZIP_LZMA), "compression"),
    ],
)
def test_harmful_entries_are_refused_and_the_rest_is_built(tmp_path: Path, add, kind: str) -> None:
    built = build_raytune(zip_with(tmp_path / "in" / "z.zip", add), tmp_path / "out")
    assert built.models == 2
    assert kind in {f.kind for f in built.findings}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]


def test_entries_of_one_name_are_not_chosen_among(tmp_path: Path) -> None:
    def twice(archive: zipfile.ZipFile) -> None:
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr(f"{raw_zoo.trial_name(0, 8, 16, 0)}/checkpoint_1/checkpoints", b"other")

    built = build_raytune(zip_with(tmp_path / "in" / "z.zip", twice), tmp_path / "out")
    assert (built.models, built.checkpoints) == (2, 1)
    assert "name-twice" in {f.kind for f in built.findings}


def patch_directory(path: Path, name: bytes, offset: int, value: int) -> None:
    """Change a 4-byte field of an entry in the zip's directory."""
    data = bytearray(path.read_bytes())
    at = data.rindex(b"PK\x01\x02", 0, data.rindex(name))
    data[at + offset : at + offset + 4] = value.to_bytes(4, "little")
    path.write_bytes(data)


def test_a_bomb_is_refused_by_its_declared_and_by_its_actual_size(tmp_path: Path) -> None:
    path = zip_with(tmp_path / "in" / "z.zip", lambda z: z.writestr("bomb", bytes(10**7)))
    patch_directory(path, b"bomb", 24, 2**31)  # declares 2 GiB
    built = build_raytune(path, tmp_path / "out")
    assert "bomb" in {f.kind for f in built.findings}
    name = f"{raw_zoo.trial_name(0, 8, 16, 0)}/checkpoint_1/checkpoints".encode()
    patch_directory(path, name, 24, 100)  # declares less than it inflates to
    built = build_raytune(path, tmp_path / "out2")
    assert (built.checkpoints, "unreadable" in {f.kind for f in built.findings}) == (1, True)


def test_sources_that_are_nothing_say_so(tmp_path: Path) -> None:
    with pytest.raises(ZooNotFoundError, match=r"no file at .*nowhere"):
        build_zoo(tmp_path / "nowhere", tmp_path / "out")
    (tmp_path / "text").write_text("hello\n" * 10)
    with pytest.raises(FormatError, match=r"neither a Ray Tune folder, a zip of one, nor a summary CSV"):
        build_zoo(tmp_path / "text", tmp_path / "out")
    (tmp_path / "cut.zip").write_bytes(b"PK\x03\x04" + bytes(100))
    with pytest.raises(FormatError, match=r"not a readable zip"):
        build_zoo(tmp_path / "cut.zip", tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FormatError, match=r"no trial found in 'empty'"):
        build_zoo(tmp_path / "empty", tmp_path / "out")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    with pytest.raises(WriteError, match=r"not an empty directory"):
        build_zoo(tmp_path / "empty", tmp_path / "full")


def test_servers_that_cannot_serve_ranges_say_so(raw, tmp_path: Path) -> None:
    pack_zip(raw[0], tmp_path / "zoo.zip", zipfile.ZIP_STORED)
    with serve(tmp_path, ranges=False) as server:
        with pytest.raises(SourceError, match=r"does not support ranges"):
            build_zoo(f"{server.url}/zoo.zip", tmp_path / "out")
        with pytest.raises(ZooNotFoundError, match=r"no file at http"):
            build_zoo(f"{server.url}/none.zip", tmp_path / "out")
    with pytest.raises(SourceError, match=r"cannot open http"):
        build_zoo("http://127.0.0.1:9/zoo.zip", tmp_path / "out")
    assert not (tmp_path / "out").exists()
