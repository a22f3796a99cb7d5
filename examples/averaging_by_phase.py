"""Weight averaging by phase: the average of three seeds, as they are and aligned, and of two epochs of one seed."""

import pandas as pd
import torch

import phasezoo
from phasezoo.training.data import load_data
from phasezoo.training.landscape.replay import evaluate


def main() -> None:
    torch.set_num_threads(1)  # networks this small gain nothing from more
    zoo = phasezoo.load("mlp-digits")
    test = load_data(zoo.manifest.dataset).test

    def accuracy(state: phasezoo.Checkpoint | phasezoo.Variant) -> float:
        return 100 * evaluate(state.module(), batches=[(test.x, test.y)]).accuracy

    rows = []
    for (phase, _), seeds in zoo.groupby("phase", "cell_id"):
        alone = [accuracy(model.checkpoint()) for model in seeds]
        epochs = [accuracy(phasezoo.average([m.checkpoint(50), m.checkpoint(150)])) for m in seeds]
        row = {"phase": phase, "one seed": sum(alone) / len(alone), "epochs 50, 150": sum(epochs) / len(epochs)}
        row["seeds as they are"] = accuracy(phasezoo.average(seeds))
        row["seeds aligned"] = accuracy(phasezoo.average(seeds, align=True))
        rows.append(row)
    print("test accuracy in percent, mean over the cells of a phase")
    print(pd.DataFrame(rows).groupby("phase").mean().round(1).to_string())


if __name__ == "__main__":
    main()
