"""Fetch a whole file to disk."""

from __future__ import annotations

import os
import threading
from pathlib import Path

from phasezoo.errors import IntegrityError, MissingFileError, PhaseZooError, SourceError, WriteError, ZooNotFoundError
from phasezoo.progress import bar
from phasezoo.source.http import HttpFiles
from phasezoo.source.transfer import insist


def partial_name(path: Path) -> Path:
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
    if not url.startswith(("http://", "https://")):
        raise SourceError(f"cannot download {url}: only http and https addresses can be downloaded.")
    files = HttpFiles(url, hint="Check PHASEZOO_MIRROR if it is set.")
    temporary = partial_name(to)
    try:
        to.parent.mkdir(parents=True, exist_ok=True)
        insist(lambda: _write(files, temporary, to.name, nbytes), what=f"download {url}", traffic=files.traffic)
        got = temporary.stat().st_size
        if nbytes is not None and got != nbytes:
            found = "more" if got > nbytes else f"{got:,}"
            raise IntegrityError(
                f"{url} has {found} bytes where {nbytes:,} were expected: it is not the published file, "
                "and nothing was kept. Check PHASEZOO_MIRROR and the proxy settings."
            )
        os.replace(temporary, to)
    except MissingFileError as error:
        raise ZooNotFoundError(f"{error} Check PHASEZOO_MIRROR if it is set.") from None
    except OSError as error:
        if isinstance(error, PhaseZooError):
            raise
        raise WriteError(f"cannot write {to}: {error.strerror}. PHASEZOO_CACHE names another place.") from None
    finally:
        temporary.unlink(missing_ok=True)


def _write(files: HttpFiles, temporary: Path, name: str, nbytes: int | None) -> None:
    with open(temporary, "wb") as file, bar(f"fetching {name}", total=nbytes, unit="B") as progress:
        got = 0
        for chunk in files.stream(""):
            file.write(chunk)
            got += len(chunk)
            progress.update(len(chunk))
            if nbytes is not None and got > nbytes:
                break
