"""Averages of networks: over the epochs of one, over the seeds of a cell, and how much better they are."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from phasezoo.alignment import align
from phasezoo.averaging import average_states
from phasezoo.batchnorm import Protocol, reestimate
from phasezoo.training.landscape.replay import Batch, Evaluation, Loss, evaluate

State = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Averaged:
    """An average of networks, and how it compares.

    Attributes:
        state: its state dict, running statistics estimated.
        train: loss and accuracy on the training data.
        test: loss and accuracy on the test data.
        delta: accuracy on the test data minus the mean of the networks it is held against.

    >>> x, y = torch.eye(2), torch.tensor([0, 1])
    >>> states = [{"weight": torch.eye(2) * scale} for scale in (1.0, 3.0)]
    >>> averaged = epoch_average(nn.Linear(2, 2, bias=False).eval(), states=states, train=[(x, y)], test=[(x, y)])
    >>> averaged.state["weight"].tolist(), averaged.test.accuracy, averaged.delta
    ([[2.0, 0.0], [0.0, 2.0]], 1.0, 0.0)
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
        protocol: of `average_states` and of `reestimate`.
        loss: mean loss of logits and labels.

    >>> import phasezoo
    >>> from phasezoo.training.data import load_data
    >>> model = phasezoo.load("mlp-digits").filter(width=32, lr=0.1)[0]
    >>> data = load_data("digits")
    >>> states = [model.checkpoint(epoch).state_dict() for epoch in (10, 50, 150)]
    >>> net, batches = model.checkpoint().module(), {"train": data.train.batches(500), "test": data.test.batches(500)}
    >>> averaged = epoch_average(net, states=states, **batches)
    >>> averaged.test.accuracy > 0.9, abs(averaged.delta) < 0.02
    (True, True)
    """
    averaged = average_states(states, protocol=protocol)
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
        protocol: of `average_states` and of `reestimate`.
        matched: align before averaging.
        loss: mean loss of logits and labels.
        seed: seed of the order in which layers are matched.

    >>> import phasezoo
    >>> from phasezoo.training.data import load_data
    >>> data, cell = load_data("digits"), phasezoo.load("mlp-digits").filter(width=32, lr=0.1)
    >>> net, states = cell[0].checkpoint().module(), [model.checkpoint().state_dict() for model in cell]
    >>> batches = {"train": data.train.batches(500), "test": data.test.batches(500)}
    >>> found = [seed_average(net, states=states, **batches, matched=matched) for matched in (False, True)]
    >>> [averaged.test.accuracy > 0.9 for averaged in found]  # averages of networks that are not aligned fail
    [False, True]
    """
    aligned = align(model, states=states, seed=seed) if matched else states
    return _measured(model, average_states(aligned, protocol=protocol), states, train, test, bn_batches, protocol, loss)


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
