"""Train one model, top to bottom.

Everything random in epoch e comes from a generator seeded with ``10000 * seed + e``, so that a run that goes on from
its last epoch needs no more than the weights and the optimiser's state, and ends with the same bits.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import nn

from phasezoo.nets import build
from phasezoo.training.data import Convection, Data, Text
from phasezoo.training.recipe import Recipe, Trial
from phasezoo.training.task import Means, Task, task_of

Protocol = Literal["corrected", "published"]
Precision = Literal["float32", "bfloat16"]
Part = tuple[torch.Tensor, float, bool]  # a micro-batch: indices, factor of its mean loss, does an update follow?


def check_switches(protocol: str, precision: str) -> None:
    """Raise a ValueError unless these are a protocol and a precision of `train`.

    >>> check_switches("corrected", "bfloat16")
    """
    for value, known in ((protocol, get_args(Protocol)), (precision, get_args(Precision))):
        if value not in known:
            raise ValueError(f"{value!r} is not one of {', '.join(known)}.")


@dataclass(frozen=True)
class Epoch:
    """The state after an epoch; `run` goes on training when the next is asked for.

    Attributes:
        epoch: how many were trained; 0 is the initial network.
        metrics: what is recorded of it.
        run: network, optimiser and scheduler.
    """

    epoch: int
    metrics: dict[str, float]
    run: Run

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Copy the weights to the CPU."""
        return {name: tensor.detach().cpu().clone() for name, tensor in self.run.net.state_dict().items()}

    def save(self, path: Path) -> None:
        """Write what a run needs to go on behind this epoch; the file appears under its name when it is complete."""
        save({"epoch": self.epoch, **self.run.state()}, path)


