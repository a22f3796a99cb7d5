"""Servers on loopback: what the plain one and the stand-in for the Hub share (answers by range, faults, the log)."""

from __future__ import annotations

import contextlib
import re
import socket
import sys
import threading
import time
from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

OTHER = bytes(255 - i for i in range(256))  # every byte becomes another one


@dataclass
class Fault:
    """Spoil requests that match.

    `Fault("GET .*weights", at=2, status=503)` answers 503 to the second GET of a path that has "weights" in it.

    Attributes:
        match: regular expression, searched in ``"METHOD /path?query"``, as sent.
        at: which of the matching requests, the first being 1; a number, a container of numbers, None for all.
        status: answer this, and an empty body.
        headers: further headers of the answer: ``{"Retry-After": "1"}``, ``{"X-Error-Code": "GatedRepo"}``.
        cut: close the connection after this many bytes of the body.
        other_bytes: answer other bytes, as many.
        ignore_range: answer the whole file to a request for a part.
        latency: seconds to wait before the answer.
        call: run this before the answer, such as a commit that moves a branch.
    """

    match: str
    at: int | Container[int] | None = None
    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    cut: int | None = None
    other_bytes: bool = False
    ignore_range: bool = False
    latency: float = 0.0
    call: Callable[[], object] | None = None
    seen: int = field(default=0, init=False)

    def fires(self, line: str) -> bool:
        """Count a request, and say whether the fault applies to it."""
        if not re.search(self.match, line):
            return False
        self.seen += 1
        if self.at is None:
            return True
        return self.seen == self.at if isinstance(self.at, int) else self.seen in self.at


@dataclass(frozen=True)
class Request:
    """One line of the log: what was asked, and what was answered.

    Attributes:
        origin: the server's address; what differs in host or port is another origin.
        path: with query, as sent.
        range: the header Range, or None.
        authorization: the header Authorization, or None.
        status: status of the answer.
        sent: bytes of body in the answer.
        received: bytes of body in the request.
    """

    method: str
    origin: str
    path: str
    range: str | None
    authorization: str | None
    status: int
    sent: int
    received: int


@dataclass
class Server:
    """A running server; `faults` may change while it runs.

    Attributes:
        url: its address.
        requests: what it was asked, in order.
        faults: what goes wrong.
    """

    url: str
    requests: list[Request] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    lock: Any = field(default_factory=threading.Lock, repr=False)

    @property
    def sent(self) -> int:
        """Bytes of bodies sent."""
        return sum(request.sent for request in self.requests)

    def asked(self, match: str) -> list[Request]:
        """Return the requests whose ``"METHOD /path?query"`` has a match of the regular expression."""
        return [r for r in self.requests if re.search(match, f"{r.method} {r.path}")]

    def forget(self) -> None:
        """Empty the log."""
        with self.lock:
            self.requests.clear()


@dataclass(frozen=True)
class Asked:
    """A request, as the function that answers it sees it; path and query are not decoded."""

    method: str
    path: str
    query: dict[str, str]
    headers: Message
    body: bytes


@dataclass(frozen=True)
class Answer:
    """What to answer; `part` says that a part of the body may be asked for by Range."""

    status: int = 200
    body: bytes | Path = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    part: bool = False

    @property
    def size(self) -> int:
        return self.body.stat().st_size if isinstance(self.body, Path) else len(self.body)

    def read(self, start: int, stop: int) -> bytes:
        """Return the bytes from start to stop."""
        if isinstance(self.body, bytes):
            return self.body[start:stop]
        with open(self.body, "rb") as file:
            file.seek(start)
            return file.read(stop - start)


@contextlib.contextmanager
def running(server: Server, respond: Callable[[Asked], Answer]) -> Iterator[str]:
    """Answer requests with `respond` at a new address, and write them into the log of `server`."""
    connections: set[socket.socket] = set()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # headers and body are two packets; Nagle holds the second back for 40 ms

        def log_message(self, *_: object) -> None:
            pass

        def setup(self) -> None:
            super().setup()
            connections.add(self.connection)

        def finish(self) -> None:
            connections.discard(self.connection)
            super().finish()

        def answer(self) -> None:
            body = _body(self.headers, self.rfile)
            line = f"{self.command} {self.path}"
            with server.lock:
                fired = [fault for fault in server.faults if fault.fires(line)]
            time.sleep(sum(fault.latency for fault in fired))
            for fault in fired:
                if fault.call:
                    fault.call()
            path, _, query = self.path.partition("?")
            asked = Asked(self.command, path, {k: v[-1] for k, v in parse_qs(query, True).items()}, self.headers, body)
            status = next((fault.status for fault in fired if fault.status), None)
            answer = respond(asked) if status is None else Answer(status)
            headers = dict(answer.headers) | {k: v for fault in fired for k, v in fault.headers.items()}
            code, start, stop = answer.status, 0, answer.size
            if answer.part:
                headers["Accept-Ranges"] = "bytes"
                if answer.status == 200 and not any(fault.ignore_range for fault in fired):
                    code, start, stop = _part(self.headers.get("Range"), answer.size)
                    if code == 206:
                        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{answer.size}"
                    elif code == 416:
                        headers["Content-Range"] = f"bytes */{answer.size}"
            data = b"" if self.command == "HEAD" else answer.read(start, stop)
            if any(fault.other_bytes for fault in fired):
                data = data.translate(OTHER)
            cuts = [fault.cut for fault in fired if fault.cut is not None]
            data = data[: min(cuts)] if cuts else data
            with server.lock:  # before the answer, so that who has the answer finds it in the log
                server.requests.append(
                    Request(
                        self.command,
                        url,
                        self.path,
                        self.headers.get("Range"),
                        self.headers.get("Authorization"),
                        code,
                        len(data),
                        len(body),
                    )
                )
            with contextlib.suppress(ConnectionError):
                self.send_response(code)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(stop - start))
                self.end_headers()
                self.wfile.write(data)
                if cuts:
                    self.close_connection = True
                    self.connection.shutdown(socket.SHUT_RDWR)

        do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = answer

    class HTTPServer(ThreadingHTTPServer):
        request_queue_size = 128

        def handle_error(self, request: Any, client_address: Any) -> None:
            if not isinstance(sys.exc_info()[1], ConnectionError):  # a client that was killed is part of a test
                super().handle_error(request, client_address)

    http = HTTPServer(("127.0.0.1", 0), Handler)
    url = f"http://127.0.0.1:{http.server_port}"
    thread = threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield url
    finally:
        http.shutdown()
        http.server_close()
        thread.join()
        for connection in list(connections):  # one that is kept alive would go on being answered
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


def _body(headers: Message, stream: Any) -> bytes:
    if headers.get("Transfer-Encoding", "").lower() != "chunked":
        return stream.read(int(headers.get("Content-Length") or 0))
    chunks = []
    while size := int(stream.readline().split(b";")[0], 16):
        chunks.append(stream.read(size))
        stream.readline()
    stream.readline()
    return b"".join(chunks)


def _part(header: str | None, size: int) -> tuple[int, int, int]:
    """Return status, start and stop of what a Range header asks of a file."""
    asked = re.fullmatch(r"bytes=(\d*)-(\d*)", header or "")
    if not asked or not (asked[1] or asked[2]):
        return 200, 0, size
    if not asked[1]:
        start, stop = max(size - int(asked[2]), 0), size
    else:
        start, stop = int(asked[1]), min(int(asked[2]) + 1, size) if asked[2] else size
    return (206, start, stop) if start < stop else (416, 0, 0)
