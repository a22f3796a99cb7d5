"""Opening a published zoo by name, for the first time and from the cache, against parsing its table with pandas.

    python benchmarks/summary.py [--small]

The table is fetched from a loopback server. The first load fetches, checks, parses, corrects and writes the index;
pandas parses the same file from disk and does nothing else.
"""

from __future__ import annotations

import os
import sys
import tempfile
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pandas as pd
from timing import interleave, report

import phasezoo
from phasezoo.registry import COMMIT, REPOSITORY, ZOOS

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.data.make_summary import Table

SMALL = "--small" in sys.argv
NAME = "resnet18-cifar10"


class Quiet(SimpleHTTPRequestHandler):
    """A file server that does not print its requests."""

    def log_message(self, *args: object) -> None:
        """Print nothing."""


def main(root: Path) -> None:
    summary = ZOOS[NAME].summary
    assert summary is not None
    path = root / REPOSITORY / COMMIT / summary.file
    path.parent.mkdir(parents=True)
    table = Table(widths=(2, 4), batches=(16, 8), epochs=11, annotated=(10,)) if SMALL else Table()
    path.write_bytes(table.fill().to_bytes())
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(root)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    os.environ |= {"PHASEZOO_MIRROR": f"http://127.0.0.1:{server.server_port}", "NO_PROXY": "127.0.0.1"}

    def load(*, fresh: bool) -> int:
        zoo = phasezoo.load(NAME, cache_dir=root / "cache", force_download=fresh)
        return sum(zoo.table(name).num_rows for name in ("configs", "results", "landscape"))

    models, cells = len(table.widths) * len(table.batches) * 3, len(table.widths) * len(table.batches)
    assert load(fresh=True) == load(fresh=False) == models * (1 + table.epochs) + cells
    sides = {
        "first": partial(load, fresh=True),
        "later": partial(load, fresh=False),
        "pandas": lambda: len(pd.read_csv(path)),
    }
    seconds = interleave(sides, rounds=1 if SMALL else 7)
    report(
        f"{path.stat().st_size / 1e6:.1f} MB table, first load", seconds["first"], seconds["pandas"], "pandas", "< 3 s"
    )
    report("the same, from the cache", seconds["later"], seconds["pandas"], "pandas", "< 0.3 s")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        main(Path(folder))
