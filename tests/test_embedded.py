"""The zoo that comes with the package: really trained, and small."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

import phasezoo
from phasezoo.builders.card import card
from phasezoo.sensitivity import stability
from phasezoo.training.data import load_data
from phasezoo.training.grid import train_grid
from phasezoo.training.recipes import names, recipe


def test_recorded_accuracy_is_what_every_model_has(zoo: phasezoo.Zoo) -> None:
    test = load_data(zoo.manifest.dataset).test
    for model in zoo:
        ckpt = model.checkpoint("last")
        with torch.no_grad():
            accuracy = (ckpt.module()(test.x).argmax(-1) == test.y).double().mean().item()
        assert accuracy == pytest.approx(ckpt.metrics["test_acc"], abs=1e-6), model.id


def test_recorded_losses_are_what_the_stored_checkpoints_have(zoo: phasezoo.Zoo) -> None:
    data = load_data("digits")
    for ckpt in (c for model in zoo.sample(20, seed=0) for c in model.checkpoints()):
        with torch.no_grad():
            for split, part in (("train", data.train), ("test", data.test)):
                loss = torch.nn.functional.cross_entropy(ckpt.module()(part.x), part.y).item()
                assert loss == pytest.approx(ckpt.metrics[f"{split}_loss"], rel=1e-5)


def test_the_grid_is_complete(zoo: phasezoo.Zoo) -> None:
    manifest = zoo.manifest
    cells = {(m.config["load"], m.config["temperature"], m.config["seed"]) for m in zoo}
    assert cells == {
        (w, lr, s) for w in manifest.load.values for lr in manifest.temperature.values for s in (100, 101, 102)
    }
    assert all(model.epochs == [0, 10, 50, 150] for model in zoo)
    assert zoo.table("results").num_rows == 264 * 151


def test_every_cell_was_measured_at_three_epochs_or_says_why_not(zoo: phasezoo.Zoo) -> None:
    rows = zoo.table("landscape").to_pylist()
    for epoch in (10, 50, 150):
        at = [row for row in rows if row["epoch"] == epoch]
        assert sum(row["model_id"] is None for row in at) == 88
        assert sum(row["model_id"] is not None for row in at) == 264
    for row in rows:
        reasons = json.loads(row["reasons"] or "{}")
        names = ["representation_similarity", "curve_mc_train_loss", "gitrebasin_acc_test", "wiseft_acc_test"]
        names = names if row["model_id"] is None else ["hessian_trace_train", "hessian_top_ev_train"]
        for name in names:
            assert row.get(name) is not None or reasons[name], (row, name)


def test_it_shows_the_five_phases(zoo: phasezoo.Zoo) -> None:
    cells = zoo.phases().to_pandas()
    assert set(cells["phase"]) == {"I", "II", "III", "IV-A", "IV-B"}
    accuracy = cells.groupby("phase")["test_acc"].mean()
    assert accuracy.idxmax() == "IV-B"
    kept = stability(zoo, draws=30)
    assert sum(share >= 0.9 for share in kept.values()) >= 70


def test_it_ships_in_at_most_ten_megabytes(embedded_path: Path) -> None:
    assert sum(p.stat().st_size for p in embedded_path.rglob("*") if p.is_file()) <= 10e6


def test_the_card_names_its_weak_points(embedded_path: Path) -> None:
    card = (embedded_path / "README.md").read_text()
    for word in ("unit death", "matter of degree", "did not reproduce", "budget"):
        assert word in card


def test_its_card_is_the_one_that_the_builder_writes_today(zoo: phasezoo.Zoo, embedded_path: Path) -> None:
    tables = {name: pq.read_table(embedded_path / file.path) for name, file in zoo.manifest.tables.items()}
    assert (embedded_path / "README.md").read_text() == card(zoo.manifest, tables)


def tiny_recipe():
    whole = recipe("mlp-digits")
    return whole.model_copy(
        update={
            "load": whole.load.model_copy(update={"values": (3, 8)}),
            "temperature": whole.temperature.model_copy(update={"values": (0.02, 0.1)}),
            "epochs": 2,
            "checkpoint_epochs": (0, 1, 2),
        }
    )


def test_a_recipe_gives_the_same_zoo_twice_and_the_one_that_ships(zoo: phasezoo.Zoo, tmp_path: Path) -> None:
    for name in ("a", "b"):
        train_grid(tiny_recipe(), tmp_path / name)
    for file in (p for p in (tmp_path / "a").rglob("*") if p.is_file()):
        assert file.read_bytes() == (tmp_path / "b" / file.relative_to(tmp_path / "a")).read_bytes()
    again = phasezoo.load(tmp_path / "a")
    assert len(again) == 12
    for model in again:
        first, shipped = model.checkpoint(0).state_dict(), zoo[model.id].checkpoint(0).state_dict()
        assert all(torch.equal(first[name], shipped[name]) for name in shipped)
        ours, theirs = model.results.to_pydict(), zoo[model.id].results.to_pydict()
        assert ours["train_loss"] == pytest.approx(theirs["train_loss"][:3], rel=1e-3)


def test_every_recipe_loads() -> None:
    assert [recipe(name).name for name in names()] == names()


@pytest.mark.slow
def test_the_command_regenerates_the_whole_zoo(zoo: phasezoo.Zoo, tmp_path: Path) -> None:
    train_grid(recipe("mlp-digits"), tmp_path / "zoo")
    again = phasezoo.load(tmp_path / "zoo")
    configs = again.table("configs")  # the embedded zoo was measured too: it has phases
    assert configs.equals(zoo.table("configs").select(configs.column_names))
    # Chaos amplifies the last bit between machines: networks differ, populations do not.
    ours, theirs = (z.filter("width >= 12").summary.to_pandas()["test_acc"] for z in (again, zoo))
    assert abs(ours.mean() - theirs.mean()) < 0.005
