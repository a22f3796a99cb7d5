"""Vision transformers of any embedding dimension for small images.

References:
    Dosovitskiy et al., *An image is worth 16x16 words*, ICLR 2021: the architecture.
    Touvron et al., *Training data-efficient image transformers*, ICML 2021: the initial weights.
    Names, order and shapes of the state dict are those of `VisionTransformer` in timm.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import gelu, scaled_dot_product_attention

from phasezoo.nets.layer import layer

Device = str | torch.device | None


class PatchEmbed(nn.Module):
    """Cut an image into patches and map each to a token."""

    def __init__(self, in_channels: int, dim: int, patch_size: int, *, device: Device) -> None:
        super().__init__()
        self.proj = layer(nn.Conv2d, in_channels, dim, patch_size, stride=patch_size, device=device)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map ``[batch, channels, h, w]`` to ``[batch, patches, dim]``."""
        h: torch.Tensor = self.proj(x)
        return h.flatten(2).transpose(1, 2)


class Attention(nn.Module):
    """Multi-head self-attention."""

    def __init__(self, dim: int, heads: int, dropout: float, *, device: Device) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.qkv = layer(nn.Linear, dim, 3 * dim, device=device)
        self.proj = layer(nn.Linear, dim, dim, device=device)
        self.proj_drop = nn.Dropout(dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map ``[batch, tokens, dim]`` to the same shape."""
        batch, tokens, dim = x.shape
        qkv = self.qkv(x).view(batch, tokens, 3, self.heads, dim // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # each [batch, heads, tokens, dim / heads]
        h = scaled_dot_product_attention(q, k, v, dropout_p=self.dropout if self.training else 0.0)
        out: torch.Tensor = self.proj_drop(self.proj(h.transpose(1, 2).reshape(batch, tokens, dim)))
        return out


class Mlp(nn.Module):
    """Two layers with GELU between them, applied to each token."""

    def __init__(self, dim: int, hidden: int, dropout: float, *, device: Device) -> None:
        super().__init__()
        self.fc1 = layer(nn.Linear, dim, hidden, device=device)
        self.fc2 = layer(nn.Linear, hidden, dim, device=device)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map ``[batch, tokens, dim]`` to the same shape."""
        out: torch.Tensor = self.drop(self.fc2(self.drop(gelu(self.fc1(x)))))
        return out


class Block(nn.Module):
    """Attention and a perceptron, each behind a LayerNorm and beside a shortcut."""

    def __init__(self, dim: int, heads: int, hidden: int, dropout: float, *, device: Device) -> None:
        super().__init__()
        self.norm1 = layer(nn.LayerNorm, dim, eps=1e-6, device=device)
        self.attn = Attention(dim, heads, dropout, device=device)
        self.norm2 = layer(nn.LayerNorm, dim, eps=1e-6, device=device)
        self.mlp = Mlp(dim, hidden, dropout, device=device)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map ``[batch, tokens, dim]`` to the same shape."""
        x = x + self.attn(self.norm1(x))
        out: torch.Tensor = x + self.mlp(self.norm2(x))
        return out


class ViT(nn.Module):
    """A vision transformer that reads its answer from a class token.

    A block has 4 d^2 + 2 d m + 9 d + m parameters, with d = embedding_dim, m = mlp_ratio d: 12 d^2 + 13 d by default.

    Initial weights of linear layers and positions are normal with standard deviation 0.02, biases are zero, the class
    token is normal with standard deviation 1e-6, and the patch convolution has torch's default.

    Args:
        image_size: height and width of the image.
        patch_size: height and width of a patch; divides the image size.
        embedding_dim: size of a token.
        depth: number of blocks.
        heads: attention heads; divides the embedding dimension.
        num_classes: size of the output.
        in_channels: channels of the image.
        mlp_ratio: hidden units of the perceptron in a block, in embedding dimensions.
        dropout: rate of dropout after the positions, on the attention and after each layer of a block.
        device: where to build it; on the meta device nothing is drawn.

    >>> net = ViT(image_size=8, patch_size=2, embedding_dim=16, depth=2, heads=4, num_classes=10, in_channels=1)
    >>> net(torch.zeros(5, 1, 8, 8)).shape
    torch.Size([5, 10])
    >>> net.pos_embed.shape  # a class token and 16 patches
    torch.Size([1, 17, 16])
    """

    def __init__(
        self,
        *,
        image_size: int,
        patch_size: int,
        embedding_dim: int,
        depth: int,
        heads: int,
        num_classes: int,
        in_channels: int = 3,
        mlp_ratio: float = 4.0,
        dropout: float = 0.0,
        device: Device = None,
    ) -> None:
        super().__init__()
        if min(image_size, patch_size, embedding_dim, depth, heads, num_classes, in_channels) < 1:
            raise TypeError("image_size, patch_size, embedding_dim, depth, heads and the channels must be positive")
        if image_size % patch_size:
            raise TypeError(f"patches of {patch_size} do not tile an image of {image_size}")
        if embedding_dim % heads:
            raise TypeError(f"{heads} heads do not divide an embedding of {embedding_dim}")
        dim = embedding_dim
        self.patch_size, self.embedding_dim, self.depth, self.heads = patch_size, dim, depth, heads
        self.num_classes = num_classes
        patches = (image_size // patch_size) ** 2
        # In this order, before the layers: it is the order of timm's state dict.
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim, device=device))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + patches, dim, device=device))
        self.patch_embed = PatchEmbed(in_channels, dim, patch_size, device=device)
        self.pos_drop = nn.Dropout(dropout)
        hidden = int(dim * mlp_ratio)
        self.blocks = nn.Sequential(*(Block(dim, heads, hidden, dropout, device=device) for _ in range(depth)))
        self.norm = layer(nn.LayerNorm, dim, eps=1e-6, device=device)
        self.head = layer(nn.Linear, dim, num_classes, device=device)
        if str(device) != "meta":
            self._initialise()

    def _initialise(self) -> None:
        nn.init.normal_(self.pos_embed, std=0.02)
        nn.init.normal_(self.cls_token, std=1e-6)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map images ``[batch, in_channels, h, w]`` to logits ``[batch, num_classes]``."""
        h = self.patch_embed(x)  # [batch, patches, dim]
        h = torch.cat([self.cls_token.expand(h.shape[0], -1, -1), h], 1)  # [batch, 1 + patches, dim]
        h = self.norm(self.blocks(self.pos_drop(h + self.pos_embed)))
        out: torch.Tensor = self.head(h[:, 0])
        return out

    def __repr__(self) -> str:
        blocks = f"{self.depth} blocks, {self.heads} heads"
        return f"ViT(patch {self.patch_size}, dim {self.embedding_dim}, {blocks} -> {self.num_classes})"
