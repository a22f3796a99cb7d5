"""Train many multi-layer perceptrons of one shape as one, by batched matrix products.

At small widths a training step is all overhead; S members in one batched product share it. A member does not
depend on who else is in the population: its solo run is a population of one, bit for bit (one thread, one machine).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch

from phasezoo.nets import build
from phasezoo.nets.mlp import MLP
from phasezoo.training.data import Data, Split
from phasezoo.training.population.padding import padded


@dataclass(frozen=True)
class Member:
    """What sets one member of a population apart."""

    seed: int
    lr: float


class Population:
    """S perceptrons with ReLU, trained by SGD with momentum on cross-entropy.

    Parameters of all members lie in one matrix ``[S, P]``; weights ``[S, out, in]`` and biases ``[S, 1, out]``
    are views into it, and so are the gradients; `in` and `out` are padded.

    >>> nets = [MLP(in_features=4, width=8, depth=1, out_features=3) for _ in range(5)]
    >>> population = Population(nets, momentum=0.9, weight_decay=5e-4)
    >>> x, y = torch.zeros(5, 16, 4), torch.zeros(5, 16, dtype=torch.int64)  # a batch of each member
    >>> population.step(population.pad(x), y, torch.tensor([[0.1], [0.05], [0.02], [0.01], [0.0]]))
    >>> [torch.equal(population.state_dict(i)["layers.1.bias"], nets[i].layers[1].bias) for i in (3, 4)]
    [False, True]
    """

    def __init__(self, nets: Sequence[MLP], *, momentum: float, weight_decay: float) -> None:
        if len({net.sizes for net in nets}) != 1 or any(net.activation != "relu" for net in nets):
            raise ValueError(f"a population has one shape and ReLU; got {sorted(map(repr, nets))[:4]}.")
        self.sizes = nets[0].sizes
        self.names = tuple(nets[0].state_dict())
        self.momentum, self.weight_decay = momentum, weight_decay
        sizes = [padded(n) for n in self.sizes]
        example = next(nets[0].parameters()).detach()
        self.params = example.new_zeros(len(nets), sum((a + 1) * b for a, b in pairwise(sizes)))
        self.buffer = torch.zeros_like(self.params)
        self.grads = torch.zeros_like(self.params)
        self.weights, self.biases = _views(self.params, sizes)
        self.weight_grads, self.bias_grads = _views(self.grads, sizes)
        for member, net in enumerate(nets):
            for name, view in self.state_views(member).items():
                view.copy_(net.state_dict()[name])

    def __len__(self) -> int:
        return len(self.params)

    def pad(self, x: torch.Tensor) -> torch.Tensor:
        """Pad inputs ``[..., in]`` with zeros to the width that `step` takes."""
        return torch.nn.functional.pad(x, (0, padded(x.shape[-1]) - x.shape[-1]))

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Return the padded input of each layer ``[S, batch, units]`` and the logits ``[S, batch, classes]``."""
        h = [x]
        for weight, bias in zip(self.weights, self.biases, strict=True):
            if len(h) > 1:
                h[-1].relu_()
            h.append(torch.baddbmm(bias, h[-1], weight.transpose(1, 2)))  # z = h W^T + b
        h[-1] = h[-1][..., : self.sizes[-1]]
        return h

    def step(self, x: torch.Tensor, y: torch.Tensor, lr: torch.Tensor) -> None:
        """Take one SGD step.

        Args:
            x: inputs ``[S, batch, in]``, padded.
            y: labels ``[S, batch]``.
            lr: learning rates ``[S, 1]``.
        """
        self.differentiate(x, y)
        # As torch.optim.SGD: g <- g + wd w; v <- mu v + g; w <- w - lr v
        self.grads.add_(self.params, alpha=self.weight_decay)
        self.buffer.mul_(self.momentum).add_(self.grads)
        self.params.addcmul_(self.buffer, lr, value=-1.0)

    def differentiate(self, x: torch.Tensor, y: torch.Tensor) -> None:
        """Write the gradient of each member's mean loss into `grads` ``[S, P]``."""
        *h, logits = self.forward(x)
        # d loss / d logits = (softmax(logits) - onehot(y)) / batch
        dz = logits.new_zeros(*y.shape, padded(self.sizes[-1]))
        dz[..., : self.sizes[-1]] = logits.softmax(-1)
        dz.scatter_add_(2, y.unsqueeze(2), dz.new_full((1, 1, 1), -1.0).expand(*y.shape, 1))
        dz /= y.shape[1]
        for i in reversed(range(len(self.weights))):
            torch.bmm(dz.transpose(1, 2), h[i], out=self.weight_grads[i])  # dW = dz^T h
            torch.sum(dz, 1, keepdim=True, out=self.bias_grads[i])  # db = sum dz
            if i:
                dz = torch.bmm(dz, self.weights[i]).mul_(h[i] > 0)  # dh = dz W, then through the ReLU

    def evaluate(self, split: Split) -> tuple[torch.Tensor, torch.Tensor]:
        """Return mean cross-entropy ``[S]`` and accuracy ``[S]`` (float64) on a split."""
        logits = self.forward(self.pad(split.x).expand(len(self), -1, -1))[-1]
        y = split.y.expand(len(self), -1)
        losses = torch.nn.functional.cross_entropy(logits.transpose(1, 2), y, reduction="none")
        correct = (logits.argmax(-1) == y).sum(-1)
        return losses.mean(-1).double(), correct.double() / len(split)

    def state_views(self, member: int) -> dict[str, torch.Tensor]:
        """View the parameters of one member, named and ordered as in its module."""
        views = []
        for weight, bias, (n_in, n_out) in zip(self.weights, self.biases, pairwise(self.sizes), strict=True):
            views += [weight[member, :n_out, :n_in], bias[member, 0, :n_out]]
        return dict(zip(self.names, views, strict=True))

    def state_dict(self, member: int) -> dict[str, torch.Tensor]:
        """Copy the weights of one member, named and ordered as in its module."""
        return {
            name: view.clone(memory_format=torch.contiguous_format) for name, view in self.state_views(member).items()
        }


