"""Small language models on the text of Python's own help."""

from phasezoo.manifest import Axis
from phasezoo.training.recipe import Schedule
from phasezoo.training.recipes._mini import mini

RECIPE = mini(
    "gpt2-text-mini",
    title="Small language models on the topics of Python's help",
    description="18 models: model dimension (load) and batch size (temperature), two seeds a cell.",
    architecture="gpt2",
    architecture_config={"vocab_size": 128, "context": 64, "depth": 2, "heads": 2},
    dataset="pydoc-topics",
    task="language-modelling",
    load=Axis(column="model_dim", label="model dimension", values=(8, 16, 32)),
    temperature=Axis(column="batch_size", label="batch size", unit="samples", values=(8, 32, 128), hot="low"),
    seeds=(0, 1),
    epochs=4,
    checkpoint_epochs=(0, 1, 2, 4),
    lr=0.003,
    weight_decay=0.1,
    optimizer="adamw",
    betas=(0.9, 0.95),
    clip=1.0,
    schedule=Schedule(kind="cosine", rise=0.05, end=0.1),
    notes=("The text differs between versions of Python.",),
)
