"""Where the bytes of a zoo come from: the only module that opens its files."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Sequence
from io import FileIO
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from phasezoo import settings
from phasezoo.errors import (
    DependencyError,
    IntegrityError,
    MissingFileError,
    PhaseZooError,
    SourceError,
    WriteError,
    ZooNotFoundError,
)
from phasezoo.manifest import MANIFEST

if TYPE_CHECKING:
    from http.client import HTTPResponse

TRIES = 3  # per download
PAUSE = 0.5  # seconds before the second try; doubled before each further one
LONGEST_PAUSE = 20.0  # whatever a server's Retry-After says
TIMEOUT = 30.0  # seconds without a byte
GAP = 4096  # bytes between two ranges that are read rather than skipped
BUFFERS = 1024  # of one vectored read: what Linux and macOS take

# A file, where to start in it, and the buffers to fill one after another.
Request = tuple[str, int, Sequence[memoryview]]


class Source(Protocol):
    """A place that holds the files of one zoo."""

    url: str

    def read(self, path: str) -> memoryview:
        """Read a whole file."""
        ...

    def read_ranges(self, ranges: Sequence[tuple[str, int, int]]) -> list[memoryview]:
        """Read byte ranges (path, start, stop); every answer has exactly the length that was asked."""
        ...

    def size(self, path: str) -> int:
        """Return the length of a file in bytes."""
        ...

    def local(self, path: str) -> Path | None:
        """Return the file's place on this machine's disk, or None if it has none."""
        ...


class LocalSource:
    """A zoo in a directory.

    Files are read, not memory-mapped: network file systems stall or raise SIGBUS under a map.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root).expanduser().absolute()
        self.url = str(self.root)
        if not (self.root / MANIFEST).is_file():
            what = "does not exist" if not self.root.exists() else f"holds no {MANIFEST}"
            raise ZooNotFoundError(
                f"no zoo at {self.url}: it {what}. Give the directory that contains {MANIFEST}, "
                "or one of the names that `phasezoo list` prints."
            )

    def read(self, path: str) -> memoryview:
        """Read a whole file."""
        return self._read(path, 0, self.size(path))

    def read_ranges(self, ranges: Sequence[tuple[str, int, int]]) -> list[memoryview]:
        """Read byte ranges (path, start, stop) in order."""
        return [self._read(path, start, stop) for path, start, stop in ranges]

    def read_into(self, requests: Sequence[Request]) -> None:
        """Fill buffers straight from the files; ranges that follow one another in a file are one read."""
        for path, group in groupby(requests, key=lambda request: request[0]):
            runs = _runs([(start, buffers) for _, start, buffers in group])
            try:
                with open(self.root / path, "rb", buffering=0) as file:
                    for start, buffers in runs:
                        if (end := _read_buffers(file, start, buffers)) is not None:
                            raise self._cut_short(path, start, start + sum(map(len, buffers)), end)
            except OSError as error:
                if isinstance(error, PhaseZooError):
                    raise
                raise self._missing(path, error) from None

    def size(self, path: str) -> int:
        """Return the length of a file in bytes."""
        try:
            return (self.root / path).stat().st_size
        except OSError as error:
            raise self._missing(path, error) from None

    def local(self, path: str) -> Path | None:
        """Return the file's place on disk."""
        return self.root / path

    def _read(self, path: str, start: int, stop: int) -> memoryview:
        import numpy as np

        # np.empty, not bytearray: a bytearray is zeroed first, which touches every page twice.
        buffer = np.empty(stop - start, dtype=np.uint8).data
        got = 0
        try:
            with open(self.root / path, "rb", buffering=0) as file:
                file.seek(start)
                while got < len(buffer):
                    n = file.readinto(buffer[got:])
                    if not n:
                        break
                    got += n
        except OSError as error:
            raise self._missing(path, error) from None
        if got != len(buffer):
            raise self._cut_short(path, start, stop, start + got)
        return buffer

    def _cut_short(self, path: str, start: int, stop: int, end: int) -> IntegrityError:
        return IntegrityError(
            f"{self.url}/{path} is cut short: bytes {start} to {stop} were asked, the file ends at {end}. "
            "Copy the file again; `phasezoo verify` lists all damaged files."
        )

    def _missing(self, path: str, error: OSError) -> MissingFileError:
        return MissingFileError(
            f"cannot read {self.url}/{path}, which {MANIFEST} names: {error.strerror}. "
            "Copy the zoo again; `phasezoo verify` lists all missing files."
        )


