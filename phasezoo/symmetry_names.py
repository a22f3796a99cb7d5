"""Which permutations of units transformers allow, read from the names of their tensors.

One table a family. Attention is the same for any order of its heads, a perceptron for any order of its hidden units,
and the network for any order of the residual stream's coordinates, which LayerNorm treats alike. All blocks share one
stream. Rotations inside a head, which leave queries times keys alone, are no permutations and not listed.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from phasezoo.symmetry import Symmetry

if TYPE_CHECKING:
    from torch import nn

# pattern of names -> {axis: group}; {block} is what the pattern's group of that name finds.
Axes = dict[str, dict[int, str]]

STREAM, HEADS, HIDDEN = "stream", "{block}.heads", "{block}.hidden"

# Vision transformers as in timm; linear layers are [out, in], the convolution that embeds patches [out, in, h, w].
VIT: Axes = {
    r"(cls_token|reg_token|pos_embed)": {2: STREAM},
    r"patch_embed\.proj\.(weight|bias)": {0: STREAM},
    r"(?P<block>blocks\.\d+)\.norm[12]\.(weight|bias)": {0: STREAM},
    r"(?P<block>blocks\.\d+)\.attn\.qkv\.weight": {0: HEADS, 1: STREAM},
    r"(?P<block>blocks\.\d+)\.attn\.qkv\.bias": {0: HEADS},
    r"(?P<block>blocks\.\d+)\.attn\.proj\.weight": {0: STREAM, 1: HEADS},
    r"(?P<block>blocks\.\d+)\.attn\.proj\.bias": {0: STREAM},
    r"(?P<block>blocks\.\d+)\.mlp\.fc1\.weight": {0: HIDDEN, 1: STREAM},
    r"(?P<block>blocks\.\d+)\.mlp\.fc1\.bias": {0: HIDDEN},
    r"(?P<block>blocks\.\d+)\.mlp\.fc2\.weight": {0: STREAM, 1: HIDDEN},
    r"(?P<block>blocks\.\d+)\.mlp\.fc2\.bias": {0: STREAM},
    r"(norm|fc_norm)\.(weight|bias)": {0: STREAM},
    r"head\.weight": {1: STREAM},
    r"head\.bias": {},
}

# GPT-2 as in transformers, whose layers are [in, out]; the head shares the embedding's weights.
GPT2: Axes = {
    r"(transformer\.)?w[tp]e\.weight": {1: STREAM},
    r"(?P<block>(transformer\.)?h\.\d+)\.ln_[12]\.(weight|bias)": {0: STREAM},
    r"(?P<block>(transformer\.)?h\.\d+)\.attn\.c_attn\.weight": {0: STREAM, 1: HEADS},
    r"(?P<block>(transformer\.)?h\.\d+)\.attn\.c_attn\.bias": {0: HEADS},
    r"(?P<block>(transformer\.)?h\.\d+)\.attn\.c_proj\.weight": {0: HEADS, 1: STREAM},
    r"(?P<block>(transformer\.)?h\.\d+)\.attn\.c_proj\.bias": {0: STREAM},
    r"(?P<block>(transformer\.)?h\.\d+)\.mlp\.c_fc\.weight": {0: STREAM, 1: HIDDEN},
    r"(?P<block>(transformer\.)?h\.\d+)\.mlp\.c_fc\.bias": {0: HIDDEN},
    r"(?P<block>(transformer\.)?h\.\d+)\.mlp\.c_proj\.weight": {0: HIDDEN, 1: STREAM},
    r"(?P<block>(transformer\.)?h\.\d+)\.mlp\.c_proj\.bias": {0: STREAM},
    r"(transformer\.)?ln_f\.(weight|bias)": {0: STREAM},
    r"lm_head\.weight": {1: STREAM},
}


def named(model: nn.Module) -> Symmetry | None:
    """Find the permutations that a transformer allows; None if a tensor's name is in no table.

    Args:
        model: the network; its blocks' ``attn`` say how many heads there are (``heads``, or ``num_heads``).

    >>> import torch
    >>> named(torch.nn.Linear(2, 3)) is None
    True
    """
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters(remove_duplicate=False)}
    for family in (VIT, GPT2):
        groups = {name: found for name in shapes if (found := _groups(name, family)) is not None}
        if shapes and len(groups) == len(shapes):
            return _symmetry(model, shapes, groups)
    return None


def _groups(name: str, family: Axes) -> dict[int, str] | None:
    for pattern, axes in family.items():
        if found := re.fullmatch(pattern, name):
            return {axis: group.format(**found.groupdict()) for axis, group in axes.items()}
    return None


def _symmetry(
    model: nn.Module, shapes: dict[str, tuple[int, ...]], groups: dict[str, dict[int, str]]
) -> Symmetry | None:
    lengths: dict[str, list[int]] = {}
    for name, found in groups.items():
        for axis, group in found.items():
            lengths.setdefault(group, []).append(shapes[name][axis])
    numbers = {group: i for i, group in enumerate(lengths, 1)}
    width = {group: min(found) for group, found in lengths.items()}
    units = {group: _heads(model, group) if group.endswith(".heads") else n for group, n in width.items()}
    for group, known in lengths.items():
        # Queries, keys and values lie one after another; all other axes of a group are equally long.
        blocks = {1, 3} if group.endswith(".heads") else {1}
        if width[group] % units[group] or not {n / width[group] for n in known} <= blocks:
            return None
    axes = {
        name: {axis: (numbers[group], width[group] // units[group]) for axis, group in found.items()}
        for name, found in groups.items()
        if found
    }
    # A tensor of two names counts once.
    parameters = frozenset(name for name, _ in model.named_parameters())
    return Symmetry(axes, {numbers[group]: n for group, n in units.items()}, parameters)


def _heads(model: nn.Module, group: str) -> int:
    attention: Any = model.get_submodule(group.removesuffix("heads") + "attn")
    number: int = attention.heads if hasattr(attention, "heads") else attention.num_heads
    return number
