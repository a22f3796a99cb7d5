"""Averages, interpolations, ensembles, pruned networks and probes, each against another way to the same."""

from __future__ import annotations

import copy
import json
from functools import partial

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy
from torch.nn.utils import prune as torch_prune

import phasezoo
from phasezoo.errors import ArchitectureError, ColumnNotFoundError, LeakageError, MeasureError
from phasezoo.nets import build
from phasezoo.probing import FOLDS, PENALTIES, deal
from phasezoo.state import Variant
from tests.landscape_cases import images, vectors


@pytest.fixture(scope="module")
def zoo():
    return phasezoo.load("mlp-digits")


def resnet(*, seed: int) -> Variant:
    torch.manual_seed(seed)
    config = {"width": 4, "num_classes": 10}
    state = build("resnet18", **config).state_dict()
    row = {"architecture": "resnet18", "architecture_config": json.dumps(config), "seed": seed, "task": "images"}
    return Variant(state, config=row, origin=f"resnet {seed}")


def equal(a, b) -> bool:
    return list(a) == list(b) and all(torch.equal(a[name], b[name]) for name in a)


# Averages


def test_an_average_is_the_mean_of_every_tensor(zoo) -> None:
    cell = zoo.filter(width=8, lr=0.03)
    found = phasezoo.average(cell)
    for name, tensor in found.items():
        seeds = np.stack([model.checkpoint()[name].double().numpy() for model in cell])
        np.testing.assert_allclose(tensor.numpy(), seeds.mean(0), rtol=1e-5, atol=1e-7)
    assert found.config["width"] == 8
    assert "seed" not in found.config  # what the networks do not share
    assert all(model.id in found.origin for model in cell)
    weighted = phasezoo.average(cell, weights=[0.5, 0.5, 0])
    assert equal(weighted, phasezoo.interpolate(cell[0], cell[1], 0.5))


def test_an_average_over_epochs_takes_checkpoints(zoo) -> None:
    first, second = list(zoo[0].checkpoints())[-2:]
    found = phasezoo.average([first, second])
    assert all(torch.equal(tensor, (first[name] + second[name]) / 2) for name, tensor in found.items())


def test_the_line_between_two_networks_ends_at_them(zoo) -> None:
    a, b, _ = zoo.filter(width=8, lr=0.03)
    assert equal(phasezoo.interpolate(a, b, 0), a.checkpoint())
    assert equal(phasezoo.interpolate(a, b, 1), b.checkpoint())
    assert equal(phasezoo.interpolate(a, b, 1, align=True), b.checkpoint().align_to(a.checkpoint()))
    assert equal(phasezoo.interpolate(a, b, 1, epoch=10), b.checkpoint(10))


def test_a_network_averaged_with_its_permuted_copies_is_itself_once_they_are_aligned() -> None:
    net = resnet(seed=0)
    copies = [phasezoo.permute(net, seed=seed) for seed in range(3)]
    assert equal(phasezoo.average([net, *copies], align=True), net)
    assert not equal(phasezoo.average([net, *copies]), net)


def test_statistics_of_batchnorm_are_those_of_one_pass_in_training_mode() -> None:
    """torch's own cumulative statistics (momentum=None) on batches of one size."""
    batches = [images(16, seed=seed) for seed in range(4)]
    found = phasezoo.average([resnet(seed=0), resnet(seed=1)], align=True, reset_bn=batches)
    plain = phasezoo.average([resnet(seed=0), resnet(seed=1)], align=True)
    net = plain.module(train=True)
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None
    with torch.no_grad():
        for x, _ in batches:
            net(x)
    for name, tensor in net.state_dict().items():
        if "tracked" not in name:
            torch.testing.assert_close(found[name], tensor.detach(), rtol=1e-4, atol=1e-5)
    assert not torch.equal(found["layer4.1.bn2.running_var"], plain["layer4.1.bn2.running_var"])
    assert not found.module().training


def test_networks_of_two_architectures_have_no_average(zoo) -> None:
    with pytest.raises(ArchitectureError, match="2 architectures .* zoo.filter"):
        phasezoo.average(zoo.filter(width=[8, 64], lr=0.03))
    with pytest.raises(MeasureError, match="cannot average 0 networks"):
        phasezoo.average(zoo.filter(width=7))


def test_a_variant_hands_out_copies(zoo) -> None:
    found = phasezoo.permute(zoo[0].checkpoint(), seed=0)
    before = found["layers.0.weight"].clone()
    net = found.module(train=True)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.zero_()
    assert torch.equal(found["layers.0.weight"], before)


