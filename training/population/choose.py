"""Whether a population or a loop over its members is faster, by a short trial on the shapes at hand."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, Literal, cast

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from phasezoo.nets.mlp import MLP
from phasezoo.training.data.split import Batch
from phasezoo.training.population.conv import ConvPopulation
from phasezoo.training.population.mlp import Population

ROUNDS = 5


def faster(nets: Sequence[nn.Module], *, batches: Sequence[Batch]) -> Literal["population", "loop"]:
    """Time a few training steps of both in turn, on copies; without a trial, a loop where there is no population.

    That is so for a single network, for networks or batches of different shapes, and for layers without a grouped form.
    Both do the same arithmetic, but round differently: a run that was begun one way should go on that way.

    Args:
        nets: the members, on the device they will be trained on.
        batches: a batch of each member: inputs ``[batch, ...]`` and labels ``[batch]``.

    >>> from phasezoo.nets import build
    >>> nets = [build("mlp", in_features=4, width=width, depth=1, out_features=2) for width in [8] * 16 + [9]]
    >>> batches = [(torch.zeros(5, 4), torch.zeros(5, dtype=torch.int64))] * 17
    >>> faster(nets[:16], batches=batches[:16])
    'population'
    >>> faster(nets, batches=batches)  # no population has two widths
    'loop'
    """
    shapes = {(x.shape, y.shape, x.dtype, x.device) for x, y in batches}
    if len(nets) < 2 or len(shapes) > 1:
        return "loop"
    x, y = (torch.stack([batch[i] for batch in batches]) for i in (0, 1))
    try:
        together = _population(nets, x, y)
    except ValueError:
        return "loop"
    return race(together, loop=_loop(nets[0], *batches[0]), members=len(nets), device=x.device)


def race(
    population: Callable[[], object], *, loop: Callable[[], object], members: int, device: torch.device
) -> Literal["population", "loop"]:
    """Time a step of a population and a step of one network in turn, and say which trains all members faster.

    Args:
        population: takes a step of all members.
        loop: takes a step of one.
        members: how many there are.
        device: where they are.

    >>> race(lambda: None, loop=lambda: sum(range(10_000)), members=4, device=torch.device("cpu"))
    'population'
    """
    ours: list[float] = []
    theirs: list[float] = []
    for _ in range(ROUNDS + 1):  # the first round is a warm-up
        ours.append(_seconds(population, device))
        theirs.append(_seconds(loop, device))
    together, apart = statistics.median(ours[1:]), statistics.median(theirs[1:])
    return "population" if together < members * apart else "loop"


def _population(nets: Sequence[nn.Module], x: torch.Tensor, y: torch.Tensor) -> Callable[[], object]:
    lr = torch.zeros(len(nets), device=x.device, dtype=x.dtype)
    if all(isinstance(net, MLP) for net in nets):
        perceptrons = Population(cast(Sequence[MLP], nets), momentum=0.9, weight_decay=5e-4)
        inputs = perceptrons.pad(x)
        return torch.no_grad()(lambda: perceptrons.step(inputs, y, lr.unsqueeze(1)))
    convolutional = ConvPopulation(nets, weight_decay=5e-4)
    return lambda: convolutional.step(x, y, lr, momentum=0.9)


def _loop(net: nn.Module, x: torch.Tensor, y: torch.Tensor) -> Callable[[], object]:
    net = copy.deepcopy(net).train()
    if x.dim() == 4:
        net = cast(Any, net).to(memory_format=torch.channels_last)
        x = x.contiguous(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.0, momentum=0.9, weight_decay=5e-4)

    def step() -> None:
        optimizer.zero_grad()
        torch.autograd.backward(cross_entropy(net(x), y))
        optimizer.step()

    return step


def _seconds(step: Callable[[], object], device: torch.device) -> float:
    start = time.perf_counter()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start
