"""ResNet-18 on CIFAR-100."""

from phasezoo.training.recipes._published import CIFAR100, resnet

RECIPE = resnet("resnet18-cifar100", epochs=150, metric_epoch=115, **CIFAR100)
