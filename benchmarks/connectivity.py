"""A step of training a Bezier curve between two networks against a curve network written by hand, one thread.

    python benchmarks/connectivity.py [--small]

`--small` runs every path on little data, to see that it works.
"""

from __future__ import annotations

import warnings
from functools import partial

import torch
from networks import SMALL, ResNet18, images
from timing import interleave, report
from torch import nn
from torch.nn.functional import batch_norm, conv2d, cross_entropy, linear

from phasezoo.training.landscape.connectivity import fit_bezier


class CurveLayer(nn.Module):
    """A layer of a hand-written curve network: three copies of each parameter, mixed at every call."""

    t = 0.5

    def mixed(self, name: str) -> torch.Tensor:
        t = CurveLayer.t
        first, bend, last = (getattr(self, f"{name}{k}") for k in range(3))
        return first * (1 - t) ** 2 + bend * (2 * t * (1 - t)) + last * t**2

    def triple(self, name: str, like: torch.Tensor) -> None:
        for k in range(3):
            self.register_parameter(f"{name}{k}", nn.Parameter(like.detach().clone(), requires_grad=k == 1))


class CurveConv(CurveLayer):
    def __init__(self, n_in: int, n_out: int, kernel: int, stride: int, padding: int, bias: bool) -> None:
        super().__init__()
        self.stride, self.padding = stride, padding
        self.triple("weight", nn.Conv2d(n_in, n_out, kernel, bias=bias).weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return conv2d(x, self.mixed("weight"), None, self.stride, self.padding)


class CurveNorm(CurveLayer):
    def __init__(self, n: int) -> None:
        super().__init__()
        self.triple("weight", torch.ones(n))
        self.triple("bias", torch.zeros(n))
        self.register_buffer("mean", torch.zeros(n))
        self.register_buffer("var", torch.ones(n))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return batch_norm(x, self.mean, self.var, self.mixed("weight"), self.mixed("bias"), self.training)


class CurveLinear(CurveLayer):
    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.triple("weight", nn.Linear(n_in, n_out).weight)
        self.triple("bias", torch.zeros(n_out))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return linear(x, self.mixed("weight"), self.mixed("bias"))


def curves(rounds: int) -> None:
    """A step of curve training against a curve network written out by hand for the architecture."""
    for batch in (16, 128):
        steps, width = (1, 2) if SMALL else (4, 8)
        x, y = images(batch * steps)
        net = ResNet18(width)
        ends = (net.state_dict(), ResNet18(width).state_dict())
        hand = ResNet18(width, (CurveConv, CurveNorm, CurveLinear)).train()
        bends = [p for p in hand.parameters() if p.requires_grad]
        optimizer = torch.optim.SGD(bends, lr=0.01, momentum=0.9)

        def ours(net: nn.Module = net, ends: tuple = ends, x=x, y=y, batch: int = batch) -> None:
            fit_bezier(net, ends=ends, data=(x, y), epochs=1, batch_size=batch, lr=[0.01])

        def peer(hand: nn.Module = hand, optimizer=optimizer, x=x, y=y, batch: int = batch) -> None:
            layers = [module for module in hand.modules() if isinstance(module, CurveLayer)]
            for part in torch.randperm(len(y)).split(batch):
                CurveLayer.t = torch.rand(()).item()
                optimizer.zero_grad()
                size = sum(
                    layer.mixed(name[:-1]).square().sum()
                    for layer in layers
                    for name, _ in layer.named_parameters()
                    if name.endswith("1")
                )
                (cross_entropy(hand(x[part]), y[part]) + 2.5e-4 * size).backward()
                optimizer.step()

        # Images channels-last are what phasezoo does for the user; by hand they are one line, if one knows it.
        sides = {"ours": ours, "peer": peer, "last": partial(peer, x=x.contiguous(memory_format=torch.channels_last))}
        seconds = interleave(sides, rounds=rounds)
        what, bar = f"Bezier step, ResNet-18, batch {batch}", ">= 1.0x" if batch == 128 else "for comparison"
        report(what, seconds["ours"], seconds["peer"], "hand-written curve net", bar)
        report(what, seconds["ours"], seconds["last"], "the same, channels-last", "for comparison")


def main() -> None:
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    curves(1 if SMALL else 3)


if __name__ == "__main__":
    main()
