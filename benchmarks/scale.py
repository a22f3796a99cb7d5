"""A zoo of full scale: 2,500 models, 60,000 checkpoints, 377,500 results. Time, memory and open files.

    python benchmarks/scale.py [--small]

Tables are real; shards are sparse files of zeros, so that the weights take no room. Each measurement runs in a process
of its own, whose memory is then that of the measurement. `--small` runs every path on little data, to see that it
works.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
from access import draft

from phasezoo.layout import Layout
from phasezoo.manifest import Axis, Shard
from phasezoo.nets import build
from phasezoo.shard import digest
from phasezoo.tables import from_rows, write_tables

SMALL = "--small" in sys.argv
WIDTHS, TEMPERATURES, SEEDS = (4, 3, 2) if SMALL else (25, 20, 5)
EPOCHS, KEPT = (6, 3) if SMALL else (150, 24)
ARGUMENTS = {"in_features": 64, "depth": 2, "out_features": 10}


def write(root: Path) -> None:
    """Write the tables, and one sparse shard for each cell."""
    rng = np.random.default_rng(0)
    configs, checkpoints, digests, layouts, shards, landscape = [], [], [], [], [], []
    kept = np.linspace(0, EPOCHS, KEPT).astype(int).tolist()
    for w in range(WIDTHS):
        arguments = {**ARGUMENTS, "width": 8 + w}
        layout = Layout.of_state_dict(build("mlp", **arguments).state_dict())
        zeros = bytes(layout.nbytes)
        sha256 = hashlib.sha256(zeros).hexdigest()
        digests_of = b"".join(digest(zeros[: spec.nbytes]) for spec in layout.tensors)
        layouts += [
            {"layout_id": layout.layout_id, "position": i, "name": s.name, "dtype": s.dtype, "shape": list(s.shape)}
            | {"offset": s.offset, "nbytes": s.nbytes}
            for i, s in enumerate(layout.tensors)
        ]
        for t in range(TEMPERATURES):
            cell = f"w{8 + w}-t{t}"
            path, at = f"shards/{cell}/00000.safetensors", 4096
            for epoch in (EPOCHS // 2, EPOCHS):
                metrics = {
                    "curve_mc_train_error": float(rng.normal(0, 5)),
                    "representation_similarity": float(rng.uniform(0.5, 1)),
                }
                landscape.append({"model_id": None, "cell_id": cell, "epoch": epoch, "protocol": "bench", **metrics})
            for seed in range(SEEDS):
                model_id = f"{cell}-s{seed}"
                configs.append(
                    {"model_id": model_id, "cell_id": cell, "load": float(8 + w), "temperature": float(t), "seed": seed}
                    | {"width": 8 + w, "architecture": "mlp", "architecture_config": json.dumps(arguments)}
                )
                for epoch in kept:
                    row = {"model_id": model_id, "epoch": epoch}
                    checkpoints.append(
                        row
                        | {"shard": path, "offset": at, "nbytes": layout.nbytes, "sha256": sha256}
                        | {"layout_id": layout.layout_id}
                    )
                    digests.append({**row, "digests": digests_of})
                    at += layout.nbytes + -layout.nbytes % 64
            (root / path).parent.mkdir(parents=True)
            with open(root / path, "wb") as file:
                file.truncate(at)
            shards.append(Shard(path=path, nbytes=at, sha256="0" * 64, n_tensors=0))
    n = len(configs)
    epochs = np.arange(EPOCHS + 1)
    columns = {
        "model_id": np.repeat([c["model_id"] for c in configs], EPOCHS + 1),
        "epoch": np.tile(epochs, n),
        "train_loss": rng.exponential(0.3, n * (EPOCHS + 1)),
        **{name: rng.random(n * (EPOCHS + 1)) for name in ("train_acc", "test_loss", "test_acc")},
    }
    tables = {
        "configs": from_rows(configs, tuple(configs[0])),
        "results": pa.table(columns),
        "landscape": from_rows(landscape, tuple(landscape[0])),
        "checkpoints": from_rows(checkpoints, tuple(checkpoints[0])),
        "layouts": from_rows(layouts, tuple(layouts[0])),
        "digests": from_rows(digests, tuple(digests[0])),
    }
    axes = {
        "load": Axis(column="width", label="width", values=tuple(float(8 + w) for w in range(WIDTHS))),
        "temperature": Axis(column="temperature", label="t", values=tuple(map(float, range(TEMPERATURES)))),
    }
    write_tables(root, draft().model_copy(update={"shards": tuple(shards), **axes}), tables)


SETUP = """
import os, resource, sys, time, random
import phasezoo
def now(): return time.perf_counter(), time.process_time()
def rss():
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
def fds(): return len(os.listdir("/proc/self/fd"))
def say(what, start, bar=""):
    wall, cpu = (b - a for a, b in zip(start, now()))
    print(f"{what:44s} {wall * 1e3:10.1f} ms  {cpu * 1e3:10.1f} ms of CPU  {rss():7.0f} MB   {bar}")
start = now()
zoo = phasezoo.load(sys.argv[1])
"""
MEASUREMENTS = {
    "open": """
repr(zoo); say("open, and say what it is", start, "(bar: < 1 s, < 300 MB)")
start = now(); zoo.configs; say("configs with phases, as datasets.Dataset", start)
""",
    "filter": """
zoo.filter(width=8)
start = now(); zoo.filter("width <= 16 and test_acc > 0.5"); say("filter by width and accuracy", start)
start = now(); zoo.filter(phase="IV-B"); say("filter(phase=...) when the labels are known", start, "(bar: < 50 ms)")
""",
    "phases": """
start = now(); zoo.filter(phase="IV-B"); say("filter(phase=...) for the first time", start)
start = now(); zoo.phases(); say("phases of one epoch", start)
start = now(); zoo.table("cells"); say("cells of all epochs, labelled", start)
""",
    "list": """
start = now(); n = sum(len(model.epochs) for model in zoo); say(f"list {n:,} epochs of {len(zoo):,} models", start)
start = now(); zoo.sort("test_acc")[:10].summary; say("sort by accuracy", start)
""",
    "read": """
rng, count = random.Random(0), int(sys.argv[2])
models = list(zoo)
def some(n):
    for _ in range(n):
        model = rng.choice(models)
        model.checkpoint(rng.choice(model.epochs)).state_dict()
some(count // 10)
before, files, start = rss(), fds(), now()
some(count)
say(f"read {count:,} random checkpoints", start, f"(memory {rss() - before:+.1f} MB, files {fds() - files:+d})")
""",
}


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write(root)
        size = sum(path.stat().st_size for path in (root / "tables").iterdir()) / 1e6
        print(f"{WIDTHS * TEMPERATURES * SEEDS:,} models, {size:.1f} MB of tables;    time, resident memory")
        for code in MEASUREMENTS.values():
            count = "100" if SMALL else "10000"
            subprocess.run([sys.executable, "-c", SETUP + code, str(root), count], check=True)


if __name__ == "__main__":
    main()
