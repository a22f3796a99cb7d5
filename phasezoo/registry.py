"""The zoos that have a name: facts, not code."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from phasezoo.manifest import Axis

REPOSITORY = "ModelZoos/PhaseTransitionModelZoo"
COMMIT = "0d5a9d32389805616a885a9bf6fbe9e9be9a3b14"  # of the published tables
LICENSE = "CC-BY-4.0"
CITATION = """\
@article{schurholt2025phase,
  title={A Model Zoo on Phase Transitions in Neural Networks},
  author={Konstantin Sch{\\"u}rholt and L{\\'e}o Meynent and Yefan Zhou and Haiquan Lu and Yaoqing Yang and
    Damian Borth},
  journal={Journal of Data-centric Machine Learning Research},
  year={2025},
  url={https://openreview.net/forum?id=zJRWvNpdIr}
}"""


@dataclass(frozen=True, kw_only=True)
class Grid:
    """One axis of a zoo's grid: the arguments of `phasezoo.manifest.Axis`."""

    column: str
    label: str
    values: tuple[float, ...]
    unit: str | None = None
    hot: Literal["low", "high"] | None = None

    def axis(self) -> Axis:
        """Return the axis as a manifest states it."""
        from phasezoo.manifest import Axis

        return Axis(column=self.column, label=self.label, values=self.values, unit=self.unit, hot=self.hot)


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """What the models of a zoo were trained on.

    Attributes:
        name: short name.
        classes: number of classes, None if it is no classification.
        train: samples for training.
        test: samples for testing.
    """

    name: str
    classes: int | None = None
    train: int | None = None
    test: int | None = None


@dataclass(frozen=True, kw_only=True)
class Summary:
    """A published table with one row per model and epoch, at the pinned commit.

    Attributes:
        file: path in the repository.
        nbytes: size of the file.
        weight_decay: the run that makes up the zoo, where the file holds several.
    """

    file: str
    nbytes: int
    weight_decay: float | None = None


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One named zoo.

    Attributes:
        name: what `phasezoo.load` takes.
        title: one line for people.
        architecture: name of the architecture, as `phasezoo.nets.build` takes it.
        dataset: the data.
        task: ``classification``, ``language-modelling`` or ``pde``.
        load: the load axis.
        temperature: the temperature axis.
        models: how many models it holds.
        summary: the published table, where there is one.
        embedded: does it come with the package?
        polynomial: (a, b, c) such that a model of width w for K classes has a w^2 + b w + c w K + K parameters.
        optimizer: name and momentum of the optimiser, where they are known.
        notes: what a reader of the numbers must know.
        variant_of: the listed zoo that this is another run of.
        license: licence of the data.
        citation: how to cite it.
    """

    name: str
    title: str
    architecture: str
    dataset: Dataset
    task: str = "classification"
    load: Grid
    temperature: Grid
    models: int
    summary: Summary | None = None
    embedded: bool = False
    polynomial: tuple[int, int, int] | None = None
    optimizer: tuple[str, float] | None = None
    notes: tuple[str, ...] = ()
    variant_of: str | None = None
    license: str = LICENSE
    citation: str = field(default=CITATION, repr=False)

    @property
    def source(self) -> str:
        """What can be opened today, in two or three words."""
        if self.embedded:
            return "in the package"
        return "published tables" if self.summary else "no files yet"


def _powers(first: int, last: int) -> tuple[float, ...]:
    return tuple(float(2**i) for i in range(first, last + 1))


SVHN = Dataset(name="svhn", classes=10, train=73257, test=26032)
CIFAR10 = Dataset(name="cifar10", classes=10, train=50000, test=10000)
CIFAR100 = Dataset(name="cifar100", classes=100, train=50000, test=10000)
TINYIMAGENET = Dataset(name="tinyimagenet", classes=200, train=100000, test=10000)

WIDTH = Grid(column="width", label="width", values=_powers(1, 8))
BATCH = Grid(column="batch_size", label="batch size", unit="samples", values=_powers(3, 10), hot="low")
EMBEDDING = Grid(column="embedding_dim", label="embedding dimension", values=(6, 12, 24, 48, 60, 96, 192))
VIT_BATCH = Grid(column="batch_size", label="batch size", unit="samples", values=_powers(3, 9), hot="low")

TABLES = (
    "Landscape metrics are values of a cell: the published file repeats them for each of its seeds.",
    "batch_size is the nominal one, from the name of the trial; where gradients were accumulated, the published column "
    "holds micro_batch_size, and from epoch 1 on the published train_loss is divided by accumulation_steps "
    "(train_loss_corrected undoes that).",
    "Some rows of annotated epochs hold means over the seeds of the cell; cell_mean_columns names the columns.",
    "train_loss and train_acc are running averages over the epoch, on augmented data; at epoch 0 they are evaluated.",
    "Mode connectivity was measured on curves whose learning rate decayed twice over: its last epochs changed nothing.",
    "A logarithm is null where its argument was not positive, or was not measured.",
)
RESNET = (
    "The learning rate follows one cycle to zero; with it the momentum cycles 0.95 - 0.85 - 0.95, although the "
    "settings say 0.9.",
)
ACCUMULATED = (
    "Runs with accumulated gradients did not finish their learning-rate cycle, and their batch normalisation saw "
    "micro-batches: compare them with others with care.",
)
TINY = ("The learning rate cycle has 100 epochs.",)
VIT = (
    "Depth, heads and patch size are not published: n_params and architecture_config are null.",
    "Barriers of -30 to -50 percentage points occur in cells that fit their training data.",
)


def _resnet(depth: int, dataset: Dataset, title: str, file: str, nbytes: int, notes: tuple[str, ...] = ()) -> Entry:
    return Entry(
        name=f"resnet{depth}-{dataset.name}",
        title=f"ResNet-{depth} on {title}",
        architecture=f"resnet{depth}",
        dataset=dataset,
        load=WIDTH,
        temperature=BATCH,
        models=192,
        summary=Summary(file=f"summary_metrics/{file}", nbytes=nbytes),
        polynomial={18: (2724, 177, 8), 50: (5724, 857, 32)}[depth],
        optimizer=("sgd", 0.9),
        notes=TABLES + RESNET + notes,
    )


def _vit(
    name: str, dataset: Dataset, title: str, file: Summary, notes: tuple[str, ...] = (), variant_of: str | None = None
) -> Entry:
    return Entry(
        name=name,
        title=title,
        architecture="vit",
        dataset=dataset,
        load=EMBEDDING,
        temperature=VIT_BATCH,
        models=147,
        summary=file,
        notes=TABLES + VIT + notes,
        variant_of=variant_of,
    )


_VIT100 = "summary_metrics/cifar100_vit_summary.csv"

_ENTRIES = (
    Entry(
        name="mlp-digits",
        title="Multi-layer perceptrons on 8x8 digits",
        architecture="mlp",
        dataset=Dataset(name="digits", classes=10),
        load=Grid(column="width", label="width", values=(2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)),
        temperature=Grid(
            column="lr", label="learning rate", values=(0.005, 0.01, 0.02, 0.03, 0.045, 0.06, 0.08, 0.1), hot="high"
        ),
        models=264,
        embedded=True,
        license="MIT",
        citation="",
    ),
    _resnet(18, SVHN, "SVHN", "svhn_resnet18_summary.csv", 7_672_153),
    _resnet(18, CIFAR10, "CIFAR-10", "cifar10_resnet18_summary.csv", 7_004_229),
    _resnet(18, CIFAR100, "CIFAR-100", "cifar100_resnet18_summary.csv", 6_977_096),
    _resnet(18, TINYIMAGENET, "TinyImageNet", "tinyimagenet_resnet18_summary.csv", 4_644_262, TINY),
    _resnet(50, SVHN, "SVHN", "svhn_resnet50_summary.csv", 7_671_196, ACCUMULATED),
    _resnet(50, CIFAR10, "CIFAR-10", "cifar10_resnet50_summary.csv", 7_006_623, ACCUMULATED),
    _resnet(50, CIFAR100, "CIFAR-100", "cifar100_resnet50_summary.csv", 7_004_344, ACCUMULATED),
    _resnet(50, TINYIMAGENET, "TinyImageNet", "tinyimagenet_resnet50_summary.csv", 4_633_593, ACCUMULATED + TINY),
    _vit(
        "vit-cifar10",
        CIFAR10,
        "Vision transformers on CIFAR-10",
        Summary(file="summary_metrics/cifar10_vit_summary.csv", nbytes=10_370_284),
        ("Some runs collapsed to a train accuracy near 0.2 and did not recover; the build report lists them.",),
    ),
    _vit(
        "vit-cifar100",
        CIFAR100,
        "Vision transformers on CIFAR-100",
        Summary(file=_VIT100, nbytes=20_554_007, weight_decay=0.05),
        (
            "The published file holds two runs of 147 models. This is the one with weight decay 0.05, the only "
            "one with landscape metrics; the other is vit-cifar100-wd0.0005.",
            "The train loss does not approach zero even where train accuracy is high.",
        ),
    ),
    _vit(
        "vit-cifar100-wd0.0005",
        CIFAR100,
        "Vision transformers on CIFAR-100, the earlier run with weight decay 0.0005",
        Summary(file=_VIT100, nbytes=20_554_007, weight_decay=0.0005),
        ("The earlier of two runs in the published file, without landscape metrics; the zoo is vit-cifar100.",),
        variant_of="vit-cifar100",
    ),
    Entry(
        name="gpt2-openwebtext",
        title="GPT-2 on OpenWebText",
        architecture="gpt2",
        dataset=Dataset(name="openwebtext"),
        task="language-modelling",
        load=Grid(column="model_dim", label="model dimension", values=()),
        temperature=Grid(column="batch_size", label="batch size", unit="samples", values=(), hot="low"),
        models=264,
        notes=("The grid is not published. An earlier announcement counted 192 models.",),
    ),
    Entry(
        name="pinn-convection",
        title="Physics-informed perceptrons on 1D convection",
        architecture="mlp",
        dataset=Dataset(name="convection"),
        task="pde",
        load=Grid(column="beta", label="convection coefficient", values=()),
        temperature=Grid(column="lr", label="learning rate", values=(), hot="high"),
        models=700,
        notes=("The grid is not published.",),
    ),
)

ZOOS: dict[str, Entry] = {entry.name: entry for entry in _ENTRIES}


def embedded(name: str) -> Path:
    """Return the directory of a zoo that comes with the package."""
    return Path(__file__).parent / "zoos" / name
