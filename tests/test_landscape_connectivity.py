"""Paths against closed forms and against networks written out by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, linear, relu

from phasezoo.batchnorm import reestimate
from phasezoo.errors import MeasureError
from phasezoo.nets import build
from phasezoo.training.data import digits
from phasezoo.training.landscape.connectivity import Curve, barrier, fit_bezier, learning_rates, mode_connectivity
from phasezoo.training.landscape.replay import evaluate, micro_batches
from phasezoo.training.population import Member, train
from tests.landscape_cases import Quadratic, images, mlp, resnet, symmetric, vectors

T = [0.0, 0.25, 0.5, 0.75, 1.0]


def first_value(out: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return out[0]


def test_the_loss_on_a_straight_path_over_a_quadratic_has_a_closed_form() -> None:
    """L(t) = (1 - t) L(0) + t L(1) - t (1 - t) d'Ad / 2."""
    A = symmetric([4.0, 2.0, 1.0, 0.5])
    net = Quadratic(A)
    torch.manual_seed(0)
    a, b = (torch.randn(4, dtype=torch.float64) for _ in range(2))
    curve = Curve(net, ends=({"w": a, "A": A}, {"w": b, "A": A}))
    (path,) = curve.evaluate({"": [vectors(1)]}, t=T, loss=first_value, weight_decay=0.2).values()
    bump = (b - a) @ A @ (b - a) / 2
    expected = [(1 - t) * path.nll[0] + t * path.nll[-1] - t * (1 - t) * bump.item() for t in T]
    assert path.nll == pytest.approx(expected, rel=1e-12)
    assert path.nll[0] == pytest.approx((a @ A @ a / 2).item())
    assert path.nll[2] == pytest.approx((path.nll[0] + path.nll[4]) / 2 - bump.item() / 4)  # |d|_A^2 / 8
    assert barrier(path.nll, t=T) <= 1e-12
    assert mode_connectivity([path.nll[0], path.nll[2], path.nll[0]]) == path.nll[0] - path.nll[2]
    assert path.loss[0] == pytest.approx(path.nll[0] + 0.1 * a.square().sum().item())


@pytest.mark.parametrize("bends", [0, 1, 3])
def test_the_ends_are_the_given_networks_bit_for_bit(bends: int) -> None:
    net, other = resnet(seed=0), resnet(seed=1)
    curve = Curve(net, ends=(net.state_dict(), other.state_dict()), bends=bends)
    for t, end in ((0, net), (1, other), (0.0, net), (1.0, other)):
        state = curve.state(t)
        assert list(state) == list(end.state_dict())
        assert all(torch.equal(state[name], tensor) for name, tensor in end.state_dict().items())
    between = curve.state(0.25)
    for name, tensor in net.state_dict().items():
        if tensor.is_floating_point():
            expected = 0.75 * tensor + 0.25 * other.state_dict()[name]
            torch.testing.assert_close(between[name], expected, rtol=1e-5, atol=1e-6)


def test_the_network_on_a_curve_is_the_one_written_out_by_hand() -> None:
    a, b, bend = (mlp(seed=s).double().state_dict() for s in range(3))
    net, (x, y) = mlp().double(), vectors(20)
    curve = Curve(net, ends=(a, b), bends=1)
    curve.points[1] = torch.cat([bend[name].flatten() for name in curve.names])
    for t in (0.2, 0.5, 0.9):
        w = {name: (1 - t) ** 2 * a[name] + 2 * t * (1 - t) * bend[name] + t**2 * b[name] for name in a}
        h = relu(linear(x.double(), w["0.weight"], w["0.bias"]))
        h = relu(linear(h, w["2.weight"], w["2.bias"]))
        logits = linear(h, w["4.weight"], w["4.bias"])
        found = evaluate(net, batches=[(x.double(), y)], state=curve.state(t))
        assert found.loss == pytest.approx(cross_entropy(logits, y).item(), rel=1e-12)
        assert found.error == pytest.approx(100 * (logits.argmax(1) != y).double().mean().item())


