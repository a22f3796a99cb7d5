"""Small ResNets on a part of Fashion-MNIST."""

from phasezoo.manifest import Axis
from phasezoo.training.recipe import Schedule
from phasezoo.training.recipes._mini import mini

RECIPE = mini(
    "resnet18-fashion-mini",
    title="Narrow ResNet-18 on Fashion-MNIST",
    description="24 models: width (load) and batch size (temperature), two seeds a cell.",
    architecture="resnet18",
    architecture_config={"num_classes": 10, "in_channels": 1},
    dataset="fashion-mnist",
    samples=(3000, 1000),
    load=Axis(column="width", label="width", values=(1, 2, 4, 8)),
    temperature=Axis(column="batch_size", label="batch size", unit="samples", values=(16, 64, 256), hot="low"),
    seeds=(0, 1),
    epochs=5,
    checkpoint_epochs=(0, 1, 3, 5),
    lr=0.1,
    momentum=0.9,
    weight_decay=5e-4,
    schedule=Schedule(kind="onecycle", rise=0.3, end=4e-6, cycle_momentum=(0.85, 0.95)),
    notes=("Trained on the first 3,000 images and tested on the first 1,000, so that it takes minutes.",),
)
