"""GPT-2 of any model dimension.

References:
    Radford et al., *Language models are unsupervised multitask learners*, 2019: the architecture and initial weights.
    Names, order and shapes of the state dict are those of the files that `GPT2LMHeadModel` in transformers writes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.functional import gelu, linear, scaled_dot_product_attention

from phasezoo.nets.layer import layer

Device = str | torch.device | None

EMBEDDING, HEAD = "transformer.wte.weight", "lm_head.weight"


class Conv1D(nn.Module):
    """A linear layer whose weight is ``[in, out]``, as GPT-2 stores it: y = x W + b."""

    def __init__(self, n_in: int, n_out: int, *, device: Device) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(n_in, n_out, device=device))
        self.bias = nn.Parameter(torch.empty(n_out, device=device))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map ``[..., in]`` to ``[..., out]``."""
        return linear(x, self.weight.t(), self.bias)


class Attention(nn.Module):
    """Multi-head self-attention in which a token sees itself and those before it."""

    def __init__(self, dim: int, heads: int, dropout: float, *, device: Device) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.c_attn = Conv1D(dim, 3 * dim, device=device)
        self.c_proj = Conv1D(dim, dim, device=device)
        self.resid_dropout = nn.Dropout(dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map ``[batch, tokens, dim]`` to the same shape."""
        batch, tokens, dim = x.shape
        qkv = self.c_attn(x).view(batch, tokens, 3, self.heads, dim // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # each [batch, heads, tokens, dim / heads]
        rate = self.dropout if self.training else 0.0
        h = scaled_dot_product_attention(q, k, v, dropout_p=rate, is_causal=True)
        out: torch.Tensor = self.resid_dropout(self.c_proj(h.transpose(1, 2).reshape(batch, tokens, dim)))
        return out


class Mlp(nn.Module):
    """Two layers with GELU (its tanh approximation) between them, applied to each token."""

    def __init__(self, dim: int, dropout: float, *, device: Device) -> None:
        super().__init__()
        self.c_fc = Conv1D(dim, 4 * dim, device=device)
        self.c_proj = Conv1D(4 * dim, dim, device=device)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map ``[batch, tokens, dim]`` to the same shape."""
        out: torch.Tensor = self.dropout(self.c_proj(gelu(self.c_fc(x), approximate="tanh")))
        return out


class Block(nn.Module):
    """Attention and a perceptron, each behind a LayerNorm and beside a shortcut."""

    def __init__(self, dim: int, heads: int, dropout: float, *, device: Device) -> None:
        super().__init__()
        self.ln_1 = layer(nn.LayerNorm, dim, device=device)
        self.attn = Attention(dim, heads, dropout, device=device)
        self.ln_2 = layer(nn.LayerNorm, dim, device=device)
        self.mlp = Mlp(dim, dropout, device=device)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map ``[batch, tokens, dim]`` to the same shape."""
        x = x + self.attn(self.ln_1(x))
        out: torch.Tensor = x + self.mlp(self.ln_2(x))
        return out


class Transformer(nn.Module):
    """Embeddings of tokens and positions, the blocks, and a last LayerNorm."""

    def __init__(
        self, vocab_size: int, context: int, dim: int, depth: int, heads: int, dropout: float, *, device: Device
    ) -> None:
        super().__init__()
        self.wte = layer(nn.Embedding, vocab_size, dim, device=device)
        self.wpe = layer(nn.Embedding, context, dim, device=device)
        self.drop = nn.Dropout(dropout)
        self.h = nn.ModuleList(Block(dim, heads, dropout, device=device) for _ in range(depth))
        self.ln_f = layer(nn.LayerNorm, dim, device=device)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Map tokens ``[batch, tokens]`` to features ``[batch, tokens, dim]``."""
        h = self.wte(tokens) + self.wpe.weight[: tokens.shape[1]]
        h = self.drop(h)
        for block in self.h:
            h = block(h)
        out: torch.Tensor = self.ln_f(h)
        return out


class GPT2(nn.Module):
    """A GPT-2 language model.

    It has 12 d^2 + 13 d parameters a block and (vocab_size + context + 2) d others, with d = model_dim.

    The embedding of the tokens is also the head. It is stored once, as ``transformer.wte.weight``; a state dict that
    holds it a second time, as ``lm_head.weight``, loads as well, if the two agree.

    Initial weights are normal with standard deviation 0.02, divided by sqrt(2 depth) where a layer ends on a
    shortcut; biases are zero.

    Args:
        vocab_size: number of tokens.
        context: tokens that the model sees at most.
        model_dim: size of a token's features.
        depth: number of blocks.
        heads: attention heads; divides the model dimension.
        dropout: rate of dropout after the embeddings, on the attention and on what a shortcut is added to.
        device: where to build it; on the meta device nothing is drawn.

    >>> net = GPT2(vocab_size=100, context=32, model_dim=8, depth=2, heads=2)
    >>> net(torch.zeros(4, 10, dtype=torch.int64)).shape  # logits of the next token, at each token
    torch.Size([4, 10, 100])
    >>> sum(p.numel() for p in GPT2(model_dim=768, depth=12, heads=12, device="meta").parameters())
    124439808
    """

    def __init__(
        self,
        *,
        model_dim: int,
        depth: int,
        heads: int,
        vocab_size: int = 50257,
        context: int = 1024,
        dropout: float = 0.0,
        device: Device = None,
    ) -> None:
        super().__init__()
        if min(model_dim, depth, heads, vocab_size, context) < 1:
            raise TypeError("model_dim, depth, heads, vocab_size and context must be positive")
        if model_dim % heads:
            raise TypeError(f"{heads} heads do not divide a model dimension of {model_dim}")
        self.model_dim, self.depth, self.heads = model_dim, depth, heads
        self.vocab_size, self.context = vocab_size, context
        self.transformer = Transformer(vocab_size, context, model_dim, depth, heads, dropout, device=device)
        self.register_load_state_dict_pre_hook(_drop_tied_head)  # type: ignore[no-untyped-call]
        if str(device) != "meta":
            self._initialise()

    def _initialise(self) -> None:
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            elif name.endswith("c_proj.weight"):
                nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * self.depth))
            elif ".ln_" not in name:
                nn.init.normal_(parameter, std=0.02)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Map tokens ``[batch, tokens]`` (integers) to the logits of the next ones ``[batch, tokens, vocab_size]``."""
        return linear(self.transformer(tokens), self.transformer.wte.weight)

    def __repr__(self) -> str:
        size = f"dim {self.model_dim}, {self.depth} blocks, {self.heads} heads"
        return f"GPT2({size}, context {self.context}, {self.vocab_size} tokens)"


def _drop_tied_head(
    module: nn.Module,
    state_dict: dict[str, Any],
    prefix: str,
    local_metadata: Mapping[str, Any],
    strict: bool,
    missing_keys: list[str],
    unexpected_keys: list[str],
    error_msgs: list[str],
) -> None:
    """Take the head of a state dict away, where it repeats the embedding."""
    head = state_dict.pop(prefix + HEAD, None)
    embedding = state_dict.get(prefix + EMBEDDING)
    if head is None or embedding is None or head is embedding or head.is_meta or embedding.is_meta:
        return
    if not torch.equal(head, embedding):
        error_msgs.append(f"{HEAD} differs from {EMBEDDING}, but in this network they are one tensor.")
