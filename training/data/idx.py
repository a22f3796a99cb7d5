"""The idx format of the MNIST family: a header with the shape, then bytes."""

from __future__ import annotations

import gzip
import struct
from math import prod
from pathlib import Path

import torch

from phasezoo.errors import FormatError

UNSIGNED_BYTE = 8


def read_idx(path: str | Path) -> torch.Tensor:
    """Read a file of unsigned bytes in idx format, compressed by gzip or not.

    The header is two zero bytes, a code for the type (8 means unsigned byte), the number of dimensions, and each
    dimension as a big-endian 32-bit integer.

    Returns:
        A uint8 tensor of the shape that the header states.

    Raises:
        FormatError: the file is not in this format, or it is cut.

    >>> import tempfile
    >>> with tempfile.NamedTemporaryFile() as file:
    ...     n = file.write(bytes([0, 0, 8, 1, 0, 0, 0, 3, 7, 8, 9]))
    ...     file.flush()
    ...     read_idx(file.name)
    tensor([7, 8, 9], dtype=torch.uint8)
    """
    data = Path(path).read_bytes()
    try:
        if data[:2] == b"\x1f\x8b":
            data = gzip.decompress(data)
        zero, kind, dimensions = struct.unpack_from(">HBB", data)
        shape = struct.unpack_from(f">{dimensions}I", data, 4)
    except (OSError, EOFError, struct.error) as error:
        raise FormatError(f"{path} is not a whole file in idx format: {error}. Copy it again.") from None
    start = 4 + 4 * dimensions
    if zero or kind != UNSIGNED_BYTE or len(data) - start != prod(shape):
        raise FormatError(
            f"{path} is no file of unsigned bytes in idx format, or it is cut: its header says type {kind} and shape "
            f"{shape}, and {len(data) - start} bytes follow. Copy it again."
        )
    return torch.frombuffer(bytearray(data), dtype=torch.uint8, offset=start).view(shape)
