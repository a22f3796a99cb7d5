"""ResNet-50 on SVHN."""

from phasezoo.training.recipe import Assumption
from phasezoo.training.recipes._published import RESNET50_MICRO_BATCHES, SVHN, resnet

RECIPE = resnet(
    "resnet50-svhn",
    epochs=150,
    metric_epoch=135,
    micro_batch=RESNET50_MICRO_BATCHES,
    assumptions=(
        Assumption(
            field="metric_epochs",
            value="135",
            reason="this zoo's landscape scripts are copies of those of ResNet-18 on SVHN, which has 135",
        ),
    ),
    **SVHN,
)
