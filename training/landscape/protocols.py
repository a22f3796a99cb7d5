"""Protocols: every setting that changes a landscape metric, as data.

``corrected`` is what phasezoo recommends; ``published`` follows the definitions of the published zoos, with their
known defects (biased CKA, compounding learning rate, averages of weight tensors only).
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

from phasezoo.errors import MeasureError, nearest


@dataclass(frozen=True, kw_only=True)
class MeasureProtocol:
    """How landscape metrics are computed.

    Attributes:
        name: name of the protocol.
        batch: samples per micro-batch of the Hessian.
        train_samples: training samples for the Hessian; None is all.
        test_samples: test samples for the Hessian, in order; 0 is none.
        which: which eigenvalue: the largest (``LA``) or the largest by magnitude (``LM``).
        rtol: tolerated error of the eigenvalue.
        products: most Hessian-vector products for a trace that is not exact.
        cka: estimator of CKA on the logits.
        cka_batch: test samples per batch of CKA; None is all at once.
        cka_batches: batches of CKA; None is all.
        curve_epochs: epochs of curve training.
        curve_batch: samples per step.
        curve_lr: learning rate.
        curve_schedule: ``published`` (Garipov et al., compounded), ``garipov``, or ``cosine``.
        curve_momentum: momentum.
        curve_weight_decay: of the regulariser.
        curve_clip: largest norm of the gradient.
        curve_points: points at which curves are evaluated.
        averages: of `epoch_average` and `seed_average`: ``published`` or ``corrected``.
        average_epochs: checkpoints that an epoch average takes, ending with the epoch.
        bn_batches: most batches for BatchNorm's statistics.
        seed: seed of everything that is drawn.

    >>> from dataclasses import replace
    >>> quick = replace(protocol_for("mlp-digits"), name="quick", curve_epochs=5)
    >>> quick.settings()["curve_epochs"], quick.id.startswith("quick-")
    (5, True)
    """

    name: str
    batch: int = 64
    train_samples: int | None = 1000
    test_samples: int = 0
    which: Literal["LA", "LM"] = "LA"
    rtol: float = 1e-3
    products: int = 60
    cka: Literal["unbiased", "biased"] = "unbiased"
    cka_batch: int | None = None
    cka_batches: int | None = None
    curve_epochs: int = 10
    curve_batch: int = 128
    curve_lr: float = 0.1
    curve_schedule: Literal["published", "garipov", "cosine"] = "garipov"
    curve_momentum: float = 0.9
    curve_weight_decay: float = 5e-4
    curve_clip: float = math.inf
    curve_points: int = 11
    averages: Literal["published", "corrected"] = "corrected"
    average_epochs: int = 5
    bn_batches: int = 100
    seed: int = 0

    @property
    def id(self) -> str:
        """Name and hash of all settings: what the table records.

        >>> PUBLISHED.id.startswith("published-")
        True
        """
        content = json.dumps(asdict(self), sort_keys=True)
        return f"{self.name}-{hashlib.sha256(content.encode()).hexdigest()[:8]}"

    def settings(self) -> dict[str, Any]:
        """Return all settings, as the manifest keeps them (infinity as None)."""
        return {key: None if value == math.inf else value for key, value in asdict(self).items()}


CORRECTED = MeasureProtocol(name="corrected")
PUBLISHED = MeasureProtocol(
    name="published",
    train_samples=640,
    test_samples=640,
    which="LM",
    cka="biased",
    cka_batch=128,
    cka_batches=10,
    curve_schedule="published",
    curve_points=5,
    averages="published",
)
DIGITS = MeasureProtocol(
    name="digits",
    curve_epochs=60,
    curve_batch=64,
    curve_lr=0.05,
    curve_schedule="cosine",
    curve_weight_decay=0.0,
    curve_clip=1.0,
)
# The loss of an equation has eigenvalues of some thousands, so that steps must be a hundred times smaller.
CONVECTION = MeasureProtocol(
    name="convection",
    curve_epochs=200,
    curve_lr=5e-4,
    curve_schedule="cosine",
    curve_weight_decay=0.0,
    curve_clip=1.0,
)
# A sample is a window of tokens: 128 of 64 are 8,192 labels.
TEXT = MeasureProtocol(name="text", train_samples=128, curve_epochs=3)
NAMED = {protocol.name: protocol for protocol in (CORRECTED, PUBLISHED, DIGITS, CONVECTION, TEXT)}
BY_ZOO = {
    "mlp-digits": DIGITS,
    "gpt2-text-mini": TEXT,
    "pinn-convection": CONVECTION,
    "pinn-convection-mini": CONVECTION,
}


def protocol_for(zoo: str, name: str | None = None) -> MeasureProtocol:
    """Return a protocol by name, or the one of a zoo.

    Raises:
        MeasureError: no protocol of that name.

    >>> protocol_for("mlp-digits").name, protocol_for("mlp-digits", "published").cka
    ('digits', 'biased')
    """
    if name is None:
        return BY_ZOO.get(zoo, CORRECTED)
    if name not in NAMED:
        raise MeasureError(f"no protocol {name!r}. {nearest(name, NAMED)}")
    return NAMED[name]
