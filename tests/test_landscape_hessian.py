"""Trace, diagonal, eigenvalues and density against dense Hessians and quadratics with known spectra."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss, one_hot

from phasezoo.errors import MeasureError
from phasezoo.training.landscape.hessian import diagonal, natural_log, spectral_density, top_eigenvalues, trace
from phasezoo.training.landscape.hvp import HessianOperator
from phasezoo.training.landscape.structure import structure
from tests.landscape_cases import Batch, Quadratic, ResNet, dense_hessian, images, mlp, resnet, symmetric, vectors

BLOCKS = ["conv1.weight", "bn1.weight", "stages.0.0.bn2.bias", "stages.1.0.conv2.weight"]
BLOCKS += ["stages.1.0.shortcut.0.weight", "fc.weight"]


def quadratic(spectrum: list[float], *, seed: int = 0) -> HessianOperator:
    net = Quadratic(symmetric(spectrum, seed=seed))
    return HessianOperator(net, batches=[vectors(2)], loss=lambda out, y: out.mean())


def exact(net: nn.Module, batch: Batch, **options: object) -> HessianOperator:
    return HessianOperator(net, batches=[batch], dtype=torch.float64, **options)


class Deep(nn.Module):
    """Everything at once that keeps a network piecewise linear."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, stride=2, padding=1)
        self.grouped = nn.Conv2d(4, 6, 3, dilation=2, padding=2, groups=2)
        self.norm = nn.BatchNorm2d(6)
        self.conv1d = nn.Conv1d(6, 3, 2, bias=False)
        self.tokens = nn.Linear(15, 5)
        self.head = nn.Linear(15, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = nn.functional.max_pool2d(nn.functional.leaky_relu(self.stem(x)), 1)
        h = self.norm(self.grouped(h)).relu().flatten(2)
        h = 3 * nn.functional.relu(self.conv1d(h) / 2 + 0.1)
        return self.head(torch.relu(self.tokens(h)).flatten(1))


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(8, 8), nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.first(self.first(x).relu()).relu())


class Tied(Twice):
    def __init__(self) -> None:
        super().__init__()
        self.second = nn.Linear(8, 8)
        self.second.weight = self.first.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.second(self.first(x).relu()).relu())


class Gated(Twice):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.first(x).relu() * x)


class Reused(Twice):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(nn.functional.linear(self.first(x).relu(), self.first.weight))


class Branching(Twice):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.first(x).relu() if x.sum() > 0 else self.first(x).tanh())


# The exact trace


@pytest.mark.parametrize("activation", [nn.ReLU, nn.LeakyReLU])
def test_the_exact_trace_is_the_trace_of_the_dense_hessian(activation: type[nn.Module]) -> None:
    net, batch = mlp(activation), vectors(40)
    H = dense_hessian(net, batch)
    found = trace(exact(net, batch))
    assert (found.method, found.products, found.stderr, found.reason) == ("exact", 0, 0.0, None)
    assert found.value.item() == pytest.approx(H.trace().item(), rel=1e-10)
    torch.testing.assert_close(diagonal(exact(net, batch)).value, H.diagonal(), rtol=1e-10, atol=1e-14)


def test_the_exact_trace_holds_through_pools_groups_dilations_and_tokens() -> None:
    torch.manual_seed(0)
    net = Deep().eval()
    net.norm.running_mean.normal_()
    x, y = images(7, size=7)
    batch = (x, y % 3)
    H = dense_hessian(net, batch)
    assert trace(exact(net, batch)).value.item() == pytest.approx(H.trace().item(), rel=1e-10)
    torch.testing.assert_close(diagonal(exact(net, batch)).value, H.diagonal(), rtol=1e-10, atol=1e-14)


def test_the_exact_trace_of_a_resnet_is_the_sum_of_its_blocks() -> None:
    net, batch = resnet(), images(4)
    total = 0.0
    for name, _ in net.named_parameters():
        op = exact(net, batch, params=[name])
        found = trace(op)
        assert found.method == "exact"
        if name in BLOCKS:
            H = dense_hessian(net, batch, params=[name])
            assert found.value.item() == pytest.approx(H.trace().item(), rel=1e-10)
            torch.testing.assert_close(diagonal(op).value, H.diagonal(), rtol=1e-10, atol=1e-14)
        total += found.value.item()
    assert trace(exact(net, batch)).value.item() == pytest.approx(total, rel=1e-10)
    single = trace(HessianOperator(net, batches=[batch]))
    assert single.value.item() == pytest.approx(total, rel=1e-5)


