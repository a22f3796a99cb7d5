"""Networks of one topology side by side: one tensor per name, with the models as first dimension."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from phasezoo.errors import EpochNotFoundError, ModelNotFoundError, nearest
from phasezoo.progress import size
from phasezoo.weights import Epochs, read, same_layout, samples

if TYPE_CHECKING:
    import torch

    from phasezoo.view import View


class Stack(Mapping[str, "torch.Tensor"]):
    """The weights of many models: a mapping from name to ``[models, ...]`` or ``[models, epochs, ...]``.

    Attributes:
        ids: id of each model, in the order of the first dimension.
        epochs: epoch of each network, ``[models]`` or ``[models, epochs]``.
        architecture: name that `phasezoo.nets.build` takes.
        arguments: its arguments.

    >>> import phasezoo
    >>> stack = phasezoo.load("mlp-digits").filter(width=8).stack(epoch=[50, 150])
    >>> stack["layers.0.weight"].shape, stack.epochs.shape
    (torch.Size([24, 2, 8, 64]), torch.Size([24, 2]))
    """

    def __init__(
        self,
        tensors: Mapping[str, torch.Tensor],
        *,
        ids: tuple[str, ...],
        epochs: torch.Tensor,
        architecture: str,
        arguments: Mapping[str, object],
    ) -> None:
        self._tensors = dict(tensors)
        self.ids = ids
        self.epochs = epochs
        self.architecture = architecture
        self.arguments = dict(arguments)

    def __getitem__(self, name: str) -> torch.Tensor:
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def state_dict(self, model: int | str) -> dict[str, torch.Tensor]:
        """Return the tensors of one model, by position or id, as views: ``[...]``, or ``[epochs, ...]``.

        Raises:
            ModelNotFoundError: the model is not in the stack.

        >>> import phasezoo
        >>> stack = phasezoo.load("mlp-digits").filter(width=8).stack()
        >>> module = phasezoo.load("mlp-digits")["w8-lr0.03-s100"].checkpoint().module()
        >>> module.load_state_dict(stack.state_dict(0))
        <All keys matched successfully>
        """
        if isinstance(model, str):
            if model not in self.ids:
                raise ModelNotFoundError(f"no model {model!r} in this stack. {nearest(model, self.ids)}")
            model = self.ids.index(model)
        return {name: tensor[model] for name, tensor in self._tensors.items()}

    def apply(self, x: torch.Tensor) -> torch.Tensor:
        """Evaluate every network on one batch, in eval mode.

        Convolutions on a CPU run one network at a time: `torch.vmap` turns them into one grouped convolution, which
        is slower there. All else is one call under `torch.vmap`.

        Args:
            x: ``[batch, ...]``.

        Returns:
            ``[models, batch, out]``, or ``[models, epochs, batch, out]``.

        >>> import phasezoo, torch
        >>> phasezoo.load("mlp-digits").filter(width=8).stack().apply(torch.zeros(5, 64)).shape
        torch.Size([24, 5, 10])
        """
        import torch
        from torch.func import functional_call, vmap

        from phasezoo.nets import build

        module = build(self.architecture, device="meta", **self.arguments).eval()
        leading = self.epochs.shape
        flat = {name: tensor.flatten(0, len(leading) - 1) for name, tensor in self._tensors.items()}

        def one(state_dict: dict[str, torch.Tensor]) -> torch.Tensor:
            out: torch.Tensor = functional_call(module, state_dict, (x,))
            return out

        if x.device.type == "cpu" and any("Conv" in type(part).__name__ for part in module.modules()):
            count = self.epochs.numel()
            outputs = torch.stack([one({name: t[i] for name, t in flat.items()}) for i in range(count)])
        else:
            outputs = vmap(one)(flat)
        return outputs.reshape(*leading, *outputs.shape[1:])

    def __repr__(self) -> str:
        nbytes = sum(tensor.nbytes for tensor in self._tensors.values())
        leading = " x ".join(f"{n} {what}" for n, what in zip(self.epochs.shape, ("models", "epochs"), strict=False))
        return f"Stack({leading} of {self.architecture}, {len(self)} tensors, {size(nbytes)})"


def stack(view: View, *, epoch: Epochs = "last") -> Stack:
    """Read the models of a view, which have one topology, into one allocation per tensor.

    Args:
        view: the models.
        epoch: a number, ``"first"`` or ``"last"``, for ``[models, ...]``; a list of numbers, or ``"all"``, for
            ``[models, epochs, ...]``.

    Raises:
        TopologyError: the models have several topologies.
        EpochNotFoundError: a model has no checkpoint at that epoch, or ``"all"`` differs between models.

    >>> import phasezoo
    >>> stack(phasezoo.load("mlp-digits").filter(width=8, lr=0.1), epoch="all")
    Stack(3 models x 4 epochs of mlp, 6 tensors, 32.7 kB)
    """
    import torch

    wanted = samples(view, epoch)
    same_layout(view, wanted)
    ids = tuple(model.as_py() for model in view.table("configs")["model_id"])
    several = not isinstance(epoch, int) and epoch not in ("first", "last")
    if epoch == "all":
        at = {tuple(view._index.epochs(row)): model_id for row, model_id in zip(view._rows, ids, strict=True)}
        if len(at) > 1:
            listing = "; ".join(f"{model_id}: {', '.join(map(str, each))}" for each, model_id in list(at.items())[:4])
            raise EpochNotFoundError(
                f"the models do not have the same epochs ({listing}). Give a list of those that all of them have."
            )
    tensors = read(view._index.store, wanted)
    epochs = torch.tensor([sample.epoch for sample in wanted])
    if several:
        leading = (len(ids), len(wanted) // len(ids))
        epochs = epochs.reshape(leading)
        tensors = {name: tensor.reshape(*leading, *tensor.shape[1:]) for name, tensor in tensors.items()}
    config = view._index.config(view._index.row(ids[0]))
    return Stack(
        tensors,
        ids=ids,
        epochs=epochs,
        architecture=config["architecture"],
        arguments=json.loads(config["architecture_config"]),
    )
