"""The weights of a network as a sequence of tokens, one row per output channel.

Follows the tokenisation of SANE (Schürholt et al., *Towards scalable and versatile weight space learning*, ICML 2024):
the weights of a channel with its bias behind them, padded with zeros to one size or cut into several tokens of that
size; running statistics of BatchNorm are layers of their own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import TYPE_CHECKING, NamedTuple

from phasezoo.errors import TopologyError
from phasezoo.layout import DTYPES, Layout, TensorSpec
from phasezoo.representations.structure import layers

if TYPE_CHECKING:
    import torch

# What a token holds; its number is the place in this tuple.
KINDS = ("weight", "bias", "affine", "statistic")


class TokenSequence(NamedTuple):
    """A network as tokens; with a first dimension for the models where it is a batch.

    Attributes:
        values: ``[tokens, size]``, zero where there is padding.
        mask: ``[tokens, size]``, true where there is a value.
        positions: ``[tokens, 3]``: place in the sequence, layer, channel.
        kinds: ``[tokens]``, numbers of `KINDS`: weights with their bias, parameters without a weight, scale and shift
            of a normalisation, running statistics.
        counters: ``[counters]``, the integers of BatchNorm, which are no weights but belong to the state dict.

    >>> import phasezoo
    >>> view = phasezoo.load("mlp-digits").filter(width=8)
    >>> tokens = view.to_torch(Tokens(size=16))[0]
    >>> tokens.values.shape, tokens.positions[0].tolist(), int(tokens.mask.sum())  # as many values as the network has
    (torch.Size([58, 16]), [0, 0, 0], 682)
    """

    values: torch.Tensor
    mask: torch.Tensor
    positions: torch.Tensor
    kinds: torch.Tensor
    counters: torch.Tensor


@dataclass(frozen=True)
class Tokens:
    """Tokens of one size, with mask, positions and kinds. Inverts bit for bit.

    Attributes:
        size: values of a token; a longer row is cut into several, a shorter one padded. The longest row by default.
        batchnorm: keep BatchNorm's scale, shift, running statistics and counters? Without them `decode` leaves
            them out.

    >>> import phasezoo
    >>> view = phasezoo.load("mlp-digits").filter(width=8)
    >>> x = view.to_torch(Tokens(size=16))[0]
    >>> x.values.shape, x.mask.shape
    (torch.Size([58, 16]), torch.Size([58, 16]))
    """

    size: int | None = None
    batchnorm: bool = True

    def encode(self, tensors: Mapping[str, torch.Tensor], layout: Layout) -> TokenSequence:
        """Turn ``{name: [models, ...]}`` into the tokens of all models.

        Raises:
            TopologyError: the layout has nothing to make tokens of.

        >>> import torch
        >>> state_dict = torch.nn.Linear(5, 2).state_dict()
        >>> batch = {name: t[None] for name, t in state_dict.items()}
        >>> tokens = Tokens(size=4).encode(batch, Layout.of_state_dict(state_dict))
        >>> tokens.values.shape, tokens.positions[0].tolist(), tokens.mask[0, 1].tolist()
        (torch.Size([1, 4, 4]), [[0, 0, 0], [1, 0, 0], [2, 0, 1], [3, 0, 1]], [True, True, False, False])
        """
        import torch

        plan = _plan(self, layout)
        models = len(next(iter(tensors.values())))
        values = torch.zeros((models, len(plan.kinds), plan.size), dtype=plan.dtype)
        for row in plan.rows:
            block = row.block(values, plan.size)
            for spec, start, count in row.columns():
                block[:, :, start : start + count] = tensors[spec.name].reshape(models, row.channels, count)
        counters = [tensors[spec.name].reshape(models, -1).long() for spec in plan.counters]
        mask, positions, kinds = (x.expand(models, *x.shape) for x in (plan.mask, plan.positions, plan.kinds))
        none = torch.empty((models, 0), dtype=torch.long)
        return TokenSequence(values, mask, positions, kinds, torch.cat([none, *counters], 1))

    def decode(self, x: TokenSequence, layout: Layout) -> dict[str, torch.Tensor]:
        """Turn tokens back into ``{name: [models, ...]}``, of all that they hold, in module order.

        ``{**state_dict, **decoded}`` fills the rest from another network where BatchNorm was left out.

        >>> import torch
        >>> state_dict = torch.nn.Linear(3, 2).state_dict()
        >>> layout, batch = Layout.of_state_dict(state_dict), {name: t[None] for name, t in state_dict.items()}
        >>> back = Tokens().decode(Tokens().encode(batch, layout), layout)
        >>> bool((back["weight"] == batch["weight"]).all())
        True
        """
        import torch

        plan = _plan(self, layout)
        models = len(x.values)
        found: dict[str, torch.Tensor] = {}
        for row in plan.rows:
            block = row.block(x.values, plan.size)
            for spec, start, count in row.columns():
                part = block[:, :, start : start + count].reshape(models, *spec.shape)
                found[spec.name] = part.to(getattr(torch, DTYPES[spec.dtype][1]))
        place = 0
        for spec in plan.counters:
            part = x.counters[:, place : place + prod(spec.shape)]
            found[spec.name] = part.reshape(models, *spec.shape).to(getattr(torch, DTYPES[spec.dtype][1]))
            place += prod(spec.shape)
        return {name: found[name] for name in layout.names if name in found}


def pad(sequences: Sequence[TokenSequence]) -> TokenSequence:
    """Put single networks of several topologies into one batch, the shorter sequences filled up with masked tokens.

    Raises:
        TopologyError: their tokens differ in size.
    """
    from torch.nn.utils.rnn import pad_sequence

    sizes = sorted({sequence.values.shape[-1] for sequence in sequences})
    if len(sizes) > 1:
        raise TopologyError(
            f"tokens of sizes {', '.join(map(str, sizes))} do not fit into one batch. Give all networks one size: "
            f"Tokens(size={sizes[-1]})."
        )
    return TokenSequence(*(pad_sequence(list(parts), batch_first=True) for parts in zip(*sequences, strict=True)))


@dataclass(frozen=True)
class _Rows:
    """Tensors that lie side by side in the rows of one layer, and where their tokens are."""

    specs: tuple[TensorSpec, ...]
    channels: int
    kind: int
    first: int  # token
    cuts: int  # tokens of one channel

    def columns(self) -> Iterator[tuple[TensorSpec, int, int]]:
        """Yield each tensor with its first column and their number."""
        start = 0
        for spec in self.specs:
            count = prod(spec.shape) // self.channels
            yield spec, start, count
            start += count

    def block(self, values: torch.Tensor, size: int) -> torch.Tensor:
        """View the tokens of the layer as ``[models, channels, padded row]``."""
        part = values[:, self.first : self.first + self.channels * self.cuts]
        return part.view(len(values), self.channels, self.cuts * size)


@dataclass(frozen=True)
class _Plan:
    rows: tuple[_Rows, ...]
    counters: tuple[TensorSpec, ...]
    size: int
    dtype: torch.dtype
    mask: torch.Tensor
    positions: torch.Tensor
    kinds: torch.Tensor


@lru_cache(maxsize=64)
def _plan(tokens: Tokens, layout: Layout) -> _Plan:
    """Say where everything goes; the same for all networks of a layout."""
    import torch

    groups = list(_groups(layout, batchnorm=tokens.batchnorm))
    if not groups:
        raise TopologyError(f"there is nothing to make tokens of among {', '.join(layout.names[:4])}.")
    widths = [sum(prod(spec.shape) for spec in specs) // channels for specs, channels, _ in groups]
    size = tokens.size or max(widths)
    rows: list[_Rows] = []
    masks, positions, kinds = [], [], []
    first = 0
    for number, ((specs, channels, kind), width) in enumerate(zip(groups, widths, strict=True)):
        cuts = -(-width // size)
        rows.append(_Rows(specs, channels, kind, first, cuts))
        masks.append((torch.arange(cuts * size) < width).view(1, cuts, size).expand(channels, -1, -1).reshape(-1, size))
        place = torch.arange(first, first + channels * cuts)
        channel = torch.arange(channels).repeat_interleave(cuts)
        positions.append(torch.stack([place, torch.full_like(place, number), channel], 1))
        kinds.append(torch.full((channels * cuts,), kind))
        first += channels * cuts
    dtype = torch.float32
    for specs, _, _ in groups:
        for spec in specs:
            dtype = torch.promote_types(dtype, getattr(torch, DTYPES[spec.dtype][1]))
    counters = tuple(spec for layer in layers(layout) for spec in layer.counters) if tokens.batchnorm else ()
    return _Plan(
        tuple(rows),
        counters,
        size,
        dtype,
        torch.cat(masks),
        torch.cat(positions).to(torch.int32),
        torch.cat(kinds).to(torch.int8),
    )


def _groups(layout: Layout, *, batchnorm: bool) -> Iterator[tuple[tuple[TensorSpec, ...], int, int]]:
    """Yield the tensors that share rows, the number of channels, and the kind."""
    for layer in layers(layout):
        if layer.is_batchnorm and not batchnorm:
            continue
        weight, bias = layer.floats.get("weight"), layer.floats.get("bias")
        joined = weight is not None and bias is not None and bias.shape == weight.shape[:1]
        for leaf, spec in layer.floats.items():
            if not prod(spec.shape) or (leaf == "bias" and joined):
                continue
            channels = spec.shape[0] if spec.shape else 1
            if leaf.startswith("running_"):
                kind = "statistic"
            elif leaf == "weight":
                kind = "affine" if len(spec.shape) == 1 else "weight"
            else:
                kind = "bias"
            specs = (spec, bias) if leaf == "weight" and joined and bias is not None else (spec,)
            yield specs, channels, KINDS.index(kind)