def test_the_exact_trace_of_many_models_and_uneven_batches() -> None:
    nets, (x, y) = [mlp(seed=s) for s in range(3)], vectors(21)
    op = HessianOperator(nets, batches=[(x[:13], y[:13]), (x[13:], y[13:])], dtype=torch.float64)
    expected = torch.stack([dense_hessian(net, (x, y)).diagonal() for net in nets])
    torch.testing.assert_close(trace(op).value, expected.sum(1), rtol=1e-10, atol=0)
    torch.testing.assert_close(diagonal(op).value, expected, rtol=1e-10, atol=1e-14)


def test_a_single_layer_is_a_network() -> None:
    net, x, y = nn.Linear(3, 4).double(), torch.randn(5, 3, dtype=torch.float64), torch.tensor([0, 1, 2, 3, 0])
    found = diagonal(HessianOperator(net, batches=[(x, y)]), method="exact")
    torch.testing.assert_close(found.value, dense_hessian(net, (x, y)).diagonal())


def test_the_exact_trace_leaves_the_model_alone() -> None:
    net = resnet()
    before = {name: t.clone() for name, t in net.state_dict().items()}
    trace(HessianOperator(net, batches=[images(2)]))
    assert all(torch.equal(t, before[name]) for name, t in net.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in net.parameters())
    assert not any(module._forward_hooks for module in net.modules())


def squared_error(out: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return mse_loss(out, one_hot(y, 4).to(out))


@pytest.mark.parametrize(
    ("net", "options", "reason"),
    [
        (mlp(nn.Tanh), {}, r"layer '1' \(Tanh\) is not piecewise linear"),
        (mlp(nn.GELU), {}, r"layer '1' \(GELU\) is not piecewise linear"),
        (mlp(), {"loss": squared_error}, "not plain mean cross-entropy"),
        (mlp(), {"loss": nn.CrossEntropyLoss(weight=torch.ones(4).double())}, "not plain mean cross-entropy"),
        (Twice(), {}, "parameter 'first.weight' is used by 2 layers"),
        (Tied(), {}, "parameter 'first.weight' is used by 2 layers"),
        (Reused(), {}, "parameter 'first.weight' is used outside its layer"),
        (Gated(), {}, "'mul' is not known to be piecewise linear"),
        (Branching(), {}, r"cannot be traced \(TraceError\)"),
        (nn.Sequential(nn.Linear(8, 4), nn.PReLU()), {}, r"'1' \(PReLU\) holds parameters whose"),
        (nn.Sequential(nn.Linear(8, 4), nn.LayerNorm(4)), {}, r"'1' \(LayerNorm\) holds parameters whose"),
        (nn.utils.parametrizations.spectral_norm(nn.Linear(8, 4)), {}, "not known"),
    ],
)
def test_exactness_is_not_claimed_where_it_does_not_hold(net: nn.Module, options: dict, reason: str) -> None:
    net, batch = net.eval(), vectors(30)
    op = exact(net, batch, **options)
    with pytest.raises(MeasureError, match=f"does not apply: .*{reason}"):
        trace(op, method="exact")
    found = trace(op, products=40)
    assert found.method != "exact"
    assert found.reason is None if found.method == "dense" else found.reason


class Mixing(Twice):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.first(x).relu()
        return self.last(h - h.mean(0))


def test_outputs_that_depend_on_the_batch_have_no_exact_trace() -> None:
    with pytest.raises(MeasureError, match="Mixing for a sample depend on the rest of its batch"):
        trace(exact(Mixing(), vectors(30)))
    assert trace(exact(Mixing(), vectors(30)), method="hutchinson").products == 60


@pytest.mark.parametrize("activation", [nn.Tanh, nn.GELU])
def test_for_smooth_activations_the_identity_would_be_wrong(activation: type[nn.Module]) -> None:
    """Were exactness assumed and not detected, the answer would be far off."""
    from phasezoo.training.landscape.gauss_newton import gauss_newton_trace

    net, batch = mlp(activation), vectors(40)
    with torch.no_grad():
        for p in net.parameters():
            p *= 2
    true = dense_hessian(net, batch).trace()
    assert abs(gauss_newton_trace(exact(net, batch)) - true) > 0.1 * true.abs()


# Estimators


@pytest.mark.parametrize("method", ["control", "xtrace", "hutchinson"])
@pytest.mark.parametrize("activation", [nn.Tanh, nn.GELU])
def test_estimates_are_unbiased_and_their_standard_errors_true(method: str, activation: type[nn.Module]) -> None:
    net, batch = mlp(activation, width=8), vectors(30)
    H = dense_hessian(net, batch)
    op = exact(net, batch)
    found = [trace(op, method=method, products=30, seed=s) for s in range(24)]
    errors = torch.stack([f.value for f in found]) - H.trace()
    stderr = torch.stack([f.stderr for f in found])
    assert errors.mean().abs() < 4 * errors.std() / math.sqrt(24)
    assert 0.5 < errors.std() / stderr.square().mean().sqrt() < 2
    assert {f.products for f in found} == {30}


def test_on_a_trained_network_the_control_variate_and_xtrace_beat_hutchinson() -> None:
    net, (x, y) = mlp(nn.GELU), vectors(40)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.3)
    for _ in range(200):
        optimizer.zero_grad()
        cross_entropy(net(x), y).backward()
        optimizer.step()
    op = exact(net, (x, y))
    stderr = {m: trace(op, method=m, products=60).stderr for m in ("control", "xtrace", "hutchinson")}
    assert stderr["control"] < stderr["hutchinson"] / 3
    assert stderr["xtrace"] < stderr["hutchinson"] / 2
    assert trace(op).method == "control"


