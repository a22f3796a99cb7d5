"""Hessian-vector products against dense Hessians in float64."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from torch import nn
from torch.nn.functional import dropout, scaled_dot_product_attention

from phasezoo.errors import MeasureError, TensorNotFoundError
from phasezoo.nets.mlp import MLP
from phasezoo.training.landscape.hvp import HessianOperator
from phasezoo.training.landscape.perceptrons import PerceptronHessian
from tests.landscape_cases import Quadratic, dense_hessian, images, mlp, resnet, symmetric, vectors

BLOCKS = [["conv1.weight"], ["bn1.weight", "bn1.bias"], ["stages.1.0.conv2.weight"], ["stages.1.0.shortcut.0.weight"]]
BLOCKS += [["stages.1.0.bn2.weight"], ["fc.weight", "fc.bias"]]


def probes(op: HessianOperator, k: int = 3) -> torch.Tensor:
    return torch.randn(k, *op.shape, dtype=op.dtype, generator=torch.Generator().manual_seed(7))


def mean_output(out: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return out.mean()


def assert_equal(got: torch.Tensor, expected: torch.Tensor, tolerance: float) -> None:
    assert (got - expected).norm() <= tolerance * expected.norm()


def test_the_hessian_of_a_quadratic_is_its_matrix() -> None:
    A = symmetric([3.0, 1.0, 0.5, 0.0, -2.0])
    op = HessianOperator(Quadratic(A), batches=[vectors(4)], loss=mean_output)
    torch.testing.assert_close(op.matmat(torch.eye(5, dtype=torch.float64)), A)
    torch.testing.assert_close(op.gradient(), A @ torch.linspace(-1, 1, 5, dtype=torch.float64))


@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh, nn.GELU])
@pytest.mark.parametrize("cache_bytes", [0, 2e9])
def test_products_equal_the_dense_hessian(activation: type[nn.Module], cache_bytes: float) -> None:
    net, (x, y) = mlp(activation), vectors(20)
    H = dense_hessian(net, (x, y))
    batches = [(x[:9], y[:9]), (x[9:], y[9:])]
    op = HessianOperator(net, batches=batches, dtype=torch.float64, cache_bytes=cache_bytes)
    V = probes(op)
    assert_equal(op.matmat(V), V @ H, 1e-10)
    assert_equal(op.matvec(V[0]), H @ V[0], 1e-10)
    assert op.products == 4


@pytest.mark.parametrize("params", BLOCKS, ids=lambda names: names[0])
def test_blocks_of_a_resnet_with_batchnorm_equal_dense_blocks(params: list[str]) -> None:
    net, batch = resnet(), images(6)
    H = dense_hessian(net, batch, params=params)
    op = HessianOperator(net, batches=[batch], params=params, dtype=torch.float64)
    assert op.shape == (len(H),)
    V = probes(op)
    assert_equal(op.matmat(V), V @ H, 1e-10)


def test_a_module_name_means_all_its_parameters() -> None:
    net, batch = resnet(), images(4)
    op = HessianOperator(net, batches=[batch], params=["stages.0", "fc.bias"])
    assert set(op.names) == {n for n, _ in net.named_parameters() if n.startswith("stages.0.")} | {"fc.bias"}
    named = op.named(probes(op)[0])
    assert {name: t.shape for name, t in named.items()} == {n: net.get_parameter(n).shape for n in op.names}
    with pytest.raises(TensorNotFoundError, match=r"no parameter or module 'fc\.wieght'\. Did you mean 'fc\.weight'"):
        HessianOperator(net, batches=[batch], params=["fc.wieght"])
    with pytest.raises(TensorNotFoundError, match=r"names nothing"):
        HessianOperator(net, batches=[batch], params=[])


def test_uneven_micro_batches_weigh_by_their_samples() -> None:
    net, (x, y) = resnet(), images(141)
    parts = list(zip(x.split([64, 64, 13]), y.split([64, 64, 13]), strict=True))
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.float64, 1e-12)):
        whole = HessianOperator(net, batches=[(x, y)], dtype=dtype)
        V = probes(whole)
        for cache_bytes in (1e7, 2e9):
            cut = HessianOperator(net, batches=parts, dtype=dtype, cache_bytes=cache_bytes)
            assert_equal(cut.matmat(V), whole.matmat(V), tolerance)
            assert_equal(cut.gradient(), whole.gradient(), tolerance)


def test_two_operators_on_one_model_do_not_meet() -> None:
    """An implementation that goes through ``.grad`` adds the gradients of both up."""
    net, first, second = mlp(), vectors(12, seed=1), vectors(12, seed=2)
    one = HessianOperator(net, batches=[first], dtype=torch.float64)
    two = HessianOperator(net, batches=[second], dtype=torch.float64)
    v = probes(one)[0]
    one.matvec(v)
    assert_equal(two.matvec(v), dense_hessian(net, second) @ v, 1e-10)
    assert_equal(one.matvec(v), dense_hessian(net, first) @ v, 1e-10)


def test_the_model_and_the_generator_are_left_alone() -> None:
    net = resnet()
    net.fc.weight.requires_grad_(False)
    before = {name: t.clone() for name, t in net.state_dict().items()}
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    op = HessianOperator(net, batches=[images(4)])
    op.matmat(probes(op))
    assert torch.equal(torch.rand(1), expected)
    assert all(p.grad is None for p in net.parameters())
    assert not net.fc.weight.requires_grad
    assert all(torch.equal(t, before[name]) for name, t in net.state_dict().items())


def test_above_the_budget_graphs_are_rebuilt_and_not_kept() -> None:
    net, (x, y) = mlp(), vectors(40)
    batches = list(zip(x.split(10), y.split(10), strict=True))
    results = []
    for cache_bytes in (0, 8_000, 2e9):
        op = HessianOperator(net, batches=batches, cache_bytes=cache_bytes)
        results.append(op.matmat(probes(op)))
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])
    cached = [HessianOperator(net, batches=batches, cache_bytes=b).cached for b in (0, 8_000, 2e9)]
    assert cached[0] == 0
    assert 0 < cached[1] < 4
    assert cached[2] == 4


@pytest.mark.parametrize("cache_bytes", [0, 2e9])
@pytest.mark.parametrize("size", [8, 64])
def test_graphs_go_when_their_operator_goes(cache_bytes: float, size: int) -> None:
    """Without the cycle collector: it would not notice gigabytes that hang on a few objects."""
    op = HessianOperator(resnet(), batches=[images(size)], cache_bytes=cache_bytes)
    op.matvec(probes(op)[0])
    held = [weakref.ref(param) for param in op.params.values()]
    gc.disable()
    try:
        del op
        assert not [ref for ref in held if ref() is not None]
    finally:
        gc.enable()


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(8, 24), nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(x).chunk(3, -1)
        return self.out(scaled_dot_product_attention(q, k, v).mean(1))


@pytest.mark.parametrize("layer", [Attention, lambda: nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)])
def test_attention_has_a_second_derivative(layer) -> None:
    torch.manual_seed(0)
    net = layer().eval()
    x = torch.randn(5, 6, 8)
    y = torch.randint(4, (5,))

    def loss(out: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return nn.functional.cross_entropy(out if out.dim() == 2 else out.mean(1), y)

    op = HessianOperator(net, batches=[(x, y)], loss=loss, dtype=torch.float64)
    v = probes(op)[0]
    step = 1e-5
    gradients = []
    for sign in (1, -1):
        moved = layer().eval().double()
        moved.load_state_dict(net.state_dict())
        named = op.named(v)
        with torch.no_grad():
            for name, p in moved.named_parameters():
                p.add_(named[name], alpha=sign * step)
        gradients.append(HessianOperator(moved, batches=[(x, y)], loss=loss).gradient())
    assert_equal(op.matvec(v), (gradients[0] - gradients[1]) / (2 * step), 1e-7)


@pytest.mark.parametrize("lead", [1, 3])
@pytest.mark.parametrize("make", [mlp, resnet])
def test_many_models_at_once_equal_one_by_one(make, lead: int) -> None:
    nets = [make(seed=s) for s in range(lead)]
    x, y = vectors(11) if make is mlp else images(5)
    batches = [(x[:3], y[:3]), (x[3:], y[3:])]
    op = HessianOperator(nets, batches=batches, dtype=torch.float64)
    V = probes(op, 2)
    together, gradients = op.matmat(V), op.gradient()
    for i, net in enumerate(nets):
        alone = HessianOperator(net, batches=batches, dtype=torch.float64)
        assert_equal(together[:, i], alone.matmat(V[:, i]), 1e-12)
        assert_equal(gradients[i], alone.gradient(), 1e-12)


@pytest.mark.parametrize("depth", [0, 1, 3])
def test_written_out_products_equal_the_graph(depth: int) -> None:
    torch.manual_seed(0)
    nets = [MLP(in_features=8, width=6, depth=depth, out_features=4) for _ in range(3)]
    x, y = vectors(21)
    batches = [(x[:8], y[:8]), (x[8:16], y[8:16]), (x[16:], y[16:])]
    graph = HessianOperator(nets, batches=batches, dtype=torch.float64)
    written = PerceptronHessian(nets, batches=batches, dtype=torch.float64)
    V = probes(graph)
    assert_equal(written.matmat(V), graph.matmat(V), 1e-12)
    assert_equal(written.matvec(V[1]), graph.matvec(V[1]), 1e-12)
    assert_equal(written.gradient(), graph.gradient(), 1e-12)
    tanh = MLP(in_features=8, width=6, depth=1, out_features=4, activation="tanh")
    with pytest.raises(MeasureError, match=r"perceptrons with ReLU of one shape; got \['MLP\(8-6-4, tanh\)'\]"):
        PerceptronHessian([tanh], batches=batches)


def test_models_of_two_architectures_are_refused() -> None:
    with pytest.raises(MeasureError, match=r"differ in '0\.weight'.*one architecture"):
        HessianOperator([mlp(), mlp(width=8)], batches=[vectors(4)])


class Functional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(dropout(x, 0.5))


@pytest.mark.parametrize(
    ("net", "message"),
    [
        (resnet().train(), r"'bn1' \(BatchNorm2d\) is in training mode.*Call model\.eval\(\)"),
        (nn.Sequential(nn.Linear(8, 4), nn.BatchNorm1d(4, track_running_stats=False)).eval(), "no running statistics"),
        (nn.Sequential(nn.Linear(8, 4), nn.Dropout(0.1)), r"'1' \(Dropout\) is in training mode"),
        (nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1), r"is in training mode, so that every pass differs"),
        (Functional(), r"draws random numbers when it is called"),
    ],
)
def test_what_is_no_function_of_weights_and_input_is_refused(net: nn.Module, message: str) -> None:
    with pytest.raises(MeasureError, match=message):
        HessianOperator(net, batches=[vectors(4)]).matvec(torch.ones(36))


def test_dropout_in_eval_mode_and_empty_batches_are_fine_but_no_data_is_not() -> None:
    net = nn.Sequential(nn.Linear(8, 4), nn.Dropout(0.5)).eval()
    x, y = vectors(4)
    op = HessianOperator(net, batches=[(x, y), (x[:0], y[:0])])
    assert_equal(op.matvec(probes(op)[0]), HessianOperator(net, batches=[(x, y)]).matvec(probes(op)[0]), 1e-7)
    with pytest.raises(MeasureError, match="`batches` is empty"):
        HessianOperator(net, batches=[])


def test_parameters_without_influence_have_a_zero_row() -> None:
    net = nn.ModuleDict({"used": nn.Linear(8, 4), "idle": nn.Linear(2, 2)})
    net.forward = lambda x: net["used"](x)  # type: ignore[method-assign]
    op = HessianOperator(net, batches=[vectors(4)])
    product = op.named(op.matvec(torch.ones(op.shape)))
    assert not product["idle.weight"].any()
    assert product["used.weight"].any()
    linear = HessianOperator(net, batches=[vectors(4)], loss=lambda out, y: out.mean())
    assert not linear.matvec(torch.ones(op.shape)).any()


@pytest.mark.parametrize("make", [lambda: (mlp(nn.Tanh), vectors(16)), lambda: (resnet(), images(8))])
def test_equality_with_curvlinops(make) -> None:
    curvlinops = pytest.importorskip("curvlinops")
    net, (x, y) = make()
    net = net.double()
    params = list(net.parameters())
    batches = [(x[:5].double(), y[:5]), (x[5:].double(), y[5:])]
    peer = curvlinops.HessianLinearOperator(net, nn.CrossEntropyLoss(), params, batches, check_deterministic=False)
    op = HessianOperator(net, batches=batches)
    v = probes(op)[0]
    assert_equal(op.matvec(v), peer @ v, 1e-12)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_cuda_device_gives_the_same_products() -> None:
    net, batch = resnet(), images(8)
    op = HessianOperator(net, batches=[batch], dtype=torch.float64)
    v = probes(op)[0]
    there = HessianOperator(net.cuda(), batches=[batch], dtype=torch.float64)
    assert_equal(there.matvec(v.cuda()).cpu(), op.matvec(v), 1e-10)
