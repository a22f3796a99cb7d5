"""What the recipes of the published zoos have in common: the facts that the registry has, and what a family shares."""

from __future__ import annotations

from typing import Any

from phasezoo.registry import ZOOS
from phasezoo.training.data.image_sets import IMAGE_SETS
from phasezoo.training.recipe import Assumption, Augmentation, MicroBatch, Recipe, Resources, Schedule

GPU = Resources(cpus=12, gpus=1)  # as published


def _augmented(name: str, *, flip: bool) -> dict[str, Any]:
    """Return how the images of a data set are augmented and then normalised."""
    found = IMAGE_SETS[name]
    return {
        "augmentation": Augmentation(crop=4, flip=flip, rotation=20),
        "normalize": (found.mean, found.std),
    }


CIFAR10 = _augmented("cifar10", flip=True)
CIFAR100 = _augmented("cifar100", flip=True)
SVHN = _augmented("svhn", flip=False)  # digits have a left and a right
TINYIMAGENET = _augmented("tinyimagenet", flip=True)
# Two, four and eight micro-batches for the largest networks, by memory.
RESNET50_MICRO_BATCHES = tuple(
    MicroBatch(load=load, batch_size=batch_size, samples=samples)
    for load, batch_size, samples in ((64, 1024, 512), (128, 512, 256), (256, 256, 128))
)
ONE_CYCLE = Schedule(kind="onecycle", rise=0.3, end=1 / 25 / 1e4)


def published(name: str, *, epochs: int, **settings: Any) -> Recipe:
    """Return the recipe of a zoo in the registry; `settings` are the fields that the registry does not have."""
    entry = ZOOS[name]
    load, temperature = settings.pop("load", entry.load.axis()), settings.pop("temperature", entry.temperature.axis())
    return Recipe(
        name=name,
        title=entry.title,
        description=f"{entry.models} models over a grid of {load.label} (load) and {temperature.label} (temperature).",
        architecture=entry.architecture,
        dataset=entry.dataset.name,
        task=entry.task,
        load=load,
        temperature=temperature,
        epochs=epochs,
        checkpoint_epochs=settings.pop("checkpoint_epochs", tuple(range(epochs + 1))),
        resources=GPU,
        source=f"phasezoo recipe {name}, after the published zoo",
        notes=settings.pop("notes", ()),
        license="MIT",
        citation=entry.citation,
        **settings,
    )


def resnet(name: str, *, epochs: int, metric_epoch: int, **settings: Any) -> Recipe:
    """Return the recipe of a ResNet zoo: SGD, one cycle of the learning rate to zero, augmented images."""
    return published(
        name,
        epochs=epochs,
        metric_epochs=(metric_epoch,),
        architecture_config={"num_classes": ZOOS[name].dataset.classes},
        seeds=(0, 1, 2),
        lr=0.1,
        momentum=0.9,
        weight_decay=5e-4,
        schedule=ONE_CYCLE.model_copy(update={"cycle_momentum": (0.85, 0.95)}),
        metrics="running",
        notes=(
            "The learning rate follows one cycle; with it the momentum cycles 0.95 - 0.85 - 0.95, whatever `momentum` "
            "says.",
            "From epoch 1 on, train_loss and train_acc are running averages over the epoch, on augmented data.",
        ),
        **settings,
    )


def vit(name: str, *, weight_decay: float, assumptions: tuple[Assumption, ...] = (), **settings: Any) -> Recipe:
    """Return the recipe of a ViT zoo, of which grid, learning rate, weight decay and epochs are published."""
    return published(
        name,
        epochs=300,
        architecture_config={
            "image_size": 32,
            "patch_size": 4,
            "depth": 12,
            "heads": 3,
            "num_classes": ZOOS[name].dataset.classes,
        },
        seeds=(0, 1, 2),
        lr=0.006,
        weight_decay=weight_decay,
        optimizer="adamw",
        schedule=ONE_CYCLE,
        metrics="running",
        assumptions=(
            Assumption(
                field="depth", value="12", reason="ViT-Ti has 12 blocks, and the widest model its dimension, 192"
            ),
            Assumption(field="heads", value="3", reason="as ViT-Ti; divides every embedding dimension of the grid"),
            Assumption(field="patch_size", value="4", reason="64 tokens an image, usual for images of 32 x 32 pixels"),
            Assumption(
                field="optimizer",
                value="adamw",
                reason="a weight decay of 0.05 and a learning rate of 0.006 are usual for it, and unusual for SGD",
            ),
            Assumption(field="schedule", value="one cycle", reason="the trainer of the ResNet zoos had it fixed"),
            Assumption(field="augmentation", value="as the ResNets", reason="the data sets were prepared once for all"),
            Assumption(field="metrics", value="running", reason="the trainer of the ResNet zoos reports averages"),
            *assumptions,
        ),
        **settings,
    )