def test_sampling_stops_at_the_standard_error_asked_for() -> None:
    net, batch = mlp(nn.Tanh), vectors(40)
    op = exact(net, batch)
    found = trace(op, method="hutchinson", products=2000, rtol=0.05)
    assert found.stderr <= 0.05 * found.value.abs()
    assert 8 <= found.products < 2000
    assert op.products == found.products


@pytest.mark.parametrize("method", ["hutchinson", "control"])
def test_a_sampled_diagonal_approaches_the_dense_one(method: str) -> None:
    net, batch = mlp(nn.Tanh, width=8), vectors(30)
    H = dense_hessian(net, batch).diagonal()
    found = diagonal(exact(net, batch), method=method, products=400)
    within = (found.value - H).abs() / found.stderr
    assert found.value.shape == H.shape
    assert (within < 3).double().mean() > 0.97
    assert found.stderr.norm() < 0.5 * H.norm()


@pytest.mark.parametrize("method", ["dense", "xtrace", "hutchinson"])
def test_a_negative_trace_is_returned_with_its_sign(method: str) -> None:
    """A rule that divides by the running trace stops here at once, with a wrong value."""
    spectrum = [1.0, 0.5, 0.25, -1.25, -2.0, -4.0]
    found = trace(quadratic(spectrum), method=method, products=8 if method == "xtrace" else 4000)
    assert sum(spectrum) == -5.5
    assert abs(found.value + 5.5) <= 4 * found.stderr + 1e-12
    assert found.stderr < (0.1 if method != "xtrace" else 3)


def test_small_operators_are_taken_whole() -> None:
    op = quadratic([3.0, -1.0, 0.0])
    assert (trace(op).method, trace(op).value.item()) == ("dense", pytest.approx(2.0))
    torch.testing.assert_close(diagonal(op).value, symmetric([3.0, -1.0, 0.0]).diagonal())


def test_xtrace_is_exact_for_low_rank() -> None:
    found = trace(quadratic([5.0, -2.0] + 38 * [0.0]), method="xtrace", products=20)
    assert found.value.item() == pytest.approx(3.0)
    assert found.stderr.item() == 0.0


def test_estimators_on_many_models_are_those_on_each() -> None:
    nets, batch = [mlp(nn.Tanh, seed=s, width=8) for s in range(2)], vectors(20)
    for method in ("hutchinson", "xtrace", "control"):
        together = trace(exact(nets, batch), method=method, products=200)
        assert together.value.shape == together.stderr.shape == (2,)
        for i, net in enumerate(nets):
            true = dense_hessian(net, batch).trace()
            assert abs(together.value[i] - true) < 5 * together.stderr[i]


@pytest.mark.parametrize("method", ["control", "xtrace", "hutchinson"])
def test_a_seed_gives_the_same_numbers_again(method: str) -> None:
    op = exact(mlp(nn.Tanh), vectors(20))
    first, again, other = (trace(op, method=method, products=10, seed=s).value for s in (0, 0, 1))
    assert first == again != other


