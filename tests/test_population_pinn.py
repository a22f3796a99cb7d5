"""Populations of physics-informed perceptrons against plain modules, autograd twice, and torch.optim.Adam."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

from phasezoo.nets import build
from phasezoo.training.data import Convection, convection
from phasezoo.training.population import PinnPopulation

BETA = torch.tensor([1.0, 10.0, 30.0])
LR = torch.tensor([1e-3, 3e-3, 1e-4])


def perceptrons(n: int, *, width: int = 50, depth: int = 4, activation: str = "tanh") -> list[nn.Module]:
    torch.manual_seed(0)
    shape = {"in_features": 2, "width": width, "depth": depth, "out_features": 1, "activation": activation}
    return [build("mlp", **shape) for _ in range(n)]


def loss(net: nn.Module, points: Convection, beta: float) -> torch.Tensor:
    """Each term written out as in the paper."""
    x_t = points.collocation.clone().requires_grad_()
    gradient = torch.autograd.grad(net(x_t).sum(), x_t, create_graph=True)[0]
    residual = gradient[:, 1] + beta * gradient[:, 0]
    initial = net(points.initial)[:, 0] - torch.sin(points.initial[:, 0])
    period = net(points.left) - net(points.right)
    return (initial**2).mean() + (period**2).mean() + (residual**2).mean()


def population_of(
    nets: list[nn.Module], members: list[int], points: Convection, *, beta: torch.Tensor
) -> PinnPopulation:
    return PinnPopulation([nets[i] for i in members], points=points, beta=beta[members], betas=(0.9, 0.999))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-13)], ids=str)
@pytest.mark.parametrize(("width", "depth", "collocation"), [(50, 4, 64), (7, 1, 33)])
def test_ten_steps_equal_the_solo_run(
    width: int, depth: int, collocation: int, dtype: torch.dtype, tolerance: float
) -> None:
    nets = [net.to(dtype) for net in perceptrons(3, width=width, depth=depth)]
    points = convection(collocation=collocation).to(dtype)
    population = population_of(nets, [0, 1, 2], points, beta=BETA)
    losses = torch.stack([population.step(LR.to(dtype)) for _ in range(10)])
    for i, net in enumerate(nets):
        optimizer = torch.optim.Adam(net.parameters(), lr=LR[i].item(), betas=(0.9, 0.999))
        for step in range(10):
            optimizer.zero_grad()
            value = loss(net, points, BETA[i].item())
            assert losses[step, i].item() == pytest.approx(value.item(), rel=1e-4)
            value.backward()
            optimizer.step()
        state = population.state_dict(i)
        assert list(state) == list(net.state_dict())
        for name, tensor in net.state_dict().items():
            torch.testing.assert_close(state[name], tensor, rtol=0, atol=tolerance)


@pytest.mark.parametrize(("width", "depth", "collocation"), [(50, 4, 64), (7, 1, 33), (31, 2, 100)])
def test_a_member_does_not_depend_on_the_others_bit_for_bit(width: int, depth: int, collocation: int) -> None:
    nets, points = perceptrons(20, width=width, depth=depth), convection(collocation=collocation)
    beta, lr = torch.linspace(1, 30, 20), torch.logspace(-4, -2, 20)

    def final(members: list[int]) -> dict[int, list[torch.Tensor]]:
        population = population_of(nets, members, points, beta=beta)
        for _ in range(5):
            population.step(lr[members])
        errors = population.evaluate().values()
        return {
            member: [*population.state_dict(i).values(), *(error[i] for error in errors)]
            for i, member in enumerate(members)
        }

    expected = final(list(range(20)))
    for members in ([0], [19], [12, 3, 7], [*range(19, 5, -1)]):
        for member, tensors in final(members).items():
            assert all(map(torch.equal, tensors, expected[member])), members


def test_metrics_are_those_of_the_plain_module_on_the_grid() -> None:
    nets, points = perceptrons(3, width=8, depth=2), convection(collocation=50)
    found = population_of(nets, [0, 1, 2], points, beta=BETA).evaluate()
    x, t = points.grid.double().T
    for i, net in enumerate(nets):
        exact = torch.sin(x - BETA[i] * t)
        error = net.double()(points.grid.double())[:, 0] - exact
        assert found["test_loss"][i].item() == pytest.approx(error.square().mean().item(), rel=1e-5)
        assert found["relative_l2"][i].item() == pytest.approx((error.norm() / exact.norm()).item(), rel=1e-5)
        assert found["train_loss"][i].item() == pytest.approx(
            loss(net, points.to(torch.float64), BETA[i]).item(), rel=1e-5
        )


def test_a_network_that_is_zero_has_the_loss_of_the_initial_values_and_relative_error_one() -> None:
    (net,) = perceptrons(1, width=4, depth=1)
    for parameter in net.parameters():
        nn.init.zeros_(parameter)
    found = population_of([net], [0], convection(collocation=10), beta=BETA).evaluate()
    assert found["train_loss"].item() == pytest.approx(0.5)  # the mean of sin^2
    assert found["relative_l2"].item() == pytest.approx(1.0)


def test_a_member_that_diverges_leaves_the_others_alone() -> None:
    nets, points = perceptrons(3, width=8, depth=2), convection(collocation=20)
    broken = copy.deepcopy(nets)
    with torch.no_grad():
        broken[1].layers[0].weight.fill_(math.nan)
    finals = []
    for start in (nets, broken):
        population = population_of(start, [0, 1, 2], points, beta=BETA)
        for _ in range(3):
            population.step(LR)
        finals.append(population)
    assert finals[1].params[1].isnan().any()
    assert torch.equal(finals[0].params[[0, 2]], finals[1].params[[0, 2]])


@pytest.mark.parametrize(
    "nets",
    [
        perceptrons(2, width=4, activation="relu"),
        [*perceptrons(1, width=4), *perceptrons(1, width=5)],
        [build("mlp", in_features=3, width=4, depth=1, out_features=1, activation="tanh")],
    ],
    ids=["relu", "widths", "inputs"],
)
def test_what_is_no_pinn_of_one_shape_is_refused(nets: list[nn.Module]) -> None:
    with pytest.raises(ValueError, match=r"one shape 2-width-...-1 and tanh; got \['MLP\("):
        population_of(nets, list(range(len(nets))), convection(collocation=10), beta=BETA)
