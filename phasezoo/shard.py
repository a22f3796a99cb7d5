"""Shards: ordinary safetensors files that hold many checkpoints, each contiguous and 64-byte aligned.

Keys are ``<model_id>/e<epoch>/<parameter>``. The stock writer sorts tensors by dtype, which tears a checkpoint
with integer counters (BatchNorm) in two, so this module writes the file itself; any stock reader opens it.

Format (https://github.com/huggingface/safetensors#format): 8 bytes little-endian header length, a JSON header,
the data. Tensors lie in the order of the header, without holes.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BufferedWriter
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phasezoo.errors import FormatError, IntegrityError
from phasezoo.layout import DTYPES, Layout, size_in_bytes

if TYPE_CHECKING:
    import torch

ALIGNMENT = 64
MAX_BYTES = 1280 * 2**20
MAX_TENSORS = 16_384
WORTH_A_THREAD = 2**18  # bytes
MAX_HEADER = 25_000_000  # what the Hub's parser accepts
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
class Written:
    """Where one checkpoint lies; `offset` counts from the start of the file."""

    entry: Entry
    offset: int
    sha256: str
    digests: bytes


@dataclass(frozen=True)
class File:
    """A shard as it was written."""

    written: tuple[Written, ...]
    nbytes: int
    sha256: str
    n_tensors: int


@dataclass(frozen=True)
class Tensor:
    """One tensor in the header of a shard; `start` counts from the start of the file."""

    key: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


def digest(data: bytes | memoryview) -> bytes:
    """Return the 64-bit blake2b digest of one tensor's bytes."""
    return hashlib.blake2b(data, digest_size=8).digest()


def write(
    path: str | Path,
    entries: Sequence[Entry],
    state_dicts: Iterable[Mapping[str, torch.Tensor] | None],
) -> File:
    """Write a shard, one checkpoint at a time.

    Args:
        path: the file; its directory must exist.
        entries: what will be written, in order.
        state_dicts: the tensors of each entry, in the same order, or None to leave an entry out; consumed one by
            one, the last one let go before the next is read.

    Returns:
        What the file holds and hashes to.

    Raises:
        FormatError: a state dict does not match its layout.
        IntegrityError: the header that was read back is not the one that was written.
    """
    path, header = Path(path), _header(entries)
    position = len(header)
    written: list[Written] = []
    whole = hashlib.sha256(header)
    with open(path, "wb") as file, ThreadPoolExecutor(1) as beside:
        file.write(header)
        source = iter(state_dicts)
        for entry in entries:
            state_dict = next(source)
            if state_dict is None:
                continue
            gap = -position % ALIGNMENT
            pieces = [memoryview(bytes(gap)), *_encode(entry, state_dict)]
            one, digests = _put(file, whole, pieces, beside)
            written.append(Written(entry, position + gap, one, digests))
            position += gap + entry.layout.nbytes
            del state_dict, pieces  # before the next one is read
    if len(written) < len(entries):
        whole = _replace_header(path, _header([w.entry for w in written], room=len(header)))
    n_tensors = _check(path, written)
    return File(tuple(written), path.stat().st_size, whole.hexdigest(), n_tensors)


def _put(
    file: BufferedWriter, whole: Any, pieces: Sequence[memoryview], beside: ThreadPoolExecutor
) -> tuple[str, bytes]:
    """Write a gap and the tensors of a checkpoint; return the checkpoint's sha256 and the tensors' digests.

    Hashing takes longer than reading and writing. It is shared with a second thread, which starts with the hash of the
    whole file and takes digests from the front, while this one writes, hashes the checkpoint and takes digests from the
    back.
    """
    gap, *tensors = pieces
    one = hashlib.sha256()
    if sum(map(len, tensors)) < WORTH_A_THREAD:
        for piece in pieces:
            file.write(piece)
            whole.update(piece)
        for tensor in tensors:
            one.update(tensor)
        return one.hexdigest(), b"".join(map(digest, tensors))
    first = beside.submit(_update, whole, pieces)
    jobs = [beside.submit(digest, tensor) for tensor in tensors]
    file.write(gap)
    for tensor in tensors:
        file.write(tensor)
        one.update(tensor)
    mine = {i: digest(tensors[i]) for i in reversed(range(len(tensors))) if jobs[i].cancel()}
    first.result()
    digests = [mine[i] if i in mine else job.result() for i, job in enumerate(jobs)]
    return one.hexdigest(), b"".join(digests)


