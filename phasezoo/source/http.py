"""Files behind http and https addresses, read by range with the connections of the Hub's library."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from importlib import import_module
from typing import Any
from urllib.parse import quote, urljoin, urlsplit

from phasezoo.errors import IntegrityError, MissingFileError, RangesNotSupportedError, SourceError
from phasezoo.source.transfer import TIMEOUT, TRANSIENT, Traffic, Transient, retry_after

MAX_REDIRECTS = 5


class HttpFiles:
    """The files below one address."""

    def __init__(self, url: str, *, headers: dict[str, str] | None = None, hint: str = "") -> None:
        """Take note of an address; asks nothing yet.

        Args:
            url: address of the directory.
            headers: sent to the origin of `url` only, such as a token.
            hint: what a user who is refused can do.
        """
        self.url = url.rstrip("/")
        self.traffic = Traffic()
        self._headers = headers or {}
        self._hint = hint
        self._moved: dict[str, str] = {}  # a redirect to another origin, such as a signed address, holds for a while
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_moved": {}, "_lock": None}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._lock = threading.Lock()

    def address(self, path: str) -> str:
        """Return the address of a file; an empty path is the address itself."""
        return f"{self.url}/{quote(path)}" if path else self.url

    def size(self, path: str) -> int:
        """Return the length of a file, by asking for its first byte."""
        with self._answer(path, {"Range": "bytes=0-0"}) as response:
            if response.status_code == 206:
                total = re.fullmatch(r"bytes [0-9]+-[0-9]+/([0-9]{1,18})", response.headers.get("Content-Range", ""))
                return int(total[1]) if total else self._no_size(path)
            length = response.headers.get("Content-Length")
            return int(length) if length else self._no_size(path)

    def stream(self, path: str, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        """Yield the bytes from start to stop, or the whole file, in pieces, from one request.

        Raises:
            Transient: the answer is a passing failure, or is cut.
            MissingFileError: there is no such file.
            SourceError: the server refuses, or does not answer with the range that was asked.
            IntegrityError: the file ends before `stop`.
        """
        asked = {} if stop is None else {"Range": f"bytes={start}-{stop - 1}"}
        with self._answer(path, asked) as response:
            length = self._check(path, response, start, stop)
            got = 0
            try:
                for chunk in response.iter_raw():
                    got += len(chunk)
                    self.traffic.count(nbytes=len(chunk))
                    yield chunk
            except transport_error() as error:
                raise Transient(f"the answer was cut ({type(error).__name__})") from None
            if length is not None and got != length:
                raise Transient("the answer was cut")

    def _check(self, path: str, response: Any, start: int, stop: int | None) -> int | None:
        """Return the length that the body must have; raise if it is not what was asked."""
        stated = response.headers.get("Content-Length")
        length = int(stated) if stated else None
        if stop is None:
            return length
        url = self.address(path)
        if response.status_code != 206:
            if start == 0 and length == stop:  # the range is the file
                return length
            raise RangesNotSupportedError(
                f"the server of {url} does not support ranges: asked for bytes {start} to {stop}, it sends "
                f"all of it ({length or 'unknown'} bytes). Download the whole (of a zoo's folder, `phasezoo "
                "download` does), or use another server."
            )
        sent = response.headers.get("Content-Range", "")
        found = re.fullmatch(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18}|\*)", sent)
        if found and found[3] != "*" and int(found[3]) < stop:
            raise _ends_early(url, start, stop, int(found[3]))
        if not found or (int(found[1]), int(found[2]) + 1) != (start, stop):
            raise SourceError(
                f"the server of {url} answers with {sent[:200]!r} where bytes {start} to "
                f"{stop} were asked. Use another server."
            )
        return stop - start

    def _answer(self, path: str, headers: dict[str, str]) -> Any:
        """Open the answer to a GET, following redirects; the token stays with its origin."""
        url = self.address(path)
        moved = self._moved.get(url)
        if moved is not None:
            try:
                return _Answer(self, path, moved, headers)
            except (SourceError, MissingFileError):  # the signed address has expired: ask for a new one
                self._moved.pop(url, None)
        return _Answer(self, path, url, headers)

    def _no_size(self, path: str) -> int:
        raise SourceError(
            f"{self.address(path)} does not say its size, so it cannot be read by range. Download it first."
        )


class _Answer:
    """An open answer with status 200 or 206; closed on leaving."""

    def __init__(self, files: HttpFiles, path: str, url: str, headers: dict[str, str]) -> None:
        from huggingface_hub import get_session

        session = get_session()
        home = _origin(files.url)
        for _ in range(MAX_REDIRECTS):
            secret = files._headers if _origin(url) == home else {}
            # No compression: the length of the answer is then the length of the file.
            sent = {**secret, **headers, "Accept-Encoding": "identity"}
            files.traffic.count(requests=1)
            try:
                self._context = session.stream("GET", url, headers=sent, timeout=TIMEOUT, follow_redirects=False)
                self.response: Any = self._context.__enter__()
            except _bad_address() as error:
                raise SourceError(f"cannot ask for {files.address(path)}: {error}. Check the address.") from None
            except transport_error() as error:
                raise Transient(f"no connection ({str(error) or type(error).__name__})") from None
            except (OSError, ValueError) as error:
                raise SourceError(f"cannot ask for {files.address(path)}: {error}. Check the address.") from None
            status = self.response.status_code
            if status in (200, 206):
                return
            location = self.response.headers.get("Location")
            wait = retry_after(self.response.headers.get("Retry-After"))
            self._context.__exit__(None, None, None)
            if status not in (301, 302, 303, 307, 308) or not location:
                raise _failure(files, path, status, wait)
            try:
                url = urljoin(url, location)
                elsewhere = _origin(url) != home
            except ValueError as error:
                raise SourceError(
                    f"{files.address(path)} redirects to what is no address ({error}). Use another server."
                ) from None
            if elsewhere:
                files._moved[files.address(path)] = url
        raise SourceError(f"{files.address(path)} redirects more than {MAX_REDIRECTS} times. Check the address.")

    def __enter__(self) -> Any:
        return self.response

    def __exit__(self, *error: Any) -> None:
        self._context.__exit__(*error)


def _failure(files: HttpFiles, path: str, status: int, wait: float | None) -> Exception:
    url = files.address(path)
    if status in TRANSIENT or status > 504:
        return Transient(f"the server answers {status}", wait=wait)
    if status in (404, 410):
        return MissingFileError(f"no file at {url}: the server answers {status}. Check the address.")
    if status in (401, 403):
        return SourceError(f"the server refuses {url} ({status}). {files._hint or 'Check your rights to read it.'}")
    if status == 416:
        return IntegrityError(f"{url} is cut short: the server has no such range (416). Publish the file again.")
    return SourceError(f"cannot read {url}: the server answers {status}. Check the address.")


def _ends_early(url: str, start: int, stop: int, size: int) -> IntegrityError:
    return IntegrityError(
        f"{url} is cut short: bytes {start} to {stop} were asked, the file has {size}. Publish the file again; "
        "`phasezoo verify` lists all damaged files."
    )


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)


def transport_error() -> type[Exception]:
    """Return the root of the failures of a connection, in the client library that the Hub's library uses."""
    error: type[Exception] = _library().TransportError
    return error


def _bad_address() -> tuple[type[Exception], ...]:
    """Return the errors of the client library on addresses that no try can reach."""
    return _library().InvalidURL, _library().UnsupportedProtocol


def _library() -> Any:
    from huggingface_hub import get_session

    return import_module(type(get_session()).__module__.partition(".")[0])
