"""The ResNets against reference values of the published definitions."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from phasezoo.errors import ArchitectureError
from phasezoo.nets import build

REFERENCE = Path(__file__).parents[2] / "shared" / "data" / "reference"
published = pytest.mark.skipif(not REFERENCE.is_dir(), reason="the folder of reference values is not here")
CASES = [("resnet18", 2), ("resnet18", 4), ("resnet50", 2), ("resnet50", 4)]


def reference(name: str) -> dict:
    return json.loads((REFERENCE / f"{name}.json").read_text())


def forward_reference(architecture: str, width: int) -> dict:
    return reference("forward_reference_w2_w4")[f"{architecture.capitalize()}_width_w{width}"]


def seeded(architecture: str, width: int) -> torch.nn.Module:
    torch.manual_seed(0)
    return build(architecture, width=width, num_classes=10).eval()


def images() -> torch.Tensor:
    return ((torch.arange(2 * 3 * 32 * 32) % 97).float() / 97 - 0.5).reshape(2, 3, 32, 32)


def counts(net: torch.nn.Module) -> list[int]:
    return [sum(t.numel() for t in net.parameters()), sum(t.numel() for t in net.buffers())]


@published
def test_keys_order_and_shapes_are_the_published_ones() -> None:
    expected = {name: tuple(shape) for name, shape in reference("keys_resnet18_w8").items()}
    state = build("resnet18", width=8, num_classes=10).state_dict()
    assert [(name, tuple(tensor.shape)) for name, tensor in state.items()] == list(expected.items())
    assert len(build("resnet50", width=8, num_classes=10, device="meta").state_dict()) == 320


@published
def test_parameter_and_buffer_counts_at_every_width_of_the_zoos() -> None:
    for case, expected in reference("param_counts").items():
        architecture, width, classes = case.split(",")
        assert counts(build(architecture, width=int(width), num_classes=int(classes), device="meta")) == expected


@pytest.mark.parametrize("k", [10, 200])
@pytest.mark.parametrize("w", [1, 3, 64, 256])
def test_counts_follow_their_closed_forms(w: int, k: int) -> None:
    r18 = counts(build("resnet18", width=w, num_classes=k, device="meta"))
    r50 = counts(build("resnet50", width=w, num_classes=k, device="meta"))
    assert r18 == [2724 * w * w + 177 * w + 8 * w * k + k, 150 * w + 20]
    assert r50 == [5724 * w * w + 857 * w + 32 * w * k + k, 830 * w + 53]


@published
@pytest.mark.parametrize(("architecture", "width"), CASES)
def test_a_seed_gives_the_published_initial_network(architecture: str, width: int) -> None:
    net, expected = seeded(architecture, width), forward_reference(architecture, width)
    state = net.state_dict()
    assert state["conv1.weight"].flatten()[:5].tolist() == expected["seed0_init_conv1_first5"]
    assert state["fc.weight"].flatten()[:5].tolist() == expected["seed0_fc_first5"]
    assert state["fc.bias"].unique().tolist() == expected["fc_bias_unique"]
    with torch.no_grad():
        torch.testing.assert_close(net(images()), torch.tensor(expected["seed0_eval_logits"]), rtol=1e-4, atol=1e-4)


@published
@pytest.mark.parametrize(("architecture", "width"), CASES)
def test_logits_of_a_network_filled_without_a_generator(architecture: str, width: int) -> None:
    net = build(architecture, width=width, num_classes=10).eval()
    fill(net)
    expected = torch.tensor(forward_reference(architecture, width)["filled_eval_logits"])
    with torch.no_grad():
        logits = net(images())
    assert (logits - expected).norm() <= 1e-4 * expected.norm()
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)


def fill(net: torch.nn.Module) -> None:
    """Set the i-th parameter to scaled sin(0.37 k + i) over its flat index k, and statistics likewise."""
    for i, (name, tensor) in enumerate(net.named_parameters()):
        value = torch.sin(0.37 * torch.arange(tensor.numel(), dtype=torch.float64) + i).float().view_as(tensor)
        if tensor.dim() > 1:
            value = value * math.sqrt(2 / tensor[0].numel())
        else:
            value = 1 + 0.1 * value if name.endswith("weight") else 0.1 * value
        tensor.data.copy_(value)
    for i, (name, tensor) in enumerate(net.named_buffers()):
        k = torch.arange(tensor.numel(), dtype=torch.float64)
        if name.endswith("running_mean"):
            tensor.copy_(0.1 * torch.sin(k + i).view_as(tensor))
        elif name.endswith("running_var"):
            tensor.copy_((1 + 0.5 * torch.cos(k + i) ** 2).view_as(tensor))


def test_the_meta_device_draws_nothing() -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    net = build("resnet152", width=64, num_classes=10, device="meta")
    assert torch.equal(torch.get_rng_state(), before)
    assert all(tensor.is_meta for tensor in net.state_dict().values())
    assert {type(m) for m in net.modules() if not list(m.children())} == {
        torch.nn.Conv2d,
        torch.nn.BatchNorm2d,
        torch.nn.Linear,
    }


def test_networks_stack_and_take_other_images() -> None:
    nets = [seeded("resnet18", 2), build("resnet18", width=2, num_classes=10).eval()]
    params, buffers = torch.func.stack_module_state(nets)
    x = images()

    def call(p: dict, b: dict) -> torch.Tensor:
        return torch.func.functional_call(nets[0], (p, b), (x,))

    with torch.no_grad():
        logits = torch.func.vmap(call)(params, buffers)
        torch.testing.assert_close(logits[1], nets[1](x), rtol=1e-3, atol=1e-3)
        grey = build("resnet34", width=3, num_classes=7, in_channels=1).eval()
        assert grey(torch.zeros(2, 1, 64, 64)).shape == (2, 7)


@pytest.mark.parametrize(
    ("config", "message"),
    [({"width": 8}, "num_classes"), ({"width": 0, "num_classes": 10}, "positive"), ({"depth": 18}, "depth")],
)
def test_what_does_not_fit_says_why(config: dict, message: str) -> None:
    with pytest.raises(ArchitectureError, match=message):
        build("resnet18", **config)
