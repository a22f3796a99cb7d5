"""ResNet-18 on CIFAR-10."""

from phasezoo.training.recipes._published import CIFAR10, resnet

RECIPE = resnet("resnet18-cifar10", epochs=150, metric_epoch=115, **CIFAR10)
