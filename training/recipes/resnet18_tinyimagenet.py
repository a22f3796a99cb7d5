"""ResNet-18 on TinyImageNet."""

from phasezoo.training.recipes._published import TINYIMAGENET, resnet

RECIPE = resnet("resnet18-tinyimagenet", epochs=100, metric_epoch=90, **TINYIMAGENET)
