"""ResNet-50 on CIFAR-100."""

from phasezoo.training.recipes._published import CIFAR100, RESNET50_MICRO_BATCHES, resnet

RECIPE = resnet("resnet50-cifar100", epochs=150, metric_epoch=125, **CIFAR100, micro_batch=RESNET50_MICRO_BATCHES)
