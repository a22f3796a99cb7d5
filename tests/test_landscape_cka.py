"""CKA against the formulas of the papers, written out for one pair in numpy."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from phasezoo.errors import MeasureError, TensorNotFoundError
from phasezoo.training.landscape.cka import cka, collect_outputs
from tests.landscape_cases import images, mlp, resnet, vectors


def outputs(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def biased_by_features(X: np.ndarray, Y: np.ndarray) -> float:
    X, Y = X - X.mean(0), Y - Y.mean(0)
    return np.linalg.norm(X.T @ Y) ** 2 / (np.linalg.norm(X.T @ X) * np.linalg.norm(Y.T @ Y))


def biased_by_samples(X: np.ndarray, Y: np.ndarray) -> float:
    H = np.eye(len(X)) - 1 / len(X)
    hsic = lambda K, L: np.trace(K @ H @ L @ H)  # noqa: E731
    K, L = X @ X.T, Y @ Y.T
    return hsic(K, L) / math.sqrt(hsic(K, K) * hsic(L, L))


def unbiased_hsic(X: np.ndarray, Y: np.ndarray) -> float:
    n, one = len(X), np.ones(len(X))
    K, L = X @ X.T, Y @ Y.T
    np.fill_diagonal(K, 0)
    np.fill_diagonal(L, 0)
    total = np.trace(K @ L) + (one @ K @ one) * (one @ L @ one) / ((n - 1) * (n - 2)) - 2 / (n - 2) * one @ K @ L @ one
    return total / (n * (n - 3))


def unbiased_by_samples(X: np.ndarray, Y: np.ndarray) -> float:
    return unbiased_hsic(X, Y) / math.sqrt(unbiased_hsic(X, X) * unbiased_hsic(Y, Y))


def unbiased_by_distances(X: np.ndarray, Y: np.ndarray) -> float:
    """The same by U-centred matrices (Szekely & Rizzo 2014), which share nothing with the formula above."""

    def centred(X: np.ndarray) -> np.ndarray:
        K, n = X @ X.T, len(X)
        np.fill_diagonal(K, 0)
        U = K - K.sum(0) / (n - 2) - K.sum(1)[:, None] / (n - 2) + K.sum() / ((n - 1) * (n - 2))
        np.fill_diagonal(U, 0)
        return U

    A, B = centred(X), centred(Y)
    return (A * B).sum() / math.sqrt((A * A).sum() * (B * B).sum())


FORMS = {"biased": [biased_by_features, biased_by_samples], "unbiased": [unbiased_by_samples, unbiased_by_distances]}


@pytest.mark.parametrize("d", [3, 200])
@pytest.mark.parametrize(("estimator", "form"), [(e, form) for e, forms in FORMS.items() for form in forms])
def test_all_pairs_equal_the_formulas(estimator: str, form: Callable[..., float], d: int) -> None:
    X = outputs(4, 30, d)
    X[1] += X[0]
    found = cka(X, estimator=estimator).matrix
    for i in range(4):
        for j in range(4):
            assert found[i, j].item() == pytest.approx(form(X[i].numpy(), X[j].numpy()), rel=1e-11, abs=1e-12)
    single = cka(X.float(), estimator=estimator).matrix
    torch.testing.assert_close(single, found, rtol=0, atol=1e-5)


@pytest.mark.parametrize("estimator", ["biased", "unbiased"])
def test_cka_is_blind_to_rotation_scale_and_shift(estimator: str) -> None:
    X = outputs(3, 40, 6)
    rotation, _ = torch.linalg.qr(outputs(6, 6, seed=1))
    found = cka(torch.cat([X, (3 * X @ rotation + outputs(6, seed=2))]), estimator=estimator).matrix
    torch.testing.assert_close(found, found.T)
    torch.testing.assert_close(found[:3, :3], found[3:, 3:])
    torch.testing.assert_close(found[:3, :3], found[:3, 3:])
    torch.testing.assert_close(found.diagonal(), torch.ones(6, dtype=torch.float64))


def test_independent_outputs_score_zero_unless_the_estimator_is_biased() -> None:
    draws = {e: torch.tensor([cka(outputs(2, 16, 10, seed=s), estimator=e).mean() for s in range(200)]) for e in FORMS}
    assert abs(draws["unbiased"].mean()) <= 0.02
    assert draws["unbiased"].min() < 0
    assert draws["biased"].mean() == pytest.approx(0.39, abs=0.01)


def test_batches_are_averaged_before_the_ratio_or_after() -> None:
    """HSIC is averaged for the unbiased estimator; published values average the ratios."""
    X = outputs(2, 40, 5)
    X[1] += X[0]
    batches = [X[:, :12], X[:, 12:]]
    hsic = np.mean(
        [[unbiased_hsic(a.numpy(), b.numpy()) for a, b in ((B[0], B[1]), (B[0], B[0]), (B[1], B[1]))] for B in batches],
        axis=0,
    )
    assert cka(batches).mean() == pytest.approx(hsic[0] / math.sqrt(hsic[1] * hsic[2]), rel=1e-12)
    ratios = [biased_by_features(B[0].numpy(), B[1].numpy()) for B in batches]
    assert cka(batches, estimator="biased").mean() == pytest.approx(np.mean(ratios), rel=1e-12)
    assert cka(iter(batches)).mean() == cka(batches).mean()


@pytest.mark.parametrize("estimator", ["biased", "unbiased"])
def test_constant_outputs_give_nan_with_a_reason_and_nothing_else_does(estimator: str) -> None:
    X = outputs(4, 20, 10, dtype=torch.float32)
    X[2] = torch.linspace(-3, 3, 10)
    found = cka(X, estimator=estimator)
    assert found.reasons == {2: "constant outputs over 20 samples"}
    nan = torch.zeros(4, 4, dtype=torch.bool)
    nan[2], nan[:, 2] = True, True
    assert torch.equal(found.matrix.isnan(), nan)
    assert math.isnan(found.mean())
    X[2, 7] += 0.1  # one sample that differs is enough
    assert not cka(X, estimator=estimator).matrix.isnan().any()


def test_too_few_samples_are_refused() -> None:
    with pytest.raises(MeasureError, match=r"unbiased CKA takes .* at least 4 samples a batch; got \[\[2, 3, 5\]\]"):
        cka(outputs(2, 3, 5))
    assert cka(outputs(2, 3, 5), estimator="biased").matrix.shape == (2, 2)
    with pytest.raises(MeasureError, match="got no batch"):
        cka([])


def test_each_network_runs_once_a_batch() -> None:
    nets, (x, y) = [mlp(seed=s) for s in range(5)], vectors(12)
    calls = []
    for net in nets:
        net.register_forward_hook(lambda module, args, out: calls.append(module))
    found = list(collect_outputs(nets, batches=[(x[:6], y[:6]), (x[6:], y[6:])]))
    assert len(calls) == 10
    logits = torch.stack([net(x[6:]) for net in nets]).detach()
    torch.testing.assert_close(found[1][""], logits)


def test_layers_are_heard_before_the_network_goes_on_in_place() -> None:
    net, (x, y) = resnet(), images(4)
    block = net.stages[0][0]
    (found,) = collect_outputs([net, net], batches=[(x, y)], layers=["stages.0.0.bn2", "stages.0"])
    h = torch.relu(net.bn1(net.conv1(x)))
    expected = block.bn2(block.conv2(torch.relu(block.bn1(block.conv1(h)))))
    torch.testing.assert_close(found["stages.0.0.bn2"][0], expected.detach())
    assert found["stages.0"].shape == (2, 4, 2, 8, 8)
    assert cka(found["stages.0"]).mean() == pytest.approx(1)
    with pytest.raises(TensorNotFoundError, match=r"no layer 'stages\.9'. Did you mean"):
        next(collect_outputs([net], batches=[(x, y)], layers=["stages.9"]))
    with pytest.raises(MeasureError, match="Call model.eval"):
        next(collect_outputs([resnet().train()], batches=[(x, y)]))


def test_equality_with_torch_cka() -> None:
    library = pytest.importorskip("torch_cka")
    nets, (x, y) = [nn.Sequential(mlp(seed=s)) for s in range(2)], vectors(24)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=12)
    peer = library.CKA(*nets, model1_layers=["0.4"], model2_layers=["0.4"], device="cpu")
    peer.compare(loader)
    found = cka([b[""] for b in collect_outputs(nets, batches=[(x[:12], y[:12]), (x[12:], y[12:])])])
    assert found.mean() == pytest.approx(peer.export()["CKA"].item(), rel=1e-4)
