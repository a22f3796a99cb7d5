"""Residual networks of any width for small images: 3x3 stem, no max-pooling.

References:
    He et al., *Deep residual learning for image recognition*, CVPR 2016; the bottleneck has its stride on the 3x3
    convolution (version 1.5). Names, order and shapes of the state dict are those of torchvision's ResNets.
"""

from __future__ import annotations

import torch
from torch import nn

from phasezoo.nets.layer import layer

Device = str | torch.device | None

# depth -> (blocks of each stage, are they bottlenecks)
STAGES: dict[int, tuple[tuple[int, int, int, int], bool]] = {
    18: ((2, 2, 2, 2), False),
    34: ((3, 4, 6, 3), False),
    50: ((3, 4, 6, 3), True),
    101: ((3, 4, 23, 3), True),
    152: ((3, 8, 36, 3), True),
}


def _conv(n_in: int, n_out: int, size: int, *, stride: int = 1, device: Device) -> nn.Conv2d:
    return layer(nn.Conv2d, n_in, n_out, size, stride=stride, padding=size // 2, bias=False, device=device)


def _norm(planes: int, *, device: Device) -> nn.BatchNorm2d:
    return layer(nn.BatchNorm2d, planes, device=device)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions, ``planes`` wide."""

    expansion = 1

    def __init__(self, n_in: int, planes: int, stride: int, downsample: nn.Module | None, device: Device) -> None:
        super().__init__()
        self.conv1 = _conv(n_in, planes, 3, stride=stride, device=device)
        self.bn1 = _norm(planes, device=device)
        self.conv2 = _conv(planes, planes, 3, device=device)
        self.bn2 = _norm(planes, device=device)
        self.downsample = downsample

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map ``[batch, n_in, h, w]`` to ``[batch, planes, h / stride, w / stride]``."""
        h = torch.relu(self.bn1(self.conv1(x)))
        h = self.bn2(self.conv2(h))
        return torch.relu(h + (x if self.downsample is None else self.downsample(x)))


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions; ``planes`` wide inside, four times that outside."""

    expansion = 4

    def __init__(self, n_in: int, planes: int, stride: int, downsample: nn.Module | None, device: Device) -> None:
        super().__init__()
        self.conv1 = _conv(n_in, planes, 1, device=device)
        self.bn1 = _norm(planes, device=device)
        self.conv2 = _conv(planes, planes, 3, stride=stride, device=device)
        self.bn2 = _norm(planes, device=device)
        self.conv3 = _conv(planes, 4 * planes, 1, device=device)
        self.bn3 = _norm(4 * planes, device=device)
        self.downsample = downsample

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map ``[batch, n_in, h, w]`` to ``[batch, 4 planes, h / stride, w / stride]``."""
        h = torch.relu(self.bn1(self.conv1(x)))
        h = torch.relu(self.bn2(self.conv2(h)))
        h = self.bn3(self.conv3(h))
        return torch.relu(h + (x if self.downsample is None else self.downsample(x)))


class ResNet(nn.Module):
    """A residual network whose four stages are 1, 2, 4 and 8 times ``width`` planes wide.

    Initial weights of convolutions and the head are uniform in +-sqrt(6 / fan_in), the head's bias is 0.01. They are
    drawn from the global generator after the draws that the published zoos spend before them, so that a seed gives
    the published initial network.

    Args:
        depth: 18, 34, 50, 101 or 152.
        width: planes of the stem and of the first stage.
        num_classes: size of the output.
        in_channels: channels of the image.
        device: where to build it; on the meta device nothing is drawn.

    >>> net = ResNet(depth=18, width=4, num_classes=10)
    >>> net
    ResNet(18, width 4, 3 -> 10)
    >>> net.eval()(torch.zeros(2, 3, 32, 32)).shape
    torch.Size([2, 10])
    >>> sum(p.numel() for p in ResNet(depth=50, width=64, num_classes=1000, device="meta").parameters())
    25549352
    """

    def __init__(
        self, *, depth: int, width: int, num_classes: int, in_channels: int = 3, device: Device = None
    ) -> None:
        super().__init__()
        if depth not in STAGES:
            raise TypeError(f"depth {depth} is not one of {', '.join(map(str, STAGES))}")
        if min(width, num_classes, in_channels) < 1:
            raise TypeError(f"width {width}, num_classes {num_classes} and in_channels {in_channels} must be positive")
        self.depth, self.width, self.num_classes, self.in_channels = depth, width, num_classes, in_channels
        blocks, bottleneck = STAGES[depth]
        block = Bottleneck if bottleneck else BasicBlock
        # A 7x7 stem on three channels at first: the published networks drew its weights before they replaced it.
        self.conv1 = _conv(3, width, 7, stride=2, device=device)
        self.bn1 = _norm(width, device=device)
        n_in = width
        for i, count in enumerate(blocks):
            planes, stride = width * 2**i, 1 if i == 0 else 2
            self.add_module(f"layer{i + 1}", _stage(block, n_in, planes, count, stride=stride, device=device))
            n_in = planes * block.expansion
        self.fc = layer(nn.Linear, n_in, num_classes, device=device)
        drawn = str(device) != "meta"
        if drawn:
            for module in self.modules():
                if isinstance(module, nn.Conv2d):
                    nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        self.conv1 = _conv(in_channels, width, 3, device=device)  # keeps its place in the state dict
        if drawn:
            self._initialise()

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                nn.init.kaiming_uniform_(module.weight)
        nn.init.constant_(self.fc.bias, 0.01)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map images ``[batch, in_channels, h, w]`` to logits ``[batch, num_classes]``."""
        h = torch.relu(self.bn1(self.conv1(x)))  # [batch, width, h, w]
        for i in range(4):
            h = self.get_submodule(f"layer{i + 1}")(h)  # half the height and width from the second stage on
        out: torch.Tensor = self.fc(h.mean((2, 3)))
        return out

    def __repr__(self) -> str:
        return f"ResNet({self.depth}, width {self.width}, {self.in_channels} -> {self.num_classes})"


def _stage(
    block: type[BasicBlock | Bottleneck], n_in: int, planes: int, count: int, *, stride: int, device: Device
) -> nn.Sequential:
    n_out = planes * block.expansion
    downsample = None
    if stride != 1 or n_in != n_out:
        downsample = nn.Sequential(_conv(n_in, n_out, 1, stride=stride, device=device), _norm(n_out, device=device))
    first = block(n_in, planes, stride, downsample, device)
    return nn.Sequential(first, *(block(n_out, planes, 1, None, device) for _ in range(count - 1)))