# Pruning


@pytest.mark.parametrize("density", [0.0, 0.1, 0.37, 1.0])
@pytest.mark.parametrize("scope", ["global", "layer"])
def test_pruned_weights_are_those_that_torch_prunes(zoo, density: float, scope: str) -> None:
    ckpt = zoo["w24-lr0.03-s100"].checkpoint()
    found, net = phasezoo.prune(ckpt, density=density, scope=scope), copy.deepcopy(ckpt.module())
    layers = [(layer, "weight") for layer in net.layers]
    sizes = [layer.weight.numel() for layer in net.layers]
    if scope == "global":
        torch_prune.global_unstructured(
            layers, torch_prune.L1Unstructured, amount=sum(sizes) - round(density * sum(sizes))
        )
    else:
        for (layer, name), n in zip(layers, sizes, strict=True):
            torch_prune.l1_unstructured(layer, name, amount=n - round(density * n))
    for i, layer in enumerate(net.layers):
        assert torch.equal(found[f"layers.{i}.weight"], layer.weight)
        assert torch.equal(found[f"layers.{i}.bias"], ckpt[f"layers.{i}.bias"])
    kept = sum(int((found[f"layers.{i}.weight"] != 0).sum()) for i in range(3))
    assert kept == (round(density * sum(sizes)) if scope == "global" else sum(round(density * n) for n in sizes))


def test_of_equal_weights_the_first_are_kept() -> None:
    config = {"architecture": "none", "architecture_config": "{}"}
    net = Variant({"a": torch.tensor([[1.0, -1.0], [1.0, 2.0]]), "b": torch.ones(2)}, config=config, origin="ties")
    assert phasezoo.prune(net, density=0.5)["a"].tolist() == [[1, 0], [0, 2]]
    with pytest.raises(MeasureError, match="density 50"):
        phasezoo.prune(net, density=50)


# Ensembles


