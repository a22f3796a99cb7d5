"""Where one phase ends and the next begins: numbers as data, with their source.

Nobody publishes numeric phase boundaries: Yang et al. (2021) read them off colour maps. These are choices, documented,
per zoo and per protocol of the metrics, and every one can be overridden.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal, get_args

from phasezoo.errors import ThresholdError, nearest

Method = Literal["rule", "otsu"]
Fit = Literal["train_loss", "train_error"]

SOURCES = {
    "fit_cut": "Otsu's cut on log10 train loss lies at 0.0095 to 0.023 on the grids of Yang et al. (2021)",
    "mc_eps": "best fit to the boundaries of Yang et al.'s phase figure; 1 to 5 are in use",
    "cka_of_max": "within 0.01 of the best fit to Yang et al.'s figure, and scales across protocols; a crossover",
    "collapsed_acc": "ViT runs that ended near chance",
}


@dataclass(frozen=True, kw_only=True)
class Thresholds:
    """How cells are labelled.

    Attributes:
        name: name of the set.
        method: ``rule`` uses `fit_cut`; ``otsu`` finds it in the data, and falls back to `fit_cut` if the losses are
            not truly of two modes.
        fit: the column that says whether a cell fits its training data: ``train_loss``, or ``train_error`` (a
            fraction) where the loss has a floor.
        fit_cut: a cell fits if it is below.
        mc: the column of mode connectivity; negative means a barrier.
        mc_eps: a barrier is below minus this; in the unit of the column.
        cka: the column of similarity.
        cka_cut: similar from here on; None means `cka_of_max` of the largest similarity in phase IV.
        cka_of_max: see `cka_cut`.
        fit_width: how soft the first gate is, in decades of the fit metric.
        collapsed_acc: a cell collapsed if its final training accuracy is below 1/classes plus this.
        collapsed_loss: a cell collapsed if its final training loss is above this part of ln(classes).
        sources: where each number comes from.

    Raises:
        ThresholdError: a number is not finite or cannot be what it stands for, or there is no such method or column.

    >>> import phasezoo
    >>> zoo = phasezoo.load("mlp-digits")
    >>> sets = [Thresholds(mc_eps=eps) for eps in (0.0, 5.0)]  # how deep a barrier may be
    >>> [zoo.phases(thresholds=each)["phase"].to_pylist().count("III") for each in sets]
    [53, 2]
    """

    name: str = "default"
    method: Method = "rule"
    fit: Fit = "train_loss"
    fit_cut: float = 0.02
    mc: str = "curve_mc_train_error"
    mc_eps: float = 2.0
    cka: str = "representation_similarity"
    cka_cut: float | None = None
    cka_of_max: float = 0.9
    fit_width: float = 0.15
    collapsed_acc: float = 0.2
    collapsed_loss: float = 0.85
    sources: dict[str, str] = field(default_factory=lambda: dict(SOURCES), hash=False)

    def __post_init__(self) -> None:
        for name in ("fit_cut", "mc_eps", "cka_cut", "cka_of_max", "fit_width", "collapsed_acc", "collapsed_loss"):
            number = getattr(self, name)
            if number is None and name == "cka_cut":
                continue
            if isinstance(number, bool) or not isinstance(number, (int, float)) or not math.isfinite(number):
                raise ThresholdError(f"threshold {name} must be a finite number, not {number!r}.")
            if name in ("mc_eps", "fit_width") and number < 0:
                raise ThresholdError(f"threshold {name} is a distance and cannot be negative: {number}.")
        if self.fit_cut <= 0:
            raise ThresholdError(
                f"threshold fit_cut lies on a logarithmic scale and must be above 0, not {self.fit_cut}."
            )
        for name, known in (("method", get_args(Method)), ("fit", get_args(Fit))):
            if getattr(self, name) not in known:
                raise ThresholdError(
                    f"threshold {name} is {getattr(self, name)!r}. {nearest(getattr(self, name), known)}"
                )

    @property
    def id(self) -> str:
        """Hash of all numbers, so that a label says exactly how it was made.

        >>> Thresholds().id == Thresholds(name="another name").id
        True
        """
        numbers = {k: v for k, v in asdict(self).items() if k not in ("name", "sources")}
        return hashlib.sha256(json.dumps(numbers, sort_keys=True).encode()).hexdigest()[:12]

    def override(self, changes: dict[str, Any]) -> Thresholds:
        """Return a copy with some numbers changed.

        Raises:
            ThresholdError: no number of that name.

        >>> Thresholds().override({"mc_eps": 5.0}).mc_eps
        5.0
        """
        known = [f.name for f in fields(self) if f.name not in ("name", "sources")]
        for key in changes:
            if key not in known:
                raise ThresholdError(f"no threshold {key!r}. {nearest(key, known, limit=20)}")
        given = {key: "given by the caller" for key in changes}
        return replace(self, name=f"{self.name}, changed", sources={**self.sources, **given}, **changes)


DEFAULT = Thresholds()
STRICT_YANG2021 = Thresholds(
    name="strict_yang2021",
    fit_cut=0.003,
    sources={**SOURCES, "fit_cut": "best fit to the loss transition in Yang et al.'s phase figure"},
)

_CHOICE = "a choice, not published"
_TINY = Thresholds(
    name="tinyimagenet",
    fit_cut=0.1,
    sources={**SOURCES, "fit_cut": f"100 epochs: cells end at 0.006-0.06 or at 0.23-1.7; {_CHOICE}"},
)
_SVHN = Thresholds(
    name="svhn",
    method="otsu",
    fit_cut=0.1,
    sources={**SOURCES, "fit_cut": f"cells end at 0.005-0.05 or near 0.66; {_CHOICE}"},
)
_OTSU = Thresholds(
    name="otsu",
    method="otsu",
    sources={**SOURCES, "method": f"the loss does not go to zero; {_CHOICE}"},
)

_TEXT = Thresholds(
    name="text",
    method="otsu",
    fit_cut=2.0,
    mc="curve_mc_train_loss",
    mc_eps=0.05,
    sources={
        **SOURCES,
        **dict.fromkeys(("method", "fit_cut", "mc", "mc_eps"), f"the loss of a text has a floor; {_CHOICE}"),
    },
)
_PINN = Thresholds(
    name="pinn",
    method="otsu",
    fit_cut=0.02,
    mc="curve_mc_train_loss",
    mc_eps=0.01,
    sources={
        **SOURCES,
        "fit_cut": f"well below 0.5, the loss of the zero function, at which training fails at large beta; {_CHOICE}",
        **dict.fromkeys(
            ("mc", "mc_eps"), f"an equation has no error rate; 2 % of the loss of the zero function; {_CHOICE}"
        ),
    },
)

# zoo -> its thresholds; all others have the default ones.
BY_ZOO: dict[str, Thresholds] = {
    "resnet18-tinyimagenet": _TINY,
    "resnet50-tinyimagenet": _TINY,
    "resnet18-svhn": _SVHN,
    "resnet50-svhn": _SVHN,
    "vit-cifar100": Thresholds(
        name="vit-cifar100",
        fit="train_error",
        fit_cut=0.05,
        sources={**SOURCES, "fit": "the loss ends at 1.2-3.6 while the accuracy reaches .88", "fit_cut": _CHOICE},
    ),
    "gpt2-openwebtext": _TEXT,
    "gpt2-text-mini": _TEXT,
    "pinn-convection": _PINN,
    "pinn-convection-mini": _PINN,
    "resnet18-fashion-mini": Thresholds(
        name="resnet18-fashion-mini",
        fit_cut=0.3,
        sources={**SOURCES, "fit_cut": f"five epochs: no cell goes to zero; {_CHOICE}"},
    ),
    "vit-digits-mini": Thresholds(
        name="vit-digits-mini", fit_cut=0.1, sources={**SOURCES, "fit_cut": "as mlp-digits, on the same images"}
    ),
    "mlp-digits": Thresholds(
        name="mlp-digits",
        fit_cut=0.1,
        mc="curve_mc_train_loss",
        mc_eps=0.05,
        cka_cut=0.93,
        collapsed_acc=-1.0,
        collapsed_loss=1.0,
        sources={
            **dict.fromkeys(("fit_cut", "mc", "mc_eps", "cka_cut"), "chosen on pilot zoos with seeds 0-3, then frozen"),
            "collapsed_loss": "no better than guessing: narrow networks near chance are what phases I and II look like",
        },
    ),
}
NAMED: dict[str, Thresholds] = {"default": DEFAULT, "strict_yang2021": STRICT_YANG2021, "otsu": _OTSU}


def thresholds_for(zoo: str, given: str | Thresholds | dict[str, Any] | None = None) -> Thresholds:
    """Return the thresholds of a zoo, or those that are given instead.

    Args:
        zoo: name of the zoo.
        given: a set, the name of one (``"strict_yang2021"``), or numbers to change in the zoo's own set.

    Raises:
        ThresholdError: no set of that name, or no number of that name.

    >>> thresholds_for("resnet18-cifar10").fit_cut, thresholds_for("mlp-digits", {"mc_eps": 0.1}).mc_eps
    (0.02, 0.1)
    """
    own = BY_ZOO.get(zoo, DEFAULT)
    if given is None:
        return own
    if isinstance(given, Thresholds):
        return given
    if isinstance(given, dict):
        return own.override(given)
    if given not in NAMED:
        raise ThresholdError(f"no set of thresholds {given!r}. {nearest(given, NAMED)}")
    return NAMED[given]