def test_one_step_is_the_gradient_of_the_loss_on_the_curve() -> None:
    """Against autograd through the interpolation, BatchNorm in training mode included."""
    net, other, (x, y) = resnet(seed=0).double(), resnet(seed=1).double(), images(6)
    ends = (net.state_dict(), other.state_dict())
    before = Curve(net, ends=ends, bends=2)
    after = fit_bezier(
        net, ends=ends, data=(x.double(), y), bends=2, epochs=1, batch_size=6, lr=[0.5], weight_decay=0.01, seed=4
    )
    generator = torch.Generator().manual_seed(4)
    torch.randperm(6, generator=generator)
    t = torch.rand((), generator=generator).item()
    points = before.points.clone().requires_grad_()
    coefficients = torch.tensor([(1 - t) ** 3, 3 * (1 - t) ** 2 * t, 3 * (1 - t) * t**2, t**3], dtype=torch.float64)
    w = coefficients @ points
    twin = resnet().double().train()
    logits = torch.func.functional_call(twin, before.named(w), (x.double(),))
    (cross_entropy(logits, y) + 0.005 * w.square().sum()).backward()
    torch.testing.assert_close(after.points[1:-1], (points - 0.5 * points.grad)[1:-1].detach(), rtol=1e-9, atol=1e-12)
    assert torch.equal(after.points[0], before.points[0])
    assert torch.equal(after.points[-1], before.points[-1])


def test_momentum_and_clipping_are_those_of_torch() -> None:
    a, b = mlp(seed=0).state_dict(), mlp(seed=1).state_dict()
    net, (x, y) = mlp(), vectors(40)
    options = {"epochs": 2, "batch_size": 10, "momentum": 0.9, "weight_decay": 0.0, "seed": 1, "clip": 0.2}
    found = fit_bezier(net, ends=(a, b), data=(x, y), lr=[0.1, 0.05], **options)
    curve = Curve(net, ends=(a, b), bends=1)
    bend = curve.points[1].clone().requires_grad_()
    optimizer = torch.optim.SGD([bend], lr=0.1, momentum=0.9)
    generator = torch.Generator().manual_seed(1)
    for rate in (0.1, 0.05):
        optimizer.param_groups[0]["lr"] = rate
        for batch in torch.randperm(40, generator=generator).split(10):
            t = torch.rand((), generator=generator).item()
            w = (1 - t) ** 2 * curve.points[0] + 2 * t * (1 - t) * bend + t**2 * curve.points[2]
            optimizer.zero_grad()
            cross_entropy(torch.func.functional_call(net, curve.named(w), (x[batch],)), y[batch]).backward()
            nn.utils.clip_grad_norm_([bend], 0.2)
            optimizer.step()
    torch.testing.assert_close(found.points[1], bend.detach(), rtol=1e-4, atol=1e-6)


def test_the_published_learning_rate_compounds_and_the_corrected_one_does_not() -> None:
    published = learning_rates(10, lr=0.1, protocol="published")
    assert published == pytest.approx([0.1] * 5 + [0.0753, 0.0380, 0.00979, 9.8e-5, 9.8e-7], rel=2e-3)
    assert learning_rates(10, lr=0.1) == pytest.approx([0.1] * 5 + [0.0753, 0.0505, 0.0258, 0.001, 0.001], rel=2e-3)
    ends = (mlp(seed=0).state_dict(), mlp(seed=1).state_dict())
    curves = [fit_bezier(mlp(), ends=ends, data=vectors(20), protocol=p) for p in ("published", "corrected")]
    assert not torch.equal(curves[0].points, curves[1].points)
    with pytest.raises(MeasureError, match="2 learning rates for 10 epochs"):
        fit_bezier(mlp(), ends=ends, data=vectors(20), lr=[0.1, 0.2])


def test_training_lowers_the_barrier_between_two_trained_networks() -> None:
    data = digits()
    shape = {"in_features": 64, "width": 16, "depth": 2, "out_features": 10}
    *_, last = train(
        [Member(0, 0.05), Member(1, 0.05)], data, config=shape, epochs=8, batch_size=32, momentum=0.9, weight_decay=0.0
    )
    ends = (last.population.state_dict(0), last.population.state_dict(1))
    net = build("mlp", **shape)
    batches = {"train": micro_batches(data.train.x, y=data.train.y, size=500)}
    straight = Curve(net, ends=ends).evaluate(batches, t=T)["train"]
    curve = fit_bezier(net, ends=ends, data=(data.train.x, data.train.y), epochs=6, lr=0.05, batch_size=64)
    bent = curve.evaluate(batches, t=T)["train"]
    assert mode_connectivity(straight.nll) < mode_connectivity(bent.nll) < 0.05
    assert max(bent.nll) < max(straight.nll) / 2
    assert max(bent.error) < max(straight.error)
    assert bent.nll[0] == straight.nll[0]


