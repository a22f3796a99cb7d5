"""Phases of a zoo in ten lines: a map, the numbers behind a label, and models of one phase.

python examples/phase_diagram.py [ZOO]
"""

import sys

import phasezoo
from phasezoo.plot import trajectory


def main() -> None:
    zoo = phasezoo.load(sys.argv[1] if len(sys.argv) > 1 else "mlp-digits")
    zoo.figure().savefig("figure.png", dpi=110)
    trajectory(zoo).savefig("trajectory.png", dpi=110)
    table = zoo.phases().to_pandas()
    print(table.groupby("phase")[["train_loss", "test_acc"]].agg(["count", "mean"]).round(3).to_string())
    least_sure = table.sort_values("phase_confidence").iloc[0]
    print(f"\nleast sure: {least_sure.cell_id}, phase {least_sure.phase} at {least_sure.phase_confidence:.2f}, because")
    print("\n".join(f"- {reason}" for reason in least_sure.phase_reasons))
    print("\nwrote figure.png and trajectory.png")


if __name__ == "__main__":
    main()
