"""One checkpoint: a lazy, verified mapping of tensors."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from phasezoo.errors import IntegrityError
from phasezoo.index import Location
from phasezoo.shard import decode, decode_tensor, digest
from phasezoo.state import State

if TYPE_CHECKING:
    import torch

    from phasezoo.source import Source

# (source, sha256) of all that this process has verified: hashing costs 3 to 7 times what reading does.
_verified: set[tuple[str, str]] = set()


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
        source: Source,
        location: Location,
        *,
        model_id: str,
        epoch: int,
        config: dict[str, Any],
        metrics: Callable[[], dict[str, Any]],
        digests: Callable[[], bytes],
    ) -> None:
        self._source = source
        self._location = location
        self._digests = digests
        self.model_id = model_id
        self.epoch = epoch
        self._metrics = metrics
        self.config = config

    @property
    def metrics(self) -> dict[str, Any]:
        """The model's row of `results` at this epoch; empty if there is none."""
        return self._metrics()

    @property
    def origin(self) -> str:
        """Model and epoch."""
        return f"{self.model_id} epoch {self.epoch}"

    @property
    def nbytes(self) -> int:
        """Bytes that a full read takes."""
        return self._location.nbytes

    @property
    def sha256(self) -> str:
        """Hash of the checkpoint's bytes."""
        return self._location.sha256

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every tensor, in module order; reads nothing."""
        return {spec.name: spec.shape for spec in self._location.layout.tensors}

    def __iter__(self) -> Iterator[str]:
        return iter(self._location.layout.names)

    def __len__(self) -> int:
        return len(self._location.layout)

    def __contains__(self, name: object) -> bool:
        return name in self._location.layout.position

    def __getitem__(self, name: str) -> torch.Tensor:
        layout, start = self._location.layout, self._location.offset
        spec = layout[name]
        span = (self._location.shard, start + spec.offset, start + spec.offset + spec.nbytes)
        data = self._source.read_ranges([span])[0]
        self.check_tensor(name, data)
        return decode_tensor(data, spec.dtype, spec.shape)

    def check_tensor(self, name: str, data: memoryview) -> None:
        """Raise IntegrityError unless `data` are the bytes of one tensor as they were written."""
        key = (self._source.url, f"{self.sha256}/{name}")
        if key in _verified or (self._source.url, self.sha256) in _verified:
            return
        place = 8 * self._location.layout.position[name]
        if digest(data) != self._digests()[place : place + 8]:
            raise self._damaged(f"tensor {name!r} of")
        _verified.add(key)

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Read all tensors, in module order.

        Raises:
            IntegrityError: the bytes are not those that were written.
        """
        return decode(self._bytes(), self._location.layout)

    def _bytes(self) -> memoryview:
        shard, start = self._location.shard, self._location.offset
        data = self._source.read_ranges([(shard, start, start + self.nbytes)])[0]
        key = (self._source.url, self.sha256)
        if key not in _verified:
            if hashlib.sha256(data).hexdigest() != self.sha256:
                raise self._damaged("")
            _verified.add(key)
        return data

    def _damaged(self, what: str) -> IntegrityError:
        place = f"{self._source.url}/{self._location.shard}"
        return IntegrityError(
            f"{what} checkpoint {self.model_id} epoch {self.epoch} in {place} is damaged: its bytes do not have the "
            "hash that the index states. Copy the shard again; `phasezoo verify` lists all damage.".lstrip()
        )

    def __repr__(self) -> str:
        return f"Checkpoint({self.model_id}, epoch {self.epoch}, {len(self)} tensors, {self.nbytes:,} bytes)"
