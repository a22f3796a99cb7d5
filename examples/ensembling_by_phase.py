"""Ensembling by phase: what the three seeds of a cell gain by answering together, and how often two of them differ."""

import pandas as pd
import torch

import phasezoo
from phasezoo.training.data import load_data
from phasezoo.training.landscape.replay import evaluate


def main() -> None:
    torch.set_num_threads(1)  # networks this small gain nothing from more
    zoo = phasezoo.load("mlp-digits")
    test = load_data(zoo.manifest.dataset).test
    batches = [(test.x, test.y)]
    rows = []
    for (phase, _), seeds in zoo.groupby("phase", "cell_id"):
        together = phasezoo.ensemble(seeds)
        alone = [evaluate(net, batches=batches).accuracy for net in together.members]
        row = {"phase": phase, "one seed": sum(alone) / len(alone)}
        row["probabilities"] = evaluate(together, batches=batches).accuracy
        row["logits"] = evaluate(phasezoo.ensemble(seeds, averaged="logits"), batches=batches).accuracy
        row["gain"] = row["probabilities"] - row["one seed"]
        with torch.no_grad():
            first, second = (net(test.x).argmax(-1) for net in together.members[:2])
        row["two differ"] = (first != second).double().mean().item()
        rows.append(row)
    print("test accuracy in percent of one seed and of three together, by what is averaged; answers that differ")
    print((100 * pd.DataFrame(rows).groupby("phase").mean()).round(1).to_string())


if __name__ == "__main__":
    main()
