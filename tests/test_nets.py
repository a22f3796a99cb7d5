"""Architectures by name."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pytest
import torch
from torch.func import functional_call, grad, hessian, jvp, stack_module_state, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import cross_entropy

import phasezoo
from phasezoo.builders.pack import Run
from phasezoo.builders.tables import write_zoo
from phasezoo.errors import ArchitectureError
from phasezoo.layout import Layout
from phasezoo.nets import architectures, build
from phasezoo.training.landscape.hvp import HessianOperator
from tests.conftest import draft

# one small network of each file
CASES = {
    "mlp": {"in_features": 6, "width": 5, "depth": 2, "out_features": 3, "activation": "tanh"},
    "resnet18": {"width": 2, "num_classes": 3},
    "vit": {"image_size": 4, "patch_size": 2, "embedding_dim": 4, "depth": 1, "heads": 2, "num_classes": 3},
    "gpt2": {"model_dim": 4, "depth": 1, "heads": 2, "vocab_size": 7, "context": 6},
}
every = pytest.mark.parametrize("name", CASES)


def case(name: str, seed: int = 0) -> torch.nn.Module:
    torch.manual_seed(seed)
    net = build(name, **CASES[name]).eval()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return net


def batch(name: str) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    if name == "gpt2":
        x = torch.randint(7, (4, 7), generator=generator)
        return x[:, :-1], x[:, 1:]
    shape = {"mlp": (6,), "resnet18": (3, 8, 8), "vit": (3, 4, 4)}[name]
    return torch.randn(4, *shape, generator=generator), torch.tensor([0, 1, 2, 0])


def loss(logits: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return cross_entropy(logits.flatten(0, -2), y.flatten())


def test_an_mlp_is_what_its_arguments_say() -> None:
    torch.manual_seed(0)
    net = build("mlp", in_features=6, width=5, depth=3, out_features=2, activation="tanh")
    assert [tuple(p.shape) for p in net.parameters()] == [(5, 6), (5,), (5, 5), (5,), (5, 5), (5,), (2, 5), (2,)]
    x = torch.randn(4, 2, 3)
    h = x.flatten(1)
    for layer in net.layers[:-1]:
        h = torch.tanh(h @ layer.weight.T + layer.bias)
    torch.testing.assert_close(net(x), h @ net.layers[-1].weight.T + net.layers[-1].bias)


def test_initialisation_is_that_of_torch_linear_layers_in_order() -> None:
    torch.manual_seed(7)
    net = build("mlp", in_features=6, width=5, depth=1, out_features=2)
    torch.manual_seed(7)
    plain = torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.ReLU(), torch.nn.Linear(5, 2))
    for a, b in zip(net.parameters(), plain.parameters(), strict=True):
        assert torch.equal(a, b)


def test_the_meta_device_allocates_nothing_and_keeps_the_layer_types() -> None:
    net = build("mlp", device="meta", in_features=6, width=10**6, depth=2, out_features=2)
    assert all(p.is_meta for p in net.parameters())
    assert all(type(layer) is torch.nn.Linear for layer in net.layers)


@every
def test_on_the_meta_device_nothing_is_drawn_and_names_and_shapes_are_the_same(name: str) -> None:
    before = torch.get_rng_state()
    hollow = build(name, device="meta", **CASES[name]).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    assert all(tensor.is_meta for tensor in hollow.values())
    full = build(name, **CASES[name]).state_dict()
    assert [(k, t.shape, t.dtype) for k, t in hollow.items()] == [(k, t.shape, t.dtype) for k, t in full.items()]


@every
def test_a_seed_gives_one_network(name: str) -> None:
    first, again, other = case(name).state_dict(), case(name).state_dict(), case(name, 1).state_dict()
    assert all(torch.equal(first[k], again[k]) for k in first)
    assert any(not torch.equal(first[k], other[k]) for k in first)


@every
def test_stacked_networks_answer_as_each_alone_and_have_its_gradient(name: str) -> None:
    nets = [case(name, seed) for seed in range(3)]
    params, buffers = stack_module_state(nets)
    x, y = batch(name)

    def value(p: dict, b: dict) -> torch.Tensor:
        return loss(functional_call(nets[0], (p, b), (x,)), y)

    with sdpa_kernel(SDPBackend.MATH):
        grads = vmap(grad(value))(params, buffers)
    for i, net in enumerate(nets):
        own = torch.autograd.grad(loss(net(x), y), list(net.parameters()))
        for (key, _), expected in zip(net.named_parameters(), own, strict=True):
            torch.testing.assert_close(grads[key][i], expected, rtol=1e-4, atol=1e-5)


@every
def test_second_derivatives_agree_forward_over_reverse_and_reverse_over_reverse(name: str) -> None:
    net = case(name).double()
    x, y = batch(name)
    x = x.double() if x.is_floating_point() else x
    params = {k: p.detach() for k, p in net.named_parameters()}
    v = {k: torch.randn_like(p) for k, p in params.items()}

    def value(p: dict) -> torch.Tensor:
        return loss(functional_call(net, p, (x,)), y)

    with sdpa_kernel(SDPBackend.MATH):
        _, forward = jvp(grad(value), (params,), (v,))
    operator = HessianOperator(net, batches=[(x, y)], loss=loss)
    product = operator.named(operator.matvec(torch.cat([v[k].flatten() for k in operator.names])))
    for key in params:
        torch.testing.assert_close(forward[key], product[key], rtol=1e-8, atol=1e-10)


@every
def test_a_zoo_gives_back_the_network_that_was_written(name: str, tmp_path: Path) -> None:
    net = case(name)
    state = net.state_dict()
    _round_trip(name, state, net, tmp_path)


def test_a_zoo_whose_checkpoints_hold_a_tied_head_twice_gives_back_one_network(tmp_path: Path) -> None:
    net = case("gpt2")
    state = {**net.state_dict(), "lm_head.weight": net.transformer.wte.weight.detach().clone()}
    _round_trip("gpt2", state, net, tmp_path)


def _round_trip(name: str, state: dict, net: torch.nn.Module, folder: Path) -> None:
    config = {
        **{"model_id": "m", "cell_id": "c", "load": 2.0, "temperature": 0.1, "seed": 0, "width": 2, "lr": 0.1},
        **{"architecture": name, "architecture_config": json.dumps(CASES[name])},
    }
    write_zoo(
        folder / "zoo",
        draft(),
        configs=pa.Table.from_pylist([config]),
        results=pa.Table.from_pylist([{"model_id": "m", "epoch": 0, "test_acc": 0.5}]),
        runs=[Run("m", "c", Layout.of_state_dict(state), (0,), lambda epoch: state)],
    )
    checkpoint = phasezoo.load(folder / "zoo")["m"].checkpoint(0)
    assert checkpoint.shapes == {key: tuple(tensor.shape) for key, tensor in state.items()}
    x, _ = batch(name)
    with torch.no_grad():
        assert torch.equal(checkpoint.module()(x), net(x))
    assert checkpoint.module(train=True).state_dict().keys() == net.state_dict().keys()


def test_a_perceptron_serves_a_differential_equation() -> None:
    """Four hidden layers of 50 with tanh; u_t + beta u_x by forward differentiation, against autograd."""
    beta, net = 3.0, build("mlp", in_features=2, width=50, depth=4, out_features=1, activation="tanh")
    assert sum(p.numel() for p in net.parameters()) == 7851
    points = torch.rand(16, 2, requires_grad=True)  # (x, t)
    u, residual = jvp(net, (points,), (torch.tensor([beta, 1.0]).expand(16, 2),))
    (du,) = torch.autograd.grad(net(points).sum(), points)
    torch.testing.assert_close(residual[:, 0], beta * du[:, 0] + du[:, 1])
    assert u.shape == (16, 1)
    each = vmap(lambda p: hessian(lambda q: net(q[None])[0, 0])(p))(points.detach())
    assert each.shape == (16, 2, 2)
    assert each.abs().max() > 0


@pytest.mark.parametrize(
    ("name", "config", "message"),
    [
        ("mpl", {}, "Did you mean 'mlp'"),
        ("mlp", {"width": 3}, "missing"),
        ("mlp", {"in_features": 1, "width": 1, "depth": 1, "out_features": 1, "activation": "gelu"}, "relu, tanh"),
    ],
)
def test_what_cannot_be_built_says_why(name: str, config: dict, message: str) -> None:
    with pytest.raises(ArchitectureError, match=message):
        build(name, **config)
    assert "mlp" in architectures()
