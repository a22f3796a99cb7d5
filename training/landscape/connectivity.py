"""Paths between trained networks: straight ones and Bezier curves, and how much worse the networks on them are.

No architecture is rewritten: the weights at a point of the path are computed from its control points, and the module
runs with them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from phasezoo.batchnorm import Protocol, norm_layers, reestimate, training_mode
from phasezoo.errors import MeasureError
from phasezoo.training.landscape.replay import Batch, Loss, evaluate

State = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Path:
    """Losses and errors of the networks at the points of a path.

    Attributes:
        t: positions, from 0 to 1.
        nll: mean loss on the data.
        loss: the same plus the regulariser, weight_decay / 2 |w(t)|^2; what is published as loss.
        error: wrong answers in percent.

    >>> a, b = ({"weight": torch.tensor([[v], [-v]])} for v in (-2.0, 2.0))
    >>> curve = Curve(nn.Linear(1, 2, bias=False), ends=(a, b))
    >>> path = curve.evaluate({"train": [(torch.tensor([[1.0]]), torch.tensor([0]))]}, t=[0.0, 0.75, 1.0])["train"]
    >>> path.t, path.error, path.nll == path.loss  # without weight decay
    ([0.0, 0.75, 1.0], [100.0, 0.0, 0.0], True)
    """

    t: list[float]
    nll: list[float]
    loss: list[float]
    error: list[float]


def mode_connectivity(values: Sequence[float]) -> float:
    """Return mc = mean of the ends - v(t*), t* where the curve is farthest from that mean (Yang et al. 2021).

    Negative: there is a barrier. Positive: the path is better than its ends, which are badly trained. Zero: connected.

    >>> mode_connectivity([1.0, 2.0, 6.0, 2.0, 1.0]), mode_connectivity([5.0, 4.0, 1.0, 4.0, 5.0])
    (-5.0, 4.0)
    """
    middle = (values[0] + values[-1]) / 2
    return middle - max(values, key=lambda value: abs(value - middle))


def barrier(values: Sequence[float], *, t: Sequence[float]) -> float:
    """Return how far the path rises above the chord between its ends at most (Frankle et al. 2020).

    >>> barrier([1.0, 4.0, 3.0], t=[0.0, 0.5, 1.0])
    2.0
    """
    return max(v - ((1 - s) * values[0] + s * values[-1]) for v, s in zip(values, t, strict=True))


class Curve:
    """A Bezier curve in the space of weights; straight if it has no bend.

        w(t) = sum_k binom(K, k) (1 - t)^(K - k) t^k w_k,     k = 0 .. K = bends + 1     (Garipov et al. 2018)

    Args:
        model: the network that runs with these weights; its own are neither used nor changed.
        ends: the state dicts of both ends.
        bends: control points in between; they start on the straight line.

    Attributes:
        points: control points ``[bends + 2, P]``.

    >>> a, b = ({"weight": torch.full((1, 1), v)} for v in (0.0, 2.0))
    >>> Curve(nn.Linear(1, 1, bias=False), ends=(a, b)).state(0.25)
    {'weight': tensor([[0.5000]])}
    """

    def __init__(self, model: nn.Module, *, ends: tuple[State, State], bends: int = 0) -> None:
        self.model = model
        self.ends = ends
        self.names = [name for name, _ in model.named_parameters()]
        for end in ends:
            missing = [name for name in self.names if name not in end]
            if missing:
                raise MeasureError(
                    f"an end of the path lacks {missing[:4]}, which {type(model).__name__} has. "
                    "Pass state dicts of the model's own architecture."
                )
        self._shapes = [ends[0][name].shape for name in self.names]
        first, last = (torch.cat([end[name].detach().flatten() for name in self.names]) for end in ends)
        along = torch.linspace(0, 1, bends + 2, dtype=first.dtype, device=first.device)[:, None]
        self.points = (1 - along) * first + along * last

    def coefficients(self, t: float) -> list[float]:
        """Return the weights of the control points at t."""
        K = len(self.points) - 1
        return [math.comb(K, k) * (1 - t) ** (K - k) * t**k for k in range(K + 1)]

    def at(self, t: float) -> torch.Tensor:
        """Return the parameters at t as one vector ``[P]``."""
        return self.points.new_tensor(self.coefficients(t)) @ self.points

    def named(self, flat: torch.Tensor) -> dict[str, torch.Tensor]:
        """View a vector ``[P]`` as parameters, by name."""
        parts = torch.split(flat, [shape.numel() for shape in self._shapes])
        return {name: part.view(s) for name, part, s in zip(self.names, parts, self._shapes, strict=True)}

    def state(self, t: float) -> dict[str, torch.Tensor]:
        """Return parameters and buffers at t; at the ends exactly those given, between them buffers on the chord."""
        if t in (0, 1):
            return dict(self.ends[int(t)])
        params = self.named(self.at(t))
        state = {}
        for name, first in self.ends[0].items():
            if name in params:
                state[name] = params[name]
            elif first.is_floating_point():
                state[name] = (1 - t) * first + t * self.ends[1][name]
            else:
                state[name] = first
        return state

    def evaluate(
        self,
        data: Mapping[str, Sequence[Batch]],
        *,
        t: Sequence[float] = (0.0, 0.25, 0.5, 0.75, 1.0),
        bn: Literal["reestimate", "interpolate", "keep"] = "reestimate",
        bn_batches: Sequence[Batch] = (),
        weight_decay: float = 0.0,
        loss: Loss = cross_entropy,
    ) -> dict[str, Path]:
        """Evaluate the networks at points of the curve on one or several data sets.

        Args:
            data: name -> (inputs, labels) pairs.
            t: points; the default is the published grid.
            bn: running statistics of BatchNorm at each point: estimated anew on `bn_batches`, interpolated, or those of
                the first end. Without BatchNorm it does not matter.
            bn_batches: training data for the estimate.
            weight_decay: of the regulariser in `Path.loss`.
            loss: mean loss of logits and labels.

        Raises:
            MeasureError: statistics are to be estimated and there is no data.
        """
        layers = norm_layers(self.model)
        if layers and bn == "reestimate" and not bn_batches:
            raise MeasureError(
                f"{type(self.model).__name__} has BatchNorm, whose statistics must be estimated at each point: pass "
                "training data as `bn_batches`, or bn='interpolate' or bn='keep' to see what happens without."
            )
        paths = {name: Path(list(t), [], [], []) for name in data}
        running = [key for key in self.ends[0] if key.rpartition(".")[0] in layers and "running_" in key]
        for s in t:
            state = self.state(s)
            if layers and bn == "reestimate":
                state = reestimate(self.model, state=state, batches=bn_batches)
            elif bn == "keep":
                state |= {key: self.ends[0][key] for key in running}
            size = sum(state[name].square().sum().item() for name in self.names)
            for name, batches in data.items():
                found = evaluate(self.model, batches=batches, state=state, loss=loss)
                paths[name].nll.append(found.loss)
                paths[name].loss.append(found.loss + weight_decay / 2 * size)
                paths[name].error.append(found.error)
        return paths


def learning_rates(epochs: int, *, lr: float, protocol: Protocol = "corrected") -> list[float]:
    """Return the learning rate of each epoch of curve training.

    The factor on `lr` is 1 for half of the epochs, then falls linearly to 0.01 at 90 % (Garipov et al. 2018).
    ``"published"`` multiplies each epoch's factor onto the rate of the epoch before, as the published values were made.

    >>> [round(rate, 5) for rate in learning_rates(10, lr=0.1)[4:]]
    [0.1, 0.07525, 0.0505, 0.02575, 0.001, 0.001]
    >>> [f"{rate:.3g}" for rate in learning_rates(10, lr=0.1, protocol="published")[4:]]
    ['0.1', '0.0753', '0.038', '0.00979', '9.79e-05', '9.79e-07']
    """
    rates, rate = [], lr
    for epoch in range(1, epochs + 1):
        factor = min(1.0, max(0.01, 1 - (epoch / epochs - 0.5) / 0.4 * 0.99))
        rate = (rate if protocol == "published" else lr) * factor
        rates.append(rate)
    return rates


def fit_bezier(
    model: nn.Module,
    *,
    ends: tuple[State, State],
    data: Batch,
    bends: int = 1,
    epochs: int = 10,
    batch_size: int = 128,
    lr: float | Sequence[float] = 0.1,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
    clip: float = math.inf,
    augment: Callable[[torch.Tensor, torch.Generator], torch.Tensor] | None = None,
    protocol: Protocol = "corrected",
    loss: Loss = cross_entropy,
    seed: int = 0,
) -> Curve:
    """Train the bends of a Bezier curve between two networks so that the loss along it is low.

    Each step draws one t from U(0, 1) and takes the gradient of loss(w(t)) + weight_decay / 2 |w(t)|^2; bend k gets it
    times its coefficient at t. The network runs in training mode (as published), with batch statistics.

    Args:
        model: a network of the architecture; neither its weights nor its buffers are used or changed.
        ends: the state dicts of both ends, which stay fixed.
        data: training inputs and labels.
        bends: control points to train; the published curves have one.
        epochs: passes over the data.
        batch_size: samples per step.
        lr: learning rate, scheduled by `learning_rates`; or one for each epoch.
        momentum: momentum of SGD.
        weight_decay: of the regulariser on the weights at t.
        clip: largest norm of the gradient of the bends.
        augment: maps a batch of inputs and a generator to augmented inputs.
        protocol: ``"published"`` replays the compounding learning rate of the published curves.
        loss: mean loss of logits and labels.
        seed: seed of order, t and augmentation.

    >>> import phasezoo
    >>> from phasezoo.training.data import load_data
    >>> nets = [model.checkpoint().module() for model in phasezoo.load("mlp-digits").filter(width=16, lr=0.1)[:2]]
    >>> data, ends = load_data("digits"), (nets[0].state_dict(), nets[1].state_dict())
    >>> curve = fit_bezier(nets[0], ends=ends, data=(data.train.x, data.train.y), clip=1.0)
    >>> both = {"straight": Curve(nets[0], ends=ends), "bent": curve}
    >>> middle = {how: c.evaluate({"test": data.test.batches(500)}, t=[0.5])["test"] for how, c in both.items()}
    >>> [how for how, path in middle.items() if path.error[0] < 20]  # percent of wrong answers, half way
    ['bent']
    """
    curve = Curve(model, ends=ends, bends=bends)
    rates = learning_rates(epochs, lr=lr, protocol=protocol) if isinstance(lr, (int, float)) else list(lr)
    if len(rates) != epochs:
        raise MeasureError(f"{len(rates)} learning rates for {epochs} epochs. Give one number, or one for each epoch.")
    x, y = data
    generator = torch.Generator().manual_seed(seed)
    # Training mode writes running statistics: into these copies, not into the module's.
    buffers = {name: ends[0].get(name, buffer).clone() for name, buffer in model.named_buffers()}
    velocity = torch.zeros_like(curve.points[1:-1])
    # Dropout draws from the global generator; leave that as it was.
    devices = [x.device] if x.is_cuda else []
    with training_mode(model, list(norm_layers(model).values()), dropout=True), torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        for rate in rates:
            order = torch.randperm(len(y), generator=generator)
            for batch in torch.split(order.to(y.device), batch_size):
                inputs = x[batch] if augment is None else augment(x[batch], generator)
                if inputs.ndim == 4 and not inputs.is_cuda:  # convolutions of a CPU take two thirds of the time then
                    inputs = inputs.contiguous(memory_format=torch.channels_last)
                t = torch.rand((), generator=generator).item()
                w = curve.at(t)
                params = {name: part.requires_grad_() for name, part in curve.named(w.clone()).items()}
                value = loss(functional_call(model, {**params, **buffers}, (inputs,)), y[batch])
                grads = torch.autograd.grad(value, list(params.values()), materialize_grads=True)
                g = torch.cat([grad.flatten() for grad in grads]).add_(w, alpha=weight_decay)
                bends_grad = torch.outer(curve.points.new_tensor(curve.coefficients(t)[1:-1]), g)
                if clip < math.inf:
                    bends_grad *= (clip / (bends_grad.norm() + 1e-6)).clamp(max=1)
                velocity.mul_(momentum).add_(bends_grad)
                curve.points[1:-1].sub_(velocity, alpha=rate)
    return curve
