"""Several networks that answer as one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Literal

import torch
from torch import nn

from phasezoo.errors import MeasureError
from phasezoo.state import State, states_of

if TYPE_CHECKING:
    from phasezoo.model import Model

Averaged = Literal["probabilities", "logits"]


class Ensemble(nn.Module):
    """Networks whose answers are averaged.

    Args:
        members: the networks; they may differ in architecture, not in what they take and give.
        averaged: what is averaged: ``"probabilities"`` or ``"logits"``.

    >>> import phasezoo
    >>> import torch
    >>> members = [model.checkpoint().module() for model in phasezoo.load("mlp-digits").filter(width=8, lr=0.03)]
    >>> Ensemble(members, averaged="logits")(torch.zeros(5, 64)).shape
    torch.Size([5, 10])
    """

    def __init__(self, members: Sequence[nn.Module], *, averaged: Averaged = "probabilities") -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.averaged = averaged

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map inputs to log-probabilities ``[batch, classes]`` or, if logits are averaged, to logits.

        Cross-entropy takes either: the log-probabilities of a distribution are its logits.
        """
        logits = torch.stack([member(x) for member in self.members])
        if self.averaged == "logits":
            return logits.mean(0)
        return torch.logsumexp(logits.log_softmax(-1), 0) - torch.tensor(float(len(self.members))).log()


def ensemble(
    networks: Iterable[Model | State], *, averaged: Averaged = "probabilities", epoch: int | str = "last"
) -> Ensemble:
    """Make one module of several classifiers.

    Args:
        networks: a view of a zoo, models, checkpoints or variants; of several architectures if one likes.
        averaged: ``"probabilities"`` or ``"logits"``.
        epoch: which checkpoint of each model.

    Raises:
        MeasureError: there is no network, or nothing of that name to average.

    >>> import phasezoo
    >>> net = phasezoo.ensemble(phasezoo.load("mlp-digits").filter(width=8, lr=0.03))
    >>> len(net.members), net(torch.zeros(5, 64)).shape
    (3, torch.Size([5, 10]))
    """
    if averaged not in ("probabilities", "logits"):
        raise MeasureError(f"cannot average {averaged!r}. An ensemble averages 'probabilities' or 'logits'.")
    members = [state.module() for state in states_of(networks, epoch=epoch)]
    if not members:
        raise MeasureError("an ensemble of no network has no answer. Choose a view with models.")
    return Ensemble(members, averaged=averaged).eval()