def read_into(source: Source, requests: Sequence[Request]) -> None:
    """Fill buffers from byte ranges of any source; from local files without a copy.

    Args:
        source: where the files are.
        requests: (path, start, buffers): the bytes from start on, into one buffer after another.
    """
    if isinstance(source, LocalSource):
        return source.read_into(requests)
    ranges = [(path, start, start + sum(map(len, buffers))) for path, start, buffers in requests]
    for data, (_, _, buffers) in zip(source.read_ranges(ranges), requests, strict=True):
        place = 0
        for buffer in buffers:
            buffer[:] = data[place : place + len(buffer)]
            place += len(buffer)


def _runs(parts: Sequence[tuple[int, Sequence[memoryview]]]) -> Iterator[tuple[int, list[memoryview]]]:
    """Join parts that follow one another, but for a gap that is cheaper to read than to skip."""
    run: list[memoryview] = []
    start = end = -1
    for begin, buffers in parts:
        gap = begin - end
        if not run or not 0 <= gap <= GAP or len(run) + len(buffers) > BUFFERS:
            if run:
                yield start, run
            start, run, gap = begin, [], 0
        if gap:
            run.append(memoryview(bytearray(gap)))
        run += buffers
        end = begin + sum(map(len, buffers))
    if run:
        yield start, run


def _read_buffers(file: FileIO, start: int, buffers: Sequence[memoryview]) -> int | None:
    """Fill buffers from a file; return where the file ends if that is too early."""
    for first in range(0, len(buffers), BUFFERS):
        part = list(buffers[first : first + BUFFERS])
        # The kernel may stop early (at 2 GiB, for one), and Windows has no vectored read: what is left is read below.
        got = os.preadv(file.fileno(), part, start) if hasattr(os, "preadv") else 0
        for buffer in part:
            done = min(got, len(buffer))
            got -= done
            start += done
            while done < len(buffer):
                file.seek(start)
                n = file.readinto(buffer[done:])
                if not n:
                    return start
                done += n
                start += n
    return None


class RangeFile(Protocol):
    """One file, anywhere, read by byte range."""

    url: str
    size: int

    def read(self, start: int, stop: int) -> bytes:
        """Return exactly the bytes from start to stop."""
        ...


def open_ranges(url: str) -> RangeFile:
    """Open a file for reading by range: a path, or a URL that fsspec knows; nothing is downloaded.

    Raises:
        ZooNotFoundError: there is no such file.
        DependencyError: the library for this kind of URL is not installed.
    """
    return RemoteRanges(url) if "://" in url else LocalRanges(url)


class LocalRanges:
    """A file on disk."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).expanduser().absolute()
        self.url = str(self.path)
        if not self.path.is_file():
            raise ZooNotFoundError(f"no file at {self.url}. Check the path.")
        self.size = self.path.stat().st_size

    def read(self, start: int, stop: int) -> bytes:
        """Return exactly the bytes from start to stop."""
        with open(self.path, "rb", buffering=0) as file:
            file.seek(start)
            return _exact(file.read(stop - start), start, stop, self.url)


class RemoteRanges:
    """A file behind a URL; every read is one range request."""

    def __init__(self, url: str) -> None:
        from fsspec.core import url_to_fs

        self.url = url
        try:
            self._fs, self._path = url_to_fs(url)
            size = self._fs.info(self._path)["size"]
        except ImportError as error:
            raise DependencyError(f"{url} needs another library: {error} (pip install 'phasezoo[http]').") from None
        except FileNotFoundError as error:
            # fsspec says so of a server that cannot be reached, too.
            if isinstance(error.__cause__, OSError):
                raise SourceError(f"cannot open {url}: {error.__cause__}. Check the network.") from None
            raise ZooNotFoundError(f"no file at {url}. Check the address.") from None
        except Exception as error:
            raise SourceError(
                f"cannot open {url}: {error or type(error).__name__}. Check address and network."
            ) from None
        if not size:
            raise SourceError(f"{url} does not say its size, so it cannot be read by range. Download it first.")
        self.size: int = size

    def read(self, start: int, stop: int) -> bytes:
        """Return exactly the bytes from start to stop."""
        try:
            data = self._fs.cat_file(self._path, start=start, end=stop)
        except Exception as error:
            raise SourceError(
                f"cannot read bytes {start} to {stop} of {self.url}: {error or type(error).__name__}. Try again."
            ) from None
        return _exact(data, start, stop, self.url)


def _exact(data: bytes, start: int, stop: int, url: str) -> bytes:
    # A server that ignores Range returns the whole file, and fsspec does not complain.
    if len(data) != stop - start:
        raise IntegrityError(
            f"{url} answered {len(data)} bytes where bytes {start} to {stop} were asked. "
            "The file is cut short, or its server does not support ranges: download it first."
        )
    return data


def cache_directory(cache_dir: str | os.PathLike[str] | None = None) -> Path:
    """Return the directory for downloads and indexes: the argument, else ``PHASEZOO_CACHE``, else the Hub's assets."""
    place = cache_dir or settings.cache()
    if place is None:
        from huggingface_hub import cached_assets_path

        return cached_assets_path("phasezoo")
    return Path(place).expanduser().absolute()


