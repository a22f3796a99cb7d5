"""Population or loop: which is faster, and that both train the same networks as far as statistics can tell."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from phasezoo.nets import build
from phasezoo.training.data import Split, convection, digits, digits_8x8
from phasezoo.training.population import ConvPopulation, PinnPopulation, Population, faster

SEEDS = range(24)
Batch = tuple[torch.Tensor, torch.Tensor]


def nets_of(architecture: str, **config: object) -> list[nn.Module]:
    nets = []
    for seed in SEEDS:
        torch.manual_seed(seed)
        nets.append(build(architecture, **config))
    return nets


def perceptron(*, width: int = 8, activation: str = "relu") -> nn.Module:
    return build("mlp", in_features=4, width=width, depth=1, out_features=3, activation=activation)


def zeros(*shape: int) -> Batch:
    return torch.zeros(shape), torch.zeros(shape[0], dtype=torch.int64)


def test_many_small_networks_are_faster_as_a_population() -> None:
    assert faster([perceptron() for _ in SEEDS], batches=[zeros(8, 4) for _ in SEEDS]) == "population"


def test_a_population_that_has_to_be_filled_up_with_seven_times_its_members_is_slower_than_a_loop() -> None:
    """One channel in a normalisation makes sixteen groups of two members."""
    net = nn.Sequential(
        *(nn.Conv2d(1, 64, 3), nn.Conv2d(64, 64, 3), nn.Conv2d(64, 1, 1), nn.BatchNorm2d(1)),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1, 3)),
    )
    assert faster([net, copy.deepcopy(net)], batches=[zeros(8, 1, 14, 14)] * 2) == "loop"


@pytest.mark.parametrize(
    ("nets", "batches"),
    [
        ([perceptron()], [zeros(8, 4)]),
        ([perceptron(), perceptron()], [zeros(8, 4), zeros(9, 4)]),
        ([perceptron(), perceptron(width=9)], [zeros(8, 4)] * 2),
        ([perceptron(activation="tanh") for _ in range(2)], [zeros(8, 4)] * 2),
        ([perceptron(), nn.Linear(4, 3)], [zeros(8, 4)] * 2),
        ([nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 3)) for _ in range(2)], [zeros(8, 4)] * 2),
    ],
    ids=["one network", "batch sizes", "widths", "tanh", "kinds", "layers"],
)
def test_without_a_population_it_is_a_loop(nets: list[nn.Module], batches: list[Batch]) -> None:
    assert faster(nets, batches=batches) == "loop"


def test_a_trial_leaves_the_networks_alone() -> None:
    torch.manual_seed(0)
    nets = [build("resnet18", width=2, num_classes=10, in_channels=1) for _ in range(2)]
    before = [copy.deepcopy(net.state_dict()) for net in nets]
    faster(nets, batches=[(torch.randn(4, 1, 8, 8), torch.zeros(4, dtype=torch.int64)) for _ in nets])
    for net, state in zip(nets, before, strict=True):
        assert all(torch.equal(tensor, state[name]) for name, tensor in net.state_dict().items())
        assert all(parameter.grad is None for parameter in net.parameters())


# Final training losses of 24 seeds, population against loop, each seed with its own initial network and order: a paired
# permutation test (signs of the differences of the logarithms flipped, two-sided) must not reject at 1 %. Rounding has
# driven the trajectories apart by then, or the test would be vacuous. That it can reject is shown on a population with
# half the learning rate.
LEVEL = 0.01


def p_value(a: torch.Tensor, b: torch.Tensor) -> float:
    stats = pytest.importorskip("scipy.stats", reason="the permutation test is scipy's")
    difference = (a.double().log() - b.double().log()).numpy()
    found = stats.permutation_test(
        (difference,), lambda d, axis: d.mean(axis), permutation_type="samples", n_resamples=9999, random_state=0
    )
    return float(found.pvalue)


def assert_same_training(ours: torch.Tensor, loop: torch.Tensor, *, slower: torch.Tensor) -> None:
    assert ((ours / loop - 1).abs() > 1e-4).sum() >= 12
    assert p_value(ours, loop) > LEVEL
    assert p_value(slower, loop) < LEVEL


def orders(n: int, epochs: int, batch_size: int) -> list[torch.Tensor]:
    """Batches ``[S, batch]`` of every step: each seed's own."""
    found = []
    for epoch in range(epochs):
        order = torch.stack(
            [torch.randperm(n, generator=torch.Generator().manual_seed(10_000 * seed + epoch)) for seed in SEEDS]
        )
        found += order.split(batch_size, 1)
    return found


