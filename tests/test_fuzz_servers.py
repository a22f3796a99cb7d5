"""Servers that answer what they should not: every answer is the bytes that were asked, or an error in a sentence."""

from __future__ import annotations

import socketserver
import threading
from collections.abc import Iterator
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

import phasezoo
from phasezoo.errors import PhaseZooError
from phasezoo.source import RemoteSource, open_ranges, transfer
from phasezoo.source.remote import MAX_WHOLE, files_at
from phasezoo.source.transfer import retry_after
from tests.fuzz import long, quick

BODY = b"0123456789"


class Liar(socketserver.ThreadingTCPServer):
    """Answers every request with `answer`."""

    allow_reuse_address = daemon_threads = True
    answer = b""


class _Handler(socketserver.StreamRequestHandler):
    timeout = 5

    def handle(self) -> None:
        with suppress(OSError):
            while self.rfile.readline().strip():
                pass
            assert isinstance(self.server, Liar)
            self.wfile.write(self.server.answer)


@pytest.fixture(scope="module")
def liar() -> Iterator[Liar]:
    with Liar(("127.0.0.1", 0), _Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "TRIES", 1)


NUMBERS = st.sampled_from(
    ["0", "1", "5", "10", "-1", "1e3", "", "x", "²", "9" * 30, "9" * 5000, "18446744073709551616"]
)
RANGES = st.builds("bytes {}-{}/{}".format, NUMBERS, NUMBERS, NUMBERS | st.just("*"))
LOCATIONS = st.sampled_from(
    [
        "http://[",
        "http://127.0.0.1:99999/",
        "file:///etc/passwd",
        "//",
        "",
        "x" * 9000,
        "ftp://127.0.0.1/",
        "/\u00e9",
        "\\",
    ]
)
HEADERS = st.one_of(
    st.tuples(st.just("Content-Length"), NUMBERS),
    st.tuples(st.just("Content-Range"), RANGES | st.text("0123456789 bytes-/*", max_size=20)),
    st.tuples(st.just("Location"), LOCATIONS),
    st.tuples(st.just("Retry-After"), NUMBERS | st.sampled_from(["nan", "inf", "1 Jan 99999999999999 0:0:0"])),
    st.tuples(st.sampled_from(["Content-Encoding", "Transfer-Encoding"]), st.sampled_from(["gzip", "chunked", "x"])),
)
ANSWERS = st.tuples(
    st.sampled_from([200, 206, 206, 206, 302, 307, 404, 416, 429, 500, 503, 999, 100]),
    st.lists(HEADERS, max_size=3),
    st.sampled_from([BODY, BODY[:4], b"", BODY * 20, b"\r\n"]),
)


def encode(status: int, headers: list[tuple[str, str]], body: bytes) -> bytes:
    lines = [f"HTTP/1.1 {status} x", "Connection: close", *(f"{name}: {text}" for name, text in headers)]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def check_answer(liar: Liar, answer: bytes) -> None:
    liar.answer = answer
    url = f"http://127.0.0.1:{liar.server_address[1]}"
    with suppress(PhaseZooError):
        assert len(RemoteSource(files_at(url)).read_ranges([("a", 2, 7)])[0]) == 5
    with suppress(PhaseZooError):
        file = open_ranges(f"{url}/a")
        assert len(file.read(0, min(4, file.size))) == min(4, file.size)
    with pytest.raises(PhaseZooError):
        phasezoo.load(f"{url}/zoo")


@quick(200)
@given(ANSWERS)
def test_any_answer_is_what_was_asked_or_refused(liar: Liar, answer: tuple[int, list[tuple[str, str]], bytes]) -> None:
    check_answer(liar, encode(*answer))


@pytest.mark.slow
@long(5_000)
@given(ANSWERS)
def test_any_answer_is_what_was_asked_or_refused_at_length(
    liar: Liar, answer: tuple[int, list[tuple[str, str]], bytes]
) -> None:
    check_answer(liar, encode(*answer))


@pytest.mark.parametrize(
    "answer",
    [
        encode(206, [("Content-Range", f"bytes 0-0/{'9' * 5000}"), ("Content-Length", "1")], b"0"),
        encode(302, [("Location", "http://[")], b""),
        encode(302, [("Location", "http://127.0.0.1:99999/")], b""),
        encode(302, [("Location", "file:///etc/passwd")], b""),
        encode(429, [("Retry-After", "1 Jan 99999999999999 0:0:0")], b""),
        b"",
        b"\0" * 1000,
        b"HTTP/1.1 206 x\r\n" + b"a: b\r\n" * 10_000,
    ],
)
def test_an_answer_that_cannot_be_understood_is_refused(liar: Liar, answer: bytes) -> None:
    liar.answer = answer
    with pytest.raises(PhaseZooError):
        open_ranges(f"http://127.0.0.1:{liar.server_address[1]}/a")


def test_an_answer_without_an_end_is_given_up() -> None:
    class Endless:
        url, traffic = "x://y", transfer.Traffic()

        def address(self, path: str) -> str:
            return f"{self.url}/{path}"

        def size(self, path: str) -> int:
            return 0

        def stream(self, path: str, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
            chunk = bytes(2**20)  # the same one: the test takes no memory
            while True:
                yield chunk

    with pytest.raises(PhaseZooError, match=f"more than {MAX_WHOLE:,} bytes"):
        RemoteSource(Endless()).read("zoo.json")


@quick(200)
@given(NUMBERS | st.text("0123456789+-: ,GMTJanFebWed", max_size=30) | st.just("nan"))
def test_a_retry_after_is_a_time_or_nothing(text: str) -> None:
    seconds = retry_after(text)
    assert seconds is None or seconds >= 0
