"""Splits that do not leak, and a check that finds those that do."""

from __future__ import annotations

import subprocess
import sys

import pyarrow as pa
import pytest
import torch

import phasezoo
from phasezoo.builders.tables import write_zoo
from phasezoo.errors import ColumnNotFoundError, LeakageError
from phasezoo.split import Splits

COLUMN = {"cell": "cell_id", "run": "model_id", "seed": "seed", "phase": "phase", "load": "load"}


def parts(splits: Splits) -> dict[str, list[str]]:
    return {name: [m.id for m in view] for name, view in zip(("train", "val", "test"), splits, strict=True)}


@pytest.mark.parametrize("by", COLUMN)
def test_no_unit_is_in_two_parts_and_every_model_is_in_one(zoo: phasezoo.Zoo, by: str) -> None:
    splits = zoo.split(by=by)
    units = [set(view.table("configs")[COLUMN[by]].to_pylist()) for view in splits]
    assert not units[0] & units[1]
    assert not units[0] & units[2]
    assert not units[1] & units[2]
    assert sorted(model_id for ids in parts(splits).values() for model_id in ids) == sorted(m.id for m in zoo)
    everything = set.union(*units)
    assert len(units[2]) == max(1, round(0.2 * len(everything)))
    assert len(units[1]) == max(1, round(0.1 * len(everything)))
    splits.check_leakage()


def test_the_table_publishes_the_split_as_a_column(zoo: phasezoo.Zoo) -> None:
    splits = zoo.split(by="load", seed=3)
    rows = splits.table.to_pylist()
    assert {(r["model_id"], r["split"]) for r in rows} == {
        (model_id, name) for name, ids in parts(splits).items() for model_id in ids
    }
    assert {"model_id", "cell_id", "seed", "load", "split"} == set(splits.table.column_names)


def test_seeds_give_other_splits_and_shares_of_zero_give_empty_parts(zoo: phasezoo.Zoo) -> None:
    assert parts(zoo.split()) == parts(zoo.split(seed=0)) != parts(zoo.split(seed=1))
    train, val, test = zoo.split(by="run", test=0, val=0)
    assert (len(train), len(val), len(test)) == (264, 0, 0)


def test_a_view_is_split_by_its_own_units_whatever_their_order(zoo: phasezoo.Zoo) -> None:
    view = zoo.filter(width=8)
    assert [len(part) for part in view.split(by="run")] == [17, 2, 5]
    ours, theirs = parts(view.split(by="run", seed=2)), parts(view.sort("test_acc").split(by="run", seed=2))
    assert {name: set(ids) for name, ids in ours.items()} == {name: set(ids) for name, ids in theirs.items()}
    assert [m.id for m in view.sort("test_acc").split(by="run").train.sort("test_acc")] == [
        m.id for m in view.sort("test_acc").split(by="run").train
    ]


def test_the_same_split_in_another_process_with_another_hash_seed(zoo: phasezoo.Zoo) -> None:
    code = (
        "import phasezoo; s = phasezoo.load('mlp-digits').split(by='cell', seed=5);"
        "print(*(m.id for m in s.test)); print(*(m.id for m in s.val))"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": seed}
        ).stdout
        for seed in ("0", "1")
    }
    ours = parts(zoo.split(by="cell", seed=5))
    assert outputs == {" ".join(ours["test"]) + "\n" + " ".join(ours["val"]) + "\n"}


def test_the_same_split_after_rows_and_files_are_reordered(zoo: phasezoo.Zoo, tmp_path) -> None:
    configs = zoo._index.table("configs")
    turned = configs.take(pa.array(torch.randperm(264, generator=torch.Generator().manual_seed(0)).tolist()))
    draft = zoo.manifest.model_copy(update={"tables": {}, "shards": ()})
    write_zoo(tmp_path / "turned", draft, configs=turned, results=zoo.table("results"))
    again = phasezoo.load(tmp_path / "turned")
    assert [m.id for m in again] != [m.id for m in zoo]
    for by in ("cell", "run", "seed", "load"):
        ours, theirs = parts(zoo.split(by=by)), parts(again.split(by=by))
        assert {name: set(ids) for name, ids in ours.items()} == {name: set(ids) for name, ids in theirs.items()}


def flat(view: phasezoo.Zoo) -> tuple[torch.Tensor, torch.Tensor]:
    dataset = view.to_torch("flat", target="test_acc", epochs="all")
    return dataset[list(range(len(dataset)))]