def partial(path: Path) -> Path:
    """Return a name beside `path` for what is not complete yet; no other process or thread uses it."""
    return path.with_name(f".{path.name}.partial-{os.getpid()}-{threading.get_ident()}")


def download(url: str, to: Path, *, nbytes: int | None = None) -> None:
    """Fetch a whole file; it appears under its name only when all of its bytes are there.

    Args:
        url: http or https address.
        to: where to put the file.
        nbytes: the size that the file must have, if that is known.

    Raises:
        ZooNotFoundError: the server has no such file.
        SourceError: the server cannot be reached, refuses, or stops before the end.
        IntegrityError: the file does not have `nbytes` bytes.
        WriteError: the file cannot be written.
    """
    import http.client
    import urllib.error

    failure, pause = "", PAUSE
    for attempt in range(TRIES):
        if attempt:
            time.sleep(pause)
            pause *= 2
        try:
            return _download_once(url, to, nbytes)
        except urllib.error.HTTPError as error:
            failure = f"the server answers {error.code} {error.reason}"
            if error.code in (404, 410):
                raise ZooNotFoundError(f"no file at {url}: {failure}. Check PHASEZOO_MIRROR if it is set.") from None
            if error.code < 500 and error.code not in (408, 429):
                break
            pause = _retry_after(error.headers.get("Retry-After"), pause)
        except PhaseZooError:
            raise
        except ValueError as error:
            failure = str(error)
            break
        except (OSError, http.client.HTTPException) as error:
            failure = str(getattr(error, "reason", "") or error) or type(error).__name__
    raise SourceError(
        f"cannot download {url}: {failure}. Nothing was kept. Check the network and the proxy settings; "
        "PHASEZOO_MIRROR names another server, and what is in the cache opens without one."
    )


def _download_once(url: str, to: Path, nbytes: int | None) -> None:
    import http.client
    import urllib.request

    from phasezoo.progress import bar

    if not url.startswith(("http://", "https://")):
        raise ValueError("only http and https addresses can be downloaded")
    # No compression: the length of the answer is then the length of the file.
    request = urllib.request.Request(url, headers={"Accept-Encoding": "identity", "User-Agent": "phasezoo"})
    temporary = partial(to)
    with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
        length = response.headers.get("Content-Length")
        promised = int(length) if length else nbytes
        if nbytes is not None and promised != nbytes:
            raise _wrong_size(url, promised, nbytes)
        got = 0
        try:
            to.parent.mkdir(parents=True, exist_ok=True)
            with open(temporary, "wb") as file, bar(f"fetching {to.name}", total=promised, unit="B") as progress:
                while chunk := _read_chunk(response):
                    file.write(chunk)
                    got += len(chunk)
                    progress.update(len(chunk))
            if promised is not None and got < promised:
                raise http.client.HTTPException(f"{got:,} of {promised:,} bytes arrived")
            if promised is not None and got > promised:
                raise _wrong_size(url, got, promised)
            os.replace(temporary, to)
        except OSError as error:
            if isinstance(error, PhaseZooError):
                raise
            raise WriteError(f"cannot write {to}: {error.strerror}. PHASEZOO_CACHE names another place.") from None
        finally:
            temporary.unlink(missing_ok=True)


def _read_chunk(response: HTTPResponse) -> bytes:
    import http.client

    try:
        return response.read(1 << 18)
    except OSError as error:  # of the network, not of the disk that the chunk goes to
        raise http.client.HTTPException(str(error) or type(error).__name__) from None


def _wrong_size(url: str, got: int | None, nbytes: int) -> IntegrityError:
    return IntegrityError(
        f"{url} has {got or 0:,} bytes where {nbytes:,} were expected: it is not the published file, "
        "and nothing was kept. Check PHASEZOO_MIRROR and the proxy settings."
    )


def _retry_after(header: str | None, default: float) -> float:
    try:
        return min(float(header or default), LONGEST_PAUSE)
    except ValueError:  # a date
        return default
