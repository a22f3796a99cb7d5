"""Read the weights of a raw checkpoint, safely: tensors only, never code.

`torch.load(weights_only=True)` refuses every pickle that names anything but tensors and containers. What it
accepts is checked again: sizes against the file's length, names, shapes and types against a layout.
"""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import BinaryIO

import torch

from phasezoo.layout import CODES, Layout, size_in_bytes
from phasezoo.shard import MAX_TENSORS

PREFIX = "module."
# The one name that weights_only lets through and that takes memory: a pickle of 30 bytes can ask for any number of
# zeros. No state dict needs it.
BOMB = b"bytearray"
MAX_NAME = 1000  # characters of a parameter's name


class BadCheckpoint(Exception):
    """The checkpoint is left out; `kind` is the sort of finding."""

    def __init__(self, kind: str, what: str) -> None:
        super().__init__(what)
        self.kind = kind


def read_weights(file: Path | bytes) -> tuple[dict[str, torch.Tensor], bool]:
    """Read a state dict from a file that `torch.save` wrote.

    Args:
        file: its path, which torch reads several times as fast, or its bytes.

    Returns:
        The state dict on the CPU in its own order, and whether a leading ``module.`` was stripped from every name.

    Raises:
        BadCheckpoint: it is truncated, holds something else than tensors, or would need more memory than its size.

    >>> buffer = io.BytesIO()
    >>> torch.save({"module.weight": torch.ones(2)}, buffer)
    >>> read_weights(buffer.getvalue())
    ({'weight': tensor([1., 1.])}, True)
    """
    size = _check_container(file)
    try:
        opened = io.BytesIO(file) if isinstance(file, bytes) else file
        loaded = torch.load(opened, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds on broken files, and all mean the same here
        if "Unsupported operand" in str(error):  # a page of HTML, a pointer of Git LFS, zeros
            raise BadCheckpoint("unreadable", "cannot be read: it is no pickle of protocol 2") from None
        named = re.search(r"WeightsUnpickler error:\s*(.{0,80}?)(?: was not|\. |\n|$)", str(error))
        if isinstance(error, UnpicklingError) and "weights only" in str(error).lower():
            raise BadCheckpoint(
                "hostile-pickle", f"holds more than tensors ({named[1] if named else 'code'})"
            ) from None
        raise BadCheckpoint("unreadable", f"cannot be read ({type(error).__name__})") from None
    for key in ("state_dict", "model_state_dict", "model"):
        if isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping):
            loaded = loaded[key]
    if not isinstance(loaded, Mapping) or not loaded:
        raise BadCheckpoint("no-state-dict", f"holds a {type(loaded).__name__}, not a state dict")
    if len(loaded) > MAX_TENSORS:
        raise BadCheckpoint("bomb", f"holds {len(loaded)} tensors; a shard takes {MAX_TENSORS}")
    for name, tensor in loaded.items():
        if not isinstance(name, str) or not isinstance(tensor, torch.Tensor):
            raise BadCheckpoint("no-state-dict", f"entry {str(name)[:80]!r} is not a named tensor")
        if len(name) > MAX_NAME or not name.isprintable():
            raise BadCheckpoint("no-state-dict", f"entry {name[:80]!r} has no name that a parameter can have")
        strange = _strange(tensor)
        if strange:
            raise BadCheckpoint("tensor-type", f"tensor {name!r} is {strange}")
    total = sum(t.numel() * t.element_size() for t in loaded.values())
    # An expanded tensor claims many elements of few bytes; tied weights may count twice.
    if total > 2 * size:
        raise BadCheckpoint("bomb", f"{size} bytes claim tensors of {total}")
    stripped = all(name.startswith(PREFIX) for name in loaded)
    return {name[len(PREFIX) * stripped :]: tensor for name, tensor in loaded.items()}, stripped


def _strange(tensor: torch.Tensor) -> str | None:
    """Say what a tensor is, if it is not one of plain numbers in memory."""
    if tensor.is_nested or tensor.layout != torch.strided or tensor.device.type != "cpu":
        return f"{tensor.dtype}, {'nested' if tensor.is_nested else tensor.layout}, on {tensor.device}"
    if str(tensor.dtype).removeprefix("torch.") not in CODES:
        return str(tensor.dtype)
    if tensor.is_neg():
        return "a view that negates another tensor"
    try:
        size_in_bytes(CODES[str(tensor.dtype).removeprefix("torch.")], tensor.shape)
    except ValueError as error:
        return f"one that {error}"
    return None


def _has_bomb(file: BinaryIO) -> bool:
    """Look for the bomb's name part by part: the weights behind the pickles may be many."""
    tail = b""
    while part := file.read(1 << 20):
        if BOMB in tail + part:
            return True
        tail = part[-len(BOMB) :]
    return False


def _check_container(file: Path | bytes) -> int:
    """Refuse a container whose members inflate to more than the file holds; return the file's size."""
    with io.BytesIO(file) if isinstance(file, bytes) else open(file, "rb") as opened:
        size = opened.seek(0, io.SEEK_END)
        opened.seek(0)
        if opened.read(2) != b"PK":  # the old format has no compression
            opened.seek(0)
            bomb = _has_bomb(opened)
            inflated = size
        else:
            try:
                with zipfile.ZipFile(opened) as container:
                    entries = container.infolist()
                    inflated = sum(entry.file_size for entry in entries)
                    found = [entry for entry in entries if entry.filename.endswith(".pkl")]
                    bomb = inflated <= size and any(BOMB in container.read(entry) for entry in found)
            except Exception as error:
                raise BadCheckpoint("unreadable", f"is cut short or damaged ({error})") from None
    if inflated > size:
        raise BadCheckpoint("bomb", f"{size} bytes inflate to {inflated}")
    if bomb:
        raise BadCheckpoint("bomb", f"holds more than tensors (GLOBAL {BOMB.decode()})")
    return size


def check_layout(state_dict: Mapping[str, torch.Tensor], layout: Layout) -> dict[str, torch.Tensor]:
    """Return the state dict in layout order, or say how it differs.

    Raises:
        BadCheckpoint: names, shapes or types differ.
    """
    missing, extra = set(layout.names) - set(state_dict), set(state_dict) - set(layout.names)
    if missing or extra:
        raise BadCheckpoint(
            "layout", f"lacks {sorted(missing)[:3]} and has {sorted(extra)[:3]} besides what its architecture has"
        )
    for spec in layout.tensors:
        tensor = state_dict[spec.name]
        code = CODES[str(tensor.dtype).removeprefix("torch.")]
        if (code, tuple(tensor.shape)) != (spec.dtype, spec.shape):
            raise BadCheckpoint(
                "layout",
                f"{spec.name!r} is {code} {list(tensor.shape)}, its architecture has {spec.dtype} {list(spec.shape)}",
            )
    return {name: state_dict[name] for name in layout.names}
