"""Physics-informed perceptrons on 1D convection. Published: the number of models and the axes."""

from phasezoo.registry import ZOOS
from phasezoo.training.recipe import Assumption
from phasezoo.training.recipes._published import published

ENTRY = ZOOS["pinn-convection"]
BETAS = (5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 15.0, 20.0, 25.0, 30.0, 50.0, 70.0, 100.0, 150.0)

RECIPE = published(
    "pinn-convection",
    epochs=200,
    checkpoint_epochs=(0, *range(1, 10), *range(10, 201, 10)),
    load=ENTRY.load.axis().model_copy(update={"values": BETAS}),
    temperature=ENTRY.temperature.axis().model_copy(
        update={"values": tuple(float(f"{10 ** (-5 + 4 * i / 9):.3g}") for i in range(10))}
    ),
    architecture_config={"in_features": 2, "width": 50, "depth": 4, "out_features": 1, "activation": "tanh"},
    seeds=(0, 1, 2, 3, 4),
    batch_size=0,
    passes=100,
    optimizer="adam",
    assumptions=(
        Assumption(
            field="load",
            value="fourteen coefficients from 5 to 150",
            reason="700 = 14 x 10 learning rates x 5 seeds; a study that shares authors sweeps exactly these fourteen",
        ),
        Assumption(
            field="temperature",
            value="ten learning rates from 1e-5 to 1e-1, evenly on a logarithmic scale",
            reason="the range in which Adam goes from no progress to divergence on this problem",
        ),
        Assumption(field="seeds", value="0 to 4", reason="see load"),
        Assumption(field="depth", value="4", reason="2-50-50-50-50-1 with tanh, of the study that defined the problem"),
        Assumption(field="width", value="50", reason="see depth"),
        Assumption(
            field="optimizer",
            value="adam",
            reason="with L-BFGS and a line search the learning rate only sets a first trial step: no temperature",
        ),
        Assumption(
            field="epochs", value="200 of 100 steps each", reason="losses at moderate beta stop falling by then"
        ),
        Assumption(
            field="batch_size", value="all collocation points", reason="as in the study that defined the problem"
        ),
    ),
)
