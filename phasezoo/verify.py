"""Check a whole zoo: every hash, every layout, and that a stock reader agrees on every tensor."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from phasezoo import shard
from phasezoo.errors import PhaseZooError
from phasezoo.manifest import File
from phasezoo.progress import bar

if TYPE_CHECKING:
    from phasezoo.index import Index
    from phasezoo.zoo import Zoo


@dataclass(frozen=True)
class Report:
    """What was checked and what is wrong; the zoo is sound if there are no problems.

    >>> import phasezoo, pathlib, tempfile
    >>> from phasezoo.builders.build import build_zoo
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = build_zoo(phasezoo.load("mlp-digits")[:1].export(f"{folder}/raw"), f"{folder}/zoo")
    ...     [file] = pathlib.Path(folder).glob("zoo/shards/*/*")
    ...     _ = file.write_bytes(file.read_bytes()[:-1])
    ...     report = verify(phasezoo.load(f"{folder}/zoo"))
    >>> report.checkpoints, report.problems
    (0, ('shard shards/...: ... has ... bytes, the manifest says ...',))
    """

    tables: int
    shards: int
    checkpoints: int
    tensors: int
    problems: tuple[str, ...]


def verify(zoo: Zoo) -> Report:
    """Read every byte of a zoo and compare it with what the manifest and the index say.

    Checks the hash and the columns of each table; size, hash and header of each shard; place, layout, hash and
    digests of each checkpoint; and that `safetensors.safe_open` reads each tensor as phasezoo does.

    Args:
        zoo: the zoo; a view is checked as the whole zoo that it belongs to.

    Returns:
        Counts of what was checked, and one sentence for each problem. It does not stop at the first.

    >>> import phasezoo
    >>> verify(phasezoo.load("mlp-digits")).problems
    ()
    """
    index = zoo._index
    problems: list[str] = []
    unread: set[str] = set()
    found: dict[tuple[str, int], tuple[Any, ...]] = {}
    tensors = 0
    for name in index.manifest.tables:
        try:
            index.table(name)
        except PhaseZooError as error:
            problems.append(f"table {name}: {error}")
    with bar("verifying", total=sum(file.nbytes for file in index.manifest.shards), unit="B") as progress:
        for file in index.manifest.shards:
            try:
                for written in _read_shard(index, file):
                    tensors += len(written.entry.layout)
                    row = (
                        file.path,
                        written.offset,
                        written.sha256,
                        written.entry.layout.layout_id,
                        written.digests,
                    )
                    for model_id in (written.entry.model_id, *written.entry.shared_with):
                        found[model_id, written.entry.epoch] = row
                problems += _disagreements(index, file.path)
            except PhaseZooError as error:
                unread.add(file.path)
                problems.append(f"shard {file.path}: {error}")
            progress.update(file.nbytes)
    try:
        problems += _differences(_indexed(index), found, unread)
    except PhaseZooError as error:
        problems.append(f"index: {error}")
    return Report(len(index.manifest.tables), len(index.manifest.shards), len(found), tensors, tuple(problems))


def _read_shard(index: Index, file: File) -> Iterator[shard.Written]:
    where = f"{index.source.url}/{file.path}"
    size = index.source.size(file.path)
    if size != file.nbytes:
        raise PhaseZooError(f"{where} has {size} bytes, the manifest says {file.nbytes}.")
    data = index.source.read_ranges([(file.path, 0, size)])[0]
    if hashlib.sha256(data).hexdigest() != file.sha256:
        raise PhaseZooError(f"{where} does not have the sha256 that the manifest says.")
    return shard.scan(lambda start, stop: data[start:stop], len(data), where=where)


def _disagreements(index: Index, path: str) -> Iterator[str]:
    """Compare every tensor with what the stock reader of safetensors makes of the file."""
    import torch
    from safetensors import SafetensorError, safe_open

    local = index.source.local(path)
    if local is None:
        return
    size = index.source.size(path)
    read = partial(_range, index, path)
    try:
        opened = safe_open(local, framework="pt")
    except SafetensorError as error:
        yield f"shard {path}: safetensors does not open it: {error}."
        return
    with opened as stock:
        keys = set(stock.keys())
        for tensor in shard.parse_header(read, size, where=path).tensors:
            if tensor.key not in keys:
                yield f"shard {path}: safetensors does not find {tensor.key!r}."
                continue
            ours = shard.decode_tensor(read(tensor.start, tensor.stop), tensor.dtype, tensor.shape)
            theirs = stock.get_tensor(tensor.key)
            # Compare bytes: NaN is not equal to itself.
            same = ours.shape == theirs.shape and torch.equal(_as_bytes(ours), _as_bytes(theirs))
            if not same:
                yield f"shard {path}: safetensors reads other values for {tensor.key!r}."


def _as_bytes(tensor: Any) -> Any:
    import torch

    return tensor.contiguous().reshape(-1).view(torch.uint8)


def _range(index: Index, path: str, start: int, stop: int) -> memoryview:
    return index.source.read_ranges([(path, start, stop)])[0]


def _indexed(index: Index) -> dict[tuple[str, int], tuple[Any, ...]]:
    if not index.manifest.shards:
        return {}
    checkpoints = index.table("checkpoints")
    digests = [index.locations.digests(row) for row in range(checkpoints.num_rows)]
    keys = list(zip(checkpoints["model_id"].to_pylist(), checkpoints["epoch"].to_pylist(), strict=True))
    columns = [checkpoints[name].to_pylist() for name in ("shard", "offset", "sha256", "layout_id")]
    rows = zip(*columns, digests, strict=True)
    indexed = dict(zip(keys, rows, strict=True))
    return indexed


def _differences(
    indexed: dict[tuple[str, int], tuple[Any, ...]],
    found: dict[tuple[str, int], tuple[Any, ...]],
    unread: set[str],
) -> Iterator[str]:
    for model_id, epoch in sorted(indexed.keys() | found.keys()):
        stated, actual = indexed.get((model_id, epoch)), found.get((model_id, epoch))
        if stated is None:
            yield f"checkpoint {model_id} epoch {epoch} is in a shard but not in the index."
        elif actual is None:
            if stated[0] not in unread:  # the shard itself was reported
                yield f"checkpoint {model_id} epoch {epoch} is in the index but in no shard."
        elif stated != actual:
            yield f"checkpoint {model_id} epoch {epoch}: index and shard differ in place, hash or layout."
