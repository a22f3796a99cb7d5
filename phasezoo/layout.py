"""The layout of a state dict: names, dtypes, shapes and relative offsets of its tensors, in module order.

A layout is what turns the contiguous bytes of a checkpoint into named tensors. It keeps the module's own key
order, which safetensors does not: consumers that iterate over a state dict break on sorted keys.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import TYPE_CHECKING

from phasezoo.errors import FormatError, TensorNotFoundError, nearest

if TYPE_CHECKING:
    import torch

# safetensors code -> (bytes per element, name of the torch dtype)
DTYPES: dict[str, tuple[int, str]] = {
    "F64": (8, "float64"),
    "F32": (4, "float32"),
    "F16": (2, "float16"),
    "BF16": (2, "bfloat16"),
    "I64": (8, "int64"),
    "I32": (4, "int32"),
    "I16": (2, "int16"),
    "I8": (1, "int8"),
    "U8": (1, "uint8"),
    "BOOL": (1, "bool"),
}
CODES: dict[str, str] = {name: code for code, (_, name) in DTYPES.items()}
MAX_DIMENSIONS = 64  # numpy's limit


def size_in_bytes(dtype: str, shape: Iterable[int]) -> int:
    """Return the bytes of a tensor; safe on shapes that somebody else wrote.

    Args:
        dtype: safetensors code, one of `DTYPES`.
        shape: natural numbers.

    Raises:
        ValueError: more dimensions than any tensor has, or strides that 64 bits do not hold.

    >>> size_in_bytes("F32", (3, 2)), size_in_bytes("F32", (3, 0))
    (24, 0)
    """
    shape = tuple(shape)
    if len(shape) > MAX_DIMENSIONS:
        raise ValueError(f"has {len(shape)} dimensions; {MAX_DIMENSIONS} are possible")
    itemsize = strides = DTYPES[dtype][0]
    for n in shape:
        strides *= max(n, 1)
        if strides >= 2**63:  # at once: the product of many large numbers takes hours
            raise ValueError("is larger than 64 bits can count")
    return itemsize * prod(shape)


@dataclass(frozen=True)
class TensorSpec:
    """One tensor of a layout; `offset` counts bytes from the start of the checkpoint."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor."""
        return DTYPES[self.dtype][0] * prod(self.shape)


@dataclass(frozen=True)
class Layout:
    """All tensors of one checkpoint, in module order, without holes."""

    tensors: tuple[TensorSpec, ...]

    @classmethod
    def of(cls, tensors: Iterable[tuple[str, str, Iterable[int]]]) -> Layout:
        """Lay tensors out one after another.

        Args:
            tensors: (name, safetensors dtype code, shape), in module order.

        Raises:
            FormatError: an unknown dtype, a negative or absurd size, or a name that occurs twice.

        >>> Layout.of([("weight", "F32", (3, 2)), ("bias", "F32", (3,))]).nbytes
        36
        """
        specs: list[TensorSpec] = []
        seen: set[str] = set()
        offset = 0
        for name, dtype, shape in tensors:
            shape = tuple(int(n) for n in shape)
            if dtype not in DTYPES:
                raise FormatError(f"tensor {name!r} has dtype {dtype!r}. {nearest(dtype, DTYPES, limit=20)}")
            if name in seen or any(n < 0 for n in shape):
                raise FormatError(f"tensor {name!r} occurs twice or has a negative size {shape}.")
            seen.add(name)
            try:
                size_in_bytes(dtype, shape)
            except ValueError as error:
                raise FormatError(f"tensor {name!r} {error}.") from None
            specs.append(TensorSpec(name, dtype, shape, offset))
            offset += specs[-1].nbytes
        return cls(tuple(specs))

    @classmethod
    def of_state_dict(cls, state_dict: Mapping[str, torch.Tensor]) -> Layout:
        """Lay out a state dict in its own key order.

        >>> import torch
        >>> Layout.of_state_dict(torch.nn.Linear(2, 3).state_dict()).names
        ('weight', 'bias')
        """
        return cls.of(
            (name, CODES.get(str(t.dtype).removeprefix("torch."), str(t.dtype)), t.shape)
            for name, t in state_dict.items()
        )

    @cached_property
    def nbytes(self) -> int:
        """Bytes of a whole checkpoint."""
        return sum(spec.nbytes for spec in self.tensors)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Names of the tensors, in module order."""
        return tuple(spec.name for spec in self.tensors)

    @cached_property
    def position(self) -> dict[str, int]:
        """Position of each name in the layout."""
        return {name: i for i, name in enumerate(self.names)}

    @cached_property
    def layout_id(self) -> str:
        """Hash of names, dtypes and shapes, in order: equal ids mean interchangeable bytes."""
        content = json.dumps([(s.name, s.dtype, s.shape) for s in self.tensors], separators=(",", ":"))
        return hashlib.sha256(content.encode()).hexdigest()[:16]

    def __getitem__(self, name: str) -> TensorSpec:
        try:
            return self.tensors[self.position[name]]
        except KeyError:
            raise TensorNotFoundError(f"no tensor {name!r} in this layout. {nearest(name, self.names)}") from None

    def __len__(self) -> int:
        return len(self.tensors)
