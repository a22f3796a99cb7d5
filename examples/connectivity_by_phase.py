"""Linear connectivity by phase: how far the error rises between two seeds of a cell, as they are and aligned."""

import matplotlib.pyplot as plt
import pandas as pd
import torch

import phasezoo
from phasezoo.phases import PHASE_COLORS
from phasezoo.training.data import load_data
from phasezoo.training.landscape.connectivity import barrier
from phasezoo.training.landscape.replay import evaluate

T = [i / 10 for i in range(11)]


def main() -> None:
    torch.set_num_threads(1)  # networks this small gain nothing from more
    zoo = phasezoo.load("mlp-digits")
    test = load_data(zoo.manifest.dataset).test
    rows, lines = [], []
    for (phase, _), seeds in zoo.groupby("phase", "cell_id"):
        a, b = (model.checkpoint() for model in seeds[:2])
        for how, end in (("as they are", b), ("aligned", b.align_to(a))):
            nets = [phasezoo.interpolate(a, end, t).module() for t in T]
            errors = [evaluate(net, batches=[(test.x, test.y)]).error for net in nets]
            rows.append({"phase": phase, "how": how, "barrier": barrier(errors, t=T)})
            lines += [{"phase": phase, "how": how, "t": t, "error": error} for t, error in zip(T, errors, strict=True)]
    print("how far the test error, in percentage points, rises above the chord between two seeds")
    print(pd.DataFrame(rows).pivot_table(index="phase", columns="how", values="barrier").round(1).to_string())
    table = pd.DataFrame(lines).pivot_table(index="t", columns=["how", "phase"], values="error")
    _, axes = plt.subplots(1, 2, sharey=True, figsize=(9, 3.6))
    for ax, how in zip(axes, ("as they are", "aligned"), strict=True):
        title = f"seeds {how}"
        table[how].plot(ax=ax, title=title, xlabel="t", ylabel="test error, %", color=PHASE_COLORS, legend=False)
    axes[1].legend(title="phase", loc="center left", bbox_to_anchor=(1, 0.5))
    plt.savefig("connectivity_by_phase.png", dpi=150, bbox_inches="tight")


if __name__ == "__main__":
    main()
