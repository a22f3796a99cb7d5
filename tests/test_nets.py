"""Architectures by name."""

from __future__ import annotations

import pytest
import torch

from phasezoo.errors import ArchitectureError
from phasezoo.nets import architectures, build


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
