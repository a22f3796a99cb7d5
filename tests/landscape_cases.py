"""Networks, data and dense matrices that the landscape tests share."""

from __future__ import annotations

import torch
from torch import nn
from torch.func import functional_call, hessian
from torch.nn.functional import cross_entropy, relu

Batch = tuple[torch.Tensor, torch.Tensor]


class Block(nn.Module):
    """Two convolutions with BatchNorm around which the input is added."""

    def __init__(self, n_in: int, n_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(n_in, n_out, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(n_out)
        self.conv2 = nn.Conv2d(n_out, n_out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(n_out)
        self.shortcut = (
            nn.Sequential(nn.Conv2d(n_in, n_out, 1, stride=stride, bias=False), nn.BatchNorm2d(n_out))
            if stride != 1 or n_in != n_out
            else nn.Sequential()
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = relu(self.bn1(self.conv1(x)))
        h = self.bn2(self.conv2(h))
        h += self.shortcut(x)
        return relu(h)


class ResNet(nn.Module):
    """A residual network of the usual shape, small enough for a dense Hessian of one layer."""

    def __init__(self, *, width: int, blocks: tuple[int, ...], classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        stages, n_in = [], width
        for i, n in enumerate(blocks):
            n_out = width * 2**i
            stages.append(
                nn.Sequential(
                    *[Block(n_in if j == 0 else n_out, n_out, 2 if i and j == 0 else 1) for j in range(n)],
                )
            )
            n_in = n_out
        self.stages = nn.Sequential(*stages)
        self.fc = nn.Linear(n_in, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = relu(self.bn1(self.conv1(x)))
        h = self.stages(h)
        return self.fc(h.mean((2, 3)))


def resnet(*, width: int = 2, blocks: tuple[int, ...] = (1, 1), seed: int = 0) -> ResNet:
    """Return a ResNet in eval mode whose BatchNorm layers have seen something."""
    torch.manual_seed(seed)
    net = ResNet(width=width, blocks=blocks)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
            module.running_mean.normal_(std=0.3)
            module.running_var.uniform_(0.5, 2.0)
    return net.eval()


def mlp(activation: type[nn.Module] = nn.ReLU, *, seed: int = 0, width: int = 16, n_in: int = 8) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        *(nn.Linear(n_in, width), activation(), nn.Linear(width, width), activation(), nn.Linear(width, 4))
    )


def images(n: int, *, size: int = 8, seed: int = 1) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, 3, size, size, generator=generator), torch.randint(10, (n,), generator=generator)


def vectors(n: int, *, n_in: int = 8, classes: int = 4, seed: int = 1) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    return 2 * torch.randn(n, n_in, generator=generator), torch.randint(classes, (n,), generator=generator)


def dense_hessian(net: nn.Module, batch: Batch, *, params: list[str] | None = None, loss=cross_entropy) -> torch.Tensor:
    """The Hessian by torch.func in float64, ``[P, P]``; of a subset of the parameters if they are named."""
    every = {name: p.detach().double() for name, p in net.named_parameters()}
    chosen = {name: p for name, p in every.items() if params is None or name in params}
    buffers = {name: b.double() if b.is_floating_point() else b for name, b in net.named_buffers()}
    x, y = (t.double() if t.is_floating_point() else t for t in batch)
    shapes = [p.shape for p in chosen.values()]

    def value(flat: torch.Tensor) -> torch.Tensor:
        parts = flat.split([s.numel() for s in shapes])
        own = {name: part.view(s) for name, part, s in zip(chosen, parts, shapes, strict=True)}
        return loss(functional_call(net, {**every, **buffers, **own}, (x,)), y)

    return hessian(value)(torch.cat([p.flatten() for p in chosen.values()]))


class Quadratic(nn.Module):
    """L(w) = w'Aw / 2, whatever the data."""

    def __init__(self, A: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("A", A)
        self.w = nn.Parameter(torch.linspace(-1, 1, len(A), dtype=A.dtype))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (self.w @ self.A @ self.w / 2).expand(len(x))


def symmetric(spectrum: list[float], *, seed: int = 0) -> torch.Tensor:
    """A float64 matrix with this spectrum in a random basis."""
    generator = torch.Generator().manual_seed(seed)
    basis, _ = torch.linalg.qr(torch.randn(len(spectrum), len(spectrum), generator=generator, dtype=torch.float64))
    return basis @ torch.diag(torch.tensor(spectrum, dtype=torch.float64)) @ basis.T
