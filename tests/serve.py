"""A loopback server of a directory that answers range requests, counts what it sends, and fails as it is told."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import unquote

from tests.loopback import Answer, Asked, Fault, Server, running


@contextlib.contextmanager
def serve(root: Path, *, ranges: bool = True, faults: Sequence[Fault] = ()) -> Iterator[Server]:
    """Serve a directory over HTTP on loopback.

    Args:
        root: the directory.
        ranges: whether the server knows Range; if not it always sends the whole file.
        faults: what goes wrong.
    """
    server = Server("", faults=list(faults))

    def respond(asked: Asked) -> Answer:
        path = root / unquote(asked.path).lstrip("/")
        if asked.method not in ("GET", "HEAD"):
            return Answer(405)
        return Answer(body=path, part=ranges) if path.is_file() else Answer(404)

    with running(server, respond) as server.url:
        yield server
