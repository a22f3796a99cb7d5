"""One checkpoint: a lazy, verified mapping of tensors."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from phasezoo.errors import IntegrityError
from phasezoo.index import Location
from phasezoo.shard import decode, decode_tensor, digest

if TYPE_CHECKING:
    import torch

    from phasezoo.source import Source

# (source, sha256) of all that this process has verified: hashing costs 3 to 7 times what reading does.
_verified: set[tuple[str, str]] = set()


class Checkpoint(Mapping[str, "torch.Tensor"]):
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
            raise _damaged(
                self._source, self._location, f"tensor {name!r} of checkpoint {self.model_id} epoch {self.epoch}"
            )
        _verified.add(key)

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Read all tensors, in module order.

        Raises:
            IntegrityError: the bytes are not those that were written.
        """
        return decode(self._bytes(), self._location.layout)

    def module(self, *, train: bool = False) -> torch.nn.Module:
        """Read the weights into a new instance of the model class.

        Args:
            train: return the module in training mode with gradients on; by default it is in eval mode.

        >>> import phasezoo
        >>> phasezoo.load("mlp-digits")["w8-lr0.03-s100"].checkpoint().module().training
        False
        """
        import json

        from phasezoo.nets import build

        config = json.loads(self.config["architecture_config"])
        module = build(self.config["architecture"], device="meta", **config)
        module.load_state_dict(self.state_dict(), strict=True, assign=True)
        return module.train(train)

    def _bytes(self) -> memoryview:
        shard, start = self._location.shard, self._location.offset
        data = self._source.read_ranges([(shard, start, start + self.nbytes)])[0]
        check_checkpoint(self._source, self._location, [data], model_id=self.model_id, epoch=self.epoch)
        return data

    def __repr__(self) -> str:
        return f"Checkpoint({self.model_id}, epoch {self.epoch}, {len(self)} tensors, {self.nbytes:,} bytes)"


def is_checked(source: Source, sha256: str) -> bool:
    """Has this process found these bytes to be those that were written?"""
    return (source.url, sha256) in _verified


def take_as_checked(source: Source, sha256: str) -> None:
    """Trust bytes that another process of the same job has checked."""
    _verified.add((source.url, sha256))


def check_checkpoint(
    source: Source, location: Location, pieces: Iterable[memoryview], *, model_id: str, epoch: int
) -> None:
    """Raise IntegrityError unless `pieces`, one after another, are a checkpoint's bytes; hashed once a process."""
    if is_checked(source, location.sha256):
        return
    found = hashlib.sha256()
    for piece in pieces:
        found.update(piece)
    if found.hexdigest() != location.sha256:
        raise _damaged(source, location, f"checkpoint {model_id} epoch {epoch}")
    take_as_checked(source, location.sha256)


def _damaged(source: Source, location: Location, what: str) -> IntegrityError:
    return IntegrityError(
        f"{what} in {source.url}/{location.shard} is damaged: its bytes do not have the hash that the index states. "
        "Copy the shard again; `phasezoo verify` lists all damage."
    )