# Eigenvalues


def test_the_ends_of_the_spectrum_differ() -> None:
    op = quadratic([1.0, -1.2])
    values = {which: top_eigenvalues(op, which=which, rtol=1e-8).values.item() for which in ("LA", "SA", "LM")}
    assert values == {"LA": pytest.approx(1.0), "SA": pytest.approx(-1.2), "LM": pytest.approx(-1.2)}


@pytest.mark.parametrize("which", ["LA", "LM", "SA"])
@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh])
def test_eigenvalues_and_vectors_of_the_dense_hessian(activation: type[nn.Module], which: str) -> None:
    net, batch = mlp(activation), vectors(40)
    H = dense_hessian(net, batch)
    spectrum = torch.linalg.eigvalsh(H)
    order = {"LA": -spectrum, "LM": -spectrum.abs(), "SA": spectrum}[which].argsort()[:4]
    found = top_eigenvalues(exact(net, batch), k=4, which=which, rtol=1e-10, max_products=200)
    assert found.converged
    torch.testing.assert_close(found.values, spectrum[order], rtol=1e-8, atol=0)
    torch.testing.assert_close(found.vectors @ H, found.values[:, None] * found.vectors, rtol=0, atol=1e-4)
    torch.testing.assert_close(found.vectors @ found.vectors.T, torch.eye(4, dtype=torch.float64))


@pytest.mark.parametrize("seed", range(6))
def test_the_tolerance_is_kept(seed: int) -> None:
    net, batch = mlp(seed=seed), vectors(40, seed=seed)
    true = torch.linalg.eigvalsh(dense_hessian(net, batch))[-1]
    op = HessianOperator(net, batches=[batch])
    found = top_eigenvalues(op, rtol=1e-3, seed=seed)
    assert found.converged
    assert abs(found.values.item() - true) <= 1e-3 * true
    assert found.products == op.products < 40


def test_eigenvalues_of_many_models() -> None:
    nets, batch = [mlp(seed=s) for s in range(3)], vectors(30)
    found = top_eigenvalues(exact(nets, batch), k=2, rtol=1e-8)
    expected = torch.stack([torch.linalg.eigvalsh(dense_hessian(net, batch)).flip(0)[:2] for net in nets])
    torch.testing.assert_close(found.values, expected, rtol=1e-7, atol=0)
    assert found.vectors.shape == (3, 2, found.vectors.shape[-1])


def test_an_unconverged_answer_says_so_and_too_many_are_refused() -> None:
    op = exact(mlp(), vectors(40))
    found = top_eigenvalues(op, rtol=1e-12, max_products=3)
    assert (found.products, found.converged) == (3, False)
    assert found.errors > 0
    with pytest.raises(MeasureError, match="cannot compute 4 eigenvalues of 3"):
        top_eigenvalues(quadratic([1.0, 2.0, 3.0]), k=4)


# Density


def test_the_nodes_are_the_eigenvalues_when_there_are_enough_steps() -> None:
    spectrum = [-1.0, 0.5, 2.0, 3.0]
    op = quadratic(5 * spectrum)
    found = spectral_density(op, probes=3, steps=4)
    torch.testing.assert_close(found.nodes, torch.tensor([spectrum] * 3, dtype=torch.float64))
    whole = spectral_density(op, probes=2, steps=50)  # the space of the start vector ends after 4 steps
    heavy = whole.weights > 1e-12
    assert heavy.sum(-1).tolist() == [4, 4]
    torch.testing.assert_close(whole.nodes[heavy], torch.tensor(2 * spectrum, dtype=torch.float64))


def test_the_moments_of_the_density_are_those_of_the_hessian() -> None:
    net, batch = mlp(nn.Tanh, width=8), vectors(30)
    H, op = dense_hessian(net, batch), exact(net, batch)
    found = spectral_density(op, probes=4, steps=10, seed=3)
    torch.testing.assert_close(found.weights.sum(-1), torch.ones(4, dtype=torch.float64))
    generator = torch.Generator().manual_seed(3)
    V = (torch.randint(2, (4, len(H)), generator=generator) * 2 - 1).double() / len(H) ** 0.5
    first = (found.nodes * found.weights).sum(-1)
    second = (found.nodes.square() * found.weights).sum(-1)
    torch.testing.assert_close(first, ((V @ H) * V).sum(-1))
    torch.testing.assert_close(second, (V @ H).square().sum(-1))
    many = spectral_density(op, probes=200, steps=6)
    mean = (many.nodes * many.weights).sum(-1).mean() * len(H)
    assert mean == pytest.approx(H.trace().item(), rel=0.1)
    grid = torch.linspace(-5, 20, 2001)
    assert torch.trapezoid(found.smooth(grid, sigma=0.2), grid.double()).item() == pytest.approx(1, abs=1e-3)


