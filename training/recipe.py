"""What a recipe says: everything that regenerates a zoo, as data, and the trials of its grid."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from phasezoo.builders.plan import SHORT
from phasezoo.manifest import Axis


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Assumption(_Part):
    """A value that nobody published: which field, what was chosen, and why.

    >>> from phasezoo.training.recipes import recipe
    >>> [(assumption.field, assumption.value) for assumption in recipe("vit-cifar10").assumptions][:2]
    [('depth', '12'), ('heads', '3')]
    """

    field: str
    value: str
    reason: str


class Schedule(_Part):
    """How learning rate and momentum move over the updates of a run.

    Attributes:
        kind: ``constant``; ``onecycle`` as torch's `OneCycleLR`; ``cosine``, after a linear rise, down to zero.
        rise: part of the updates in which the learning rate rises.
        start: learning rate at the start of one cycle, as a part of the largest.
        end: learning rate at the end, as a part of the largest.
        cycle_momentum: momentum at the smallest and at the largest learning rate of one cycle; None leaves it alone.

    >>> from phasezoo.training.recipes import recipe
    >>> recipe("resnet18-cifar10").schedule.kind, recipe("mlp-digits").schedule == Schedule()
    ('onecycle', True)
    """

    kind: Literal["constant", "onecycle", "cosine"] = "constant"
    rise: float = 0.0
    start: float = 1 / 25
    end: float = 0.0
    cycle_momentum: tuple[float, float] | None = None


class Augmentation(_Part):
    """What is done to training images before they are normalised: arguments of `phasezoo.training.augment.augment`.

    >>> from phasezoo.training.recipes import recipe
    >>> recipe("resnet18-svhn").augmentation  # digits are not mirrored
    Augmentation(crop=4, flip=False, rotation=20.0)
    """

    crop: int = 0
    flip: bool = False
    rotation: float = 0.0


class MicroBatch(_Part):
    """From which load and batch size on, at most how many samples go through the network at a time.

    >>> from phasezoo.training.recipes import recipe
    >>> recipe("resnet50-cifar10").micro_batch[0]
    MicroBatch(load=64.0, batch_size=1024, samples=512)
    """

    load: float
    batch_size: int
    samples: int


class Resources(_Part):
    """What one trial occupies on a cluster."""

    cpus: float = 1
    gpus: float = 0


class Recipe(_Part):
    """How a zoo was, or is to be, trained.

    A setting that an axis varies (`batch_size`, `lr`) is None here; an axis over any other column sets the argument
    of that name of the architecture (`width`) or of the task (`beta`).

    Attributes:
        name: name of the zoo.
        title: one line for people.
        description: a paragraph for people.
        architecture: name that `phasezoo.nets.build` takes.
        architecture_config: its arguments, without the one that an axis varies.
        dataset: name that `phasezoo.training.data.load_data` takes.
        task: ``classification``, ``language-modelling`` or ``pde``.
        load: the load axis.
        temperature: the temperature axis.
        seeds: seeds of every cell.
        epochs: epochs of training.
        checkpoint_epochs: epochs at which the weights are kept.
        metric_epochs: epochs at which the landscape is to be measured; empty means the last.
        batch_size: samples per update; 0 is the whole training set.
        momentum: momentum of SGD.
        weight_decay: weight decay on all parameters.
        optimizer: ``sgd``, ``adam`` or ``adamw``.
        lr: learning rate; the largest, where it moves.
        betas: averaging factors of Adam.
        schedule: how the learning rate moves.
        clip: largest norm of the gradient; None does not clip.
        passes: passes over the training set that make an epoch.
        samples: training and test samples that are used, the first of each; None is all.
        augmentation: what is done to training images; None leaves them as they are.
        normalize: mean and standard deviation that the images are normalised by, per channel; None: as the data come.
        label_smoothing: of the cross-entropy.
        micro_batch: where a batch is cut into parts; the last rule that applies counts.
        metrics: ``evaluated`` on the whole training set after each epoch, or ``running``: averages over the epoch,
            with the weights as they move, in training mode, on augmented data.
        resources: what one trial occupies on a cluster.
        assumptions: what is not published.
        source: where the recipe comes from.
        notes: what a reader of the numbers must know.
        license: licence of the trained models.
        citation: BibTeX.

    >>> from phasezoo.training.recipes import recipe
    >>> whole = recipe("mlp-digits")
    >>> len(whole.trials()), whole.epochs, whole.checkpoint_epochs
    (264, 150, (0, 10, 50, 150))
    >>> small = whole.model_copy(update={"seeds": (100,)}).shortened(20)
    >>> len(small.trials()), small.epochs, small.checkpoint_epochs
    (88, 20, (0, 10, 20))
    """

    name: str
    title: str
    description: str
    architecture: str
    architecture_config: dict[str, Any]
    dataset: str
    task: Literal["classification", "language-modelling", "pde"] = "classification"
    load: Axis
    temperature: Axis
    seeds: tuple[int, ...]
    epochs: int
    checkpoint_epochs: tuple[int, ...]
    metric_epochs: tuple[int, ...] = ()
    batch_size: int | None = None
    momentum: float = 0.0
    weight_decay: float = 0.0
    optimizer: Literal["sgd", "adam", "adamw"] = "sgd"
    lr: float | None = None
    betas: tuple[float, float] = (0.9, 0.999)
    schedule: Schedule = Schedule()
    clip: float | None = None
    passes: int = 1
    samples: tuple[int, int] | None = None
    augmentation: Augmentation | None = None
    normalize: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    label_smoothing: float = 0.0
    micro_batch: tuple[MicroBatch, ...] = ()
    metrics: Literal["evaluated", "running"] = "evaluated"
    resources: Resources = Resources()
    assumptions: tuple[Assumption, ...] = ()
    source: str
    notes: tuple[str, ...]
    license: str
    citation: str

    def trials(self) -> list[Trial]:
        """Return every trial of the grid: by load, then temperature, then seed."""
        return [
            self._trial(load, temperature, seed)
            for load in self.load.values
            for temperature in self.temperature.values
            for seed in self.seeds
        ]

    def settings(self) -> dict[str, Any]:
        """Return what a manifest records under `provenance`: all that differs from the defaults."""
        stated = {"name", "title", "description", "architecture", "dataset", "task", "load", "temperature"}
        return self.model_dump(
            mode="json", exclude_defaults=True, exclude=stated | {"source", "notes", "license", "citation"}
        )

    def rows(self) -> list[list[str]]:
        """Return field, value and, where it is one, the word "assumption", for people to read."""
        marked = {assumption.field for assumption in self.assumptions}
        told = {"name", "title", "description", "assumptions", "notes", "citation", "architecture_config"}
        fields: dict[str, Any] = {}
        for name, value in self.model_dump(exclude=told, exclude_none=True).items():
            fields[name] = value
            if name == "architecture":
                fields |= {f"  {key}": argument for key, argument in self.architecture_config.items()}
        return [[name, _text(value), "assumption" if name.strip() in marked else ""] for name, value in fields.items()]

    def shortened(self, epochs: int | None) -> Recipe:
        """Return the recipe for another number of epochs, over which the schedule stretches; None changes nothing."""
        if epochs is None or epochs == self.epochs:
            return self
        kept = tuple(sorted({*(e for e in self.checkpoint_epochs if e < epochs), epochs}))
        return self.model_copy(update={"epochs": epochs, "checkpoint_epochs": kept})

    def _trial(self, load: float, temperature: float, seed: int) -> Trial:
        varied = {self.load.column: load, self.temperature.column: temperature}
        batch_size, lr = varied.get("batch_size", self.batch_size), varied.get("lr", self.lr)
        if batch_size is None or lr is None:
            raise ValueError(f"recipe {self.name!r} states no {'batch_size' if batch_size is None else 'lr'}.")
        of_task = {"beta"} if self.task == "pde" else set()
        arguments = {k: int(v) for k, v in varied.items() if k not in {"batch_size", "lr", *of_task}}
        rules = [r.samples for r in self.micro_batch if load >= r.load and batch_size >= r.batch_size]
        column = self.load.column, self.temperature.column
        cell = f"{SHORT.get(column[0], column[0])}{load:g}-{SHORT.get(column[1], column[1])}{temperature:g}"
        return Trial(
            model_id=f"{cell}-s{seed}",
            cell_id=cell,
            load=load,
            temperature=temperature,
            seed=seed,
            architecture=self.architecture,
            architecture_config=json.dumps({**self.architecture_config, **arguments}, sort_keys=True),
            batch_size=int(batch_size),
            micro_batch_size=min([int(batch_size), *rules[-1:]]),
            lr=lr,
            beta=varied.get("beta"),
        )


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One model of a grid, with every setting that sets it apart from the others.

    Attributes:
        model_id: id of the model.
        cell_id: its cell.
        load: value on the load axis.
        temperature: value on the temperature axis.
        seed: seed of the initial network and of the order of samples.
        architecture: as `phasezoo.nets.build` takes it.
        architecture_config: its arguments, as JSON with sorted keys.
        batch_size: samples per update; 0 is the whole training set.
        micro_batch_size: samples per forward pass.
        lr: learning rate.
        beta: convection coefficient, where there is one.

    >>> from phasezoo.training.recipes import recipe
    >>> trial = next(t for t in recipe("resnet50-cifar10").trials() if t.load == 128 and t.batch_size == 512)
    >>> trial.model_id, trial.arguments["width"], trial.accumulation_steps
    ('w128-b512-s0', 128, 2)
    """

    model_id: str
    cell_id: str
    load: float
    temperature: float
    seed: int
    architecture: str
    architecture_config: str
    batch_size: int
    micro_batch_size: int
    lr: float
    beta: float | None = None

    @property
    def arguments(self) -> dict[str, Any]:
        """Arguments of the architecture."""
        found: dict[str, Any] = json.loads(self.architecture_config)
        return found

    @property
    def accumulation_steps(self) -> int:
        """Micro-batches per update."""
        return -(-self.batch_size // self.micro_batch_size) if self.micro_batch_size else 1


def _text(value: Any) -> str:
    if isinstance(value, dict) and "column" in value:
        unit = f" {value['unit']}" if value.get("unit") else ""
        hot = f"; hot is {value['hot']}" if value.get("hot") else ""
        return f"{value['column']} in {', '.join(f'{v:g}' for v in value['values'])}{unit}{hot}"
    if isinstance(value, dict):
        return ", ".join(f"{key} {_text(inner)}" for key, inner in value.items() if inner is not None)
    if isinstance(value, tuple) and len(value) > 12:
        return f"{_text(value[:3])}, ..., {_text(value[-1])}"
    if isinstance(value, tuple):
        return ", ".join(f"({_text(v)})" if isinstance(v, (tuple, dict)) else _text(v) for v in value) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)
