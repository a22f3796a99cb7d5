"""The layers of a layout: entries of a state dict that belong to one module, told apart by what they are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from phasezoo.layout import Layout, TensorSpec

FLOATS = ("F64", "F32", "F16", "BF16")


@dataclass(frozen=True)
class Layer:
    """The tensors of one module, by the last part of their name.

    Attributes:
        name: name of the module.
        floats: floating tensors, in module order: weight, bias, running_mean, ...
        counters: integer tensors, such as BatchNorm's num_batches_tracked.
    """

    name: str
    floats: Mapping[str, TensorSpec]
    counters: tuple[TensorSpec, ...]

    @property
    def is_batchnorm(self) -> bool:
        """Does it keep running statistics? Names of modules say less: they differ between architectures."""
        return "running_mean" in self.floats


@lru_cache(maxsize=64)
def layers(layout: Layout) -> tuple[Layer, ...]:
    """Group the entries of a layout by module, in module order.

    >>> layout = Layout.of([("conv.weight", "F32", (8, 3, 3, 3)), ("bn.running_mean", "F32", (8,)),
    ...                     ("bn.num_batches_tracked", "I64", ())])
    >>> [(layer.name, layer.is_batchnorm, len(layer.counters)) for layer in layers(layout)]
    [('conv', False, 0), ('bn', True, 1)]
    """
    groups: dict[str, dict[str, TensorSpec]] = {}
    for spec in layout.tensors:
        module, _, leaf = spec.name.rpartition(".")
        groups.setdefault(module, {})[leaf] = spec
    return tuple(
        Layer(
            name,
            {leaf: spec for leaf, spec in entries.items() if spec.dtype in FLOATS},
            tuple(spec for spec in entries.values() if spec.dtype not in FLOATS),
        )
        for name, entries in groups.items()
    )