def test_fitting_leaves_model_and_generator_alone_and_repeats_by_seed() -> None:
    net, other = resnet(seed=0), resnet(seed=1)
    ends = (net.state_dict(), {name: t.clone() for name, t in other.state_dict().items()})
    twin = resnet(seed=2)
    before = {name: t.clone() for name, t in twin.state_dict().items()}
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    flips = lambda x, generator: x.flip(3) if torch.rand((), generator=generator) < 0.5 else x  # noqa: E731
    options = {"ends": ends, "data": images(16), "epochs": 2, "batch_size": 8, "augment": flips}
    first, again, seeded = (fit_bezier(twin, **options, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(torch.rand(1), expected)
    assert torch.equal(first.points, again.points)
    assert not torch.equal(first.points, seeded.points)
    assert not any(module.training for module in twin.modules())
    assert all(torch.equal(t, before[name]) for name, t in twin.state_dict().items())


# BatchNorm


def test_statistics_are_estimated_from_nothing_and_weighted_by_samples() -> None:
    """Against the mean and variance of the activations of each batch, by hand."""
    net, (x, y) = resnet(), images(10)
    batches = [(x[:7], y[:7]), (x[7:], y[7:])]
    state = reestimate(net, state=net.state_dict(), batches=batches)
    mean, var = torch.zeros(2), torch.zeros(2)
    for part, _ in batches:
        h = net.conv1(part).transpose(0, 1).flatten(1)
        mean += len(part) / 10 * h.mean(1).detach()
        var += len(part) / 10 * h.var(1).detach()
    torch.testing.assert_close(state["bn1.running_mean"], mean)
    torch.testing.assert_close(state["bn1.running_var"], var)
    assert not torch.equal(state["stages.1.0.bn2.running_var"], net.stages[1][0].bn2.running_var)
    again = reestimate(net, state=state, batches=batches)
    assert all(torch.equal(again[name], tensor) for name, tensor in state.items())


def test_the_published_statistics_go_on_with_momentum_and_dropout() -> None:
    net = nn.Sequential(nn.BatchNorm1d(8), nn.Dropout(0.5), nn.BatchNorm1d(8)).eval()
    x, y = vectors(30)
    published = reestimate(net, state=net.state_dict(), batches=[(x, y), (x, y)], protocol="published")
    torch.testing.assert_close(published["0.running_mean"], x.mean(0) * (1 - 0.9**2))
    assert published["0.num_batches_tracked"] == 2
    corrected = reestimate(net, state=net.state_dict(), batches=[(x, y)])
    torch.testing.assert_close(corrected["0.running_mean"], x.mean(0))
    scaled = (x - x.mean(0)) / (x.var(0, correction=0) + 1e-5).sqrt()
    torch.testing.assert_close(corrected["2.running_var"], scaled.var(0))  # no unit dropped
    assert not torch.allclose(published["2.running_var"], 0.81 + 0.19 * scaled.var(0), rtol=1e-2)
    assert net[0].momentum == 0.1
    assert not net[0].running_mean.any()
    assert not net[0].training


def test_a_path_through_batchnorm_needs_data_or_a_choice() -> None:
    net, other, batch = resnet(seed=0), resnet(seed=1), images(12)
    curve = Curve(net, ends=(net.state_dict(), other.state_dict()))
    with pytest.raises(MeasureError, match="pass training data as `bn_batches`"):
        curve.evaluate({"test": [batch]})
    found = {
        bn: curve.evaluate({"test": [batch]}, bn=bn, bn_batches=[batch])["test"].nll
        for bn in ("reestimate", "interpolate", "keep")
    }
    assert found["keep"][0] == found["interpolate"][0] == evaluate(net, batches=[batch]).loss
    assert found["interpolate"][-1] == evaluate(other, batches=[batch]).loss != found["keep"][-1]
    state = reestimate(net, state=curve.state(0.5), batches=[batch])
    assert found["reestimate"][2] == evaluate(net, state=state, batches=[batch]).loss
    assert len({tuple(values) for values in found.values()}) == 3


def test_ends_of_another_architecture_are_refused() -> None:
    with pytest.raises(MeasureError, match=r"lacks \['conv1.weight', 'bn1.weight'"):
        Curve(resnet(), ends=(mlp().state_dict(), mlp().state_dict()))
