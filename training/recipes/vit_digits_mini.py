"""Small vision transformers on 8x8 digits."""

from phasezoo.manifest import Axis
from phasezoo.training.recipe import Schedule
from phasezoo.training.recipes._mini import mini

RECIPE = mini(
    "vit-digits-mini",
    title="Small vision transformers on 8x8 digits",
    description="18 models: embedding dimension (load) and batch size (temperature), two seeds a cell.",
    architecture="vit",
    architecture_config={
        "image_size": 8,
        "patch_size": 2,
        "in_channels": 1,
        "depth": 2,
        "heads": 2,
        "num_classes": 10,
    },
    dataset="digits-8x8",
    load=Axis(column="embedding_dim", label="embedding dimension", values=(4, 8, 32)),
    temperature=Axis(column="batch_size", label="batch size", unit="samples", values=(16, 64, 256), hot="low"),
    seeds=(0, 1),
    epochs=40,
    checkpoint_epochs=(0, 10, 20, 40),
    lr=0.003,
    weight_decay=0.05,
    optimizer="adamw",
    schedule=Schedule(kind="cosine", rise=0.1),
    notes=("Losses and accuracies are evaluated on the full training and test set at the end of each epoch.",),
)
