"""The main job, offline: tables, a filter, a checkpoint in memory whose accuracy equals the recorded one, a picture.

python examples/demo.py
"""

import torch

import phasezoo
from phasezoo.training.data import load_data


def main() -> None:
    zoo = phasezoo.load("mlp-digits")
    print(zoo)
    print(f"  {zoo.manifest.title}; tables: {', '.join(zoo.manifest.tables)}\n")

    good = zoo.filter("width <= 8 and test_acc > 0.94").sort("test_acc", descending=True)
    print(f"{good}\nthe best five:")
    columns = ["model_id", "width", "lr", "seed", "train_loss", "test_acc"]
    print(good[:5].summary.select_columns(columns).to_pandas().to_string(index=False), "\n")

    checkpoint = good[0].checkpoint("last")
    net = checkpoint.module()
    test = load_data(zoo.manifest.dataset).test
    with torch.no_grad():
        accuracy = (net(test.x).argmax(-1) == test.y).double().mean().item()
    recorded = checkpoint.metrics["test_acc"]
    print(f"{checkpoint}\n  as a module: {net}")
    print(f"  test accuracy recomputed {accuracy:.9f}, recorded {recorded:.9f}, difference {accuracy - recorded:.1g}")
    if abs(accuracy - recorded) > 1e-6:
        raise SystemExit("the recomputed accuracy differs from the recorded one")

    zoo.heatmap("test_acc").figure.savefig("demo.png", dpi=150)
    print("\nwrote demo.png: test accuracy over width x learning rate")


if __name__ == "__main__":
    main()
