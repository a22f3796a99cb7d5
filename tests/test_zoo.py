"""What a user does with a zoo: look, filter, group, read weights."""

from __future__ import annotations

import pickle

import pyarrow as pa
import pyarrow.compute as pc
import pytest
import torch

import phasezoo
from phasezoo.errors import (
    ColumnNotFoundError,
    EpochNotFoundError,
    FilterError,
    ModelNotFoundError,
    TableNotFoundError,
    TensorNotFoundError,
    ZooNotFoundError,
)
from tests.conftest import weights


def test_list_zoos_names_load(zoo: phasezoo.Zoo) -> None:
    assert "mlp-digits" in phasezoo.list_zoos()
    assert zoo.name == "mlp-digits"
    assert len(zoo) == 264


def test_tables_are_datasets_over_the_arrow_tables(zoo: phasezoo.Zoo) -> None:
    assert zoo.configs.num_rows == 264
    assert zoo.results.num_rows == 264 * 151
    assert zoo.checkpoints.num_rows == 264 * 4
    assert zoo.landscape.num_rows == 3 * (264 + 88)  # epochs 10, 50, 150
    assert zoo.configs[0]["architecture"] == "mlp"
    ours, theirs = zoo.table("results"), zoo.results.data.table
    address = lambda table: table["train_loss"].chunk(0).buffers()[1].address  # noqa: E731
    assert address(ours) == address(theirs)
    assert zoo.results.to_pandas()["test_acc"].max() <= 1


def test_columns_carry_units_and_descriptions(zoo: phasezoo.Zoo) -> None:
    for name in ("configs", "results", "checkpoints", "layouts", "digests"):
        for field in zoo.table(name).schema:
            assert field.metadata[b"description"], (name, field.name)
    assert zoo.table("results").schema.field("test_acc").metadata[b"unit"] == b"fraction"


@pytest.mark.parametrize(
    ("condition", "columns"),
    [
        ("width == 8 and seed == 100", {}),
        (None, {"width": 8, "seed": 100}),
        (pc.field("width") == 8, {"seed": [100]}),
        ("7 < width < 12 and not seed in (101, 102)", {}),
        ("width == 8 and seed <= 100 and lr is not None", {}),
        ("(width == 8 or width == 1000) and seed not in [101, 102]", {"architecture": "mlp"}),
    ],
)
def test_ways_to_say_the_same_filter(zoo: phasezoo.Zoo, condition, columns) -> None:
    view = zoo.filter(condition, **columns)
    assert [m.config["lr"] for m in view] == sorted(m.config["lr"] for m in view)
    assert {(m.config["width"], m.config["seed"]) for m in view} == {(8, 100)}
    assert len(view) == 8


def test_filters_see_the_results_of_the_last_epoch(zoo: phasezoo.Zoo) -> None:
    view = zoo.filter("test_acc > 0.97")
    last = {row["model_id"]: row for row in zoo.results.filter(lambda row: row["epoch"] == 150)}
    assert {m.id for m in view} == {i for i, row in last.items() if row["test_acc"] > 0.97}


def test_views_chain_and_narrow_every_table(zoo: phasezoo.Zoo) -> None:
    view = zoo.filter(width=[8, 16]).sort("test_acc", descending=True)[:5]
    assert len(view) == view.configs.num_rows == 5
    assert view.results.num_rows == 5 * 151
    assert view.checkpoints.num_rows == 5 * 4
    assert view.table("configs")["model_id"].to_pylist() == [m.id for m in view]
    assert view.nbytes == sum(c.nbytes for m in view for c in m.checkpoints())
    accuracies = view.summary["test_acc"]
    assert list(accuracies) == sorted(accuracies, reverse=True)
    assert [m.id for m in view.select([4, 0])] == [view[4].id, view[0].id]