def _update(whole: Any, pieces: Sequence[memoryview]) -> None:
    for piece in pieces:
        whole.update(piece)


def _replace_header(path: Path, header: bytes) -> Any:
    """Write another header of the same length, so that no data moves, and hash the file again."""
    whole = hashlib.sha256()
    with open(path, "r+b") as file:
        file.write(header)
        file.seek(0)
        while chunk := file.read(2**20):
            whole.update(chunk)
    return whole


def _header(entries: Sequence[Entry], *, room: int = 0) -> bytes:
    """Build the header, padded with spaces to `room` bytes and a multiple of the alignment."""
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


def _encode(entry: Entry, state_dict: Mapping[str, torch.Tensor]) -> Iterator[memoryview]:
    """Yield the bytes of each tensor in layout order, after checking it against the layout."""
    import torch

    if tuple(state_dict) != entry.layout.names:
        extra = set(state_dict) ^ set(entry.layout.names)
        raise FormatError(f"{entry.prefix}: state dict and layout differ in keys or their order: {sorted(extra)[:4]}.")
    for spec in entry.layout.tensors:
        tensor = state_dict[spec.name].detach()
        if str(tensor.dtype) != f"torch.{DTYPES[spec.dtype][1]}" or tuple(tensor.shape) != spec.shape:
            raise FormatError(
                f"{entry.prefix}/{spec.name} is {tensor.dtype} {tuple(tensor.shape)}; "
                f"its layout says {spec.dtype} {spec.shape}."
            )
        yield tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data


def _check(path: Path, written: Sequence[Written]) -> int:
    """Read the header back and return how many tensors it has."""
    with open(path, "rb") as file:

        def read(start: int, stop: int) -> bytes:
            file.seek(start)
            return file.read(stop - start)

        found = parse_header(read, path.stat().st_size, where=str(path))
    expected = [(f"{w.entry.prefix}/{s.name}", w.offset + s.offset) for w in written for s in w.entry.layout.tensors]
    if [(t.key, t.start) for t in found.tensors if not t.key.startswith(PAD)] != expected:
        raise IntegrityError(f"{path} does not read back as it was written. Check the disk and write it again.")
    return len(found.tensors)


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


def decode(buffer: memoryview, layout: Layout) -> dict[str, torch.Tensor]:
    """View the bytes of one checkpoint as tensors, in module order, without a copy.

    Args:
        buffer: writable bytes, `layout.nbytes` long; the tensors keep it alive.
        layout: names, dtypes and shapes.
    """
    return {spec.name: decode_tensor(buffer, spec.dtype, spec.shape, offset=spec.offset) for spec in layout.tensors}


def decode_tensor(buffer: memoryview, dtype: str, shape: tuple[int, ...], *, offset: int = 0) -> torch.Tensor:
    """View bytes as one tensor; copies only where the element would be misaligned."""
    import torch

    itemsize, name = DTYPES[dtype]
    kind: torch.dtype = getattr(torch, name)
    count = prod(shape)
    if count == 0:
        return torch.empty(shape, dtype=kind)
    if offset % itemsize:
        raw = torch.frombuffer(buffer, dtype=torch.uint8, count=count * itemsize, offset=offset)
        return raw.clone().view(kind).reshape(shape)
    return torch.frombuffer(buffer, dtype=kind, count=count, offset=offset).reshape(shape)


def scan(read: Callable[[int, int], bytes | memoryview], size: int, *, where: str) -> Iterator[Written]:
    """Find and hash every checkpoint of a shard, from the file alone.

    Args:
        read: returns the bytes from start to stop of the file.
        size: length of the file.
        where: the file, for errors.

    Raises:
        FormatError: the file is not a shard.
    """
    for entry, start in parse_header(read, size, where=where).checkpoints():
        data = memoryview(read(start, start + entry.layout.nbytes))
        digests = [digest(data[s.offset : s.offset + s.nbytes]) for s in entry.layout.tensors]
        yield Written(entry, start, hashlib.sha256(data).hexdigest(), b"".join(digests))
