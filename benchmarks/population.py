"""Training S networks of one shape as a population against one by one, one thread.

    python benchmarks/population.py [--small]

The loop is what one writes without a population: a module, an optimiser of torch.optim, autograd. ResNets of the loop
run in both memory formats, and the faster one counts. `--small` runs every path on little, to see that it works.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import torch
from timing import interleave, report
from torch import nn
from torch.nn.functional import cross_entropy

from phasezoo.nets import build
from phasezoo.training.data import Convection, convection, digits, digits_8x8
from phasezoo.training.population import ConvPopulation, Member, PinnPopulation, train

SMALL = "--small" in sys.argv
ROUNDS = 1 if SMALL else 5
SHAPE = {"in_features": 64, "width": 16, "depth": 2, "out_features": 10}
SETTINGS = {"epochs": 1 if SMALL else 3, "batch_size": 32, "momentum": 0.9, "weight_decay": 5e-4}


def throughput(models: int, steps: int, ours: float, theirs: float) -> None:
    done = models * steps
    print(f"{'':44s} {done / ours:.0f} models x steps per second, the loop {done / theirs:.0f}")


def perceptrons() -> None:
    data = digits()
    members = [Member(seed, lr) for seed in range(2 if SMALL else 3) for lr in torch.linspace(0.01, 0.1, 8).tolist()]

    def population() -> object:
        *_, last = train(members, data, config=SHAPE, **SETTINGS)
        return last

    def plain_loop() -> None:
        """With the same evaluations."""
        for member in members:
            torch.manual_seed(member.seed)
            net = build("mlp", **SHAPE)
            optimizer = torch.optim.SGD(net.parameters(), lr=member.lr, momentum=0.9, weight_decay=5e-4)
            for epoch in range(SETTINGS["epochs"] + 1):
                if epoch:
                    seed = 10_000 * member.seed + epoch
                    order = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(seed))
                    for batch in order.split(SETTINGS["batch_size"]):
                        optimizer.zero_grad()
                        cross_entropy(net(data.train.x[batch]), data.train.y[batch]).backward()
                        optimizer.step()
                with torch.no_grad():
                    for split in (data.train, data.test):
                        logits = net(split.x)
                        cross_entropy(logits, split.y), (logits.argmax(-1) == split.y).sum()

    def one_by_one() -> None:
        """The same code with populations of one."""
        for member in members:
            *_, _last = train([member], data, config=SHAPE, **SETTINGS)

    sides = {"population": population, "plain loop": plain_loop, "populations of one": one_by_one}
    seconds = interleave(sides, rounds=ROUNDS)
    for peer, bar in (("plain loop", ">= 6x"), ("populations of one", "for comparison")):
        report(f"train {len(members)} MLPs of width 16", seconds["population"], seconds[peer], peer, bar)
    steps = SETTINGS["epochs"] * -(-len(data.train) // SETTINGS["batch_size"])
    throughput(len(members), steps, seconds["population"], seconds["plain loop"])


def step_of(net: nn.Module, x: torch.Tensor, y: torch.Tensor, *, lr: float) -> Callable[[], None]:
    optimizer = torch.optim.SGD(net.parameters(), lr=lr, momentum=0.9, weight_decay=5e-4)

    def step() -> None:
        optimizer.zero_grad()
        cross_entropy(net(x), y).backward()
        optimizer.step()

    return step


def resnets(width: int, *, pixels: int, members: int, bar: str) -> None:
    """One step of every member, each on samples of its own."""
    data = digits_8x8().train
    index = torch.stack([torch.randperm(len(data))[:32] for _ in range(members)])
    x, y = data.batch(index)
    x = x.repeat_interleave(-(-pixels // 8), -1).repeat_interleave(-(-pixels // 8), -2)[..., :pixels, :pixels]
    rates = torch.linspace(0.01, 0.1, members)

    def nets() -> list[nn.Module]:
        return [build("resnet18", width=width, num_classes=10, in_channels=1) for _ in range(members)]

    population = ConvPopulation(nets(), weight_decay=5e-4)
    sides: dict[str, Callable[[], object]] = {
        "population": lambda: population.step(x, y, rates, momentum=0.9),
    }
    for name, layout in (("loop", torch.contiguous_format), ("loop, channels-last", torch.channels_last)):
        steps = [
            step_of(net.to(memory_format=layout), x[i].contiguous(memory_format=layout), y[i], lr=rates[i].item())
            for i, net in enumerate(nets())
        ]
        sides[name] = lambda steps=steps: [step() for step in steps]
    seconds = interleave(sides, rounds=ROUNDS)
    ours, peer = seconds.pop("population"), min(seconds, key=seconds.__getitem__)
    report(f"{members} ResNets-18, width {width}, {pixels} pixels", ours, seconds[peer], peer, bar)
    throughput(members, 1, ours, seconds[peer])


def pinn_loss(net: nn.Module, points: Convection, beta: float) -> torch.Tensor:
    edges = (points.initial, points.left, points.right)
    initial, left, right = net(torch.cat(edges)).squeeze(1).split([len(edge) for edge in edges])
    inside = points.collocation.detach().requires_grad_()
    (slope,) = torch.autograd.grad(net(inside).sum(), inside, create_graph=True)
    residual = slope[:, 1] + beta * slope[:, 0]
    start = torch.sin(points.initial[:, 0])
    return (initial - start).square().mean() + (left - right).square().mean() + residual.square().mean()


def pinns(collocation: int, *, members: int, bar: str) -> None:
    """One step of every member; beside the collocation points there are 256 initial and 2 x 100 boundary points."""
    points, beta = convection(collocation=collocation), torch.linspace(1, 30, members)

    def nets() -> list[nn.Module]:
        shape = {"in_features": 2, "width": 50, "depth": 4, "out_features": 1, "activation": "tanh"}
        return [build("mlp", **shape) for _ in range(members)]

    population = PinnPopulation(nets(), points=points, beta=beta, betas=(0.9, 0.999))
    loop = [(net, torch.optim.Adam(net.parameters(), lr=1e-3), b) for net, b in zip(nets(), beta.tolist(), strict=True)]

    def plain_loop() -> None:
        for net, optimizer, b in loop:
            optimizer.zero_grad()
            pinn_loss(net, points, b).backward()
            optimizer.step()

    sides = {"population": lambda: population.step(torch.full((members,), 1e-3)), "loop": plain_loop}
    seconds = interleave(sides, rounds=ROUNDS)
    report(f"{members} PINNs, {collocation} collocation points", seconds["population"], seconds["loop"], "loop", bar)
    throughput(members, 1, seconds["population"], seconds["loop"])


def main() -> None:
    torch.set_num_threads(1)
    perceptrons()
    members = 2 if SMALL else 24
    resnets(4, pixels=8, members=members, bar=">= 4x")
    for width, pixels in ((8, 8), (4, 28))[: 0 if SMALL else 2]:
        resnets(width, pixels=pixels, members=members, bar="for comparison")
    pinns(64, members=3 if SMALL else 100, bar=">= 3x")
    pinns(100 if SMALL else 1000, members=3 if SMALL else 100, bar=">= 1.3x")


if __name__ == "__main__":
    main()
