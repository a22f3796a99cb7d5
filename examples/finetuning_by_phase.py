"""Fine-tuning by phase: from digits to digits turned by 90 degrees, ten images a class, against untrained starts."""

import pandas as pd
import torch
from torch.nn.functional import cross_entropy

import phasezoo
from phasezoo.training.data import load_data
from phasezoo.training.landscape.replay import evaluate


def finetuned(start: phasezoo.Checkpoint, x: torch.Tensor, y: torch.Tensor) -> torch.nn.Module:
    net = start.module(train=True)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)
    for _ in range(100):
        optimizer.zero_grad()
        cross_entropy(net(x), y).backward()
        optimizer.step()
    return net.eval()


def main() -> None:
    torch.set_num_threads(1)  # networks this small gain nothing from more
    data = load_data("digits")
    train, test = (split.x.view(-1, 8, 8).rot90(1, (1, 2)).flatten(1) for split in (data.train, data.test))
    shots = torch.cat([torch.nonzero(data.train.y == digit)[:10, 0] for digit in range(10)])
    rows = []
    for phase, models in phasezoo.load("mlp-digits").groupby("phase"):
        for model in models.sample(12, seed=0):
            nets = [finetuned(model.checkpoint(e), train[shots], data.train.y[shots]) for e in (0, 10, 150)]
            found = [100 * evaluate(net, batches=[(test, data.test.y)]).accuracy for net in nets]
            rows.append({"phase": phase, **dict(zip(("epoch 0", "epoch 10", "epoch 150"), found, strict=True))})
    print("test accuracy in percent on turned digits after 100 steps from the weights of an epoch")
    print(pd.DataFrame(rows).groupby("phase").mean().round(1).to_string())


if __name__ == "__main__":
    main()