def test_the_smoothed_density_is_that_of_the_dense_spectrum() -> None:
    net, batch = mlp(width=8), vectors(30)
    spectrum = torch.linalg.eigvalsh(dense_hessian(net, batch))
    grid, sigma = torch.linspace(-2, 6, 200, dtype=torch.float64), 0.2
    bumps = torch.exp(-(((grid[:, None] - spectrum) / sigma) ** 2) / 2) / (sigma * math.sqrt(2 * math.pi))
    found = spectral_density(exact(net, batch), probes=64, steps=40).smooth(grid, sigma=sigma)
    assert torch.trapezoid((found - bumps.mean(1)).abs(), grid) < 0.02


def test_densities_of_many_models() -> None:
    nets, batch = [mlp(seed=s, width=8) for s in range(3)], vectors(20)
    found = spectral_density(exact(nets, batch), probes=2, steps=5)
    assert found.nodes.shape == found.weights.shape == (3, 2, 5)
    assert found.smooth([0.0, 1.0], sigma=0.1).shape == (3, 2)
    top = torch.stack([torch.linalg.eigvalsh(dense_hessian(net, batch))[-1] for net in nets])
    assert (found.nodes[..., -1] <= top[:, None] + 1e-9).all()


def test_a_log_is_missing_with_a_reason() -> None:
    assert natural_log(math.e) == (1.0, None)
    assert natural_log(0.0) == (None, "the value is not positive: 0")
    assert natural_log(math.nan) == (None, "the value is not finite: nan")


@pytest.mark.parametrize("seed", range(2))
def test_equality_with_curvlinops(seed: int) -> None:
    curvlinops = pytest.importorskip("curvlinops")
    net, (x, y) = mlp(nn.Tanh, seed=seed).double(), vectors(30)
    peer = curvlinops.HessianLinearOperator(
        net, nn.CrossEntropyLoss(), list(net.parameters()), [(x.double(), y)], check_deterministic=False
    )
    dense = peer @ torch.eye(peer.shape[0], dtype=torch.float64)
    op = exact(net, (x, y))
    assert trace(op, method="dense").value.item() == pytest.approx(dense.trace().item(), rel=1e-10)
    assert top_eigenvalues(op, rtol=1e-10).values.item() == pytest.approx(torch.linalg.eigvalsh(dense)[-1].item())


def test_structure_names_the_layers_of_the_chosen_parameters() -> None:
    found = structure(ResNet(width=2, blocks=(1,)), loss=cross_entropy, params=["conv1.weight", "fc.bias"])
    assert found.layers == ("conv1", "fc")
    assert found.no_gauss_newton is None
    assert found.not_piecewise_linear is None


def test_products_and_eigenvalues_are_those_of_pyhessian() -> None:
    pyhessian = pytest.importorskip("pyhessian", reason="PyHessian is not installed")
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.ReLU(), torch.nn.Linear(5, 3)).double().eval()
    x, y = torch.randn(40, 6, dtype=torch.float64), torch.randint(3, (40,))
    peer = pyhessian.hessian(net, torch.nn.CrossEntropyLoss(), data=(x, y), cuda=False)
    op = HessianOperator(net, batches=[(x[:25], y[:25]), (x[25:], y[25:])])
    vectors = [torch.randn_like(p) for p in peer.params]
    theirs = pyhessian.utils.hessian_vector_product(peer.gradsH, peer.params, vectors)
    ours = op.matvec(torch.cat([v.flatten() for v in vectors]))
    torch.testing.assert_close(ours, torch.cat([p.detach().flatten() for p in theirs]), rtol=1e-9, atol=1e-11)
    (value,), _ = peer.eigenvalues(maxIter=500, tol=1e-10)
    found = top_eigenvalues(op, which="LM", rtol=1e-8).values[0].item()
    assert found == pytest.approx(value, rel=1e-5)
