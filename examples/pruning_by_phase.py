"""Pruning by phase: test accuracy when only the largest weights stay (global magnitude, no training afterwards)."""

from itertools import product

import pandas as pd
import torch

import phasezoo
from phasezoo.phases import PHASE_COLORS
from phasezoo.training.data import load_data
from phasezoo.training.landscape.replay import evaluate

DENSITIES = [1.0, 0.5, 0.3, 0.2, 0.1, 0.05]


def main() -> None:
    torch.set_num_threads(1)  # networks this small gain nothing from more
    zoo = phasezoo.load("mlp-digits")
    test = load_data(zoo.manifest.dataset).test
    rows = []
    for phase, models in zoo.groupby("phase"):
        for model, density in product(models, DENSITIES):
            net = phasezoo.prune(model, density=density).module()
            accuracy = 100 * evaluate(net, batches=[(test.x, test.y)]).accuracy
            rows.append({"phase": phase, "density": density, "accuracy": accuracy})
    table = pd.DataFrame(rows).pivot_table(index="phase", columns="density", values="accuracy")[DENSITIES]
    print("test accuracy in percent by density of the weights, mean over the models of a phase")
    print(table.round(1).to_string())
    ax = table.T.plot(marker="o", logx=True, color=PHASE_COLORS, figsize=(6, 4))
    ax.set(xlabel="density of the weights", ylabel="test accuracy, %")
    ax.set_xticks(DENSITIES, [f"{density:g}" for density in DENSITIES])
    ax.minorticks_off()
    ax.legend(title="phase", loc="center left", bbox_to_anchor=(1, 0.5))
    ax.figure.savefig("pruning_by_phase.png", dpi=150, bbox_inches="tight")


if __name__ == "__main__":
    main()
