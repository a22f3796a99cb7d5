"""Populations of convolutional networks against plain modules with torch.optim."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from phasezoo.nets import build
from phasezoo.training.data import Split
from phasezoo.training.population import ConvPopulation
from phasezoo.training.population.grouped import group

MOMENTA = [0.95 - 0.01 * step for step in range(10)]  # moves as in a one-cycle schedule


class Plain(nn.Module):
    """What ResNets do not have: biases, groups, dilation, pooling layers, a head on pixels, BatchNorm of odd widths."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *(nn.Conv2d(3, 6, 3, padding="same", padding_mode="circular"), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(6, 9, 3, groups=3, dilation=2, padding=2), nn.BatchNorm2d(9, eps=1e-3, momentum=0.3)),
            *(nn.Identity(), nn.AvgPool2d(2), nn.BatchNorm2d(9, affine=False), nn.Flatten()),
        )
        self.head = nn.Sequential(nn.Linear(36, 5, bias=False), nn.ReLU(inplace=True), nn.Linear(5, 10))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.features(x))


def resnets(n: int, *, depth: int = 18, **config: int) -> list[nn.Module]:
    torch.manual_seed(0)
    return [build(f"resnet{depth}", num_classes=10, **config) for _ in range(n)]


def batch(member: int, step: int, *, samples: int, channels: int, pixels: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Ten noisy patterns; every member sees its own samples."""
    patterns = torch.randn(10, channels, pixels, pixels, generator=torch.Generator().manual_seed(7))
    generator = torch.Generator().manual_seed(1000 * member + step)
    y = torch.randint(10, (samples,), generator=generator)
    return patterns[y] + torch.randn(samples, channels, pixels, pixels, generator=generator), y


def rate(member: int) -> float:
    return 0.002 * (1 + member % 3)


def together(
    nets: list[nn.Module], members: list[int], *, steps: int, dtype: torch.dtype = torch.float32, **shape: int
) -> tuple[ConvPopulation, list[dict[str, torch.Tensor]]]:
    population = ConvPopulation([copy.deepcopy(nets[i]).to(dtype) for i in members], weight_decay=5e-4)
    lr = torch.tensor([rate(i) for i in members], dtype=dtype)
    for step in range(steps):
        x, y = (torch.stack(parts) for parts in zip(*(batch(i, step, **shape) for i in members), strict=True))
        population.step(x.to(dtype), y, lr, momentum=MOMENTA[step])
    return population, [population.state_dict(i) for i in range(len(members))]


def alone(net: nn.Module, member: int, *, steps: int, dtype: torch.dtype = torch.float32, **shape: int) -> nn.Module:
    net = copy.deepcopy(net).to(dtype, memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(net.parameters(), lr=rate(member), momentum=0.9, weight_decay=5e-4)
    for step in range(steps):
        x, y = batch(member, step, **shape)
        optimizer.param_groups[0]["momentum"] = MOMENTA[step]
        optimizer.zero_grad()
        cross_entropy(net(x.to(dtype, memory_format=torch.channels_last)), y).backward()
        optimizer.step()
    return net


def distance(state: dict[str, torch.Tensor], net: nn.Module) -> float:
    return max((state[name] - tensor).abs().max().item() for name, tensor in net.state_dict().items())


CASES = {
    "resnet18": ([*resnets(3, width=4, in_channels=1)], {"samples": 32, "channels": 1, "pixels": 8}, 10),
    "resnet18-odd": ([*resnets(2, width=3, in_channels=3)], {"samples": 17, "channels": 3, "pixels": 9}, 10),
    # its activations grow from block to block, and so do rounding errors from step to step
    "resnet50": ([*resnets(2, depth=50, width=2, in_channels=3)], {"samples": 16, "channels": 3, "pixels": 8}, 2),
    "plain": ([Plain() for _ in range(3)], {"samples": 20, "channels": 3, "pixels": 9}, 10),
}


@pytest.mark.parametrize("case", CASES)
def test_ten_steps_equal_the_solo_run_with_running_statistics(case: str) -> None:
    """In float64, where no rounding moves an activation to the other side of a ReLU's kink."""
    nets, shape, steps = CASES[case]
    _, states = together(nets, list(range(len(nets))), steps=steps, dtype=torch.float64, **shape)
    for i, state in enumerate(states):
        net = alone(nets[i], i, steps=steps, dtype=torch.float64, **shape)
        assert [(k, t.dtype, t.shape) for k, t in state.items()] == [
            (k, t.dtype, t.shape) for k, t in net.state_dict().items()
        ]
        assert distance(state, net) <= 1e-8
        moved = net.state_dict()
        assert any((moved[k] - t).abs().max() > 1e-3 for k, t in nets[i].state_dict().items() if "running" in k)


def test_ten_steps_equal_the_solo_run_to_1e_5_in_float32() -> None:
    """Rounding sends a ReLU of some member to the other side of its kink now and then, so the median member counts."""
    nets, shape = resnets(9, width=4, in_channels=1), {"samples": 32, "channels": 1, "pixels": 8}
    distances = {}
    for steps in (1, 10):
        _, states = together(nets, list(range(9)), steps=steps, **shape)
        distances[steps] = sorted(
            distance(state, alone(nets[i], i, steps=steps, **shape)) for i, state in enumerate(states)
        )
    assert distances[1][-1] <= 1e-5
    assert distances[10][4] <= 1e-5


@pytest.mark.parametrize("width", [1, 3, 4, 8])
def test_a_member_does_not_depend_on_the_others_bit_for_bit(width: int) -> None:
    nets, shape = resnets(8, width=width, in_channels=1), {"samples": 9, "channels": 1, "pixels": 8}
    _, expected = together(nets, list(range(8)), steps=2, **shape)
    for members in ([0], [5], [7, 2, 5], [3, 4, 5, 6, 7, 0]):
        _, states = together(nets, members, steps=2, **shape)
        for member, state in zip(members, states, strict=True):
            assert all(torch.equal(tensor, expected[member][name]) for name, tensor in state.items()), members


def test_a_member_that_diverges_leaves_the_others_alone() -> None:
    nets, shape = resnets(3, width=2, in_channels=1), {"samples": 9, "channels": 1, "pixels": 8}
    _, expected = together(nets, [0, 1, 2], steps=3, **shape)
    with torch.no_grad():
        nets[1].conv1.weight.fill_(math.nan)
    _, states = together(nets, [0, 1, 2], steps=3, **shape)
    assert states[1]["fc.weight"].isnan().all()
    for i in (0, 2):
        assert all(torch.equal(tensor, expected[i][name]) for name, tensor in states[i].items())


def test_metrics_are_those_of_the_plain_module_in_eval_mode() -> None:
    nets, shape = resnets(3, width=2, in_channels=1), {"samples": 32, "channels": 1, "pixels": 8}
    population, states = together(nets, [0, 1, 2], steps=2, **shape)
    split = Split(*batch(99, 0, samples=300, channels=1, pixels=8))
    losses, accuracies = population.evaluate(split)
    for i, state in enumerate(states):
        nets[i].load_state_dict(state)
        with torch.no_grad():
            logits = nets[i].eval()(split.x)
        assert losses[i].item() == pytest.approx(cross_entropy(logits, split.y).item(), rel=1e-5)
        assert accuracies[i].item() == pytest.approx((logits.argmax(-1) == split.y).double().mean().item(), abs=0.01)
    x, y = (torch.stack(parts) for parts in zip(*(batch(i, 2, **shape) for i in range(3)), strict=True))
    loss, _ = population.step(x, y, torch.zeros(3), momentum=0.9)
    assert loss[1].item() == pytest.approx(cross_entropy(nets[1].train()(x[1]), y[1]).item(), rel=1e-4)


def test_building_a_population_leaves_the_networks_alone() -> None:
    nets, shape = resnets(2, width=2, in_channels=1), {"samples": 8, "channels": 1, "pixels": 8}
    before = copy.deepcopy(nets[1].state_dict())
    population = ConvPopulation(nets, weight_decay=0.0)
    x, y = (torch.stack(parts) for parts in zip(*(batch(i, 0, **shape) for i in range(2)), strict=True))
    population.step(x, y, torch.ones(2), momentum=0.0)
    assert all(torch.equal(tensor, before[name]) for name, tensor in nets[1].state_dict().items())
    assert all(parameter.grad is None for parameter in nets[1].parameters())


@pytest.mark.parametrize(
    "module", [nn.LayerNorm(4), nn.Dropout(0.5), nn.Softmax(1), nn.ConvTranspose2d(1, 1, 3)], ids=repr
)
def test_layers_without_a_grouped_form_are_refused_by_name(module: nn.Module) -> None:
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Sequential(module))
    with pytest.raises(ValueError, match=rf"1\.0, a {type(module).__name__}, has no grouped form"):
        group([net, net])


def test_networks_of_different_shapes_or_ages_are_refused() -> None:
    a, b = (resnets(1, width=w, in_channels=1)[0] for w in (2, 4))
    with pytest.raises(ValueError, match=r"one shape; got \['ResNet\(18, width 2"):
        ConvPopulation([a, b], weight_decay=0.0)
    older = copy.deepcopy(a)
    older(torch.zeros(2, 1, 8, 8))
    with pytest.raises(ValueError, match=r"equally many steps; bn1.num_batches_tracked"):
        ConvPopulation([a, older], weight_decay=0.0)