def _views(flat: torch.Tensor, sizes: Sequence[int]) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    weights, biases, start = [], [], 0
    for n_in, n_out in pairwise(sizes):
        weights.append(flat[:, start : start + n_in * n_out].view(-1, n_out, n_in))
        start += n_in * n_out
        biases.append(flat[:, start : start + n_out].view(-1, 1, n_out))
        start += n_out
    return weights, biases


@dataclass(frozen=True)
class Epoch:
    """The state of a population after an epoch; `population` goes on training when the next is asked for."""

    epoch: int
    metrics: dict[str, list[float]]
    population: Population


def train(
    members: Sequence[Member],
    data: Data,
    *,
    config: dict[str, Any],
    epochs: int,
    batch_size: int,
    momentum: float,
    weight_decay: float,
) -> Iterator[Epoch]:
    """Train a population, yielding after epoch 0 (the initial networks), 1, ..., `epochs`.

    Member i starts from `build("mlp", **config)` after ``torch.manual_seed(seed)``, and sees the training set in
    epoch e in the order of ``torch.randperm`` seeded with ``10000 * seed + e``; the last, smaller batch is kept.
    Runs on one thread: small products lose by more, and the result would depend on the number.

    Args:
        members: seed and learning rate of each member.
        data: the data set.
        config: arguments of `phasezoo.nets.build` for the architecture "mlp".
        epochs: how many epochs to train.
        batch_size: samples per step.
        momentum: momentum of SGD.
        weight_decay: weight decay on all parameters.

    >>> from phasezoo.training.data import load_data
    >>> members = [Member(seed=seed, lr=lr) for seed in (0, 1) for lr in (0.0, 0.1)]
    >>> config = {"in_features": 64, "width": 16, "depth": 1, "out_features": 10}
    >>> settings = {"epochs": 1, "batch_size": 32, "momentum": 0.9, "weight_decay": 5e-4}
    >>> *_, last = train(members, load_data("digits"), config=config, **settings)
    >>> [accuracy > 0.5 for accuracy in last.metrics["test_acc"]]
    [False, True, False, True]
    """
    nets = []
    for member in members:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(member.seed)
            net = build("mlp", **config)
        assert isinstance(net, MLP)
        nets.append(net)
    population = Population(nets, momentum=momentum, weight_decay=weight_decay)
    lr = torch.tensor([[member.lr] for member in members])
    inputs = population.pad(data.train.x)
    for epoch in range(epochs + 1):
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            with torch.no_grad():
                if epoch:
                    _train_epoch(population, members, inputs, data.train.y, lr, epoch=epoch, batch_size=batch_size)
                metrics = _metrics(population, data)
        finally:
            torch.set_num_threads(threads)
        yield Epoch(epoch, metrics, population)


def _train_epoch(
    population: Population,
    members: Sequence[Member],
    x: torch.Tensor,
    y: torch.Tensor,
    lr: torch.Tensor,
    *,
    epoch: int,
    batch_size: int,
) -> None:
    orders = {
        seed: torch.randperm(len(y), generator=torch.Generator().manual_seed(10_000 * seed + epoch))
        for seed in {member.seed for member in members}
    }
    order = torch.stack([orders[member.seed] for member in members])
    for batch in torch.split(order, batch_size, dim=1):
        population.step(x[batch], y[batch], lr)


def _metrics(population: Population, data: Data) -> dict[str, list[float]]:
    train_loss, train_acc = population.evaluate(data.train)
    test_loss, test_acc = population.evaluate(data.test)
    return {
        "train_loss": train_loss.tolist(),
        "train_acc": train_acc.tolist(),
        "test_loss": test_loss.tolist(),
        "test_acc": test_acc.tolist(),
    }
