"""Vision transformers on CIFAR-10."""

from phasezoo.training.recipes._published import CIFAR10, vit

RECIPE = vit("vit-cifar10", weight_decay=5e-4, **CIFAR10)
