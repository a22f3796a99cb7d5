"""Train many small convolutional networks of one shape as one, by grouped convolutions in channels-last.

At small widths a convolution on its own uses a part of the vector registers, and a training step is mostly overhead;
S members side by side share both. A member does not depend on who else is in the population: its solo run is a
population of one, bit for bit (one thread, one machine).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from phasezoo.training.data import Split
from phasezoo.training.population.grouped import group, member_state
from phasezoo.training.population.padding import ALIGNED, padded

EVALUATED = 256  # samples at once in `evaluate`


class ConvPopulation:
    """S convolutional networks of one shape, trained by SGD with momentum on cross-entropy.

    Works on the device of the networks. For large images, where arithmetic outweighs overhead, populations of 4 to 8
    are faster than larger ones on a CPU, whose cache they fit.

    Args:
        nets: networks that `group` takes; they map ``[batch, channels, h, w]`` to ``[batch, classes]``.
        weight_decay: weight decay on all parameters.

    Attributes:
        net: the grouped form of the networks; its parameters are views of `params`, their gradients of `grads`.
        params: all parameters, one tensor of all members behind the other.
        buffer: momentum, as `params`.
        grads: gradients, as `params`.

    Raises:
        ValueError: the networks have different shapes, or a layer without a grouped form.

    >>> from phasezoo.nets import build
    >>> nets = [build("resnet18", width=2, num_classes=10, in_channels=1) for _ in range(3)]
    >>> population = ConvPopulation(nets, weight_decay=5e-4)
    >>> x, y = torch.randn(3, 8, 1, 8, 8), torch.randint(10, (3, 8))
    >>> loss, accuracy = population.step(x, y, torch.tensor([0.1, 0.01, 0.001]), momentum=0.9)
    >>> loss.shape, population.state_dict(2)["bn1.num_batches_tracked"]
    (torch.Size([3]), tensor(1))
    """

    def __init__(self, nets: Sequence[nn.Module], *, weight_decay: float) -> None:
        self.size, self.weight_decay = len(nets), weight_decay
        channels = [module.num_features for module in nets[0].modules() if isinstance(module, nn.BatchNorm2d)]
        # A convolution of one group is another kernel than one of many, and batch normalisation rounds channels that do
        # not fill a register differently. Copies of the last member, which nobody sees, fill up.
        groups = max(2, self.size)
        while any(groups * n % ALIGNED for n in channels):
            groups += 1
        self._fill = groups - self.size
        self._like = copy.deepcopy(nets[0]).to("meta")
        self.net = group([*nets, *[nets[-1]] * self._fill])
        parameters = list(self.net.parameters())
        lengths = [padded(p.numel()) for p in parameters]
        self.params = parameters[0].new_zeros(sum(lengths), requires_grad=False)
        self.grads, self.buffer = torch.zeros_like(self.params), torch.zeros_like(self.params)
        self._moves: list[tuple[torch.Tensor, torch.Tensor]] = []  # parameter and momentum of each layer, [groups, n]
        parts = (torch.split(flat, lengths) for flat in (self.params, self.grads, self.buffer))
        for parameter, weights, gradient, momentum in zip(parameters, *parts, strict=True):
            n = parameter.numel()
            weights[:n].view_as(parameter).copy_(parameter.detach())
            parameter.data = weights[:n].view_as(parameter)
            parameter.grad = gradient[:n].view_as(parameter)
            self._moves.append((weights[:n].view(groups, -1), momentum[:n].view(groups, -1)))

    def __len__(self) -> int:
        return self.size

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map images ``[S, batch, channels, h, w]`` to logits ``[S, batch, classes]``."""
        members, batch, channels, *pixels = x.shape
        groups = members + self._fill
        shape = (batch, groups * channels, *pixels)
        side = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
        by_member = side.view(batch, groups, channels, *pixels).transpose(0, 1)
        by_member[:members] = x
        by_member[members:] = x[-1:]
        logits: torch.Tensor = self.net(side)
        return logits.view(batch, groups, -1).transpose(0, 1)[:members]

    def step(
        self, x: torch.Tensor, y: torch.Tensor, lr: torch.Tensor, *, momentum: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Take one SGD step.

        Args:
            x: images ``[S, batch, channels, h, w]``.
            y: labels ``[S, batch]``.
            lr: learning rates ``[S]``.
            momentum: momentum of this step.

        Returns:
            What `differentiate` returns.
        """
        before = self.differentiate(x, y)
        with torch.no_grad():
            # As torch.optim.SGD: g <- g + wd w; v <- mu v + g; w <- w - lr v
            self.grads.add_(self.params, alpha=self.weight_decay)
            self.buffer.mul_(momentum).add_(self.grads)
            rates = torch.cat([lr, lr[-1:].expand(self._fill)]).unsqueeze(1)
            for weights, velocity in self._moves:
                weights.addcmul_(velocity, rates, value=-1.0)
        return before

    def differentiate(self, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Write the gradient of each member's mean loss into `grads`; arguments as for `step`.

        Running statistics move, as in every forward pass of training.

        Returns:
            Mean loss and accuracy of the batch ``[S]``.
        """
        self.net.train()
        self.grads.zero_()
        logits = self.forward(x)
        losses = cross_entropy(logits.flatten(0, 1), y.flatten(), reduction="none").view(y.shape).mean(1)
        torch.autograd.backward(losses.sum())
        return losses.detach(), (logits.detach().argmax(-1) == y).float().mean(1)

    @torch.no_grad()
    def evaluate(self, split: Split) -> tuple[torch.Tensor, torch.Tensor]:
        """Return mean cross-entropy ``[S]`` and accuracy ``[S]`` (float64) on a split, in eval mode."""
        self.net.eval()
        device = self.params.device
        loss, correct = torch.zeros(2, self.size, dtype=torch.float64, device=device)
        for x, y in split.batches(EVALUATED):
            logits = self.forward(x.to(device).expand(self.size, *x.shape))
            y = y.to(device).expand(self.size, -1)
            loss += cross_entropy(logits.transpose(1, 2), y, reduction="none").sum(1)
            correct += (logits.argmax(-1) == y).sum(1)
        return loss / len(split), correct / len(split)

    def state_dict(self, member: int) -> dict[str, torch.Tensor]:
        """Copy the state of one member, named and ordered as in its module."""
        return member_state(self.net, member=member, like=self._like)
