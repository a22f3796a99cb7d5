"""Files of any file system that fsspec knows: s3, gs, memory, ..."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from phasezoo.errors import DependencyError, IntegrityError, MissingFileError, PhaseZooError, SourceError
from phasezoo.source.transfer import Traffic, Transient

CHUNK = 16 * 2**20


class FsFiles:
    """The files below one address of a file system."""

    def __init__(self, url: str, *, storage_options: dict[str, Any] | None = None) -> None:
        """Find the file system of an address.

        Args:
            url: address of the directory, such as ``s3://bucket/zoo``.
            storage_options: arguments of the file system, such as keys.

        Raises:
            DependencyError: the library for this kind of address is not installed.
            SourceError: there is no such kind of address, or it is not complete.
        """
        from fsspec.core import url_to_fs

        self.url = url.rstrip("/")
        self.traffic = Traffic()
        try:
            self._fs, self._root = url_to_fs(self.url, **(storage_options or {}))
        except ImportError as error:
            kind = url.partition("://")[0]
            extra = "pip install 'phasezoo[s3]'" if kind == "s3" else "install it"
            raise DependencyError(f"{url} needs another library: {error} ({extra}).") from None
        except (ValueError, TypeError, OSError) as error:
            raise SourceError(f"cannot open {url}: {error}. Check the address and storage_options.") from None

    def address(self, path: str) -> str:
        """Return the address of a file; an empty path is the address itself."""
        return f"{self.url}/{path}" if path else self.url

    def size(self, path: str) -> int:
        """Return the length of a file in bytes."""
        size = self._ask(path, lambda place: self._fs.info(place)["size"])
        if size is None:
            raise SourceError(f"{self.address(path)} does not say its size. Download it first.")
        return int(size)

    def stream(self, path: str, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        """Yield the bytes from start to stop, or the whole file, one request a piece.

        Raises:
            Transient: a passing failure.
            MissingFileError: there is no such file.
            SourceError: the file system refuses.
            IntegrityError: the file ends before `stop`.
        """
        if stop is None:
            yield self._ask(path, lambda place: self._fs.cat_file(place))
            return
        # An explicit range, so that the file system's read-ahead (5 MB for a few bytes) stays out of it.
        for first in range(start, stop, CHUNK):
            last = min(first + CHUNK, stop)
            data: bytes = self._ask(path, lambda place, a=first, b=last: self._fs.cat_file(place, start=a, end=b))
            if len(data) != last - first:
                raise IntegrityError(
                    f"{self.address(path)} answered {len(data)} bytes where bytes {first} to {last} were asked. The "
                    "file is cut short, or its server does not support ranges: `phasezoo download` fetches whole files."
                )
            yield data

    def _ask(self, path: str, call: Any) -> Any:
        place = f"{self._root}/{path}" if path else self._root
        self.traffic.count(requests=1)
        try:
            result = call(place)
        except PhaseZooError:
            raise
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
            # Some file systems say so of a server that cannot be reached, too.
            if isinstance(error.__cause__, OSError) and not isinstance(error.__cause__, FileNotFoundError):
                raise Transient(f"no connection ({error.__cause__})") from None
            raise MissingFileError(f"no file at {self.address(path)}. Check the address.") from None
        except PermissionError as error:
            raise SourceError(
                f"{self.address(path)} is refused: {error}. Check your rights, or give keys as storage_options."
            ) from None
        except (OSError, TimeoutError) as error:
            raise Transient(f"{type(error).__name__}: {error}") from None
        except Exception as error:  # of the file system's own library: it says no in many tongues
            raise SourceError(f"cannot read {self.address(path)}: {error or type(error).__name__}.") from None
        if isinstance(result, bytes):
            self.traffic.count(nbytes=len(result))
        return result