def test_sampling_is_reproducible_and_without_replacement(zoo: phasezoo.Zoo) -> None:
    ids = [m.id for m in zoo.sample(20, seed=1)]
    assert ids == [m.id for m in zoo.sample(20, seed=1)]
    assert ids != [m.id for m in zoo.sample(20, seed=2)]
    assert len(set(ids)) == 20
    with pytest.raises(ValueError, match="at most 264"):
        zoo.sample(265, seed=0)


def test_groupby_partitions_the_view(zoo: phasezoo.Zoo) -> None:
    groups = dict(zoo.filter(width=[2, 4]).groupby("width", "lr"))
    assert len(groups) == 16
    assert list(groups) == sorted(groups)
    assert all(len(group) == 3 for group in groups.values())


def test_an_empty_view_is_a_zoo_too(zoo: phasezoo.Zoo) -> None:
    empty = zoo.filter(width=7)
    assert len(empty) == empty.nbytes == empty.results.num_rows == empty.summary.num_rows == 0
    assert list(empty) == list(empty.groupby("width")) == []
    assert "0 models" in repr(empty)


def test_a_checkpoint_is_a_lazy_mapping_in_module_order(small) -> None:
    zoo = phasezoo.load(small())
    ckpt = zoo["w4-lr0.1-s1"].checkpoint(2)
    expected = weights(4, 102)
    assert list(ckpt) == list(expected) == list(ckpt.state_dict())
    assert len(ckpt) == 4
    assert "layers.0.bias" in ckpt
    assert ckpt.shapes["layers.0.weight"] == (4, 5)
    for name, tensor in expected.items():
        assert torch.equal(ckpt[name], tensor)
        assert torch.equal(ckpt.state_dict()[name], tensor)
    assert ckpt.metrics == {"model_id": "w4-lr0.1-s1", "epoch": 2, "test_acc": 1.2}
    assert ckpt.config["width"] == 4


def test_a_module_is_in_eval_mode_unless_asked_and_can_be_trained(small) -> None:
    model = phasezoo.load(small())["w2-lr0.1-s0"]
    assert not model.checkpoint().module().training
    net = model.checkpoint().module(train=True)
    assert net.training
    net(torch.randn(3, 5)).sum().backward()
    torch.optim.SGD(net.parameters(), lr=1.0).step()
    again = model.checkpoint().state_dict()
    assert not torch.equal(net.state_dict()["layers.1.bias"], again["layers.1.bias"])


def test_first_last_and_numbered_epochs(small) -> None:
    model = phasezoo.load(small())[0]
    assert [model.checkpoint(e).epoch for e in ("first", "last", 2)] == [0, 5, 2]
    assert [c.epoch for c in model.checkpoints()] == [0, 2, 5]
    path = model.trajectory("layers.1.bias")
    assert path.shape == (3, 3)
    assert torch.equal(path[1], weights(2, 2)["layers.1.bias"])
    assert model.trajectory("layers.1.bias", epochs=[5]).shape == (1, 3)


def test_models_of_one_seed_share_their_initial_network(zoo: phasezoo.Zoo) -> None:
    places = {
        (c["sha256"], c["shard"], c["offset"]) for c in zoo.filter(width=8, seed=101).checkpoints if c["epoch"] == 0
    }
    assert len(places) == 1


def test_views_and_checkpoints_pickle(small) -> None:
    zoo = phasezoo.load(small()).filter(width=4)
    ckpt = zoo[0].checkpoint()
    again_zoo, again = pickle.loads(pickle.dumps((zoo, ckpt)))
    assert [m.id for m in again_zoo] == [m.id for m in zoo]
    assert torch.equal(again["layers.0.weight"], ckpt["layers.0.weight"])


