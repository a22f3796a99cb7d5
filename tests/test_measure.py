"""Measuring whole zoos: the right numbers in the right rows, resumable, and honest about what is missing."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
import torch
from torch.nn.functional import cross_entropy

import phasezoo
from phasezoo.builders.raytune import build_raytune
from phasezoo.errors import EpochNotFoundError, MeasureError, WriteError
from phasezoo.nets import build
from phasezoo.nets.mlp import MLP
from phasezoo.training.data import Data, Split, digits
from phasezoo.training.grid import train_grid
from phasezoo.training.landscape.connectivity import Curve, fit_bezier
from phasezoo.training.landscape.groups import GROUPS
from phasezoo.training.landscape.many_curves import evaluate_many, fit_many
from phasezoo.training.landscape.measure import measure
from phasezoo.training.landscape.protocols import CORRECTED, DIGITS, PUBLISHED
from phasezoo.training.recipes import recipe
from phasezoo.verify import verify
from tests import raw_zoo
from tests.test_raytune import simple_tree

QUICK = replace(DIGITS, name="quick", curve_epochs=2, curve_points=5)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small zoo that was really trained, with checkpoints at every epoch."""
    whole = recipe("mlp-digits")
    small = whole.model_copy(
        update={
            "name": "tiny",
            "load": whole.load.model_copy(update={"values": (3, 8)}),
            "temperature": whole.temperature.model_copy(update={"values": (0.02, 0.1)}),
            "epochs": 5,
            "checkpoint_epochs": (0, 1, 2, 3, 4, 5),
        }
    )
    out = tmp_path_factory.mktemp("trained") / "tiny"
    train_grid(small, out)
    return out


@pytest.fixture
def copy(trained: Path, tmp_path: Path) -> Callable[[str], Path]:
    return lambda name: Path(shutil.copytree(trained, tmp_path / name))


