"""Permutations and averages of networks."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy, relu

from phasezoo.alignment import align, match_weights
from phasezoo.averaging import average_states
from phasezoo.batchnorm import reestimate
from phasezoo.errors import MeasureError
from phasezoo.nets import build
from phasezoo.symmetry import symmetry
from phasezoo.training.data import digits
from phasezoo.training.landscape.averaging import epoch_average, seed_average
from phasezoo.training.landscape.replay import evaluate, micro_batches
from phasezoo.training.population import Member, train
from tests.landscape_cases import images, mlp, resnet, vectors


class Flattened(nn.Module):
    """Convolutions whose map is flattened into a linear layer: 16 positions a channel."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, padding=1)
        self.depthwise = nn.Conv2d(6, 6, 3, padding=1, groups=6)
        self.norm = nn.BatchNorm2d(6)
        self.hidden, self.head = nn.Linear(96, 5), nn.Linear(5, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = nn.functional.max_pool2d(relu(self.norm(self.depthwise(self.conv(x)))), 2)
        return self.head(torch.tanh(self.hidden(h.view(h.size(0), -1))))


class Opaque(nn.Module):
    """Operations that no permutation passes: attention, grouped filters, concatenation, a free parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.shift = nn.Parameter(torch.randn(8))
        self.free, self.join, self.last = nn.Linear(8, 7), nn.Linear(15, 6), nn.Linear(6, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.first(x)[:, None]
        h = self.attention(h, h, h)[0][:, 0]
        g = relu(self.second(h) + self.shift)
        return self.last(relu(self.join(torch.cat([g, relu(self.free(g))], 1))))


class Shared(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.middle, self.last = nn.Linear(8, 6), nn.Linear(6, 6), nn.Linear(6, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = relu(self.first(x))
        return self.last(relu(self.middle(relu(self.middle(h)))))


class Normed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(8, 6), nn.LayerNorm(6), nn.Linear(6, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.norm(self.first(x))
        return self.last(h + 0.5 * relu(h))


def seeded(make: type[nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return make().eval()


def build_mlp() -> nn.Module:
    torch.manual_seed(0)
    return build("mlp", in_features=8, width=12, depth=3, out_features=4)


CASES = {
    "mlp": (mlp, vectors, {1, 2}),
    "zoo mlp": (build_mlp, vectors, {1, 2, 3}),
    "resnet": (lambda: resnet(width=4, blocks=(2, 1, 1)), images, None),
    "flattened": (lambda: seeded(Flattened), images, None),
    "opaque": (lambda: seeded(Opaque), vectors, None),
    "shared": (lambda: seeded(Shared), vectors, None),
    "normed": (lambda: seeded(Normed), vectors, None),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_permuted_networks_compute_the_same_function(name: str, dtype: torch.dtype, tolerance: float) -> None:
    make, data, _ = CASES[name]
    net, (x, _) = make().to(dtype), data(5)
    spec = symmetry(net)
    assert spec.sizes
    state = spec.apply(net.state_dict(), spec.draw(seed=0))
    assert any(not torch.equal(state[key], tensor) for key, tensor in net.state_dict().items())
    x = x.to(dtype)
    with torch.no_grad():
        expected, found = net(x), functional_call(net, state, (x,))
    assert (found - expected).abs().max() <= tolerance * expected.abs().max()


def test_all_units_of_a_resnet_are_free_but_input_and_output() -> None:
    net = resnet(width=4, blocks=(2, 1, 1))
    spec = symmetry(net)
    # the stream of each of three stages, and one group inside each of four blocks
    assert sorted(spec.sizes.values()) == [4, 4, 4, 8, 8, 16, 16]
    assert set(spec.axes) == set(net.state_dict()) - {k for k in net.state_dict() if "tracked" in k} - {"fc.bias"}
    assert set(spec.axes["conv1.weight"]) == {0}
    assert set(spec.axes["fc.weight"]) == {1}
    assert all(set(axes) == {0} for name, axes in spec.axes.items() if "running" in name)
    residual = {spec.axes[f"stages.0.{i}.bn2.weight"][0] for i in range(2)}
    assert residual == {spec.axes["bn1.weight"][0]}


def test_groups_that_meet_an_unknown_operation_stay_in_place() -> None:
    spec = symmetry(seeded(Opaque))
    assert set(spec.axes) == {"join.weight", "join.bias", "last.weight"}
    assert set(symmetry(seeded(Shared)).sizes.values()) == {6}
    assert len(symmetry(seeded(Shared)).sizes) == 1
    assert symmetry(seeded(Flattened)).axes["hidden.weight"][1][1] == 16


class Branching(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x if x.sum() > 0 else -x


def test_a_network_that_cannot_be_traced_is_refused() -> None:
    with pytest.raises(MeasureError, match="Branching cannot be traced"):
        symmetry(Branching())


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("seed", range(3))
def test_a_planted_permutation_is_recovered_exactly(name: str, seed: int) -> None:
    net = CASES[name][0]()
    state, spec = net.state_dict(), symmetry(net)
    planted = spec.draw(seed=seed)
    other = spec.apply(state, planted)
    found = match_weights(state, source=other, spec=spec, seed=seed)
    back = spec.apply(other, found.permutations)
    assert found.converged
    assert all(torch.equal(back[key], tensor) for key, tensor in state.items())
    for group, permutation in planted.items():
        assert torch.equal(permutation[found.permutations[group]], torch.arange(len(permutation)))
    assert found.objective == sorted(found.objective)
    (aligned_state, aligned_other) = align(net, states=[state, other], seed=seed)
    for key, tensor in average_states([aligned_state, aligned_other]).items():
        torch.testing.assert_close(tensor, state[key])


def test_the_objective_never_falls_and_the_distance_shrinks() -> None:
    a, b = resnet(width=4, seed=0).double(), resnet(width=4, seed=1).double()
    spec = symmetry(a)
    found = match_weights(a.state_dict(), source=b.state_dict(), spec=spec)
    assert all(later >= earlier for earlier, later in zip(found.objective, found.objective[1:], strict=False))
    moved = spec.apply(b.state_dict(), found.permutations)
    distance = lambda state: sum((p - state[name]).square().sum().item() for name, p in a.named_parameters())  # noqa: E731
    gained = found.objective[-1] - found.objective[0]
    assert distance(b.state_dict()) - distance(moved) == pytest.approx(2 * gained)
    assert gained > 0
    x = images(4)[0].double()
    torch.testing.assert_close(functional_call(b, moved, (x,)), b(x))
    with pytest.raises(MeasureError, match="differ in"):
        match_weights(a.state_dict(), source=resnet(width=2).state_dict(), spec=spec)


# Averages


def test_an_average_with_weights_0_and_1_is_the_second_network_in_every_tensor() -> None:
    """An average that skips the biases ends at neither of its ends."""
    a, b = resnet(seed=0).state_dict(), resnet(seed=1).state_dict()
    b["bn1.num_batches_tracked"] = torch.tensor(7)
    a["fc.bias"][0] = torch.inf
    for weights, end in (([0, 1], b), ([1, 0], a)):
        found = average_states([a, b], weights)
        assert list(found) == list(a)
        assert all(torch.equal(found[name], tensor) for name, tensor in end.items())


def test_averages_in_the_corrected_and_in_the_published_definition() -> None:
    states = [resnet(seed=s).state_dict() for s in range(3)]
    corrected, published = average_states(states), average_states(states, protocol="published")
    for name, tensor in states[0].items():
        mean = torch.stack([state[name].double() for state in states]).mean(0).to(tensor.dtype)
        if tensor.is_floating_point():
            torch.testing.assert_close(corrected[name], mean)
        if "weight" in name:
            torch.testing.assert_close(published[name], mean)
        else:
            assert torch.equal(published[name], tensor)
    assert not torch.equal(published["fc.bias"], corrected["fc.bias"])
    corrected["fc.bias"].zero_()
    assert states[0]["fc.bias"].any()
    with pytest.raises(MeasureError, match="3 networks with 2 weights"):
        average_states(states, [0.5, 0.5])
    with pytest.raises(MeasureError, match="cannot average 0 networks"):
        average_states([])
    with pytest.raises(MeasureError, match="differ in names or shapes"):
        average_states([states[0], mlp().state_dict()])


@pytest.fixture(scope="module")
def trained():
    """Two perceptrons on the digits, with their states after each of four epochs."""
    data = digits()
    shape = {"in_features": 64, "width": 32, "depth": 2, "out_features": 10}
    members = [Member(0, 0.05), Member(1, 0.05)]
    epochs = [
        [state.population.state_dict(i) for i in range(2)]
        for state in train(members, data, config=shape, epochs=6, batch_size=32, momentum=0.9, weight_decay=5e-4)
    ]
    batches = {name: micro_batches(s.x, y=s.y, size=500) for name, s in (("train", data.train), ("test", data.test))}
    return build("mlp", **shape), epochs, batches


def test_epoch_averages_are_held_against_the_last_epoch(trained) -> None:
    net, epochs, batches = trained
    states = [epoch[0] for epoch in epochs[-5:]]
    found = epoch_average(net, states=states, **batches)
    last = evaluate(net, batches=batches["test"], state=states[-1])
    assert found.delta == pytest.approx(found.test.accuracy - last.accuracy)
    assert abs(found.delta) < 0.1
    assert found.train == evaluate(net, batches=batches["train"], state=found.state)


def test_matching_makes_seed_averages_better(trained) -> None:
    net, epochs, batches = trained
    states = epochs[-1]
    naive, matched = (seed_average(net, states=states, **batches, matched=m) for m in (False, True))
    accuracies = [evaluate(net, batches=batches["test"], state=state).accuracy for state in states]
    assert matched.delta == pytest.approx(matched.test.accuracy - sum(accuracies) / 2)
    assert naive.delta < matched.delta < 0.02
    assert matched.test.loss < naive.test.loss


def test_averages_through_batchnorm_get_their_own_statistics() -> None:
    nets, (x, y) = [resnet(width=4, seed=s) for s in range(2)], images(32)
    batches = [(x, y)]
    found = seed_average(nets[0], states=[net.state_dict() for net in nets], train=batches, test=batches)
    averaged = average_states(align(nets[0], states=[net.state_dict() for net in nets]))
    expected = reestimate(nets[0], state=averaged, batches=batches)
    assert all(torch.equal(found.state[name], tensor) for name, tensor in expected.items())
    assert found.test.loss == pytest.approx(cross_entropy(functional_call(nets[0], expected, (x,)), y).item())
    published = seed_average(
        nets[0], states=[net.state_dict() for net in nets], train=batches, test=batches, protocol="published"
    )
    assert published.test.loss != found.test.loss
    assert torch.equal(published.state["fc.bias"], nets[0].fc.bias)
