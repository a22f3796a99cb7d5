"""GPT-2 on OpenWebText. Published: the number of models, the axes, and that the largest has 900 million parameters."""

from phasezoo.registry import BATCH, ZOOS
from phasezoo.training.recipe import Assumption, MicroBatch, Schedule
from phasezoo.training.recipes._published import published

ENTRY = ZOOS["gpt2-openwebtext"]
NANOGPT = "the usual setting for GPT-2 on OpenWebText (nanoGPT)"

RECIPE = published(
    "gpt2-openwebtext",
    epochs=20,
    load=ENTRY.load.axis().model_copy(
        update={"values": (48.0, 96.0, 144.0, 192.0, 288.0, 384.0, 576.0, 768.0, 1152.0, 1536.0, 2304.0)}
    ),
    temperature=BATCH.axis(),
    architecture_config={"vocab_size": 50257, "context": 1024, "depth": 12, "heads": 12},
    seeds=(0, 1, 2),
    lr=6e-4,
    weight_decay=0.1,
    optimizer="adamw",
    betas=(0.9, 0.95),
    clip=1.0,
    schedule=Schedule(kind="cosine", rise=0.02, end=0.1),
    micro_batch=(
        MicroBatch(load=48, batch_size=64, samples=32),
        MicroBatch(load=768, batch_size=16, samples=8),
        MicroBatch(load=1536, batch_size=8, samples=2),
    ),
    metrics="running",
    assumptions=(
        Assumption(
            field="load",
            value="eleven dimensions from 48 to 2304",
            reason="264 = 11 dimensions x 8 batch sizes x 3 seeds; 12 layers of dimension 2304 with the tied embedding "
            "make 884 million parameters, the published 900; all are multiples of the 12 heads",
        ),
        Assumption(
            field="temperature", value="batch sizes 8 to 1024", reason="the eight batch sizes of the ResNet zoos"
        ),
        Assumption(field="seeds", value="0, 1, 2", reason="as in the ten zoos whose seeds are known"),
        Assumption(field="depth", value="12", reason="GPT-2 small; see load"),
        Assumption(field="heads", value="12", reason="GPT-2 small"),
        Assumption(field="context", value="1024", reason="the context of GPT-2"),
        Assumption(field="optimizer", value="adamw, lr 6e-4, betas 0.9 and 0.95, weight decay 0.1", reason=NANOGPT),
        Assumption(field="clip", value="1.0", reason=NANOGPT),
        Assumption(field="schedule", value="cosine to a tenth after a rise over 2 %", reason=NANOGPT),
        Assumption(
            field="epochs",
            value="20",
            reason="an epoch is one pass over the 100 million tokens that the data set holds; together 2 billion "
            "tokens, 16 a parameter for GPT-2 small",
        ),
        Assumption(field="micro_batch", value="32, 8 and 2 sequences", reason="what fits an accelerator of 80 GB"),
        Assumption(field="metrics", value="running", reason="as in the ten zoos whose tables are published"),
    ),
)
