"""Construct the layers of torch, without initialisation on the meta device."""

from __future__ import annotations

from functools import cache
from typing import Any, TypeVar, cast

import torch
from torch import nn

Layer = TypeVar("Layer", bound=nn.Module)


def layer(kind: type[Layer], *args: Any, device: str | torch.device | None = None, **options: Any) -> Layer:
    """Construct ``kind(*args, **options)``; on the meta device skip `reset_parameters`.

    Drawing initial values there produces nothing and takes several times as long as making the layer.

    >>> layer(nn.Linear, 2, 3, device="meta").weight.device
    device(type='meta')
    """
    if str(device) != "meta":
        return kind(*args, device=device, **options)
    made = _silent(cast(Any, kind))(*args, device=device, **options)
    made.__class__ = kind
    return cast(Layer, made)


@cache
def _silent(kind: type[nn.Module]) -> type[nn.Module]:
    return type(kind.__name__, (kind,), {"reset_parameters": lambda self: None})
