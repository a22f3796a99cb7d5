"""A whole grid: the zoo that comes out, stopped and started again, on processes, and what a try costs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import phasezoo
from phasezoo.errors import FilterError, MeasureError, WriteError
from phasezoo.tables import write_table
from phasezoo.training.data import load_data
from phasezoo.training.estimate import estimate
from phasezoo.training.grid import train_grid
from phasezoo.training.journal import Journal
from phasezoo.training.recheck import VERIFIED, recheck, summary
from phasezoo.training.recipe import Recipe
from phasezoo.training.recipes import names, recipe
from phasezoo.training.run import groups, run
from phasezoo.training.smoke import smoke
from phasezoo.training.train import train
from phasezoo.verify import verify
from tests.test_raytune import hashes

ROOT = Path(__file__).parents[1]
HUGE = {"gpt2-openwebtext"}  # logits of 50,257 tokens for contexts of 1,024


def small(name: str = "vit-digits-mini", **changes: Any) -> Recipe:
    base = recipe(name)
    axes = {
        "load": base.load.model_copy(update={"values": base.load.values[:2]}),
        "temperature": base.temperature.model_copy(update={"values": base.temperature.values[-2:]}),
    }
    short = {"epochs": 2, "checkpoint_epochs": (0, 2), "samples": (96, 48), "seeds": (0, 1)}
    return base.model_copy(update={**axes, **short, **changes})


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("grid") / "zoo"
    train_grid(small(), out)
    return out


def test_a_grid_becomes_a_valid_zoo_with_its_recipe(trained: Path) -> None:
    zoo = phasezoo.load(trained)
    assert verify(zoo).problems == ()
    assert len(zoo) == 8
    assert all(model.epochs == [0, 2] for model in zoo)
    assert all(model.results["epoch"].to_pylist() == [0, 1, 2] for model in zoo)
    stated = zoo.manifest.provenance.recipe
    assert (stated["optimizer"], stated["samples"], stated["schedule"]["kind"]) == ("adamw", [96, 48], "cosine")
    fields = {"name", "title", "description", "architecture", "dataset", "task", "load", "temperature"}
    rest = zoo.manifest.model_dump(include=fields | {"license", "citation"})
    provenance = zoo.manifest.provenance
    assert Recipe(**rest, **stated, source=provenance.source, notes=provenance.notes) == small()


def test_the_initial_network_is_stored_once_for_all_batch_sizes(trained: Path) -> None:
    zoo = phasezoo.load(trained)
    table = zoo.filter(embedding_dim=4, seed=0).table("checkpoints").to_pylist()
    places = {(row["shard"], row["offset"]) for row in table if row["epoch"] == 0}
    assert (len(places), len({row["sha256"] for row in table})) == (1, 3)


def test_recorded_metrics_are_those_of_the_weights_and_are_kept_apart(trained: Path) -> None:
    before = hashes(trained)
    checks = recheck(phasezoo.load(trained))
    assert len(checks) == 8 * 2 * 4
    assert max(abs(check.difference) for check in checks) < 1e-5
    kept = json.loads((trained / VERIFIED).read_text())["checks"]
    assert len(kept) == len(checks)
    (trained / VERIFIED).unlink()
    assert hashes(trained) == before


def test_a_wrong_record_is_found(tmp_path: Path) -> None:
    train_grid(small(seeds=(0,), epochs=1, checkpoint_epochs=(0, 1)), tmp_path / "zoo")
    zoo = phasezoo.load(tmp_path / "zoo")
    table = zoo.table("results")
    column = table.column_names.index("test_loss")
    wrong = [value + (1.0 if i == 3 else 0.0) for i, value in enumerate(table["test_loss"].to_pylist())]
    table = table.set_column(column, table.schema.field(column), [wrong])
    entry = write_table("results", table, tmp_path / "zoo")
    manifest = zoo.manifest.model_copy(update={"tables": {**zoo.manifest.tables, "results": entry}})
    (tmp_path / "zoo" / "zoo.json").write_bytes(manifest.to_bytes())
    found = [c for c in recheck(phasezoo.load(tmp_path / "zoo")) if abs(c.difference) > 1e-3]
    assert [(c.column, round(c.difference, 4)) for c in found] == [("test_loss", -1.0)]
    assert found[0].model_id == table["model_id"][3].as_py()


def test_running_averages_are_not_taken_for_errors(tmp_path: Path) -> None:
    train_grid(small(seeds=(0,), epochs=1, checkpoint_epochs=(0, 1), metrics="running"), tmp_path / "zoo")
    checks = recheck(phasezoo.load(tmp_path / "zoo"))
    apart = {(c.epoch, c.column) for c in checks if c.incomparable}
    assert apart == {(1, "train_loss"), (1, "train_acc")}
    assert max(abs(c.difference) for c in checks if not c.incomparable) < 1e-5
    assert len(summary(checks)) == 6


def test_only_all_or_a_sample_can_be_verified(trained: Path) -> None:
    assert len({(c.model_id, c.epoch) for c in recheck(phasezoo.load(trained)[:2], "sample:3")}) == 3
    for which in ("some", "sample:0", "sample:-1"):
        with pytest.raises(MeasureError, match=r"all, or sample:N"):
            recheck(phasezoo.load(trained), which)


KILLED = """
import os, signal, sys
from phasezoo.training.grid import train_grid
from phasezoo.training.journal import Journal
from tests.test_grid import small
write, left = Journal.write, int(sys.argv[2])
def counted(self, *arguments):
    global left
    write(self, *arguments)
    left -= 1
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)
Journal.write = counted
train_grid(small(), sys.argv[1])
"""


def test_a_killed_training_goes_on_and_ends_with_the_same_bytes(trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "zoo"
    at = 1 + os.urandom(1)[0] % 23  # of 24 epochs
    command = [sys.executable, "-c", KILLED, str(out), str(at)]
    assert subprocess.run(command, cwd=ROOT, check=False, capture_output=True).returncode == -9
    assert not out.exists()
    with pytest.raises(WriteError, match=r"stopped training of another"):
        train_grid(small(lr=0.1), out)
    train_grid(small(), out)
    assert hashes(out) == hashes(trained), f"killed after epoch {at}"
    assert [path.name for path in tmp_path.iterdir()] == ["zoo"]


def test_a_population_of_pinns_goes_on_and_does_what_the_loop_does(tmp_path: Path) -> None:
    short = small("pinn-convection-mini", passes=5, samples=None, checkpoint_epochs=(0, 1, 2))
    whole = train_grid(short, tmp_path / "whole")
    (group, _) = groups(short, short.trials())
    records = tmp_path / ".cut.partial" / ".records"
    epochs = run(group, recipe=short, records=str(records))
    assert [next(epochs), next(epochs)] == [0, 1]
    epochs.close()
    assert list(run(group, recipe=short, records=str(records))) == [2]
    zoo = phasezoo.load(tmp_path / "whole")
    assert whole.tables["configs"].rows == 8
    for trial in group:
        journal, model = Journal(records / trial.model_id), zoo[trial.model_id]
        *_, alone = train(short, trial, load_data("convection"))
        for name, tensor in model.checkpoint(2).state_dict().items():
            assert torch.equal(journal.weights(2)[name], tensor)
            torch.testing.assert_close(alone.state_dict()[name], tensor, rtol=0, atol=1e-5)
        assert journal.results()[2] == {k: v for k, v in model.results.to_pylist()[2].items() if k in alone.metrics}


@pytest.mark.slow
def test_processes_give_the_same_bytes(trained: Path, tmp_path: Path) -> None:
    train_grid(small(), tmp_path / "zoo", workers=2)
    assert hashes(tmp_path / "zoo") == hashes(trained)


def test_a_condition_trains_a_part_and_raw_writes_the_published_layout(trained: Path, tmp_path: Path) -> None:
    where = "embedding_dim == 8 and batch_size == 64 and seed == 1"
    train_grid(small(), tmp_path / "zoo", where=where, raw=True)
    (model,) = phasezoo.load(tmp_path / "zoo")
    whole = phasezoo.load(trained)[model.id]
    for epoch in (0, 2):
        ours, theirs = model.checkpoint(epoch).state_dict(), whole.checkpoint(epoch).state_dict()
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    folder = tmp_path / "zoo-raw" / model.id
    lines = [json.loads(line) for line in (folder / "result.json").read_text().splitlines()]
    assert [line["training_iteration"] for line in lines] == [0, 1, 2]
    state = torch.load(folder / "checkpoint_000002" / "checkpoints", weights_only=True)
    assert all(torch.equal(state[name], tensor) for name, tensor in whole.checkpoint(2).state_dict().items())
    with pytest.raises(FilterError, match=r"no model .* embedding_dim in 4"):
        train_grid(small(), tmp_path / "none", where="embedding_dim == 5")
    with pytest.raises(FilterError, match=r"does not fit its columns \(embedding_dim is int64\)"):
        train_grid(small(), tmp_path / "none", where="embedding_dim == 'wide'")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name in HUGE else []) for name in names()]
)
def test_every_recipe_takes_two_steps_and_writes_a_valid_zoo(name: str, tmp_path: Path) -> None:
    rows = smoke(recipe(name), tmp_path / "zoo")
    zoo = phasezoo.load(tmp_path / "zoo")
    assert verify(zoo).problems == ()
    assert [str(row[2]).split()[1] for row in rows] in (["steps", "steps"], ["steps", "step"])
    for model in zoo:
        first, last = model.checkpoint(0).state_dict(), model.checkpoint(1).state_dict()
        assert any(not torch.equal(first[key], last[key]) for key in first)
        assert all(torch.isfinite(tensor).all() for tensor in last.values())


def test_a_dry_run_counts_what_the_training_then_writes(trained: Path) -> None:
    zoo = phasezoo.load(trained)
    told = estimate(small(), small().trials())
    assert (told.models, told.checkpoints) == (8, zoo.table("checkpoints").num_rows)
    stored = {(r["shard"], r["offset"]): r["nbytes"] for r in zoo.table("checkpoints").to_pylist()}
    assert told.nbytes == sum(stored.values())
    assert told.smallest == zoo[0].config["n_params"]


def test_operations_are_counted_as_by_hand() -> None:
    base = recipe("mlp-digits")
    (trial,) = (t for t in base.trials() if t.model_id == "w64-lr0.1-s100")
    one = base.model_copy(update={"epochs": 1, "checkpoint_epochs": (0, 1)})
    told = estimate(one, [trial]).flops
    # products of 64 x 64, 64 x 64 and 64 x 10: forward, and backward to weights and all inputs but the first
    forward = 2 * (64 * 64 + 64 * 64 + 64 * 10)
    step = 3 * forward - 2 * 64 * 64
    assert told == pytest.approx(1000 * step + 2 * 1797 * step / 3)


def test_the_command_says_what_it_would_take(tmp_path: Path) -> None:
    code = "from phasezoo.cli import main; main()"
    command = [sys.executable, "-c", code, "train", "mlp-digits", "--dry-run", "--where", "width <= 3"]
    lines = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout.splitlines()
    rows = dict(line.split("  ", 1) for line in lines[1:])
    assert rows["models"].strip() == "48"
    assert rows["parameters"].strip() == "166 to 247"
    assert rows["time here, one process"].split()[1] in ("seconds", "minutes", "hours")
    assert not list(tmp_path.iterdir())
