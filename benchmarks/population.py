"""Training S perceptrons of one shape as a population against one by one, one thread each.

python benchmarks/population.py [--small]
"""

from __future__ import annotations

import sys

import torch
from timing import interleave, report
from torch.nn.functional import cross_entropy

from phasezoo.nets import build
from phasezoo.training.data import digits
from phasezoo.training.population import Member, train

SMALL = "--small" in sys.argv
SHAPE = {"in_features": 64, "width": 16, "depth": 2, "out_features": 10}
SETTINGS = {"epochs": 1 if SMALL else 3, "batch_size": 32, "momentum": 0.9, "weight_decay": 5e-4}


def main() -> None:
    torch.set_num_threads(1)
    data = digits()
    members = [Member(seed, lr) for seed in range(2 if SMALL else 3) for lr in torch.linspace(0.01, 0.1, 8).tolist()]

    def population() -> object:
        *_, last = train(members, data, config=SHAPE, **SETTINGS)
        return last

    def plain_loop() -> None:
        """What one writes without a population: nn.Module, torch.optim.SGD, autograd; same evaluations."""
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
    seconds = interleave(sides, rounds=1 if SMALL else 5)
    for peer, bar in (("plain loop", ">= 6x"), ("populations of one", "for comparison")):
        report(f"train {len(members)} MLPs of width 16", seconds["population"], seconds[peer], peer, bar)


if __name__ == "__main__":
    main()
