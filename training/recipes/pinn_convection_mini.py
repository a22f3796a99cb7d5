"""Physics-informed perceptrons on 1D convection: a small grid, and short runs."""

from phasezoo.manifest import Axis
from phasezoo.training.recipes._mini import mini

RECIPE = mini(
    "pinn-convection-mini",
    title="Physics-informed perceptrons on 1D convection",
    description="24 models: convection coefficient (load) and learning rate (temperature), two seeds a cell.",
    architecture="mlp",
    architecture_config={"in_features": 2, "width": 50, "depth": 4, "out_features": 1, "activation": "tanh"},
    dataset="convection",
    task="pde",
    load=Axis(column="beta", label="convection coefficient", values=(1, 10, 20, 40)),
    temperature=Axis(column="lr", label="learning rate", values=(3e-4, 1e-3, 3e-3), hot="high"),
    seeds=(0, 1),
    epochs=20,
    checkpoint_epochs=(0, 5, 10, 20),
    batch_size=0,
    passes=100,
    optimizer="adam",
    notes=("Adam, for 2,000 steps on the same collocation points for every seed.",),
)
