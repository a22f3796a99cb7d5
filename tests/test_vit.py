"""The vision transformer against torch's own transformer layers and, where it can be imported, timm."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from phasezoo.errors import ArchitectureError
from phasezoo.nets import build

SMALL = {"image_size": 8, "patch_size": 2, "embedding_dim": 12, "depth": 2, "heads": 3, "num_classes": 5}


def seeded(**config) -> nn.Module:
    """A network whose weights are far from their small initial values."""
    torch.manual_seed(0)
    net = build("vit", **{**SMALL, **config}).eval()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return net


def encoder_layer(block: nn.Module, dim: int, heads: int) -> nn.TransformerEncoderLayer:
    """The layer of torch that computes what a block does."""
    hidden = block.mlp.fc1.out_features
    twin = nn.TransformerEncoderLayer(
        *(dim, heads, hidden, 0.0),
        activation="gelu",
        layer_norm_eps=1e-6,
        batch_first=True,
        norm_first=True,
    ).eval()
    twin.load_state_dict(
        {
            "self_attn.in_proj_weight": block.attn.qkv.weight,
            "self_attn.in_proj_bias": block.attn.qkv.bias,
            **{f"self_attn.out_proj.{k}": v for k, v in block.attn.proj.state_dict().items()},
            **{f"linear{i}.{k}": v for i in (1, 2) for k, v in getattr(block.mlp, f"fc{i}").state_dict().items()},
            **{f"norm{i}.{k}": v for i in (1, 2) for k, v in getattr(block, f"norm{i}").state_dict().items()},
        }
    )
    return twin


@pytest.mark.parametrize("config", [{}, {"mlp_ratio": 1.5, "heads": 2, "in_channels": 1, "patch_size": 4}])
def test_logits_are_those_of_torch_transformer_layers(config: dict) -> None:
    net = seeded(**config)
    patch, channels = net.patch_size, config.get("in_channels", 3)
    x = torch.randn(4, channels, 8, 8)
    with torch.no_grad():
        patches = nn.functional.unfold(x, patch, stride=patch).transpose(1, 2)  # [4, patches, channels * patch^2]
        h = patches @ net.patch_embed.proj.weight.flatten(1).T + net.patch_embed.proj.bias
        h = torch.cat([net.cls_token.expand(4, 1, -1), h], 1) + net.pos_embed
        for block in net.blocks:
            h = encoder_layer(block, 12, net.heads)(h)
        h = nn.functional.layer_norm(h, (12,), net.norm.weight, net.norm.bias, 1e-6)
        torch.testing.assert_close(net(x), h[:, 0] @ net.head.weight.T + net.head.bias, rtol=1e-4, atol=1e-5)


def test_names_shapes_and_logits_are_those_of_timm() -> None:
    pytest.importorskip("torchvision", reason="timm needs torchvision")
    timm = pytest.importorskip("timm.models.vision_transformer", reason="the reference of the names")
    theirs = timm.VisionTransformer(
        img_size=8, patch_size=2, embed_dim=12, depth=2, num_heads=3, num_classes=5, mlp_ratio=4.0
    ).eval()
    net = seeded()
    shapes = [(name, tuple(tensor.shape)) for name, tensor in net.state_dict().items()]
    assert shapes == [(name, tuple(tensor.shape)) for name, tensor in theirs.state_dict().items()]
    theirs.load_state_dict(net.state_dict())
    x = torch.randn(4, 3, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(net(x), theirs(x), rtol=1e-5, atol=1e-5)


def test_names_are_those_of_the_documentation_of_timm() -> None:
    names = list(build("vit", device="meta", **SMALL).state_dict())
    parts = ["norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2"]
    blocks = [f"blocks.{i}.{part}" for i in (0, 1) for part in parts]
    layers = [f"{part}.{what}" for part in ["patch_embed.proj", *blocks, "norm", "head"] for what in ("weight", "bias")]
    assert names == ["cls_token", "pos_embed", *layers]


@pytest.mark.parametrize("k", [10, 100])
@pytest.mark.parametrize(("d", "heads"), [(6, 3), (60, 3), (192, 6)])
@pytest.mark.parametrize(("depth", "patch"), [(1, 8), (6, 4)])
def test_counts_follow_their_closed_form(d: int, heads: int, k: int, depth: int, patch: int) -> None:
    config = {"image_size": 32, "patch_size": patch, "embedding_dim": d, "depth": depth, "heads": heads}
    net = build("vit", num_classes=k, device="meta", **config)
    tokens, pixels = (32 // patch) ** 2 + 1, 3 * patch * patch
    around = d * (pixels + 1) + d * (tokens + 1) + 2 * d + (d + 1) * k  # patches; positions, class token; norm; head
    assert sum(p.numel() for p in net.parameters()) == depth * (12 * d * d + 13 * d) + around


def test_initial_weights_have_the_published_spread_and_follow_the_seed() -> None:
    torch.manual_seed(5)
    net = build("vit", image_size=32, patch_size=4, embedding_dim=192, depth=2, heads=3, num_classes=100)
    state = net.state_dict()
    for name in ("blocks.0.attn.qkv.weight", "blocks.1.mlp.fc2.weight", "head.weight", "pos_embed"):
        assert state[name].std().item() == pytest.approx(0.02, rel=0.03)
        assert abs(state[name].mean().item()) < 1e-3
    assert not any(state[name].any() for name in state if name.endswith("bias") and not name.startswith("patch_embed"))
    assert 0 < state["cls_token"].abs().max() < 1e-5
    torch.manual_seed(5)
    again = build("vit", image_size=32, patch_size=4, embedding_dim=192, depth=2, heads=3, num_classes=100)
    assert all(torch.equal(a, b) for a, b in zip(state.values(), again.state_dict().values(), strict=True))


def test_dropout_acts_in_training_only() -> None:
    net = build("vit", dropout=0.5, **SMALL)
    x = torch.randn(2, 3, 8, 8)
    assert not torch.equal(net.train()(x), net(x))
    assert torch.equal(net.eval()(x), net(x))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"patch_size": 3}, "do not tile an image of 8"),
        ({"heads": 5}, "5 heads do not divide"),
        ({"depth": 0}, "must be positive"),
        ({"width": 8}, "width"),
    ],
)
def test_what_does_not_fit_says_why(config: dict, message: str) -> None:
    with pytest.raises(ArchitectureError, match=message):
        build("vit", **{**SMALL, **config})
