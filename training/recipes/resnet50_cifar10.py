"""ResNet-50 on CIFAR-10."""

from phasezoo.training.recipes._published import CIFAR10, RESNET50_MICRO_BATCHES, resnet

RECIPE = resnet("resnet50-cifar10", epochs=150, metric_epoch=125, **CIFAR10, micro_batch=RESNET50_MICRO_BATCHES)
