"""Published summary tables: by name from a server, and as files; every defect of the published ones is said."""

from __future__ import annotations

import csv
import json
import math
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

import phasezoo
from phasezoo.builders.summary_csv import build_summary
from phasezoo.errors import (
    FormatError,
    IntegrityError,
    PhaseZooError,
    SourceError,
    SourceNotSupportedError,
    WeightsUnavailableError,
    ZooNotFoundError,
)
from phasezoo.nets import build
from phasezoo.registry import COMMIT, ZOOS
from phasezoo.source import transfer
from phasezoo.summary import Tables, parse
from tests.data.make_summary import LANDSCAPE, Table
from tests.test_cli import phasezoo as phasezoo_command

ROWS = Path(__file__).parents[2] / "shared" / "data" / "published_rows"
published = pytest.mark.skipif(not ROWS.is_dir(), reason="the folder of published rows is not here")
METRICS = ("train_loss", "train_acc", "test_loss", "test_acc")
SMALL = {"widths": (2, 4), "batches": (16, 8), "epochs": 4, "annotated": (3,)}


class Server:
    """A loopback server of files by their name; `status`, `cut` and `stall` make it misbehave."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.statuses: list[int] = []
        self.cut = 0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.requests.append(self.path)
                data = outer.files.get(self.path.rsplit("/", 1)[1])
                status = outer.statuses.pop(0) if outer.statuses else 404 if data is None else 200
                body = (data or b"") if status == 200 else b""
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body[: len(body) - outer.cut])

            def log_message(self, *args: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True).start()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Server]:
    server = Server()
    monkeypatch.setenv("PHASEZOO_MIRROR", server.url)
    monkeypatch.setenv("PHASEZOO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("PHASEZOO_HUB", raising=False)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(transfer, "PAUSE", 0.01)
    yield server
    server.http.shutdown()
    server.http.server_close()


@pytest.fixture(scope="session")
def whole() -> bytes:
    """A table of full size: 192 models x 151 epochs."""
    return Table().fill().to_bytes()


def left_in(cache: Path) -> list[Path]:
    return [path for path in cache.rglob("*") if path.is_file()]


def small(**changes: object) -> Table:
    return Table(**{**SMALL, **changes})  # type: ignore[arg-type]


def parsed(table: Table | bytes, name: str = "resnet18-cifar10") -> Tables:
    return parse(table if isinstance(table, bytes) else table.to_bytes(), ZOOS[name])


def findings(tables: Tables) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for finding in tables.findings:
        found.setdefault(finding.kind, []).append(f"{finding.where}: {finding.what}")
    return found


# By name


def test_a_published_zoo_opens_by_name_at_full_size_and_then_without_a_server(server: Server, whole: bytes) -> None:
    server.files["cifar10_resnet18_summary.csv"] = whole
    assert 6.5e6 < len(whole) < 8e6
    start = time.perf_counter()
    zoo = phasezoo.load("resnet18-cifar10")
    assert (zoo.configs.num_rows, zoo.results.num_rows, zoo.landscape.num_rows) == (192, 28_992, 64)
    first = time.perf_counter() - start
    path = f"/ModelZoos/PhaseTransitionModelZoo/{COMMIT}/summary_metrics/cifar10_resnet18_summary.csv"
    assert server.requests == [path]
    start = time.perf_counter()
    again = phasezoo.load("resnet18-cifar10")
    later = time.perf_counter() - start
    assert again.table("results").equals(zoo.table("results"))
    offline = phasezoo.load("resnet18-cifar10", local_files_only=True)
    assert offline.table("landscape").equals(zoo.table("landscape"))
    assert len(server.requests) == 1
    assert first < 3
    assert later < 0.3
    assert repr(zoo) == "Zoo(resnet18-cifar10: 192 models in 64 cells of width x batch_size, no weights)"
    for name in ("configs", "results", "landscape"):
        for field in zoo.table(name).schema:
            assert field.metadata[b"description"], (name, field.name)


def test_filters_and_pictures_work_without_weights(server: Server) -> None:
    server.files["cifar10_resnet18_summary.csv"] = small().fill().to_bytes()
    zoo = phasezoo.load("resnet18-cifar10")
    view = zoo.filter(width=4, batch_size=8)
    assert [model.id for model in view] == ["w4-b8-s0", "w4-b8-s1", "w4-b8-s2"]
    assert view[0].results.num_rows == 4
    assert view[0].landscape.num_rows == view.landscape.num_rows == 1
    assert zoo.filter("test_acc > 0.99 and cell_mean_columns is None").nbytes == 0
    assert zoo.heatmap("test_acc").get_title() == "resnet18-cifar10, epoch 3"


def test_touching_a_weight_names_the_three_ways_on(server: Server) -> None:
    server.files["cifar10_resnet18_summary.csv"] = small().fill().to_bytes()
    model = phasezoo.load("resnet18-cifar10")[0]
    assert model.epochs == []
    for touch in (
        model.checkpoint,
        model.checkpoints,
        lambda: model.checkpoint(150),
        lambda: model.trajectory("fc.weight"),
        lambda: phasezoo.load("resnet18-cifar10").checkpoints,
    ):
        with pytest.raises(WeightsUnavailableError, match="not published as files") as caught:
            touch()
        assert isinstance(caught.value, FileNotFoundError)
        for way in ("phasezoo build SOURCE OUT --zoo resnet18-cifar10", "mirror", "phasezoo train resnet18-cifar10"):
            assert way in str(caught.value)


def test_the_cache_is_asked_first_and_force_download_asks_again(server: Server, tmp_path: Path) -> None:
    server.files["svhn_resnet18_summary.csv"] = small().fill().to_bytes()
    with pytest.raises(ZooNotFoundError, match="not in the cache"):
        phasezoo.load("resnet18-svhn", local_files_only=True)
    assert server.requests == []
    phasezoo.load("resnet18-svhn", cache_dir=tmp_path / "other")
    assert left_in(tmp_path / "other")
    assert not (tmp_path / "cache").exists()
    phasezoo.load("resnet18-svhn")
    server.files["svhn_resnet18_summary.csv"] = small(epochs=6).fill().to_bytes()
    assert phasezoo.load("resnet18-svhn").results.num_rows == 48
    assert phasezoo.load("resnet18-svhn", force_download=True).results.num_rows == 72
    assert len(server.requests) == 3
    with pytest.raises(ZooNotFoundError, match="Leave out one"):
        phasezoo.load("resnet18-svhn", force_download=True, local_files_only=True)


def test_several_processes_may_open_a_zoo_for_the_first_time_at_once(server: Server, tmp_path: Path) -> None:
    server.files["svhn_resnet18_summary.csv"] = small().fill().to_bytes()
    code = "import phasezoo; print(phasezoo.load('resnet18-svhn').table('results').num_rows)"
    command = [sys.executable, "-c", code]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    assert [process.communicate()[0] for process in processes] == ["48\n"] * 3
    assert not [path for path in left_in(tmp_path / "cache") if "partial" in path.name]


def test_a_damaged_index_is_built_again_from_the_file_in_the_cache(server: Server, tmp_path: Path) -> None:
    server.files["svhn_resnet18_summary.csv"] = small().fill().to_bytes()
    before = phasezoo.load("resnet18-svhn").table("results")
    (results,) = (tmp_path / "cache").rglob("results.parquet")
    results.write_bytes(results.read_bytes()[:-9])
    assert phasezoo.load("resnet18-svhn", local_files_only=True).table("results").equals(before)
    assert len(server.requests) == 1


@pytest.mark.parametrize("offline", ["1", "true"])
def test_offline_means_what_it_means_elsewhere(server: Server, monkeypatch: pytest.MonkeyPatch, offline: str) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", offline)
    with pytest.raises(ZooNotFoundError, match="HF_HUB_OFFLINE"):
        phasezoo.load("resnet18-svhn")
    assert server.requests == []


def test_a_server_that_is_busy_is_asked_again(server: Server) -> None:
    server.files["svhn_resnet18_summary.csv"] = small().fill().to_bytes()
    server.statuses = [503, 429]
    assert len(phasezoo.load("resnet18-svhn")) == 12
    assert len(server.requests) == 3


def test_what_cannot_be_fetched_says_so_and_leaves_nothing(server: Server, tmp_path: Path) -> None:
    name, cache = "svhn_resnet18_summary.csv", tmp_path / "cache"

    def fails(kind: type[PhaseZooError], builtin: type[Exception], message: str) -> None:
        with pytest.raises(kind, match=message) as caught:
            phasezoo.load("resnet18-svhn")
        assert isinstance(caught.value, builtin)
        assert left_in(cache) == []

    good = small().fill().to_bytes()
    fails(ZooNotFoundError, FileNotFoundError, "404")
    server.statuses = [403]
    fails(SourceError, ConnectionError, "403")
    server.statuses = [429] * transfer.TRIES
    fails(SourceError, ConnectionError, "429")
    server.files[name], server.cut = good, 10
    fails(SourceError, ConnectionError, "the answer was cut")
    server.cut = 0
    server.files[name] = b"<html>Sign in to the network</html>\n"
    fails(FormatError, ValueError, "lacks the columns.*<html>")
    server.files[name] = good[:-20]
    fails(FormatError, ValueError, "cut short")
    server.files[name] = good.replace(b",0.1,", b",zero,")
    fails(FormatError, ValueError, "not a readable CSV")
    server.files[name] = Table(load="embedding_dim", **SMALL).fill().to_bytes()
    fails(FormatError, ValueError, "lacks the columns width")
    server.files[name] = good
    server.http.shutdown()
    server.http.server_close()
    fails(SourceError, ConnectionError, "(?i)refused")


def test_without_a_mirror_the_size_is_that_of_the_published_file(
    server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("PHASEZOO_MIRROR")
    monkeypatch.setattr(phasezoo.settings, "PUBLISHED_HOST", server.url)
    server.files["svhn_resnet18_summary.csv"] = small().fill().to_bytes()
    with pytest.raises(IntegrityError, match="7,672,153 were expected"):
        phasezoo.load("resnet18-svhn")
    assert left_in(tmp_path / "cache") == []
    assert len(server.requests) == 1


def test_what_has_no_source_yet_says_so(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("gpt2-openwebtext", "pinn-convection"):
        with pytest.raises(SourceNotSupportedError, match="no published files yet.*phasezoo build"):
            phasezoo.load(name)
    with pytest.raises(TypeError):
        phasezoo.load("mlp-digits", force=True)  # type: ignore[call-arg]
    assert server.requests == []


def test_the_command_line_shows_a_zoo_of_tables(server: Server) -> None:
    server.files["cifar10_resnet18_summary.csv"] = small(means=True).fill().to_bytes()
    listed = phasezoo_command("list").stdout
    assert all(name in listed for name in phasezoo.list_zoos())
    assert "wd0.0005" not in listed
    info = phasezoo_command("info", "resnet18-cifar10").stdout
    for fact in ("12", "none: not among the published files", "CC-BY-4.0", "1 cell-mean", "build_report.json"):
        assert fact in info
    failed = phasezoo_command("info", "pinn-convection")
    assert (failed.returncode, len(failed.stderr.splitlines())) == (2, 1)
    assert "no problems found" in phasezoo_command("verify", "resnet18-cifar10").stdout


# The registry


def test_the_twelve_zoos_and_the_embedded_one_are_listed() -> None:
    names = phasezoo.list_zoos()
    assert len(names) == len(set(names)) == 13
    counts = {name: ZOOS[name].models for name in names}
    assert [counts[name] for name in names if name.startswith("resnet")] == [192] * 8
    rest = {name: n for name, n in counts.items() if not name.startswith("resnet")}
    assert rest == {
        "mlp-digits": 264,
        "vit-cifar10": 147,
        "vit-cifar100": 147,
        "gpt2-openwebtext": 264,
        "pinn-convection": 700,
    }
    for entry in ZOOS.values():
        cells = len(entry.load.values) * len(entry.temperature.values)
        assert cells * 3 in (entry.models, 0)


def test_the_registry_says_of_the_embedded_zoo_what_its_manifest_says(zoo: phasezoo.Zoo) -> None:
    entry, manifest = ZOOS[zoo.name], zoo.manifest
    assert (entry.title, entry.architecture, entry.dataset.name) == (
        manifest.title,
        manifest.architecture,
        manifest.dataset,
    )
    assert (entry.load.axis(), entry.temperature.axis()) == (manifest.load, manifest.temperature)


@pytest.mark.parametrize("name", ["resnet18-cifar10", "resnet50-tinyimagenet"])
def test_parameter_counts_are_those_of_the_networks(name: str) -> None:
    entry = ZOOS[name]
    for config in parsed(small(widths=(2, 256)).fill(), name).configs.to_pylist():
        net = build(entry.architecture, device="meta", **json.loads(config["architecture_config"]))
        assert config["n_params"] == sum(p.numel() for p in net.parameters())


# Defects


def test_batch_sizes_come_from_the_name_and_the_loss_is_corrected(tmp_path: Path) -> None:
    table = small(accumulated={(4, 16): 4})
    tables = parsed(table.fill())
    config = {row["model_id"]: row for row in tables.configs.to_pylist()}["w4-b16-s1"]
    assert (config["batch_size"], config["micro_batch_size"], config["accumulation_steps"]) == (16, 4, 4)
    assert (config["temperature"], len(config["trial_id"])) == (16.0, 8)
    rows = [row for row in tables.results.to_pylist() if row["model_id"] == "w4-b16-s1"]
    for row in rows:
        assert row["train_loss"] == table.metrics(4, 16, 1, row["epoch"])[0]
        assert row["train_loss_corrected"] == pytest.approx(row["train_loss"] * (4 if row["epoch"] else 1))
    others = tables.results.to_pandas()
    others = others[~others.model_id.str.startswith("w4-b16")]
    assert (others.train_loss == others.train_loss_corrected).all()
    assert [text.split(":")[0] for text in findings(tables)["accumulated"]] == [f"w4-b16-s{s}" for s in (0, 1, 2)]


def test_means_over_seeds_are_found_in_the_rows_that_hold_them() -> None:
    tables = parsed(small(means=True, accumulated={(4, 16): 4}).fill())
    for row in tables.results.to_pylist():
        assert row["cell_mean_columns"] == ("train_loss,test_acc" if row["epoch"] == 3 else None)
    assert findings(tables)["cell-mean"] == [
        "epoch 3: train_loss,test_acc of 12 rows hold the mean over the seeds of their cell."
    ]
    assert "cell-mean" not in findings(parsed(small().fill()))


def test_one_cell_of_means_among_sound_ones_is_found_too() -> None:
    table = small(means=True)
    for seed in table.seeds:
        table.add(2, 8, seed)
    table.means = False
    for width, batch in ((2, 16), (4, 16), (4, 8)):
        for seed in table.seeds:
            table.add(width, batch, seed)
    flagged = parsed(table).results.to_pandas().dropna(subset="cell_mean_columns")
    assert flagged.model_id.tolist() == ["w2-b8-s0", "w2-b8-s1", "w2-b8-s2"]
    assert set(flagged.cell_mean_columns) == {"train_loss,test_acc"}


def test_equal_accuracies_alone_are_no_means() -> None:
    class Saturated(Table):
        def metrics(self, *place: int) -> tuple[float, float, float, float]:
            loss, _, test_loss, _ = super().metrics(*place)
            return loss, 1.0, test_loss, 0.1

    assert "cell-mean" not in findings(parsed(Saturated(**SMALL).fill()))
    means = parsed(Saturated(**SMALL, means=True).fill())  # of which the losses say that they are
    assert set(means.results["cell_mean_columns"].to_pylist()) == {None, "train_loss,test_acc"}


def test_a_mean_of_losses_divided_by_different_numbers_is_not_corrected() -> None:
    table = small(means=True)
    table.add(4, 16, 0)
    table.add(4, 16, 1)
    table.accumulated = {(4, 16): 4}
    table.add(4, 16, 2)
    lines = table.to_bytes().decode()
    losses = {row["train_loss"] for row in parsed(table).results.to_pylist() if row["epoch"] == 3}
    first = str(max(losses))
    for loss in losses:
        lines = lines.replace(str(loss), first)  # one mean in all three rows
    rows = [row for row in parsed(lines.encode()).results.to_pylist() if row["epoch"] == 3]
    assert [row["train_loss_corrected"] for row in rows] == [None] * 3


def test_landscape_metrics_are_values_of_cells() -> None:
    table = small()
    tables = parsed(table.fill())
    assert tables.landscape.num_rows == 4
    for row in tables.landscape.to_pylist():
        width, batch = (int(part[1:]) for part in row["cell_id"].split("-"))
        assert [row[name] for name in LANDSCAPE] == table.landscape(width, batch)
        assert (row["model_id"], row["epoch"], row["protocol"]) == (None, 3, "published")
        for name in ("hessian_trace_train", "hessian_top_ev_val"):
            log = row[f"log_{name}"]
            assert row[name] == (None if log is None else pytest.approx(math.exp(log)))
    assert sum(row["hessian_trace_train"] is None for row in tables.landscape.to_pylist()) == 1


def test_seeds_that_disagree_keep_their_rows() -> None:
    data = small().fill().to_bytes().decode()
    value = str(Table(**SMALL).landscape(2, 16)[0])
    tables = parsed(data.replace(value, "0.5", 1).encode())
    assert tables.landscape.num_rows == 3 + 3
    apart = [row for row in tables.landscape.to_pylist() if row["model_id"] is not None]
    assert [row["representation_similarity"] for row in apart] == [0.5, float(value), float(value)]
    assert "representation_similarity" in findings(tables)["landscape-disagrees"][0]


def test_the_most_complete_of_several_trials_is_kept_and_the_others_are_named() -> None:
    table = small().fill()
    table.add(2, 8, 0, epochs=2, run="00000")
    tables = parsed(table)
    assert tables.configs.num_rows == 12
    assert tables.results.num_rows == 48
    (text,) = findings(tables)["trial-duplicated"]
    assert text.startswith("NN_tune_trainable_00000_")
    assert "0ada0" in text


def test_rows_written_twice_and_rows_without_a_key() -> None:
    table = small().fill()
    lines = table.to_bytes().decode().splitlines()
    newer = lines[1].rsplit(",", 6)[0] + ",0.75,,,,,"
    nameless = "," + lines[1].split('",', 1)[1]
    tables = parsed(("\n".join([*lines, newer, nameless]) + "\n").encode())
    assert tables.results.num_rows == 48
    (row,) = [row for row in tables.results.to_pylist() if (row["model_id"], row["epoch"]) == ("w2-b16-s0", 0)]
    assert row["test_acc"] == 0.75
    found = findings(tables)
    assert found["row-duplicated"][0].endswith("the last row of each epoch is kept.")
    assert found["row-incomplete"][0].startswith("rows: 1 rows lack one of")


def test_models_and_epochs_that_are_missing_are_said() -> None:
    table = small()
    for width in table.widths:
        for batch in table.batches:
            for seed in table.seeds:
                if (width, batch, seed) != (4, 8, 2):
                    table.add(width, batch, seed, epochs=3 if (width, batch, seed) == (2, 8, 1) else None)
    found = findings(parsed(table))
    assert [text.split(":")[0] for text in found["model-missing"] if text.startswith(("w2-b8-", "w4-b8-"))] == [
        "w4-b8-s2"
    ]
    assert found["epochs-missing"] == ["w2-b8-s1: 3 of 4 epochs."]


def test_both_runs_of_one_file_are_separate_zoos(server: Server) -> None:
    late = small(load="embedding_dim", wd=0.05, run="09d7b").fill()
    early = small(load="embedding_dim", wd=0.0005, run="6032a", annotated=()).fill()
    late.rows += early.rows
    server.files["cifar100_vit_summary.csv"] = late.to_bytes()
    zoo, other = (phasezoo.load(name) for name in ("vit-cifar100", "vit-cifar100-wd0.0005"))
    assert set(zoo.configs["weight_decay"]) == {0.05}
    assert set(other.configs["weight_decay"]) == {0.0005}
    assert len(zoo) == len(other) == 12
    assert (zoo.landscape.num_rows, other.landscape.num_rows) == (4, 0)
    assert len(server.requests) == 1
    assert set(zoo.configs["n_params"]) == {None}
    assert "vit-cifar100-wd0.0005" in " ".join(zoo.manifest.provenance.notes)
    with pytest.raises(FormatError, match="several runs"):
        parse(late.to_bytes(), ZOOS["vit-cifar10"])


# As files


def test_the_builder_writes_the_same_zoo_twice_with_its_report(tmp_path: Path) -> None:
    path = tmp_path / "cifar10_resnet18_summary.csv"
    path.write_bytes(small(accumulated={(4, 16): 4}).fill().to_bytes())
    for out in ("a", "b"):
        build_summary(path, tmp_path / out)
    for file in (p for p in (tmp_path / "a").rglob("*") if p.is_file()):
        assert file.read_bytes() == (tmp_path / "b" / file.relative_to(tmp_path / "a")).read_bytes()
    report = json.loads((tmp_path / "a" / "build_report.json").read_text())
    assert report["built"] == {"cells": 4, "models": 12, "results": 48, "landscape": 4}
    assert report["findings_by_kind"]["accumulated"] == 3
    zoo = phasezoo.load(tmp_path / "a")
    assert (zoo.name, len(zoo), zoo.manifest.license) == ("resnet18-cifar10", 12, "CC-BY-4.0")
    assert "Citation" in (tmp_path / "a" / "README.md").read_text()


def test_the_builder_needs_a_name_or_the_published_file_name(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_bytes(small().fill().to_bytes())
    with pytest.raises(FormatError, match="--zoo"):
        build_summary(path, tmp_path / "out")
    with pytest.raises(ZooNotFoundError, match="Did you mean 'resnet18-svhn'"):
        build_summary(path, tmp_path / "out", zoo="resnet18-svnh")
    with pytest.raises(ZooNotFoundError, match=r"missing\.csv"):
        build_summary(tmp_path / "missing.csv", tmp_path / "out", zoo="resnet18-svhn")
    assert build_summary(path, tmp_path / "out", zoo="resnet18-svhn").models


# The published rows


def rows_of(name: str) -> tuple[list[dict[str, str]], bytes]:
    data = (ROWS / f"{name}.csv").read_bytes()
    return list(csv.DictReader(data.decode().splitlines())), data


@published
@pytest.mark.parametrize(
    ("file", "zoo", "load"),
    [
        ("cifar10_resnet18_e150", "resnet18-cifar10", "width"),
        ("cifar100_resnet50_e149_seed0", "resnet50-cifar100", "width"),
        ("cifar100_resnet50_e150_seed0", "resnet50-cifar100", "width"),
        ("cifar10_vit_e300_seed0", "vit-cifar10", "embedding_dim"),
    ],
)
def test_published_rows_parse_to_exactly_their_values(file: str, zoo: str, load: str) -> None:
    rows, data = rows_of(file)
    tables = parsed(data, zoo)
    configs = {config["trial_name"]: config for config in tables.configs.to_pylist()}
    results = {row["model_id"]: row for row in tables.results.to_pylist()}
    landscape = {row["cell_id"]: row for row in tables.landscape.to_pylist()}
    assert len(rows) == len(configs) == len(results)
    for row in rows:
        config = configs[row["model"]]
        assert (config["trial_id"], config[load], config["seed"]) == (row["trial_id"], int(row[load]), int(row["seed"]))
        assert (config["lr"], config["weight_decay"]) == (float(row["lr"]), float(row["wd"]))
        assert config["micro_batch_size"] == int(row["batchsize"])
        assert f"training_batchsize={config['batch_size']}_" in row["model"]
        assert {name: results[config["model_id"]][name] for name in METRICS} == {
            name: float(row[name]) for name in METRICS
        }
        values = landscape.get(config["cell_id"], dict.fromkeys(LANDSCAPE))
        assert [values[name] for name in LANDSCAPE] == [float(row[n]) if row[n] else None for n in LANDSCAPE]


@published
def test_defects_of_the_published_rows_are_flagged() -> None:
    r18 = parsed(rows_of("cifar10_resnet18_e150")[1], "resnet18-cifar10")
    vit = parsed(rows_of("cifar10_vit_e300_seed0")[1], "vit-cifar10")
    assert r18.landscape.num_rows == 64
    assert [text.split(":")[0] for text in findings(r18)["seed-apart"]] == ["w32-b16-s1"]
    assert "cell-mean" not in findings(r18)
    assert len(findings(vit)["near-chance"]) == 12
    before, after = (rows_of(f"cifar100_resnet50_e{epoch}_seed0")[1] for epoch in (149, 150))
    tables = parsed(before + after.split(b"\n", 1)[1], "resnet50-cifar100")
    for row in tables.results.to_pylist():
        assert row["cell_mean_columns"] == ("test_acc" if row["epoch"] == 150 else None)
    (text,) = findings(tables)["accumulated"]
    assert text.startswith("w256-b1024-s0: 8 micro-batches of 128")
    (last,) = [row for row in tables.results.to_pylist() if (row["model_id"], row["epoch"]) == ("w256-b1024-s0", 149)]
    assert last["train_loss_corrected"] == 8 * last["train_loss"]