def test_an_ensemble_averages_what_it_is_told_to(zoo) -> None:
    x, y = vectors(7, n_in=64)
    view = zoo.filter(lr=0.03, seed=100, width=[4, 8, 64])
    with torch.no_grad():
        logits = np.stack([model.checkpoint().module()(x).double().numpy() for model in view])
        by_probability, by_logits = phasezoo.ensemble(view)(x), phasezoo.ensemble(view, averaged="logits")(x)
    exp = np.exp(logits)
    mean = (exp / exp.sum(-1, keepdims=True)).mean(0)
    np.testing.assert_allclose(by_probability.exp().numpy(), mean, rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(by_logits.numpy(), logits.mean(0), rtol=1e-4, atol=1e-4)
    loss = -np.log(mean[np.arange(7), y.numpy()]).mean()
    assert cross_entropy(by_probability, y).item() == pytest.approx(loss, rel=1e-4)


def test_an_ensemble_of_one_network_answers_as_it_does_and_one_of_none_is_refused(zoo) -> None:
    x = vectors(7, n_in=64)[0]
    ckpt = zoo[100].checkpoint(50)
    for averaged in ("probabilities", "logits"):
        answer = phasezoo.ensemble([zoo[100]], averaged=averaged, epoch=50)(x)
        torch.testing.assert_close(answer.softmax(-1), ckpt.module()(x).softmax(-1))
    with pytest.raises(MeasureError, match="no network"):
        phasezoo.ensemble([])
    with pytest.raises(MeasureError, match="'median'"):
        phasezoo.ensemble([zoo[0]], averaged="median")


# Probes


def statistics(ckpt) -> list[float]:
    found = []
    for tensor in ckpt.values():
        w = tensor.numpy().astype(np.float64).ravel()
        found += [w.mean(), w.var(), *np.quantile(w, [0, 0.25, 0.5, 0.75, 1])]
    return found


@pytest.mark.parametrize("by", ["cell", "seed"])
def test_a_probe_is_the_ridge_regression_of_scikit_learn(zoo, by: str) -> None:
    linear_model = pytest.importorskip("sklearn.linear_model", reason="scikit-learn is not installed")
    from sklearn.metrics import r2_score
    from sklearn.model_selection import PredefinedSplit, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    view = zoo.filter("width >= 16")
    found = phasezoo.probe(view, "test_acc", by=by, seed=1)
    ids = [model.id for model in view]
    X = np.array([statistics(model.checkpoint()) for model in view])
    y = np.array([model.checkpoint().metrics["test_acc"] for model in view])
    units = np.array([str(model.config["cell_id" if by == "cell" else "seed"]) for model in view])
    held = np.isin(ids, found.test_ids)
    assert {model.id for model in view.split(by=by, val=0, seed=1).test} == set(found.test_ids)
    folds = PredefinedSplit(deal(units[~held].tolist(), seed=1))
    assert folds.get_n_splits() == min(FOLDS, len(set(units[~held])))

    def model(penalty: float):
        return make_pipeline(StandardScaler(), linear_model.Ridge(alpha=penalty))

    errors = [((cross_val_predict(model(a), X[~held], y[~held], cv=folds) - y[~held]) ** 2).sum() for a in PENALTIES]
    assert found.penalty == PENALTIES[int(np.argmin(errors))]
    predicted = model(found.penalty).fit(X[~held], y[~held]).predict(X[held])
    # the features of the package are float32
    np.testing.assert_allclose(found.predicted, predicted, atol=1e-4)
    np.testing.assert_allclose(found.actual, y[held], rtol=1e-6)
    assert found.r2 == pytest.approx(r2_score(y[held], predicted), abs=1e-2)
    assert found.r2 == pytest.approx(r2_score(found.actual, found.predicted), abs=1e-12)
    assert (found.n_train, found.n_test) == ((~held).sum(), held.sum())


def test_a_probe_does_not_depend_on_the_order_of_a_view(zoo) -> None:
    view = zoo.filter("width >= 16")
    found, shuffled = phasezoo.probe(view, "lr"), phasezoo.probe(view.sample(len(view), seed=3), "lr")
    assert set(shuffled.test_ids) == set(found.test_ids)
    assert shuffled.r2 == pytest.approx(found.r2, abs=1e-6)
    assert shuffled.penalty == found.penalty


def test_a_probe_that_would_see_the_same_weights_on_both_sides_is_refused(zoo) -> None:
    """Eight learning rates share an initial network: its accuracy would be known (R2 of 1)."""
    with pytest.raises(LeakageError, match="split by='seed'"):
        phasezoo.probe(zoo, "test_acc", epochs=0)
    assert phasezoo.probe(zoo.filter("width >= 16"), "test_acc", epochs=0, by="seed").r2 < 0.2
    # an initial network does not know at which rate it will be trained
    assert phasezoo.probe(zoo.filter("width >= 16"), "lr", epochs=0, by="seed").r2 < 0.01


def test_what_cannot_be_probed_is_refused(zoo) -> None:
    with pytest.raises(ColumnNotFoundError, match="Did you mean 'test_acc'"):
        phasezoo.probe(zoo.filter(width=64), "tset_acc")
    with pytest.raises(MeasureError, match="has words"):
        phasezoo.probe(zoo.filter(width=64), "phase")
    with pytest.raises(MeasureError, match="by 'checkpoint'"):
        phasezoo.probe(zoo.filter(width=64), "test_acc", by="checkpoint")
    with pytest.raises(MeasureError, match="of 1 units"):
        phasezoo.probe(zoo.filter(width=64, lr=[0.1, 0.01]), "test_acc")


# Augmentation


def test_permuted_copies_augment_a_dataset_of_weights_and_repeat_with_its_seed(zoo) -> None:
    view = zoo.filter(width=8)
    spec = view[0].checkpoint().symmetry()
    augment = partial(phasezoo.permute, seed=None, spec=spec)
    first, again = (view.to_torch("flat", augment=augment, seed=1) for _ in range(2))
    x = vectors(5, n_in=64)[0]
    plain = view.stack().apply(x)
    for epoch in range(2):
        first.set_epoch(epoch)
        again.set_epoch(epoch)
        batch = first[list(range(len(first)))]
        assert torch.equal(batch, torch.stack([again[i] for i in range(len(again))]))
        states = first.decode(batch)
        for i, model in enumerate(view):
            copy = Variant({k: v[i] for k, v in states.items()}, config=model.config, origin="copy")
            assert not torch.equal(copy["layers.0.weight"], model.checkpoint()["layers.0.weight"])
            with torch.no_grad():
                torch.testing.assert_close(copy.module()(x), plain[i], rtol=1e-4, atol=1e-4)
    assert not torch.equal(batch, view.to_torch("flat", augment=augment, seed=1)[list(range(len(first)))])
