"""Many networks as one tensor per name."""

from __future__ import annotations

import pickle

import pytest
import torch

import phasezoo
from phasezoo import store
from phasezoo.errors import EpochNotFoundError, IntegrityError, ModelNotFoundError, TopologyError
from phasezoo.source import LocalSource
from phasezoo.store import Store
from tests import resnet_zoo
from tests.serve import serve


def assert_same(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    assert list(ours) == list(theirs)
    assert all(ours[name].dtype == t.dtype and torch.equal(ours[name], t) for name, t in theirs.items())


def test_a_stack_holds_each_network_as_its_checkpoint_does(zoo: phasezoo.Zoo) -> None:
    view = zoo.filter(width=8).sort("test_acc")
    last, at_ten, first = view.stack(), view.stack(epoch=10), view.stack(epoch="first")
    assert last.ids == tuple(m.id for m in view)
    for i, model in enumerate(view):
        assert_same(last.state_dict(i), model.checkpoint().state_dict())
        assert_same(at_ten.state_dict(model.id), model.checkpoint(10).state_dict())
        assert_same(first.state_dict(i), model.checkpoint(0).state_dict())
    assert last.epochs.tolist() == [150] * 24


def test_a_stack_of_trajectories_has_the_epochs_second(zoo: phasezoo.Zoo) -> None:
    view = zoo.filter(width=3, lr=[0.1, 0.02])
    whole, some = view.stack(epoch="all"), view.stack(epoch=[150, 10])
    assert whole["layers.0.weight"].shape == (6, 4, 3, 64)
    assert some.epochs.tolist() == [[150, 10]] * 6
    for i, model in enumerate(view):
        for j, epoch in enumerate(model.epochs):
            assert_same({n: t[j] for n, t in whole.state_dict(i).items()}, model.checkpoint(epoch).state_dict())
        assert torch.equal(some["layers.1.bias"][i, 1], model.checkpoint(10)["layers.1.bias"])


def test_a_model_that_is_selected_twice_is_there_twice(zoo: phasezoo.Zoo) -> None:
    stack = zoo.filter(width=8).select([3, 0, 3]).stack(epoch="all")
    assert len(stack.ids) == len(stack["layers.0.bias"]) == 3
    assert torch.equal(stack["layers.0.bias"][0], stack["layers.0.bias"][2])


def test_each_tensor_is_one_allocation_of_its_own(zoo: phasezoo.Zoo) -> None:
    stack = zoo.filter(width=8).stack()
    for tensor in stack.values():
        assert tensor.is_contiguous()
        assert tensor.untyped_storage().nbytes() == tensor.nbytes


def test_apply_is_what_each_module_computes(zoo: phasezoo.Zoo) -> None:
    torch.manual_seed(0)
    x = torch.randn(5, 64)
    view = zoo.filter(width=8, lr=0.1)
    outputs = view.stack(epoch="all").apply(x)
    assert outputs.shape == (3, 4, 5, 10)
    for i, model in enumerate(view):
        for j, ckpt in enumerate(model.checkpoints()):
            assert torch.allclose(outputs[i, j], ckpt.module()(x), atol=1e-5)


def test_apply_runs_residual_networks_one_by_one_with_the_same_result_as_vmap(tmp_path) -> None:
    zoo = phasezoo.load(resnet_zoo.write(tmp_path / "zoo"))
    torch.manual_seed(0)
    x = torch.randn(2, 3, 32, 32)
    stack = zoo.stack(epoch=2)
    outputs = stack.apply(x)
    expected = torch.stack([model.checkpoint(2).module()(x) for model in zoo])
    assert torch.equal(outputs, expected)
    module = zoo[0].checkpoint().module()
    at_once = torch.vmap(lambda s: torch.func.functional_call(module, s, (x,)))(dict(stack))
    assert torch.allclose(outputs, at_once, rtol=1e-4, atol=1e-4)


def test_topologies_are_not_mixed_and_the_message_names_them_and_the_way_out(zoo: phasezoo.Zoo) -> None:
    view = zoo.filter(width=[8, 12])
    with pytest.raises(TopologyError, match="2 topologies") as caught:
        view.stack()
    ids = set(view.table("configs")["topology_id"].to_pylist())
    assert all(topology in str(caught.value) for topology in ids)
    way_out = str(caught.value).split("Keep one of them: ")[1]
    assert len(eval(f"view.{way_out.rstrip('.')}", {"view": view}).stack().ids) == 24


def test_a_zoo_without_topology_ids_is_told_apart_by_its_layouts(small) -> None:
    zoo = phasezoo.load(small())
    with pytest.raises(TopologyError, match="2 topologies"):
        zoo.stack()
    assert zoo.filter(width=2).stack()["layers.0.weight"].shape == (4, 2, 5)


def test_epochs_that_do_not_exist_and_empty_views_are_errors(zoo: phasezoo.Zoo) -> None:
    with pytest.raises(EpochNotFoundError, match="0, 10, 50, 150"):
        zoo.filter(width=8).stack(epoch=[10, 11])
    with pytest.raises(TopologyError, match="no model"):
        zoo.filter(width=7).stack()
    with pytest.raises(ModelNotFoundError, match="Did you mean"):
        zoo.filter(width=8).stack().state_dict("w8-lr0.1-s10")


def test_all_epochs_of_models_that_differ_in_them_are_an_error(small, tmp_path) -> None:
    index = phasezoo.load(small())._index
    part = phasezoo.Zoo(index.with_checkpoints([i for i in range(24) if i != 1]), [0, 1])
    with pytest.raises(EpochNotFoundError, match="0, 5"):
        part.stack(epoch="all")
    assert part.stack(epoch=[0, 5])["layers.1.bias"].shape == (2, 2, 3)


def test_a_part_of_a_zoo_verifies_single_tensors_by_digests_of_its_own(small) -> None:
    zoo = phasezoo.load(small())
    zoo[0].checkpoint(0)["layers.1.bias"]  # the whole zoo's digests are known from here on
    part = phasezoo.Zoo(zoo._index.with_checkpoints([i for i in range(24) if i != 0]), [0])
    assert part[0].checkpoint(5)["layers.1.bias"].equal(zoo[0].checkpoint(5)["layers.1.bias"])


def test_every_checkpoint_is_verified_once(small) -> None:
    path = small()
    zoo = phasezoo.load(path)
    shard = path / "shards" / "w2-lr0.1" / "00000.safetensors"
    data = bytearray(shard.read_bytes())
    assert zoo.filter(width=2).stack().epochs.tolist() == [5] * 4
    data[-1] ^= 1
    shard.write_bytes(data)
    zoo.filter(width=2).stack()  # hashed before; not again in this process
    store._verified.clear()
    with pytest.raises(IntegrityError, match="w2-lr0.1-s1 epoch 5"):
        zoo.filter(width=2).stack()
    shard.write_bytes(data[:-8])
    with pytest.raises(IntegrityError, match="cut short"):
        zoo.filter(width=2).stack()


class Remote:
    """A source that is not a directory, and answers ranges."""

    def __init__(self, local: LocalSource) -> None:
        self.read, self.size, self.local, self.url = local.read, local.size, lambda path: None, "remote://zoo"
        self.read_ranges = local.read_ranges


def test_a_remote_source_and_one_without_vectored_reads_give_the_same_stack(small, monkeypatch) -> None:
    zoo = phasezoo.load(small()).filter(width=4)
    expected = dict(zoo.stack(epoch="all"))
    store._verified.clear()
    monkeypatch.delattr("os.preadv")
    assert_same(dict(zoo.stack(epoch="all")), expected)
    zoo._index.store = Store(Remote(zoo._index.source))
    assert_same(dict(zoo.stack(epoch="all")), expected)


def test_a_zoo_elsewhere_is_fetched_once_and_read_by_stacks_and_workers(zoo, embedded_path, tmp_path) -> None:
    with serve(embedded_path) as server:
        view = phasezoo.load(server.url, cache_dir=tmp_path / "cache").filter(width=8)
        before = len(server.requests)
        stack = view.stack(epoch="all")
        asked = len(server.requests) - before
        assert asked <= 1 + 2 * 8  # of 96 checkpoints: the tables, and the 8 shards with a gap at most
        assert_same(dict(stack), dict(zoo.filter(width=8).stack(epoch="all")))
        first = [x for x in view.to_torch(epochs="all").loader(batch_size=40, num_workers=2)]
        assert len(server.requests) - before == asked
    again = view.to_torch(epochs="all").loader(batch_size=40)  # without the server
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def test_ranges_that_follow_one_another_are_one_read(tmp_path, small, monkeypatch) -> None:
    root = small()
    (root / "data").write_bytes(bytes(range(256)) * 40)
    source = LocalSource(root)
    buffers = [memoryview(bytearray(3)) for _ in range(5)]
    calls = []
    import os

    real = os.preadv
    monkeypatch.setattr("os.preadv", lambda fd, parts, at: calls.append(at) or real(fd, parts, at))
    spots = [0, 3, 10, 9000, 9003]
    source.read_into([("data", at, [buffer]) for at, buffer in zip(spots, buffers, strict=True)])
    assert [bytes(b) for b in buffers] == [bytes((at + i) % 256 for i in range(3)) for at in spots]
    assert calls == [0, 9000]


def test_a_read_that_the_kernel_stops_early_is_finished(small, monkeypatch) -> None:
    zoo = phasezoo.load(small()).filter(width=4)
    expected = dict(zoo.stack(epoch="all"))
    import os

    real = os.preadv
    monkeypatch.setattr("os.preadv", lambda fd, parts, at: real(fd, [parts[0][:7]], at))
    assert_same(dict(zoo.stack(epoch="all")), expected)


def test_a_stack_pickles(zoo: phasezoo.Zoo) -> None:
    stack = zoo.filter(width=8).stack()
    again = pickle.loads(pickle.dumps(stack))
    assert_same(dict(again), dict(stack))
    assert repr(again) == repr(stack)


def test_weights_of_several_dtypes_stack(tmp_path, small) -> None:
    zoo = phasezoo.load(resnet_zoo.write(tmp_path / "resnets"))
    stack = zoo.stack(epoch="all")
    assert stack["bn1.num_batches_tracked"].dtype == torch.long
    assert stack["bn1.num_batches_tracked"].shape == (3, 2)
    for i in range(3):
        for j, epoch in enumerate((1, 2)):
            assert_same({n: t[i, j] for n, t in stack.items()}, resnet_zoo.state_dict(i, epoch))
