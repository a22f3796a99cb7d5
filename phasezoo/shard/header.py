"""The header of a shard: built from its checkpoints, and parsed with every check that the format allows."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from phasezoo.errors import FormatError
from phasezoo.layout import DTYPES, Layout, size_in_bytes

ALIGNMENT = 64
MAX_HEADER = 25_000_000  # bytes: what the Hub's parser accepts
PAD = "__pad__/"
EPOCH = re.compile(r"e(0|[1-9][0-9]{0,17})")  # one way to write each, and 64 bits hold it
METADATA_KEY = "phasezoo"  # one key only: safetensors orders several at random


@dataclass(frozen=True)
class Entry:
    """One checkpoint to be written.

    Attributes:
        model_id: id of the model; must not contain a slash.
        epoch: epoch of the checkpoint.
        layout: names, dtypes and shapes, in module order.
        shared_with: other models whose checkpoint at this epoch is the same, byte for byte (runs that start
            from one initialisation); it is stored once and found under every id.
    """

    model_id: str
    epoch: int
    layout: Layout
    shared_with: tuple[str, ...] = ()

    @property
    def prefix(self) -> str:
        """Key of the checkpoint in the shard."""
        return f"{self.model_id}/e{self.epoch}"


@dataclass(frozen=True)
class Tensor:
    """One tensor in the header of a shard; `start` counts from the start of the file."""

    key: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


def build_header(entries: Sequence[Entry], *, room: int = 0) -> bytes:
    """Build the bytes before the data: the length of the header and the header.

    Args:
        entries: the checkpoints of the shard, in order.
        room: pad with spaces to this many bytes, and to a multiple of the alignment.

    Raises:
        FormatError: two tensors have the same key, a name is no text, or readers would refuse the header as too long.
    """
    shared = {e.prefix: list(e.shared_with) for e in entries if e.shared_with}
    metadata: dict[str, Any] = {"format_version": 1, **({"shared": shared} if shared else {})}
    header: dict[str, Any] = {"__metadata__": {METADATA_KEY: json.dumps(metadata, separators=(",", ":"))}}
    offset = 0
    for entry in entries:
        if "/" in entry.model_id or entry.model_id.startswith("__"):
            raise FormatError(f"model id {entry.model_id!r} must not contain '/' or start with '__'.")
        gap = -offset % ALIGNMENT
        if gap:
            header[f"{PAD}{offset}"] = {"dtype": "U8", "shape": [gap], "data_offsets": [offset, offset + gap]}
        offset += gap
        for spec in entry.layout.tensors:
            key = f"{entry.prefix}/{spec.name}"
            if key in header:
                raise FormatError(f"{key!r} occurs twice in one shard.")
            stop = offset + spec.nbytes
            header[key] = {"dtype": spec.dtype, "shape": list(spec.shape), "data_offsets": [offset, stop]}
            offset = stop
    try:
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise FormatError(f"a model id or the name of a tensor is no text: {error}. Give it another name.") from None
    if len(text) > MAX_HEADER - ALIGNMENT:
        raise FormatError(
            f"the header of the shard would take {len(text):,} bytes; readers accept {MAX_HEADER:,}. Put fewer "
            "checkpoints in one shard, or give the tensors shorter names."
        )
    length = max(room, 8 + len(text))
    text += b" " * (length + -length % ALIGNMENT - 8 - len(text))
    return len(text).to_bytes(8, "little") + text


@dataclass(frozen=True)
class Header:
    """The header of a shard, in file order."""

    tensors: tuple[Tensor, ...]
    shared: dict[str, list[str]]

    def checkpoints(self) -> Iterator[tuple[Entry, int]]:
        """Yield every checkpoint of the shard with its absolute start, in file order.

        Raises:
            FormatError: a key is not one of a checkpoint, or a checkpoint is torn or there twice.
        """
        group: list[Tensor] = []
        seen: set[str] = set()
        for tensor in (*self.tensors, None):
            prefix = _prefix(tensor.key) if tensor else ""
            if group and prefix != _prefix(group[0].key):
                entry = self._entry(group)
                for model_id in (entry.model_id, *entry.shared_with):
                    one = f"{model_id}/e{entry.epoch}"
                    if one in seen:
                        raise FormatError(f"checkpoint {one} is torn, or in the shard twice. Rebuild the zoo.")
                    seen.add(one)
                yield entry, group[0].start
                group = []
            if tensor and prefix:
                group.append(tensor)

    def _entry(self, group: Sequence[Tensor]) -> Entry:
        model_id, epoch, _ = group[0].key.split("/", 2)
        layout = Layout.of((t.key.split("/", 2)[2], t.dtype, t.shape) for t in group)
        prefix = f"{model_id}/{epoch}"
        return Entry(model_id, int(epoch[1:]), layout, tuple(self.shared.get(prefix, ())))


def _prefix(key: str) -> str:
    """Return ``<model_id>/e<epoch>`` of a key, or nothing for padding."""
    if key.startswith(PAD):
        return ""
    parts = key.split("/", 2)
    if len(parts) < 3 or not EPOCH.fullmatch(parts[1]):
        raise FormatError(f"key {key[:200]!r} does not have the form <model_id>/e<epoch>/<parameter>.")
    return f"{parts[0]}/{parts[1]}"


def parse_header(read: Callable[[int, int], bytes | memoryview], size: int, *, where: str) -> Header:
    """Parse and check the header of a safetensors file.

    Args:
        read: returns the bytes from start to stop of the file.
        size: length of the file.
        where: the file, for errors.

    Raises:
        FormatError: the header is not valid, or its tensors overlap, leave holes or do not end with the file.
    """
    length = int.from_bytes(read(0, 8), "little") if size >= 8 else -1
    if not 2 <= length <= min(MAX_HEADER, size - 8):
        raise FormatError(
            f"{where} is not a safetensors file or is cut short: its {size} bytes announce a header of {length}."
        )
    try:
        # Text, not bytes: of bytes, json guesses among encodings that other readers refuse.
        text = bytes(read(8, 8 + length)).decode()
        header = json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)
        metadata = header.pop("__metadata__", {})
        if not all(isinstance(value, str) for value in metadata.values()):
            raise ValueError("'__metadata__' must map texts to texts")
        shared = json.loads(metadata.get(METADATA_KEY, "{}")).get("shared", {})
        if not all(isinstance(ids, list) and all(isinstance(i, str) for i in ids) for ids in shared.values()):
            raise ValueError("'shared' must map checkpoints to lists of model ids")
        tensors = tuple(_tensor(key, value, 8 + length) for key, value in header.items())
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise FormatError(f"{where} has a broken safetensors header: {error}.") from None
    position = 8 + length
    for tensor in tensors:
        if tensor.start != position:
            raise FormatError(f"{where}: tensor {tensor.key!r} starts at {tensor.start}, not at {position}.")
        position = tensor.stop
    if position != size:
        raise FormatError(f"{where} has {size} bytes; its header describes {position}. Copy the file again.")
    return Header(tensors, shared)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a key occurs twice")
    "".join(result).encode()  # half of a surrogate pair is no text: a ValueError
    return result


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _tensor(key: str, value: Mapping[str, Any], data_start: int) -> Tensor:
    (start, stop), dtype, shape = value["data_offsets"], value["dtype"], value["shape"]
    if len(value) > 3 or not (isinstance(shape, list) and isinstance(value["data_offsets"], list)):
        raise ValueError(f"{key!r} is not described by dtype, shape and data_offsets")
    shape = tuple(shape)
    if not all(type(n) is int and n >= 0 for n in (start, stop, *shape)):
        raise ValueError(f"{key!r} has sizes that are not natural numbers")
    if dtype not in DTYPES or stop - start != size_in_bytes(dtype, shape):
        raise ValueError(f"{key!r}: dtype {dtype!r} and shape {shape} do not make {stop - start} bytes")
    return Tensor(key, dtype, shape, data_start + start, data_start + stop)
