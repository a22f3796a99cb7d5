"""Vision transformers on CIFAR-100."""

from phasezoo.training.recipe import Assumption
from phasezoo.training.recipes._published import CIFAR100, vit

RECIPE = vit(
    "vit-cifar100",
    weight_decay=0.05,
    label_smoothing=0.1,
    assumptions=(
        Assumption(
            field="label_smoothing",
            value="0.1",
            reason="published training losses end at 1.2 to 3.6 nats with training accuracies up to 0.88: the loss has "
            "a floor, and smoothing by 0.1 over 100 classes puts it at 0.78 nats",
        ),
    ),
    **CIFAR100,
)
