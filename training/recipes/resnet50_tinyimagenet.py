"""ResNet-50 on TinyImageNet; the widest networks take 8 micro-batches at every batch size that needs them."""

from phasezoo.training.recipe import MicroBatch
from phasezoo.training.recipes._published import RESNET50_MICRO_BATCHES, TINYIMAGENET, resnet

RECIPE = resnet(
    "resnet50-tinyimagenet",
    epochs=100,
    metric_epoch=100,
    micro_batch=(
        *RESNET50_MICRO_BATCHES,
        MicroBatch(load=256, batch_size=256, samples=32),
        MicroBatch(load=256, batch_size=512, samples=64),
        MicroBatch(load=256, batch_size=1024, samples=128),
    ),
    **TINYIMAGENET,
)
