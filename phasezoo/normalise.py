"""Bring the weights of each tensor to mean 0 and standard deviation 1, by what the training set says."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from phasezoo.errors import FormatError, MeasureError, TensorNotFoundError, TopologyError, nearest
from phasezoo.weights import AT_ONCE, Epochs, read, samples

if TYPE_CHECKING:
    import torch

    from phasezoo.view import View


@dataclass(frozen=True)
class Normaliser:
    """Mean and standard deviation of each floating tensor, over its values and all networks it was fitted on.

    Fit it on the training part of a split and apply it to every part: statistics of their own give them other scales.

    Attributes:
        mean: name of the tensor to mean.
        std: name of the tensor to standard deviation; 1 where all values are equal.
        fitted_on: how many checkpoints it has seen.

    >>> import phasezoo
    >>> train, _, test = phasezoo.load("mlp-digits").filter(width=8).split(by="seed")
    >>> normaliser = Normaliser.fit(train)
    >>> normaliser.fitted_on, round(normaliser.std["layers.0.weight"], 3)
    (8, 0.575)
    """

    mean: dict[str, float]
    std: dict[str, float]
    fitted_on: int

    @classmethod
    def fit(cls, view: View, *, epochs: Epochs = "last") -> Normaliser:
        """Measure the networks of a view, in float64; topologies may differ as long as names agree.

        Args:
            view: the training set.
            epochs: which checkpoints, as in `Zoo.to_torch`.

        Raises:
            TopologyError: there is nothing to fit on.
            MeasureError: a network has weights that are not finite.

        >>> import phasezoo
        >>> train, _, test = phasezoo.load("mlp-digits").filter(width=8).split(by="seed")
        >>> Normaliser.fit(train, epochs="all").fitted_on
        32
        """
        wanted = samples(view, epochs)
        if not wanted:
            raise TopologyError("there is no model to fit a normaliser on. Widen the filter of the view.")
        count: dict[str, int] = {}
        total: dict[str, float] = {}
        squares: dict[str, float] = {}
        wanted.sort(key=lambda sample: sample.location.layout.layout_id)
        while wanted:
            layout = wanted[0].location.layout
            part = [sample for sample in wanted[:AT_ONCE] if sample.location.layout == layout]
            wanted = wanted[len(part) :]
            for name, tensor in read(view._index.store, part).items():
                if tensor.is_floating_point():
                    values = tensor.double()
                    count[name] = count.get(name, 0) + values.numel()
                    total[name] = total.get(name, 0.0) + values.sum().item()
                    squares[name] = squares.get(name, 0.0) + values.square().sum().item()
        mean = {name: total[name] / n for name, n in count.items()}
        broken = [name for name, value in mean.items() if not math.isfinite(value)]
        if broken:
            raise MeasureError(
                f"networks have NaN or infinity in {broken[0]!r}. `phasezoo audit` names them; leave them out."
            )
        variance = {name: max(squares[name] / n - mean[name] ** 2, 0.0) for name, n in count.items()}
        std = {name: math.sqrt(value) if value > 1e-12 * mean[name] ** 2 else 1.0 for name, value in variance.items()}
        return cls(mean, std, len(samples(view, epochs)))

    def apply(self, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Subtract the mean and divide by the standard deviation; integers stay as they are.

        >>> import phasezoo
        >>> train, _, test = phasezoo.load("mlp-digits").filter(width=8).split(by="seed")
        >>> normaliser = Normaliser.fit(train)
        >>> scaled = normaliser.apply(dict(train.stack()))
        >>> round(float(scaled["layers.0.weight"].std(unbiased=False)), 2)
        1.0
        """
        return {
            name: (t - self._of(name)[0]) / self._of(name)[1] if t.is_floating_point() else t
            for name, t in tensors.items()
        }

    def invert(self, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Undo `apply`, up to rounding.

        >>> import phasezoo
        >>> train, _, test = phasezoo.load("mlp-digits").filter(width=8).split(by="seed")
        >>> normaliser, tensors = Normaliser.fit(train), dict(test.stack())
        >>> back = normaliser.invert(normaliser.apply(tensors))
        >>> bool((back["layers.0.weight"] - tensors["layers.0.weight"]).abs().max() < 1e-5)
        True
        """
        return {
            name: t * self._of(name)[1] + self._of(name)[0] if t.is_floating_point() else t
            for name, t in tensors.items()
        }

    def _of(self, name: str) -> tuple[float, float]:
        if name not in self.mean:
            raise TensorNotFoundError(f"the normaliser has not seen a tensor {name!r}. {nearest(name, self.mean)}")
        return self.mean[name], self.std[name]

    def save(self, path: str | Path) -> None:
        """Write it as JSON; every number reads back as it was.

        >>> import tempfile
        >>> import phasezoo
        >>> train, _, test = phasezoo.load("mlp-digits").filter(width=8).split(by="seed")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Normaliser.fit(train).save(f"{folder}/normaliser.json")
        ...     Normaliser.load(f"{folder}/normaliser.json") == Normaliser.fit(train)
        True
        """
        Path(path).write_text(json.dumps(asdict(self), indent=1))

    @classmethod
    def load(cls, path: str | Path) -> Normaliser:
        """Read what `save` wrote.

        Raises:
            FormatError: the file is not a normaliser.

        >>> import tempfile
        >>> import phasezoo
        >>> train, _, test = phasezoo.load("mlp-digits").filter(width=8).split(by="seed")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Normaliser.fit(train).save(f"{folder}/normaliser.json")
        ...     Normaliser.load(f"{folder}/normaliser.json").fitted_on
        8
        """
        try:
            content = json.loads(Path(path).read_text())
            return cls(**content)
        except (ValueError, TypeError) as error:
            raise FormatError(f"{path} is not a normaliser that phasezoo saved: {error}.") from None
