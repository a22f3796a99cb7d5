"""Averages of networks: over the epochs of one, over the seeds of a cell, and how much better they are."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from phasezoo.errors import MeasureError
from phasezoo.training.landscape.alignment import align
from phasezoo.training.landscape.batchnorm import Protocol, reestimate
from phasezoo.training.landscape.replay import Batch, Evaluation, Loss, evaluate

State = Mapping[str, torch.Tensor]


def average(
    states: Sequence[State], weights: Sequence[float] | None = None, *, protocol: Protocol = "corrected"
) -> dict[str, torch.Tensor]:
    """Average state dicts of one architecture.

    Args:
        states: the state dicts.
        weights: their weights, as they are; uniform by default.
        protocol: ``"corrected"`` averages every tensor in floating point and takes counters from the first that weighs
            anything. ``"published"`` averages the tensors with "weight" and without "bias" in their names and takes all
            others (biases, running statistics) from the first: what the published averages are.

    Raises:
        MeasureError: no state dict, names or shapes that differ, or not as many weights.

    >>> a, b = {"w": torch.tensor([0.0])}, {"w": torch.tensor([4.0])}
    >>> average([a, b])["w"], average([a, b], [0.75, 0.25])["w"]
    (tensor([2.]), tensor([1.]))
    """
    weights = [1 / max(1, len(states))] * len(states) if weights is None else list(weights)
    if not states or len(weights) != len(states):
        raise MeasureError(f"cannot average {len(states)} networks with {len(weights)} weights. Give one for each.")
    shapes = [{name: tensor.shape for name, tensor in state.items()} for state in states]
    if any(other != shapes[0] for other in shapes):
        raise MeasureError("the networks differ in names or shapes of tensors. Average networks of one architecture.")
    # A network with weight 0 takes no part: 0 * inf would.
    used = [(state, weight) for state, weight in zip(states, weights, strict=True) if weight != 0] or [(states[0], 1.0)]
    averaged = {}
    for name in states[0]:
        if protocol == "published" and ("weight" not in name or "bias" in name):
            averaged[name] = states[0][name].clone()
        elif not used[0][0][name].is_floating_point():
            averaged[name] = used[0][0][name].clone()
        else:
            averaged[name] = sum((weight * state[name] for state, weight in used[1:]), used[0][1] * used[0][0][name])
    return averaged


@dataclass(frozen=True)
class Averaged:
    """An average of networks, and how it compares.

    Attributes:
        state: its state dict, running statistics estimated.
        train: loss and accuracy on the training data.
        test: loss and accuracy on the test data.
        delta: accuracy on the test data minus the mean of the networks it is held against.
    """

    state: dict[str, torch.Tensor]
    train: Evaluation
    test: Evaluation
    delta: float


def epoch_average(
    model: nn.Module,
    *,
    states: Sequence[State],
    train: Sequence[Batch],
    test: Sequence[Batch],
    bn_batches: Sequence[Batch] | None = None,
    protocol: Protocol = "corrected",
    loss: Loss = cross_entropy,
) -> Averaged:
    """Average the last epochs of one network and hold it against the last (after Wortsman et al. 2022, Wise-FT).

    Args:
        model: a network of the architecture, in eval mode; its own weights are not used.
        states: state dicts of the epochs, ascending; the published metric takes five.
        train: training data to evaluate on.
        test: test data to evaluate on.
        bn_batches: training data for BatchNorm's statistics; `train` by default. The published metric takes up to 100
            batches of the network's own batch size.
        protocol: of `average` and of `reestimate`.
        loss: mean loss of logits and labels.
    """
    averaged = average(states, protocol=protocol)
    return _measured(model, averaged, states[-1:], train, test, bn_batches, protocol, loss)


def seed_average(
    model: nn.Module,
    *,
    states: Sequence[State],
    train: Sequence[Batch],
    test: Sequence[Batch],
    bn_batches: Sequence[Batch] | None = None,
    protocol: Protocol = "corrected",
    matched: bool = True,
    loss: Loss = cross_entropy,
    seed: int = 0,
) -> Averaged:
    """Align networks of several seeds to the first, average them, and hold the average against their mean.

    The order matters: match, average, estimate BatchNorm's statistics (Ainsworth et al. 2023; Jordan et al. 2023).

    Args:
        model: a network of the architecture, in eval mode; its own weights are not used.
        states: state dicts of the seeds.
        train: training data to evaluate on.
        test: test data to evaluate on.
        bn_batches: training data for BatchNorm's statistics; `train` by default.
        protocol: of `average` and of `reestimate`.
        matched: align before averaging.
        loss: mean loss of logits and labels.
        seed: seed of the order in which layers are matched.
    """
    aligned = align(model, states=states, seed=seed) if matched else states
    return _measured(model, average(aligned, protocol=protocol), states, train, test, bn_batches, protocol, loss)


def _measured(
    model: nn.Module,
    averaged: State,
    held_against: Sequence[State],
    train: Sequence[Batch],
    test: Sequence[Batch],
    bn_batches: Sequence[Batch] | None,
    protocol: Protocol,
    loss: Loss,
) -> Averaged:
    state = reestimate(model, state=averaged, batches=train if bn_batches is None else bn_batches, protocol=protocol)
    found = evaluate(model, batches=test, state=state, loss=loss)
    accuracies = [evaluate(model, batches=test, state=one, loss=loss).accuracy for one in held_against]
    delta = found.accuracy - math.fsum(accuracies) / len(accuracies)
    return Averaged(state, evaluate(model, batches=train, state=state, loss=loss), found, delta)
