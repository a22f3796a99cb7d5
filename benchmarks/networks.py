"""The networks and the data that several benchmarks of the landscape measure."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

import torch
from torch import nn
from torch.nn.functional import cross_entropy, relu

from phasezoo.nets import build
from phasezoo.training.data import digits
from phasezoo.training.landscape.replay import Batch

SMALL = "--small" in sys.argv
SIZE = 8 if SMALL else 32  # pixels
WIDTHS = (2,) if SMALL else (8, 16)
MLP = {"in_features": 64, "width": 64, "depth": 2, "out_features": 10}
Layers = tuple[Callable[..., nn.Module], Callable[..., nn.Module], Callable[..., nn.Module]]


class Block(nn.Module):
    def __init__(self, layers: Layers, n_in: int, n_out: int, stride: int) -> None:
        super().__init__()
        conv, norm, _ = layers
        self.conv1, self.bn1 = conv(n_in, n_out, 3, stride, 1, bias=False), norm(n_out)
        self.conv2, self.bn2 = conv(n_out, n_out, 3, 1, 1, bias=False), norm(n_out)
        self.shortcut = nn.Sequential()
        if stride != 1:
            self.shortcut = nn.Sequential(conv(n_in, n_out, 1, stride, 0, bias=False), norm(n_out))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return relu(self.bn2(self.conv2(relu(self.bn1(self.conv1(x))))) + self.shortcut(x))


class ResNet18(nn.Module):
    """ResNet-18 for small images, from any kind of layers."""

    def __init__(self, width: int, layers: Layers = (nn.Conv2d, nn.BatchNorm2d, nn.Linear)) -> None:
        super().__init__()
        conv, norm, dense = layers
        self.conv1, self.bn1 = conv(3, width, 3, 1, 1, bias=False), norm(width)
        blocks, n_in = [], width
        for stage in range(4):
            for stride in (2 if stage else 1, 1):
                blocks.append(Block(layers, n_in, width * 2**stage, stride))
                n_in = width * 2**stage
        self.blocks, self.fc = nn.Sequential(*blocks), dense(n_in, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.blocks(relu(self.bn1(self.conv1(x)))).mean((2, 3)))


def images(n: int, seed: int = 0) -> Batch:
    """Ten classes of noisy patterns."""
    generator = torch.Generator().manual_seed(seed)
    patterns = torch.randn(10, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(99))
    y = torch.randint(10, (n,), generator=generator)
    return patterns[y] + 2 * torch.randn(n, 3, SIZE, SIZE, generator=generator), y


def trained(net: nn.Module, batches: Sequence[Batch], lr: float) -> nn.Module:
    optimizer = torch.optim.SGD(net.parameters(), lr=lr, momentum=0.9)
    for x, y in batches:
        optimizer.zero_grad()
        cross_entropy(net(x), y).backward()
        optimizer.step()
    optimizer.zero_grad()
    return net.eval()


def resnet(width: int, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return trained(ResNet18(width), [images(64, seed=s) for s in range(2 if SMALL else 60)], 0.02)


def mlp(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    train = digits().train
    orders = [torch.randperm(1000)[:64] for _ in range(20 if SMALL else 300)]
    return trained(build("mlp", **MLP), [(train.x[i], train.y[i]) for i in orders], 0.05)
