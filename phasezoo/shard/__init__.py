"""Shards: ordinary safetensors files that hold many checkpoints, each contiguous and 64-byte aligned.

Keys are ``<model_id>/e<epoch>/<parameter>``. The stock writer sorts tensors by dtype, which tears a checkpoint
with integer counters (BatchNorm) in two, so this module writes the file itself; any stock reader opens it.

Format (https://github.com/huggingface/safetensors#format): 8 bytes little-endian header length, a JSON header,
the data. Tensors lie in the order of the header, without holes.
"""

from __future__ import annotations

from phasezoo.shard.header import ALIGNMENT, MAX_HEADER, Entry, Header, Tensor, parse_header
from phasezoo.shard.reader import Written, decode, decode_tensor, digest, scan
from phasezoo.shard.writer import File, write

# Where a new shard is begun.
MAX_BYTES = 1280 * 2**20
MAX_TENSORS = 16_384

__all__ = [
    "ALIGNMENT",
    "MAX_BYTES",
    "MAX_HEADER",
    "MAX_TENSORS",
    "Entry",
    "File",
    "Header",
    "Tensor",
    "Written",
    "decode",
    "decode_tensor",
    "digest",
    "parse_header",
    "scan",
    "write",
]
