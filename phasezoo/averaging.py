"""Averages of networks, and the straight line between two."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from phasezoo.batchnorm import Protocol, reestimate
from phasezoo.errors import MeasureError
from phasezoo.state import State, Variant, require_alike, states_of

if TYPE_CHECKING:
    import torch

    from phasezoo.model import Model

Batches = Iterable[tuple["torch.Tensor", "torch.Tensor"]]


def average_states(
    states: Sequence[Mapping[str, torch.Tensor]],
    weights: Sequence[float] | None = None,
    *,
    protocol: Protocol = "corrected",
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

    >>> import torch
    >>> a, b = {"w": torch.tensor([0.0])}, {"w": torch.tensor([4.0])}
    >>> average_states([a, b])["w"], average_states([a, b], [0.75, 0.25])["w"]
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


def average(
    networks: Iterable[Model | State],
    *,
    weights: Sequence[float] | None = None,
    align: bool = False,
    reset_bn: Batches | None = None,
    epoch: int | str = "last",
) -> Variant:
    """Average networks of one architecture: seeds of a cell, epochs of a run.

    The order matters: match, average, estimate BatchNorm's statistics (Ainsworth et al. 2023; Jordan et al. 2023).

    Args:
        networks: a view of a zoo, models, checkpoints or variants of them.
        weights: their weights, as they are; uniform by default.
        align: permute the units of each network first so that it comes close to the first one.
        reset_bn: (inputs, labels) pairs of training data to estimate the statistics of BatchNorm on. Without, those of
            the networks are averaged too, which do not fit the averaged weights.
        epoch: which checkpoint of each model.

    Raises:
        ArchitectureError: the networks are not of one architecture.
        MeasureError: no network, or not as many weights.

    >>> import phasezoo
    >>> cell = phasezoo.load("mlp-digits").filter(width=8, lr=0.03)
    >>> phasezoo.average(cell, align=True).module()
    MLP(64-8-8-10, relu)
    """
    states = states_of(networks, epoch=epoch)
    require_alike(states)
    aligned = [*states[:1], *(state.align_to(states[0]) for state in states[1:])] if align else states
    mean = average_states([state.state_dict() for state in aligned], weights)
    common = {key: value for key, value in states[0].config.items() if all(s.config.get(key) == value for s in states)}
    made = Variant(mean, config=common, origin=f"average of {', '.join(state.origin for state in aligned)}")
    if reset_bn is None:
        return made
    reset = reestimate(made.module(), state=mean, batches=reset_bn)
    return Variant(reset, config=common, origin=f"{made.origin}, BatchNorm reset")


def interpolate(
    a: Model | State,
    b: Model | State,
    t: float,
    *,
    align: bool = False,
    reset_bn: Batches | None = None,
    epoch: int | str = "last",
) -> Variant:
    """Return the network at w(t) = (1 - t) a + t b on the straight line through two networks.

    Args:
        a: a model, checkpoint or variant.
        b: another one of the same architecture.
        t: position; 0 is `a` and 1 is `b`, exactly.
        align: permute the units of `b` first so that it comes close to `a`.
        reset_bn: as for `average`.
        epoch: which checkpoint of each model.

    Raises:
        ArchitectureError: the networks are not of one architecture.

    >>> import phasezoo
    >>> a, b, _ = phasezoo.load("mlp-digits").filter(width=8, lr=0.03)
    >>> middle = phasezoo.interpolate(a, b, 0.5)
    >>> bool((middle["layers.0.bias"] == (a.checkpoint()["layers.0.bias"] + b.checkpoint()["layers.0.bias"]) / 2).all())
    True
    """
    return average([a, b], weights=[1 - t, t], align=align, reset_bn=reset_bn, epoch=epoch)