def sgd(net: nn.Module, data: Split, batches: list[torch.Tensor], *, lr: float) -> float:
    optimizer = torch.optim.SGD(net.parameters(), lr=lr, momentum=0.9, weight_decay=5e-4)
    for index in batches:
        optimizer.zero_grad()
        cross_entropy(net(data.x[index]), data.y[index]).backward()
        optimizer.step()
    with torch.no_grad():
        return cross_entropy(net.eval()(data.x), data.y).item()


@pytest.mark.slow
def test_perceptrons_of_a_population_are_trained_as_those_of_a_loop() -> None:
    data, steps = digits().train, orders(1000, 10, 32)
    nets = nets_of("mlp", in_features=64, width=8, depth=2, out_features=10)

    def population(lr: float) -> torch.Tensor:
        members = Population(nets, momentum=0.9, weight_decay=5e-4)
        x = members.pad(data.x)
        with torch.no_grad():
            for index in steps:
                members.step(x[index], data.y[index], torch.full((24, 1), lr))
            return members.evaluate(data)[0]

    loop = torch.tensor([sgd(net, data, [index[i] for index in steps], lr=0.1) for i, net in enumerate(nets)])
    assert_same_training(population(0.1), loop, slower=population(0.05))


@pytest.mark.slow
def test_resnets_of_a_population_are_trained_as_those_of_a_loop() -> None:
    data, steps = digits_8x8().train.take(slice(384)), orders(384, 8, 32)
    nets = nets_of("resnet18", width=2, num_classes=10, in_channels=1)

    def population(lr: float) -> torch.Tensor:
        members = ConvPopulation(nets, weight_decay=5e-4)
        for index in steps:
            members.step(data.x[index], data.y[index], torch.full((24,), lr), momentum=0.9)
        return members.evaluate(data)[0]

    ours, slower = population(0.01), population(0.005)
    loop = torch.tensor([sgd(net, data, [index[i] for index in steps], lr=0.01) for i, net in enumerate(nets)])
    assert_same_training(ours, loop, slower=slower)


@pytest.mark.slow
def test_pinns_of_a_population_are_trained_as_those_of_a_loop() -> None:
    points, beta, steps = convection(collocation=64), torch.full((24,), 5.0), 300
    nets = nets_of("mlp", in_features=2, width=16, depth=2, out_features=1, activation="tanh")

    def population(lr: float) -> torch.Tensor:
        members = PinnPopulation(nets, points=points, beta=beta, betas=(0.9, 0.999))
        for _ in range(steps):
            members.step(torch.full((24,), lr))
        return members.evaluate()["train_loss"]

    def loss(net: nn.Module) -> torch.Tensor:
        x_t = points.collocation.clone().requires_grad_()
        gradient = torch.autograd.grad(net(x_t).sum(), x_t, create_graph=True)[0]
        initial = net(points.initial)[:, 0] - torch.sin(points.initial[:, 0])
        period, residual = net(points.left) - net(points.right), gradient[:, 1] + 5 * gradient[:, 0]
        return initial.square().mean() + period.square().mean() + residual.square().mean()

    ours, slower = population(0.02), population(0.01)
    for net in nets:
        optimizer = torch.optim.Adam(net.parameters(), lr=0.02)
        for _ in range(steps):
            optimizer.zero_grad()
            loss(net).backward()
            optimizer.step()
    assert_same_training(ours, torch.tensor([loss(net).item() for net in nets]), slower=slower)
