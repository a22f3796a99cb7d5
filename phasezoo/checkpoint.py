"""One checkpoint: a lazy, verified mapping of tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from phasezoo.shard import decode, decode_tensor
from phasezoo.state import State
from phasezoo.store import Location, Piece, Store

if TYPE_CHECKING:
    import torch


class Checkpoint(State):
    """The weights of one model at one epoch, read when they are touched.

    A mapping from parameter name to tensor, in module order.

    Attributes:
        model_id: id of the model.
        epoch: epoch of the checkpoint.
        config: the model's row of `configs`.

    >>> import phasezoo
    >>> ckpt = phasezoo.load("mlp-digits")["w8-lr0.03-s100"].checkpoint("last")
    >>> ckpt["layers.0.weight"].shape
    torch.Size([8, 64])
    """

    def __init__(
        self,
        store: Store,
        location: Location,
        *,
        model_id: str,
        epoch: int,
        config: dict[str, Any],
        metrics: Callable[[], dict[str, Any]],
        digests: Callable[[], bytes],
    ) -> None:
        self._store = store
        self._location = location
        self._digests = digests
        self.model_id = model_id
        self.epoch = epoch
        self._metrics = metrics
        self.config = config

    @property
    def metrics(self) -> dict[str, Any]:
        """The model's row of `results` at this epoch; empty if there is none.

        >>> import phasezoo
        >>> ckpt = phasezoo.load("mlp-digits")["w8-lr0.03-s100"].checkpoint()
        >>> round(ckpt.metrics["test_acc"], 4)
        0.941
        """
        return self._metrics()

    @property
    def origin(self) -> str:
        """Model and epoch.

        >>> import phasezoo
        >>> ckpt = phasezoo.load("mlp-digits")["w8-lr0.03-s100"].checkpoint()
        >>> ckpt.origin
        'w8-lr0.03-s100 epoch 150'
        """
        return f"{self.model_id} epoch {self.epoch}"

    @property
    def nbytes(self) -> int:
        """Bytes that a full read takes.

        >>> import phasezoo
        >>> ckpt = phasezoo.load("mlp-digits")["w8-lr0.03-s100"].checkpoint()
        >>> ckpt.nbytes == sum(tensor.nbytes for tensor in ckpt.values())
        True
        """
        return self._location.nbytes

    @property
    def sha256(self) -> str:
        """Hash of the checkpoint's bytes.

        >>> import phasezoo
        >>> ckpt = phasezoo.load("mlp-digits")["w8-lr0.03-s100"].checkpoint()
        >>> import hashlib
        >>> hashlib.sha256(b"".join(tensor.numpy().tobytes() for tensor in ckpt.values())).hexdigest() == ckpt.sha256
        True
        """
        return self._location.sha256

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every tensor, in module order; reads nothing.

        >>> import phasezoo
        >>> ckpt = phasezoo.load("mlp-digits")["w8-lr0.03-s100"].checkpoint()
        >>> ckpt.shapes["layers.0.weight"]
        (8, 64)
        """
        return {spec.name: spec.shape for spec in self._location.layout.tensors}

    def __iter__(self) -> Iterator[str]:
        return iter(self._location.layout.names)

    def __len__(self) -> int:
        return len(self._location.layout)

    def __contains__(self, name: object) -> bool:
        return name in self._location.layout.position

    def __getitem__(self, name: str) -> torch.Tensor:
        spec = self._location.layout[name]
        return decode_tensor(self._store.read([self.piece(name)])[0], spec.dtype, spec.shape)

    def piece(self, tensor: str | None = None) -> Piece:
        """Say what has to be read for one tensor, or for all.

        >>> import phasezoo
        >>> ckpt = phasezoo.load("mlp-digits")["w8-lr0.03-s100"].checkpoint()
        >>> ckpt.piece("layers.2.bias").nbytes, ckpt.piece().nbytes == ckpt.nbytes
        (40, True)
        """
        what = f"checkpoint {self.model_id} epoch {self.epoch}"
        return Piece(self._location, what if tensor is None else f"tensor {tensor!r} of {what}", tensor, self._digests)

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Read all tensors, in module order.

        Raises:
            IntegrityError: the bytes are not those that were written.

        >>> import phasezoo
        >>> ckpt = phasezoo.load("mlp-digits")["w8-lr0.03-s100"].checkpoint()
        >>> list(ckpt.state_dict())
        ['layers.0.weight', 'layers.0.bias', 'layers.1.weight', 'layers.1.bias', 'layers.2.weight', 'layers.2.bias']
        """
        return decode(self._store.read([self.piece()])[0], self._location.layout)

    def __repr__(self) -> str:
        return f"Checkpoint({self.model_id}, epoch {self.epoch}, {len(self)} tensors, {self.nbytes:,} bytes)"
