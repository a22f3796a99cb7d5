"""Networks with the smallest of their weights set to zero."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from phasezoo.errors import MeasureError
from phasezoo.state import State, Variant, states_of

if TYPE_CHECKING:
    from phasezoo.model import Model


def prune(
    network: Model | State, *, density: float, scope: Literal["global", "layer"] = "global", epoch: int | str = "last"
) -> Variant:
    """Keep the weights that are largest in magnitude and set the others to zero (Han et al. 2015).

    Weights are the tensors of two or more axes; biases and normalisations stay as they are.

    Args:
        network: a model, checkpoint or variant.
        density: the fraction of weights to keep, from 0 to 1; round(density x n) stay, and of equal ones the first.
        scope: hold the weights of all layers against each other, or keep the same fraction of each layer.
        epoch: which checkpoint of a model.

    Raises:
        MeasureError: the density is not a fraction, or the scope unknown.

    >>> import phasezoo
    >>> pruned = phasezoo.prune(phasezoo.load("mlp-digits")["w8-lr0.03-s100"], density=0.25)
    >>> weights = [pruned[name] for name in pruned if name.endswith("weight")]
    >>> sum(int((w != 0).sum()) for w in weights), sum(w.numel() for w in weights)
    (164, 656)
    """
    import torch

    if not 0 <= density <= 1 or scope not in ("global", "layer"):
        raise MeasureError(
            f"cannot prune to density {density!r} with scope {scope!r}. Keep a fraction of the weights, from 0 to 1, "
            "with scope 'global' or 'layer'."
        )
    (state,) = states_of([network], epoch=epoch)
    tensors = state.state_dict()
    weights = [name for name, tensor in tensors.items() if tensor.dim() >= 2 and tensor.is_floating_point()]
    for names in [weights] if scope == "global" else [[name] for name in weights]:
        magnitudes = torch.cat([tensors[name].abs().flatten() for name in names])
        order = torch.sort(magnitudes, descending=True, stable=True).indices
        kept = torch.zeros_like(magnitudes, dtype=torch.bool)
        kept[order[: round(density * len(magnitudes))]] = True
        masks = torch.split(kept, [tensors[name].numel() for name in names])
        for name, mask in zip(names, masks, strict=True):
            tensors[name] = torch.where(mask.view_as(tensors[name]), tensors[name], 0)
    return Variant(tensors, config=state.config, origin=f"{state.origin} pruned to density {density:g}")
