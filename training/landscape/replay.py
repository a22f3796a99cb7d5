"""Fixed micro-batches, replayed on a network that is a function of its weights and its input alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from phasezoo.batchnorm import BatchNorm
from phasezoo.errors import MeasureError

Batch = tuple[torch.Tensor, torch.Tensor]
Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def micro_batches(x: torch.Tensor, *, y: torch.Tensor, size: int) -> list[Batch]:
    """Cut a data set into micro-batches of at most `size` samples, in order.

    >>> [len(y) for _, y in micro_batches(torch.zeros(10, 2), y=torch.zeros(10), size=4)]
    [4, 4, 2]
    """
    return list(zip(torch.split(x, size), torch.split(y, size), strict=True))


def placed(batches: Iterable[Batch], *, device: torch.device, dtype: torch.dtype) -> list[Batch]:
    """Put batches on a device; inputs in floating point get the dtype, token ids and labels keep theirs.

    Raises:
        MeasureError: there is no sample.
    """

    def put(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.to(device, dtype if tensor.is_floating_point() else None)

    found = [(put(x), put(y)) for x, y in batches if len(x)]
    if not found:
        raise MeasureError("no sample to measure on: `batches` is empty. Pass (inputs, labels) pairs as a list.")
    return found


def require_replayable(model: nn.Module) -> None:
    """Refuse a network whose output for one sample depends on other samples or on chance.

    Raises:
        MeasureError: a layer normalises by the batch, or drops units.

    >>> require_replayable(nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5)))
    Traceback (most recent call last):
    ...
    phasezoo.errors.MeasureError: layer '1' (Dropout) is in training mode, so that every pass differs. Call ...
    """
    for name, module in model.named_modules():
        kind = f"layer {name!r} ({type(module).__name__})"
        if isinstance(module, BatchNorm) and module.running_mean is None:
            raise MeasureError(
                f"{kind} keeps no running statistics, so that a sample's output depends on its batch. "
                "Build it with track_running_stats=True and estimate them first."
            )
        if isinstance(module, BatchNorm) and module.training:
            raise MeasureError(
                f"{kind} is in training mode, so that a sample's output depends on its batch. Call model.eval() first."
            )
        if module.training and _drops(module):
            raise MeasureError(f"{kind} is in training mode, so that every pass differs. Call model.eval() first.")


def _drops(module: nn.Module) -> bool:
    if isinstance(module, nn.modules.dropout._DropoutNd):
        return module.p > 0
    rate = getattr(module, "dropout", 0.0)  # attention and recurrent layers hold a rate
    return isinstance(module, nn.RReLU) or (isinstance(rate, float) and rate > 0)


def tensors_of(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return the parameters and buffers of a module, detached, by name.

    >>> list(tensors_of(nn.BatchNorm1d(2)))
    ['weight', 'bias', 'running_mean', 'running_var', 'num_batches_tracked']
    """
    named = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return {name: tensor.detach() for name, tensor in named.items()}


def device_and_dtype(model: nn.Module) -> tuple[torch.device, torch.dtype]:
    """Return where the parameters lie and the type of the first one in floating point."""
    for parameter in model.parameters():
        if parameter.is_floating_point():
            return parameter.device, parameter.dtype
    raise MeasureError(f"{type(model).__name__} has no parameters: there is nothing to measure.")


@dataclass(frozen=True)
class Evaluation:
    """Mean loss and accuracy (a fraction) over samples.

    >>> found = Evaluation(loss=0.25, accuracy=0.875)
    >>> found.error
    12.5
    """

    loss: float
    accuracy: float

    @property
    def error(self) -> float:
        """Wrong answers in percent."""
        return 100 * (1 - self.accuracy)


def evaluate(
    model: nn.Module,
    *,
    batches: Sequence[Batch],
    state: Mapping[str, torch.Tensor] | None = None,
    loss: Loss = cross_entropy,
) -> Evaluation:
    """Evaluate a classifier on fixed batches, each weighted by its samples.

    Args:
        model: the network, in eval mode.
        batches: (inputs, labels) pairs.
        state: tensors to use in place of the module's own, by name.
        loss: mean loss of logits and labels.

    Raises:
        MeasureError: the network is not a function of weights and input alone.

    >>> x, y = torch.eye(2), torch.tensor([0, 1])
    >>> evaluate(nn.Identity(), batches=[(9 * x, y)], state={}).accuracy
    1.0
    """
    require_replayable(model)
    state = tensors_of(model) if state is None else state
    total, correct, samples = 0.0, 0, 0
    with torch.no_grad():
        for x, y in batches:
            logits = functional_call(model, dict(state), (x,))
            total += loss(logits, y).item() * len(x)
            correct += int((logits.argmax(-1) == y).sum())
            samples += y.numel()
    return Evaluation(total / sum(len(x) for x, _ in batches), correct / samples)
