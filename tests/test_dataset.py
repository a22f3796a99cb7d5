"""Torch datasets of networks: the same samples whatever the workers, the order and the interruptions."""

from __future__ import annotations

import json
import pickle

import pytest
import torch
from torch.utils.data import DataLoader, default_collate

import phasezoo
from phasezoo import store
from phasezoo.dataset import WeightDataset
from phasezoo.errors import ColumnNotFoundError, FormatError, MeasureError, TensorNotFoundError, TopologyError
from phasezoo.normalise import Normaliser
from phasezoo.representations import Tokens


def noisy(state_dict: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor + 0.1 * torch.randn_like(tensor) for name, tensor in state_dict.items()}


def halved(x: torch.Tensor) -> torch.Tensor:
    return x[torch.randperm(len(x))[: len(x) // 2]]


def random_dataset(zoo: phasezoo.Zoo, *, seed: int = 0) -> WeightDataset:
    view = zoo.filter(width=8)
    return view.to_torch("flat", target="test_acc", epochs="all", augment=noisy, transform=halved, seed=seed)


def equal(ours: list, theirs: list) -> bool:
    return len(ours) == len(theirs) and all(
        torch.equal(x, a) and torch.equal(y, b) for (x, y), (a, b) in zip(ours, theirs, strict=True)
    )


def test_samples_are_what_the_checkpoints_hold(zoo: phasezoo.Zoo) -> None:
    view = zoo.filter(width=8)
    dataset = view.to_torch("flat", target="test_acc", epochs=[150, 10])
    assert len(dataset) == 48
    assert (dataset.ids[1], dataset.epochs[1]) == (view[0].id, 10)
    for i, (model_id, epoch) in enumerate(zip(dataset.ids, dataset.epochs, strict=True)):
        x, y = dataset[i]
        ckpt = zoo[model_id].checkpoint(epoch)
        assert torch.equal(x, torch.cat([t.flatten() for t in ckpt.state_dict().values()]))
        assert y.dtype == torch.float32
        assert y.item() == pytest.approx(ckpt.metrics["test_acc"])
    x, y = dataset[[5, 0]]
    assert torch.equal(x[0], dataset[5][0])
    assert torch.equal(y, torch.stack([dataset[5][1], dataset[0][1]]))
    assert torch.equal(dataset[-1][0], dataset[47][0])
    with pytest.raises(IndexError, match="48"):
        dataset[48]


def test_targets_are_results_at_the_epoch_metrics_configs_or_classes(zoo: phasezoo.Zoo) -> None:
    view = zoo.filter(width=8)
    both = view.to_torch(target=["train_loss", "lr"], epochs=[50])
    assert both.targets.shape == (24, 2)
    assert both.targets[3].tolist() == pytest.approx(
        [view[3].checkpoint(50).metrics["train_loss"], view[3].config["lr"]]
    )
    top = view.to_torch(target="hessian_top_ev_train", epochs=[10, 50])
    row = next(r for r in zoo.table("landscape").to_pylist() if r["model_id"] == view[2].id and r["epoch"] == 50)
    assert top.targets[5].item() == pytest.approx(row["hessian_top_ev_train"])
    of_cell = view.to_torch(target="representation_similarity")  # a metric of cells, at the last epoch
    assert of_cell.targets[0] == of_cell.targets[1] == of_cell.targets[2]
    phases = view.to_torch(target="phase")
    assert phases.classes == ("I", "II", "III", "IV-A", "IV-B")
    assert phases.targets.dtype == torch.long
    assert [phases.classes[i] for i in phases.targets] == view.table("configs")["phase"].to_pylist()
    assert view.to_torch(target="epoch", epochs="all").targets[:4].tolist() == [0, 10, 50, 150]


def test_targets_that_are_missing_or_unknown_say_so(zoo: phasezoo.Zoo) -> None:
    with pytest.raises(ColumnNotFoundError, match="Did you mean 'test_acc'"):
        zoo.to_torch(target="test_ac")
    with pytest.raises(MeasureError, match="264 of 1056 checkpoints have no 'hessian_trace_train'.*epoch 0"):
        zoo.to_torch(target="hessian_trace_train", epochs="all")
    with pytest.raises(MeasureError, match="alone"):
        zoo.to_torch(target=["test_acc", "phase"])
    with pytest.raises(TopologyError, match="no model"):
        zoo.filter(width=7).to_torch()


@pytest.mark.parametrize("workers", [0, 2])
def test_workers_give_the_same_batches_in_the_same_order(zoo: phasezoo.Zoo, workers: int) -> None:
    dataset = random_dataset(zoo)
    expected = [dataset[batch] for batch in dataset.loader(batch_size=10).sampler]
    torch.manual_seed(workers)  # what was drawn before does not matter
    assert equal(list(dataset.loader(batch_size=10, num_workers=workers)), expected)
    stream = DataLoader(dataset.stream(batch_size=10), batch_size=None, num_workers=workers)
    assert equal(list(stream), expected)
    own = DataLoader(dataset, batch_size=10, num_workers=workers)
    plain = dataset.loader(batch_size=10, shuffle=False)
    assert equal(list(own), list(plain))
    other = random_dataset(zoo, seed=1)
    assert not equal(list(other.loader(batch_size=10, num_workers=workers)), expected)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_that_was_interrupted_gives_the_same_when_it_is_started_again(zoo, workers: int) -> None:
    dataset = random_dataset(zoo)
    epochs = []
    for epoch in range(2):
        dataset.set_epoch(epoch)
        epochs.append(list(dataset.loader(batch_size=20)))
    assert not equal(*epochs)
    dataset.set_epoch(1)
    loader = dataset.loader(batch_size=20, num_workers=workers)
    begun = iter(loader)
    assert equal([next(begun), next(begun)], epochs[1][:2])
    del begun
    assert equal(list(loader), epochs[1])
    again = pickle.loads(pickle.dumps(dataset))  # as after a restart of the program
    assert again.epoch == 1
    assert equal(list(again.loader(batch_size=20)), epochs[1])


def test_workers_that_persist_see_the_epoch(zoo: phasezoo.Zoo) -> None:
    dataset = random_dataset(zoo)
    loader = DataLoader(dataset, batch_size=48, num_workers=1, persistent_workers=True)
    first = list(loader)
    dataset.set_epoch(1)
    second = list(loader)
    assert not equal(first, second)
    assert equal(second, list(dataset.loader(batch_size=48, shuffle=False)))


def test_the_random_numbers_of_the_program_are_left_alone(zoo: phasezoo.Zoo) -> None:
    dataset = random_dataset(zoo)
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    dataset[0]
    assert torch.equal(torch.rand(2), expected)


def test_a_worker_tells_the_others_what_it_has_verified(zoo: phasezoo.Zoo) -> None:
    dataset = zoo.filter(width=8).to_torch()
    store._verified.clear()
    list(dataset.loader(num_workers=1))
    assert not store._verified  # verified elsewhere
    assert dataset._checked.all()


def test_one_loader_for_all_representations(zoo: phasezoo.Zoo) -> None:
    view = zoo.filter(width=8)
    for name in ("flat", "layers", "tokens", "nfn", "graph", "statistics"):
        dataset = view.to_torch(name, target="test_acc")
        x, y = next(iter(dataset.loader(batch_size=5, shuffle=False)))
        assert y.shape == (5,)
        one_by_one = default_collate([dataset[i][0] for i in range(5)])
        flat, again = torch.utils._pytree.tree_leaves(x), torch.utils._pytree.tree_leaves(one_by_one)
        assert len(flat) == len(again)
        assert all(torch.equal(a, b) for a, b in zip(flat, again, strict=True)), name


def test_networks_that_do_not_fit_into_one_batch_say_so(zoo: phasezoo.Zoo) -> None:
    dataset = zoo.filter(width=[8, 12]).to_torch("flat")
    assert dataset[0].shape != dataset[-1].shape
    with pytest.raises(TopologyError, match="topologies differ"):
        dataset[[0, 47]]
    with pytest.raises(TopologyError, match="2 layouts"):
        dataset.decode(dataset[[0]])
    with pytest.raises(ValueError, match="at least 1"):
        dataset.loader(batch_size=0)


def test_a_normaliser_is_fitted_on_the_training_set_and_undone(zoo: phasezoo.Zoo, tmp_path) -> None:
    train, _, test = zoo.filter(width=8).split(by="seed")
    fitted = Normaliser.fit(train)
    stack = train.stack()
    for name, tensor in stack.items():
        assert fitted.mean[name] == pytest.approx(tensor.double().mean().item(), abs=1e-12)
        assert fitted.std[name] == pytest.approx(tensor.double().std(correction=0).item(), rel=1e-9)
    dataset = test.to_torch("tokens", normaliser=fitted)
    batch = dataset[list(range(len(dataset)))]
    raw = test.stack()
    weight = batch.values[:, :8, :64]
    name = "layers.0.weight"
    assert torch.allclose(weight, (raw[name] - fitted.mean[name]) / fitted.std[name])
    for name, tensor in dataset.decode(batch).items():
        assert torch.allclose(tensor, raw[name], rtol=1e-5, atol=1e-6)
    fitted.save(tmp_path / "normaliser.json")
    assert Normaliser.load(tmp_path / "normaliser.json") == fitted
    assert json.loads((tmp_path / "normaliser.json").read_text())["fitted_on"] == 8


def test_a_normaliser_takes_several_topologies_and_constants_and_refuses_what_it_has_not_seen(zoo, tmp_path) -> None:
    fitted = Normaliser.fit(zoo.filter(lr=0.1), epochs="all")
    assert fitted.fitted_on == 33 * 4
    values = torch.cat(
        [zoo.filter(lr=0.1, width=w).stack(epoch="all")["layers.1.bias"].flatten() for w in zoo_widths(zoo)]
    )
    assert fitted.mean["layers.1.bias"] == pytest.approx(values.double().mean().item(), abs=1e-9)
    assert fitted.std["layers.1.bias"] == pytest.approx(values.double().std(correction=0).item(), rel=1e-9)
    with pytest.raises(TensorNotFoundError, match=r"layers\.0\.weight"):
        fitted.apply({"layer.0.weight": torch.ones(1)})
    (tmp_path / "no.json").write_text('{"mean": {}}')
    with pytest.raises(FormatError, match="not a normaliser"):
        Normaliser.load(tmp_path / "no.json")


def zoo_widths(zoo: phasezoo.Zoo) -> list[int]:
    return sorted(set(zoo.table("configs")["width"].to_pylist()))


def test_datasets_are_small_to_pickle(zoo: phasezoo.Zoo) -> None:
    """Workers that are spawned get the places of the samples, not the tables of the zoo."""
    dataset = zoo.to_torch(Tokens(size=288), target="test_acc", epochs="all")
    size = len(pickle.dumps(dataset))
    assert size < 400 * len(dataset)
    assert torch.equal(pickle.loads(pickle.dumps(dataset))[7][0].values, dataset[7][0].values)


def test_pairs_of_a_run_are_an_earlier_and_a_later_epoch(zoo: phasezoo.Zoo) -> None:
    view = zoo.filter(width=8)
    pairs = view.pairs(within="run", target="train_loss")
    assert len(pairs) == 24 * 6
    assert len(view.pairs(within="run", gap=1)) == 24 * 3
    assert len(view.pairs(within="run", epochs=[150, 10])) == 24
    for i in (0, 7, 100):
        (model_id, same), pair = pairs.ids[i], pairs[i]
        a, b = pair.epochs.tolist()
        assert model_id == same
        assert a < b
        model = zoo[model_id]
        for x, target, epoch in ((pair.a, pair.targets[0], a), (pair.b, pair.targets[1], b)):
            ckpt = model.checkpoint(epoch)
            assert torch.equal(x[:512], ckpt["layers.0.weight"].flatten())
            assert target.item() == pytest.approx(ckpt.metrics["train_loss"])


def test_pairs_of_a_cell_are_its_seeds(zoo: phasezoo.Zoo) -> None:
    pairs = zoo.filter(width=8).pairs(within="cell", representation="nfn")
    assert len(pairs) == 8 * 3
    for (a, b), pair in zip(pairs.ids, pairs, strict=True):
        assert a != b
        assert zoo[a].config["cell_id"] == zoo[b].config["cell_id"]
        assert torch.equal(pair.b.weights[1][0], zoo[b].checkpoint()["layers.1.weight"])
        assert pair.targets.shape == (0,)
        assert pair.epochs.tolist() == [150, 150]
    every = zoo.filter(width=8).pairs(within="cell", epochs="all")
    assert len(every) == 4 * 24
    assert all(pair.epochs[0] == pair.epochs[1] for pair in every)


def test_pairs_of_a_layer_hold_that_layer_alone(zoo: phasezoo.Zoo) -> None:
    pairs = zoo.filter(width=8).pairs(within="layer", layer="layers.1")
    assert len(pairs) == 24
    assert pairs[0].a.shape == (8 * 8 + 8,)
    assert torch.equal(pairs[0].b[:64], zoo[pairs.ids[0][1]].checkpoint()["layers.1.weight"].flatten())


@pytest.mark.parametrize("workers", [0, 2])
def test_pairs_batch_and_repeat_as_networks_do(zoo: phasezoo.Zoo, workers: int) -> None:
    pairs = zoo.filter(width=8).pairs(within="run", target="train_loss", seed=4)
    batches = list(pairs.loader(batch_size=50, num_workers=workers))
    assert [len(batch.a) for batch in batches] == [50, 50, 44]
    order = [i for batch in pairs.loader(batch_size=50).sampler for i in batch]
    assert sorted(order) == list(range(144)) != order
    first = default_collate([pairs[i] for i in order[:50]])
    assert all(torch.equal(a, b) for a, b in zip(batches[0], first, strict=True))


def test_pairs_that_cannot_be_made_say_why(zoo: phasezoo.Zoo) -> None:
    view = zoo.filter(width=8)
    with pytest.raises(ValueError, match="Did you mean 'run'"):
        view.pairs(within="runs")
    with pytest.raises(ValueError, match="layer="):
        view.pairs(within="layer")
    with pytest.raises(ValueError, match="gap="):
        view.pairs(within="cell", gap=1)
    with pytest.raises(phasezoo.PhaseZooError, match="no pair within a run"):
        view.pairs(within="run", epochs=[10])
