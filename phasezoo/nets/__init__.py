"""Architectures, one a file, and `build`, which makes any of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from phasezoo.errors import ArchitectureError, nearest

if TYPE_CHECKING:
    import torch

# architecture -> (module of this package, function or class in it, arguments that the name implies)
_ARCHITECTURES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "mlp": ("mlp", "MLP", {}),
    "vit": ("vit", "ViT", {}),
    "gpt2": ("gpt2", "GPT2", {}),
    **{f"resnet{depth}": ("resnet", "ResNet", {"depth": depth}) for depth in (18, 34, 50, 101, 152)},
}
MAX_DEPTH = 2000  # arguments come from tables of others, and a depth of a billion would build for days


def architectures() -> list[str]:
    """Return the names that `build` takes.

    >>> "mlp" in architectures()
    True
    """
    return list(_ARCHITECTURES)


def build(architecture: str, *, device: str | torch.device | None = None, **config: Any) -> torch.nn.Module:
    """Build a network with fresh weights.

    Args:
        architecture: a name that `architectures` returns.
        device: where to build it; ``"meta"`` allocates nothing.
        **config: arguments of the architecture, as in the column `architecture_config`.

    Raises:
        ArchitectureError: unknown architecture or arguments that do not fit it.

    >>> build("mlp", in_features=64, width=8, depth=2, out_features=10)
    MLP(64-8-8-10, relu)
    >>> build("resnet18", width=8, num_classes=10, device="meta")
    ResNet(18, width 8, 3 -> 10)
    >>> build("vit", image_size=32, patch_size=4, embedding_dim=48, depth=6, heads=3, num_classes=10, device="meta")
    ViT(patch 4, dim 48, 6 blocks, 3 heads -> 10)
    >>> build("gpt2", model_dim=768, depth=12, heads=12, device="meta")
    GPT2(dim 768, 12 blocks, 12 heads, context 1024, 50257 tokens)
    """
    from importlib import import_module

    if architecture not in _ARCHITECTURES:
        raise ArchitectureError(f"no architecture {architecture!r}. {nearest(architecture, _ARCHITECTURES)}")
    depth = config.get("depth", 0)
    if isinstance(depth, int) and not 0 <= depth <= MAX_DEPTH:
        raise ArchitectureError(f"cannot build {architecture!r} of depth {depth}: it must be from 0 to {MAX_DEPTH:,}.")
    module, name, implied = _ARCHITECTURES[architecture]
    make = getattr(import_module(f"phasezoo.nets.{module}"), name)
    try:
        net: torch.nn.Module = make(device=device, **implied, **config)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:  # torch's words for sizes that cannot be
        raise ArchitectureError(f"cannot build {architecture!r} from {config}: {error}.") from None
    return net