@pytest.fixture(scope="module")
def measured(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = Path(shutil.copytree(trained, tmp_path_factory.mktemp("measured") / "tiny"))
    measure(out, protocol=QUICK, epochs=("last", 2))
    return out


def test_every_model_and_cell_has_its_rows_and_the_zoo_still_verifies(measured: Path) -> None:
    zoo = phasezoo.load(measured)
    assert verify(zoo).problems == ()
    rows = zoo.table("landscape").to_pylist()
    assert {row["epoch"] for row in rows} == {2, 5}
    assert {row["protocol"] for row in rows} == {QUICK.id}
    assert sum(row["model_id"] is None for row in rows) == 2 * 4
    assert sum(row["model_id"] is not None for row in rows) == 2 * 12
    assert zoo.manifest.protocols[QUICK.id]["curve_epochs"] == 2
    assert [path.name for path in measured.parent.iterdir()] == ["tiny"]  # no record stays behind
    for row in rows:
        wanted = ["hessian_trace_train", "log_hessian_trace_train", "hessian_top_ev_train"]
        if row["model_id"] is None:
            wanted += ["representation_similarity", "curve_mc_train_loss", "curve_mc_test_error", "gitrebasin_acc_test"]
        assert not [name for name in wanted if row[name] is None], row


def test_hessian_values_are_those_of_a_dense_float64_hessian(measured: Path) -> None:
    zoo, train = phasezoo.load(measured), digits().train
    rows = {row["model_id"]: row for row in zoo.landscape if row["epoch"] == 5}
    for model in zoo.filter(width=3, lr=0.02):
        net = model.checkpoint(5).module().double()
        names, values = zip(*net.named_parameters(), strict=True)
        flat = torch.cat([value.detach().flatten() for value in values])

        def loss(w: torch.Tensor, net=net, names=names, values=values) -> torch.Tensor:
            parts = torch.split(w, [value.numel() for value in values])
            state = {n: part.view(v.shape) for n, part, v in zip(names, parts, values, strict=True)}
            return cross_entropy(torch.func.functional_call(net, state, (train.x.double(),)), train.y)

        dense = torch.func.hessian(loss)(flat)
        row = rows[model.id]
        assert row["hessian_trace_train"] == pytest.approx(dense.trace().item(), rel=1e-5)
        assert row["hessian_trace_train_stderr"] == 0
        assert row["hessian_top_ev_train"] == pytest.approx(torch.linalg.eigvalsh(dense)[-1].item(), rel=1e-3)
    cell = rows[None]
    seeds = [rows[m.id]["hessian_trace_train"] for m in zoo if m.config["cell_id"] == cell["cell_id"]]
    assert cell["hessian_trace_train"] == pytest.approx(sum(seeds) / 3)


def test_processes_give_the_same_table(measured: Path, copy) -> None:
    path = copy("parallel")
    measure(path, protocol=QUICK, epochs=("last", 2), workers=2)
    assert (path / "tables" / "landscape.parquet").read_bytes() == (
        measured / "tables" / "landscape.parquet"
    ).read_bytes()


def test_groups_and_epochs_add_up_to_the_whole(measured: Path, copy) -> None:
    path = copy("parts")
    for group in GROUPS:
        for epoch in (5, 2):
            measure(path, protocol=QUICK, metrics=[group], epochs=[epoch])
    assert phasezoo.load(path).table("landscape").equals(phasezoo.load(measured).table("landscape"))


KILLED = """
import os, signal, sys
from dataclasses import replace
from phasezoo.training.landscape import groups, measure
from phasezoo.training.landscape.protocols import DIGITS
def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)
groups.GROUPS["curves"] = die
measure.measure(sys.argv[1], protocol=replace(DIGITS, name="quick", curve_epochs=2, curve_points=5), epochs=("last", 2))
"""


def test_a_killed_measurement_goes_on_where_it_was(measured: Path, copy, monkeypatch: pytest.MonkeyPatch) -> None:
    path = copy("killed")
    before = (path / "zoo.json").read_bytes()
    done = subprocess.run([sys.executable, "-c", KILLED, str(path)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert (path / "zoo.json").read_bytes() == before
    assert len(list(path.with_name(".killed.measure").glob("*.json"))) == 8  # hessian and CKA, 2 widths, 2 epochs
    monkeypatch.setitem(GROUPS, "hessian", lambda *_: pytest.fail("measured again"))
    measure(path, protocol=QUICK, epochs=("last", 2))
    assert phasezoo.load(path).table("landscape").equals(phasezoo.load(measured).table("landscape"))


def test_what_cannot_be_measured_is_null_with_the_reason(measured: Path) -> None:
    rows = phasezoo.load(measured).table("landscape").to_pylist()
    for row in rows:
        reasons = json.loads(row["reasons"] or "{}")
        if row["model_id"] is None and row["epoch"] == 2:
            assert row["wiseft_acc_test"] is None
            assert reasons["wiseft_acc_test"] == "no checkpoints at the epochs -2, -1"
        for name, why in reasons.items():
            assert why
            assert row.get(name) is None


def test_an_architecture_that_cannot_be_built_is_a_reason_not_a_crash(tmp_path: Path) -> None:
    build_raytune(simple_tree(tmp_path / "cnns", "CNN", {1: {"w": torch.ones(2)}}), tmp_path / "zoo")
    nothing = Split(torch.zeros(8, 3), torch.zeros(8, dtype=torch.int64))
    table = measure(tmp_path / "zoo", data=Data(nothing, nothing, 10), protocol=CORRECTED)
    assert table.num_rows == 3
    for row in table.to_pylist():
        assert "no architecture 'cnn'" in row["reasons"]


def resnet_zoo(root: Path) -> Path:
    for seed in (0, 1, 2):
        folder = root / "raw" / raw_zoo.trial_name(seed, 2, 8, seed)
        folder.mkdir(parents=True)
        settings = raw_zoo.config(2, 8, seed)
        (folder / "params.json").write_text(json.dumps(settings))
        lines = [raw_zoo.line(settings, e, raw_zoo.metrics(2, 8, seed, e)) for e in range(5)]
        (folder / "result.json").write_text("\n".join(lines))
        for epoch in range(5):
            (folder / f"checkpoint_{epoch:06d}").mkdir()
            torch.manual_seed(seed)
            net = build("resnet18", width=2, num_classes=10)
            for _ in range(20):  # running statistics that fit the data: without them the logits are huge
                net(torch.randn(64, 3, 32, 32))
            drifted = {k: t + 0.001 * epoch if t.is_floating_point() else t for k, t in net.state_dict().items()}
            (folder / f"checkpoint_{epoch:06d}" / "checkpoints").write_bytes(raw_zoo.saved(drifted))
    build_raytune(root / "raw", root / "zoo")
    return root / "zoo"


def test_the_published_columns_in_their_published_definition_for_a_resnet_zoo(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)

    def split(n: int) -> Split:
        return Split(torch.randn(n, 3, 32, 32, generator=generator), torch.randint(10, (n,), generator=generator))

    path = resnet_zoo(tmp_path)
    measure(path, protocol="published", data=Data(split(96), split(64), 10))
    (cell,) = [row for row in phasezoo.load(path).landscape if row["model_id"] is None]
    for name in (
        *(
            "representation_similarity",
            "representation_similarity_pairs",
            "curve_mc_train_error",
            "curve_mc_test_error",
        ),
        *("hessian_trace_train", "hessian_trace_val", "hessian_top_ev_train", "hessian_top_ev_val"),
        *("wiseft_acc_test", "wiseft_acc_test_delta", "gitrebasin_acc_test", "gitrebasin_acc_test_delta"),
    ):
        assert cell[name] is not None, name
    assert cell["log_hessian_trace_train"] == pytest.approx(torch.tensor(cell["hessian_trace_train"]).log().item())
    assert len(cell["representation_similarity_pairs"]) == 3
    assert cell["protocol"] == PUBLISHED.id


def test_many_curves_are_the_curves_that_one_by_one_gives() -> None:
    data = digits()
    nets = []
    for seed in range(4):
        torch.manual_seed(seed)
        nets.append(MLP(in_features=64, width=5, depth=2, out_features=10).eval())
    small = Split(data.train.x[:200], data.train.y[:200])
    settings = {"batch_size": 50, "momentum": 0.9, "weight_decay": 1e-3, "clip": 0.5, "seed": 3}
    rates = [0.1, 0.05, 0.01]
    population, points = fit_many([(nets[0], nets[1]), (nets[2], nets[3])], data=small, rates=rates, **settings)
    found = evaluate_many(population, points, data={"test": data.test}, t=[0, 0.3, 1])
    for i in (0, 1):
        ends = (nets[2 * i].state_dict(), nets[2 * i + 1].state_dict())
        alone: Curve = fit_bezier(nets[0], ends=ends, data=(small.x, small.y), epochs=3, lr=rates, **settings)
        path = alone.evaluate({"test": [(data.test.x, data.test.y)]}, t=[0, 0.3, 1])["test"]
        assert found[i]["test"].nll == pytest.approx(path.nll, rel=1e-4)
        assert found[i]["test"].error == pytest.approx(path.error, abs=0.2)


def test_a_second_protocol_has_rows_of_its_own(measured: Path, copy) -> None:
    path = copy("two")
    measure(path, protocol=QUICK, metrics=["cka"])
    measure(path, protocol=replace(QUICK, cka="biased"), metrics=["cka"])
    rows = phasezoo.load(path).table("landscape").to_pylist()
    assert len(rows) == 8
    assert len({row["protocol"] for row in rows}) == 2
    assert len(phasezoo.load(path).manifest.protocols) == 2


def test_mistakes_are_told_before_the_work(trained: Path, tmp_path: Path, unprivileged, monkeypatch) -> None:
    with pytest.raises(MeasureError, match=r"no metric 'hesian'. Did you mean 'hessian'"):
        measure(trained, metrics=["hesian"])
    with pytest.raises(MeasureError, match=r"no protocol 'publshed'. Did you mean 'published'"):
        measure(trained, protocol="publshed")
    with pytest.raises(EpochNotFoundError, match=r"no checkpoint at epoch 7"):
        measure(trained, epochs=[7])
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(WriteError, match=r"cannot be written. Copy its directory"):
        measure(trained)
    assert not list(trained.parent.glob(".*"))


def test_the_landscape_table_has_units_and_descriptions(measured: Path) -> None:
    table: pa.Table = phasezoo.load(measured).table("landscape")
    assert all(field.metadata[b"description"] for field in table.schema)
