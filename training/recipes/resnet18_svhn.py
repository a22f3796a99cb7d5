"""ResNet-18 on SVHN."""

from phasezoo.training.recipes._published import SVHN, resnet

RECIPE = resnet("resnet18-svhn", epochs=150, metric_epoch=135, **SVHN)