def save(content: Mapping[str, Any], path: Path) -> None:
    """Write tensors and plain values; the file appears under its name only when it is complete."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    torch.save(dict(content), temporary)
    os.replace(temporary, path)


@dataclass
class Run:
    """What a run carries from one epoch to the next."""

    net: nn.Module
    optimizer: torch.optim.Optimizer
    scheduler: torch.optim.lr_scheduler.LRScheduler

    def state(self) -> dict[str, Any]:
        """Return all of it as tensors and plain values."""
        return {
            "net": self.net.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": {k: v for k, v in self.scheduler.state_dict().items() if isinstance(v, (int, float, list))},
            # Left over only under the published protocol.
            "gradients": {n: p.grad for n, p in self.net.named_parameters() if p.grad is not None},
        }

    def load(self, path: Path, device: str) -> int:
        """Read what `Epoch.save` wrote, and return its epoch."""
        content = torch.load(path, map_location=device, weights_only=True)
        self.net.load_state_dict(content["net"])
        self.optimizer.load_state_dict(content["optimizer"])
        self.scheduler.load_state_dict(content["scheduler"])
        for name, gradient in content["gradients"].items():
            self.net.get_parameter(name).grad = gradient
        epoch: int = content["epoch"]
        return epoch


def train(
    recipe: Recipe,
    trial: Trial,
    data: Data | Text | Convection,
    *,
    protocol: Protocol = "corrected",
    precision: Precision = "float32",
    compiled: bool = False,
    device: str = "cpu",
    state: Path | None = None,
) -> Iterator[Epoch]:
    """Train one model, yielding after epoch 0 (the initial network), 1, ..., `recipe.epochs`.

    The network is built after ``torch.manual_seed(seed)``; in epoch e it sees the training set in the order of
    ``torch.randperm`` seeded with ``10000 * seed + e``, and the last, smaller batch is kept. A batch that is larger
    than the micro-batch is cut into parts whose gradients add up to that of the whole.

    ``protocol="published"`` repeats what the trainer of the published zoos did with micro-batches: it divided the
    reported training loss by their number; it planned the learning rate for as many steps as there are micro-batches,
    but took one per update; and it left the gradients of an incomplete batch to the next epoch.

    Args:
        recipe: how to train.
        trial: which model.
        data: the data set.
        protocol: ``corrected`` or ``published``; the same where gradients are not accumulated.
        precision: of the forward pass; ``bfloat16`` casts automatically.
        compiled: run the network through `torch.compile`.
        device: where to train.
        state: file that `Epoch.save` wrote, if there is one: training goes on behind its epoch.

    >>> from phasezoo.training.data import load_data
    >>> from phasezoo.training.recipes import recipe
    >>> short = recipe("mlp-digits").shortened(1)
    >>> for epoch in train(short, short.trials()[-1], load_data("digits")):
    ...     print(epoch.epoch, "better than half" if epoch.metrics["test_acc"] > 0.5 else "near chance")
    0 near chance
    1 better than half
    """
    with _seeded(trial.seed):
        net = build(trial.architecture, **trial.arguments).to(device)
    forward: Any = torch.compile(net) if compiled else net
    task = task_of(recipe, trial, data, device=device)
    optimizer = _optimizer(recipe, trial, net)
    parts = _parts(len(task), recipe, trial, protocol, torch.Generator())
    updates = recipe.epochs * (len(parts) if protocol == "published" else sum(last for *_, last in parts))
    scheduler = _scheduler(recipe, trial, optimizer, updates=max(updates, 1))
    run = Run(net, optimizer, scheduler)
    first = run.load(state, device) + 1 if state and state.exists() else 0
    for epoch in range(first, recipe.epochs + 1):
        metrics: dict[str, float] = {}
        if epoch:
            generator = torch.Generator().manual_seed(10_000 * trial.seed + epoch)
            parts = _parts(len(task), recipe, trial, protocol, generator)
            with _seeded(10_000 * trial.seed + epoch):
                metrics = _train_epoch(forward, task, parts, run, epoch, recipe.clip, protocol, precision)
        net.eval()
        with _cast(device, precision):
            if epoch == 0 or recipe.metrics == "evaluated":
                metrics = task.evaluate(forward)
            else:
                metrics |= task.evaluate(forward, train=False)
        yield Epoch(epoch, metrics, run)


def _train_epoch(
    forward: Any,
    task: Task,
    parts: Sequence[Part],
    run: Run,
    epoch: int,
    clip: float | None,
    protocol: Protocol,
    precision: Precision,
) -> dict[str, float]:
    """Train for one epoch; return the running averages."""
    run.net.train()
    device = next(run.net.parameters()).device.type
    running = Means()
    for part, weight, last in parts:
        with _cast(device, precision):
            means = task.means(forward, task.batch(part, epoch=epoch, start=running.samples))
        torch.autograd.backward(means["loss"] * weight)
        reported = means["loss"] * weight if protocol == "published" else means["loss"]
        running.add({**means, "loss": reported}, len(part))
        if last:
            if clip is not None:
                nn.utils.clip_grad_norm_(run.net.parameters(), clip)
            run.optimizer.step()
            run.scheduler.step()
            run.optimizer.zero_grad(set_to_none=True)
    return {f"train_{name}": value for name, value in running.items().items()}


def _parts(n: int, recipe: Recipe, trial: Trial, protocol: Protocol, generator: torch.Generator) -> list[Part]:
    """Cut an epoch over n samples into micro-batches."""
    parts: list[Part] = []
    for _ in range(recipe.passes):
        if not trial.batch_size:
            parts.append((torch.arange(n), 1.0, True))
            continue
        order = torch.randperm(n, generator=generator)
        if protocol == "published":
            steps = trial.accumulation_steps
            micro = torch.split(order, trial.micro_batch_size)
            parts += [(part, 1 / steps, (i + 1) % steps == 0) for i, part in enumerate(micro)]
            continue
        for batch in torch.split(order, trial.batch_size):
            micro = torch.split(batch, trial.micro_batch_size)
            parts += [(part, len(part) / len(batch), part is micro[-1]) for part in micro]
    return parts


def _optimizer(recipe: Recipe, trial: Trial, net: nn.Module) -> torch.optim.Optimizer:
    settings: dict[str, Any] = {"lr": trial.lr, "weight_decay": recipe.weight_decay}
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(net.parameters(), momentum=recipe.momentum, **settings)
    kind = torch.optim.Adam if recipe.optimizer == "adam" else torch.optim.AdamW
    return kind(net.parameters(), betas=recipe.betas, **settings)


def _scheduler(
    recipe: Recipe, trial: Trial, optimizer: torch.optim.Optimizer, *, updates: int
) -> torch.optim.lr_scheduler.LRScheduler:
    """Return a scheduler that counts updates; it may be asked for one step more than there are."""
    how = recipe.schedule
    if how.kind == "onecycle":
        low, high = how.cycle_momentum or (0.0, 0.0)
        return torch.optim.lr_scheduler.OneCycleLR(
            optimizer,
            max_lr=trial.lr,
            total_steps=updates,
            pct_start=how.rise,
            div_factor=1 / how.start,
            final_div_factor=how.start / how.end,
            cycle_momentum=how.cycle_momentum is not None,
            base_momentum=low,
            max_momentum=high,
        )

    def factor(step: int) -> float:
        if how.kind == "constant":
            return 1.0
        rise = how.rise * updates
        if step < rise:
            return (step + 1) / rise
        done = (step - rise) / max(updates - rise, 1)
        return how.end + (1 - how.end) * (1 + math.cos(math.pi * min(done, 1.0))) / 2

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


def _cast(device: str, precision: Precision) -> torch.autocast:
    return torch.autocast(torch.device(device).type, dtype=torch.bfloat16, enabled=precision == "bfloat16")


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed the global generators (initial weights, dropout), and leave them as they were."""
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        yield
