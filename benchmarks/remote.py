"""Reading weights over a network with 50 ms of latency, against a file system's read-ahead and whole shards.

    python benchmarks/remote.py [--small]

The server runs on loopback in a process of its own, and waits 50 ms before each answer. Requests and bytes are those of
its log. `--small` runs every path on little data, to see that it works.
"""

from __future__ import annotations

import multiprocessing
import random
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

import fsspec
import pyarrow as pa
import torch
from access import config, draft
from timing import interleave, report

import phasezoo
from phasezoo.builders.pack import Run
from phasezoo.builders.tables import write_zoo
from phasezoo.layout import Layout
from phasezoo.nets import build
from phasezoo.shard import decode
from phasezoo.zoo import Zoo

sys.path.insert(0, str(Path(__file__).parents[1]))
SMALL = "--small" in sys.argv
LATENCY = 0.001 if SMALL else 0.05
WIDTH = 64 if SMALL else 1200  # 6 MB a checkpoint
MODELS, EPOCHS = (4, 3) if SMALL else (10, 10)
ROUNDS = 1 if SMALL else 5


def serve_until_told(root: str, pipe: Connection) -> None:
    """Serve a directory; answer each message with the requests and bytes since the last one."""
    from tests.loopback import Fault
    from tests.serve import serve

    with serve(Path(root), faults=[Fault("", latency=LATENCY)]) as server:
        pipe.send(server.url)
        while pipe.recv():
            pipe.send((len(server.requests), server.sent))
            server.forget()


class Remote:
    """The server's address and its log."""

    def __init__(self, pipe: Connection) -> None:
        self.pipe = pipe
        self.url: str = pipe.recv()

    def counts(self) -> tuple[int, int]:
        """Return requests and bytes since the last call."""
        self.pipe.send(True)
        requests, nbytes = self.pipe.recv()
        return requests, nbytes


@contextmanager
def server(root: Path) -> Iterator[Remote]:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=serve_until_told, args=(str(root), theirs))
    process.start()
    try:
        yield Remote(ours)
    finally:
        ours.send(False)
        process.join()


def write(root: Path) -> None:
    """Write a zoo of 100 checkpoints of 6 MB."""
    configs, runs = [], []
    for i in range(MODELS):
        torch.manual_seed(i)
        state = build("mlp", in_features=64, width=WIDTH, depth=2, out_features=10).state_dict()
        configs.append(config(f"m{i}", WIDTH, i))
        runs.append(Run(f"m{i}", f"w{WIDTH}", Layout.of_state_dict(state), tuple(range(EPOCHS)), partial(after, state)))
    rows = [{"model_id": f"m{i}", "epoch": e, "test_acc": 0.0} for i in range(MODELS) for e in range(EPOCHS)]
    write_zoo(root, draft(), configs=pa.Table.from_pylist(configs), results=pa.Table.from_pylist(rows), runs=runs)


def after(state: dict[str, torch.Tensor], epoch: int) -> dict[str, torch.Tensor]:
    """Return other weights for each epoch: equal ones would be fetched once."""
    return {name: tensor + epoch for name, tensor in state.items()}


def cold(url: str, cache: Path) -> Zoo:
    """Open the zoo with its tables in the cache and no weights."""
    shutil.rmtree(cache, ignore_errors=True)
    zoo = phasezoo.load(url, cache_dir=cache)
    for name in zoo.manifest.tables:
        zoo.table(name)
    return zoo


def one_checkpoint(remote: Remote, cache: Path) -> None:
    """Index -> checkpoint, against per-tensor reads through `fs.open`, and against the whole shard."""
    zoo = cold(remote.url, cache)
    ckpts = [model.checkpoint(epoch) for model in zoo for epoch in range(1, EPOCHS)]
    random.Random(0).shuffle(ckpts)
    location = ckpts[0].piece().location
    shard = f"{remote.url}/{location.shard}"

    def per_tensor() -> dict[str, torch.Tensor]:
        # A new file system each time: its cache of listings and blocks is not what is measured.
        fs = fsspec.filesystem("http", skip_instance_cache=True)
        whole = bytearray(location.nbytes)
        with fs.open(shard) as file:
            for spec in location.layout.tensors:
                file.seek(location.offset + spec.offset)
                whole[spec.offset : spec.offset + spec.nbytes] = file.read(spec.nbytes)
        return decode(memoryview(whole), location.layout)

    def whole_shard() -> dict[str, torch.Tensor]:
        data = bytearray(fsspec.filesystem("http", skip_instance_cache=True).cat_file(shard))
        return decode(memoryview(data)[location.offset : location.offset + location.nbytes], location.layout)

    state = iter(ckpts)
    sides = {"ours": lambda: next(state).state_dict(), "per tensor": per_tensor, "shard": whole_shard}
    counts = {}
    for name, call in sides.items():
        remote.counts()
        call()
        counts[name] = remote.counts()
    times = interleave(sides, rounds=ROUNDS)
    for name, peer in (("per tensor", "fs.open, per tensor"), ("shard", "whole shard")):
        report("index -> checkpoint", times["ours"], times[name], peer, "for the record")
    print(f"  {location.nbytes / 1e6:.2f} MB of weights take:")
    for name, (requests, nbytes) in counts.items():
        print(f"  {name:12s} {requests:3d} requests {nbytes / 1e6:8.2f} MB")


def many_checkpoints(remote: Remote, cache: Path) -> None:
    """All checkpoints in random order, at the same time against one after another; verified and kept."""

    def seconds(at_once: bool) -> float:
        zoo = cold(remote.url, cache)
        found = [model.checkpoint(epoch).piece() for model in zoo for epoch in range(EPOCHS)]
        random.Random(0).shuffle(found)
        start = time.perf_counter()
        # Both sides hold all of them in the end: new memory costs time too, and a list that is dropped reuses it.
        held = [zoo._index.store.read(pieces) for pieces in ([found] if at_once else [[piece] for piece in found])]
        seconds = time.perf_counter() - start
        assert sum(map(len, held)) == len(found)
        return seconds

    times = [(seconds(at_once=True), seconds(at_once=False)) for _ in range(ROUNDS)]
    ours, theirs = (statistics.median(side) for side in zip(*times, strict=True))
    report(f"{MODELS * EPOCHS} checkpoints", ours, theirs, "one after another", ">= 5x")


def main() -> None:
    import phasezoo.source.remote as remote_source

    remote_source.WASTE = -1.0  # no two checkpoints are joined: the same requests on both sides
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write(root / "zoo")
        with server(root / "zoo") as remote:
            one_checkpoint(remote, root / "cache")
            many_checkpoints(remote, root / "cache")


if __name__ == "__main__":
    main()