def test_landscape_rows_on_cells_belong_to_every_view_with_a_model_of_the_cell(small, tmp_path) -> None:
    source = phasezoo.load(small())
    from phasezoo.builders.tables import write_zoo

    landscape = pa.table(
        {
            "model_id": [None, "w2-lr0.1-s0", "w4-lr0.1-s1"],
            "cell_id": ["w2-lr0.1", "w2-lr0.1", "w4-lr0.1"],
            "epoch": [5, 5, 5],
            "protocol": ["p"] * 3,
            "cka": [0.5, None, None],
        }
    )
    write_zoo(
        tmp_path / "measured",
        source.manifest.model_copy(update={"tables": {}, "shards": ()}),
        configs=source.table("configs"),
        results=source.table("results"),
        landscape=landscape,
    )
    zoo = phasezoo.load(tmp_path / "measured")
    assert zoo.filter(width=2, seed=1).landscape.num_rows == 1
    assert zoo.filter(width=2).landscape.num_rows == 2
    assert zoo["w2-lr0.1-s0"].landscape.num_rows == 2
    assert zoo["w4-lr0.1-s0"].landscape.num_rows == 0


@pytest.mark.parametrize(
    ("call", "error", "builtin", "message"),
    [
        (lambda z: phasezoo.load("mlp-digit"), ZooNotFoundError, FileNotFoundError, "Did you mean 'mlp-digits'"),
        (lambda z: phasezoo.load("/nowhere/zoo"), ZooNotFoundError, FileNotFoundError, "does not exist"),
        (lambda z: z.filter(widht=8), ColumnNotFoundError, KeyError, "Did you mean 'width'"),
        (lambda z: z.filter("widht < 8"), ColumnNotFoundError, KeyError, "Did you mean 'width'"),
        (lambda z: z.filter(pc.field("widht") < 8), ColumnNotFoundError, KeyError, "Did you mean 'width'"),
        (lambda z: z.sort("test_accuracy"), ColumnNotFoundError, KeyError, "test_acc"),
        (lambda z: list(z.groupby("widht")), ColumnNotFoundError, KeyError, "Did you mean 'width'"),
        (lambda z: z.filter("width <"), FilterError, ValueError, "Write, for example"),
        (lambda z: z.filter("__import__('os').system('true')"), FilterError, ValueError, "cannot read"),
        (lambda z: z.filter("width == lr.real"), FilterError, ValueError, "cannot read"),
        (lambda z: z.filter("width in 8"), FilterError, ValueError, "Write, for example"),
        (lambda z: z.filter("width == None"), FilterError, ValueError, "'is' with None"),
        (lambda z: z.filter("model_id"), FilterError, ValueError, "condition"),
        (lambda z: z.filter("9" * 5000), FilterError, ValueError, "cannot read"),
        (lambda z: z.filter(width="eight"), FilterError, ValueError, "width is int64"),
        (lambda z: z.table("result"), TableNotFoundError, KeyError, "Did you mean 'results'"),
        (lambda z: z["w8-lr0.3-s100"], ModelNotFoundError, KeyError, "Did you mean 'w8-lr0.03-s100'"),
        (lambda z: z.filter(width=8)["w2-lr0.1-s100"], ModelNotFoundError, KeyError, "not in this view"),
        (lambda z: z[0].checkpoint(11), EpochNotFoundError, KeyError, "0, 10, 50, 150"),
        (lambda z: z[0].checkpoint("lats"), EpochNotFoundError, KeyError, "'first' and 'last'"),
        (lambda z: z[0].checkpoint()["fc.weight"], TensorNotFoundError, KeyError, "layers.0.weight"),
        (lambda z: z[0].trajectory("fc.weight"), TensorNotFoundError, KeyError, "layers.0.weight"),
        (lambda z: z[264], IndexError, IndexError, "264 models"),
    ],
)
def test_mistakes_say_what_was_asked_what_exists_and_what_to_do(zoo, call, error, builtin, message) -> None:
    with pytest.raises(error, match=".+") as caught:
        call(zoo)
    assert isinstance(caught.value, builtin)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_misspelt_argument_of_load_is_an_error() -> None:
    with pytest.raises(TypeError):
        phasezoo.load("mlp-digits", revison="main")  # type: ignore[call-arg]