def nearest_neighbour(splits: Splits) -> float:
    """R2 of the test accuracy of the nearest training checkpoint."""
    (x, y), (known, targets) = flat(splits.test), flat(splits.train)
    guess = targets[torch.cdist(x.double(), known.double()).argmin(1)]
    return 1 - ((y - guess).square().sum() / (y - y.mean()).square().sum()).item()


def test_a_nearest_neighbour_probe_scores_high_on_leaking_splits_and_below_zero_on_a_clean_one(zoo) -> None:
    """Medians over ten splits at width 8 with epochs 0, 10, 50, 150."""
    view = zoo.filter(width=8)
    scores: dict[str, list[float]] = {"checkpoint": [], "run": [], "seed": []}
    for seed in range(10):
        with pytest.warns(UserWarning, match=r"R2 0\.85"):
            scores["checkpoint"].append(nearest_neighbour(view.split(by="checkpoint", seed=seed)))
        scores["run"].append(nearest_neighbour(view.split(by="run", seed=seed)))
        scores["seed"].append(nearest_neighbour(view.split(by="seed", seed=seed)))
    median = {by: sorted(values)[5] for by, values in scores.items()}
    print({by: round(value, 2) for by, value in median.items()})
    assert median["checkpoint"] > 0.8
    assert median["seed"] < 0
    # Runs of one seed share their initial network: by run leaks too where epoch 0 is used, and the check says so.
    assert median["run"] > 0.8
    with pytest.raises(LeakageError, match="same initial network.*by='seed'"):
        view.split(by="run").check_leakage(epochs="all")
    assert view.split(by="seed").check_leakage(epochs="all")["initial network"] == 0


def test_single_checkpoints_are_divided_only_when_asked_and_with_a_warning(zoo: phasezoo.Zoo) -> None:
    with pytest.warns(UserWarning, match="nearest-neighbour"):
        splits = zoo.split(by="checkpoint", seed=1)
    keys = [
        set(zip(*(view.table("checkpoints")[c].to_pylist() for c in ("model_id", "epoch")), strict=True))
        for view in splits
    ]
    assert sum(map(len, keys)) == len(set.union(*keys)) == 1056 == splits.table.num_rows
    assert len(keys[2]) == 211
    assert {(r["model_id"], r["epoch"]) for r in splits.table.to_pylist() if r["split"] == "test"} == keys[2]
    model = next(m for m in splits.train if len(m.epochs) == 2)
    for ckpt in model.checkpoints():
        expected = zoo[model.id].checkpoint(ckpt.epoch)
        assert torch.equal(ckpt["layers.1.weight"], expected["layers.1.weight"])
        assert ckpt.metrics == expected.metrics
    assert splits.train.nbytes + splits.val.nbytes + splits.test.nbytes == zoo.nbytes


def test_leaks_that_were_made_by_hand_are_found(zoo: phasezoo.Zoo) -> None:
    a, b = zoo.filter(width=8), zoo.filter(width=12)
    assert Splits(a, b[:0], b, by="load").check_leakage()["seed"] == 3
    with pytest.raises(LeakageError, match="such as 8"):
        Splits(a[:12], b, a[12:], by="load").check_leakage()
    with pytest.raises(LeakageError, match="'run'"):
        Splits(a, b, a[:1], by="run").check_leakage()
    with pytest.raises(LeakageError, match="'cell'"):
        Splits(a.filter(seed=100), b, a.filter(seed=101), by="cell").check_leakage()


def test_duplicated_checkpoints_are_a_leak(small) -> None:
    """Two runs of other seeds with the same bytes: the case of a checkpoint that was published twice."""
    zoo = phasezoo.load(small())  # seed 0 of every lr has the same weights
    splits = Splits(zoo.filter(lr=0.1), zoo[:0], zoo.filter(lr=0.2), by="run")
    with pytest.raises(LeakageError, match="'checkpoint'"):
        splits.check_leakage()


def test_splits_that_cannot_be_made_say_why(zoo: phasezoo.Zoo, small) -> None:
    with pytest.raises(ValueError, match="Did you mean 'cell'"):
        zoo.split(by="cells")
    with pytest.raises(ValueError, match="leave something"):
        zoo.split(test=0.9, val=0.1)
    with pytest.raises(ValueError, match="3 values of 'seed' in this view are too few"):
        zoo.split(by="seed", test=0.6, val=0.3)
    with pytest.raises(ValueError, match="1 values of 'load' in this view are too few"):
        zoo.filter(width=8).split(by="load")
    with pytest.raises(ColumnNotFoundError, match="'phase'"):
        phasezoo.load(small()).split(by="phase")
