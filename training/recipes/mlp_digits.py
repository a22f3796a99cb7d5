"""The zoo that comes with the package: small enough to ship, real enough to show phases."""

from phasezoo.manifest import Axis
from phasezoo.training.recipe import Recipe

RECIPE = Recipe(
    name="mlp-digits",
    title="Multi-layer perceptrons on 8x8 digits",
    description=(
        "264 perceptrons with two hidden layers, trained on scikit-learn's digits over a grid of width (load) and "
        "learning rate (temperature), three seeds a cell, with weights at four epochs and results at every epoch."
    ),
    architecture="mlp",
    architecture_config={"in_features": 64, "depth": 2, "out_features": 10, "activation": "relu"},
    dataset="digits",
    load=Axis(column="width", label="width", values=(2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)),
    temperature=Axis(
        column="lr",
        label="learning rate",
        values=(0.005, 0.01, 0.02, 0.03, 0.045, 0.06, 0.08, 0.1),
        hot="high",
    ),
    seeds=(100, 101, 102),
    epochs=150,
    checkpoint_epochs=(0, 10, 50, 150),
    batch_size=32,
    momentum=0.9,
    weight_decay=5e-4,
    source="phasezoo recipe mlp-digits, chosen on seeds 0-3 and frozen before these seeds were trained",
    notes=(
        "The initial network (epoch 0) depends on width and seed only; it is stored once and shared by the eight "
        "learning rates.",
        "Digits is an easy task: wide networks differ little in test accuracy, so that the boundary between phases "
        "IV-A and IV-B is a matter of degree.",
        "At learning rates from 0.08 and widths up to 8, 28 to 54 % of the hidden units never fire on the training "
        "set (0 to 11 % at widths from 12): phase II is partly unit death. At width 2 it is 42 to 50 % at every "
        "learning rate.",
        "In pilot zoos with other seeds the boundary between phases I and II at widths 2 and 3 did not reproduce.",
        "Phase III depends on the budget for training curves between networks: in a pilot zoo, 200 epochs instead of "
        "60 connected most of its cells.",
        "Losses and accuracies are evaluated on the full training and test set at the end of each epoch.",
    ),
    license="MIT",
    citation=(
        "@software{phasezoo,\n"
        "  title = {phasezoo: zoos of trained neural networks on phase transitions},\n"
        "  author = {{The phasezoo developers}},\n"
        "  version = {0.1.0},\n"
        "  year = {2026}\n"
        "}"
    ),
)
