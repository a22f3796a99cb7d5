"""Population training against the plain loop that everybody writes."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy

from phasezoo.nets import build
from phasezoo.nets.mlp import MLP
from phasezoo.training.data import Data, Split, digits
from phasezoo.training.population import Member, Population, train

SETTINGS = {"batch_size": 32, "momentum": 0.9, "weight_decay": 5e-4}


def shape(width: int) -> dict[str, object]:
    return {"in_features": 64, "width": width, "depth": 2, "out_features": 10}


@pytest.fixture(scope="module")
def data() -> Data:
    return digits()


def final(members: list[Member], data: Data, *, width: int, epochs: int) -> Population:
    *_, last = train(members, data, config=shape(width), epochs=epochs, **SETTINGS)
    return last.population


@pytest.mark.parametrize("width", [2, 3, 8, 33, 64])
def test_a_member_equals_its_solo_run_bit_for_bit(data: Data, width: int) -> None:
    members = [Member(seed, lr) for seed in (0, 1, 2) for lr in (0.01, 0.1)]
    together = final(members, data, width=width, epochs=3)
    for i, member in enumerate(members):
        alone = final([member], data, width=width, epochs=3).state_dict(0)
        for name, tensor in together.state_dict(i).items():
            assert torch.equal(tensor, alone[name]), (member, name)


@pytest.mark.parametrize("width", [2, 3, 8, 33, 64])
def test_thirty_steps_agree_with_torch_sgd(data: Data, width: int) -> None:
    thirty = Data(Split(data.train.x[:960], data.train.y[:960]), data.test, 10)  # 30 batches of 32
    members = [Member(3, 0.02), Member(4, 0.1)]
    population = final(members, thirty, width=width, epochs=1)
    for i, member in enumerate(members):
        torch.manual_seed(member.seed)
        net = build("mlp", **shape(width))
        optimizer = torch.optim.SGD(net.parameters(), lr=member.lr, momentum=0.9, weight_decay=5e-4)
        order = torch.randperm(960, generator=torch.Generator().manual_seed(10_000 * member.seed + 1))
        for batch in order.split(32):
            optimizer.zero_grad()
            cross_entropy(net(thirty.train.x[batch]), thirty.train.y[batch]).backward()
            optimizer.step()
        for name, tensor in net.state_dict().items():
            torch.testing.assert_close(population.state_dict(i)[name], tensor, rtol=0, atol=1e-6)


def test_the_gradient_is_the_derivative_of_the_loss(data: Data) -> None:
    """Against float64 autograd, with a learning rate that makes one step the gradient itself."""
    torch.manual_seed(0)
    net = build("mlp", **shape(7))
    population = Population([net], momentum=0.0, weight_decay=0.0)
    before = population.state_dict(0)
    x, y = data.train.x[:50], data.train.y[:50]
    population.step(population.pad(x[None]), y[None], torch.ones(1, 1))
    after = population.state_dict(0)
    exact = net.double()
    cross_entropy(exact(x.double()), y).backward()
    for name, parameter in exact.named_parameters():
        taken = (before[name] - after[name]).double()
        torch.testing.assert_close(taken, parameter.grad, rtol=1e-4, atol=1e-6)


def test_metrics_are_those_of_the_plain_module(data: Data) -> None:
    states = list(train([Member(5, 0.05)], data, config=shape(16), epochs=1, **SETTINGS))
    assert [state.epoch for state in states] == [0, 1]
    net = build("mlp", **shape(16))
    net.load_state_dict(states[-1].population.state_dict(0))
    with torch.no_grad():
        logits = net(data.test.x)
    assert states[-1].metrics["test_loss"][0] == pytest.approx(cross_entropy(logits, data.test.y).item(), rel=1e-5)
    assert states[-1].metrics["test_acc"][0] == (logits.argmax(-1) == data.test.y).double().mean().item()


def test_training_leaves_the_global_generator_and_thread_count_alone(data: Data) -> None:
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    threads = torch.get_num_threads()
    final([Member(0, 0.1)], data, width=4, epochs=1)
    assert torch.equal(torch.rand(1), expected)
    assert torch.get_num_threads() == threads


def test_mixed_shapes_and_other_activations_are_refused() -> None:
    a, b, c = (
        MLP(in_features=2, width=w, depth=1, out_features=2, activation=f)
        for w, f in ((2, "relu"), (3, "relu"), (2, "tanh"))
    )
    for nets in ([a, b], [a, c]):
        with pytest.raises(ValueError, match=r"one shape and ReLU"):
            Population(nets, momentum=0, weight_decay=0)
