"""Zoos on the Hugging Face Hub: ``hf://datasets/owner/name[@revision][/folder]``."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote, unquote, urlsplit

from phasezoo import settings
from phasezoo.errors import AddressError, MissingFileError, SourceError, WriteError, ZooNotFoundError, nearest
from phasezoo.source.http import HttpFiles
from phasezoo.source.remote import MAX_ADDRESS, Files, NoFiles, RemoteSource, check_address, without_password
from phasezoo.source.transfer import TRANSIENT, Traffic, Transient, insist, retry_after

PREFIX = "hf://"
_FORM = (
    "It has the form hf://datasets/owner/name, with @revision behind if it is not the newest (write a slash in a "
    "revision as %2F)."
)
MAX_REVISION = 255  # characters
DEFAULT = "main"  # the branch that a repository has from its beginning
COMMIT = re.compile(r"[0-9a-f]{40}")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Address:
    """A place on the Hub."""

    repo_id: str
    revision: str | None
    path: str  # of the zoo in the repository, "" for its root

    def __post_init__(self) -> None:
        from huggingface_hub.errors import HFValidationError
        from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # documented, not marked so

        try:
            validate_repo_id(self.repo_id)
        except HFValidationError as error:
            raise AddressError(
                f"{self.repo_id[:200]!r} is no name of a repository on the Hub: {error} {_FORM}"
            ) from None
        revision = self.revision
        if revision is not None and not (
            0 < len(revision) <= MAX_REVISION
            and revision.isprintable()
            and {"", ".", ".."}.isdisjoint(revision.split("/"))
        ):
            raise AddressError(f"{revision[:200]!r} is no revision: no branch, tag or commit can be called so.")
        inside = self.path.isprintable() and {".", ".."}.isdisjoint(self.path.split("/")) and "\\" not in self.path
        if not inside or len(self.path) > MAX_ADDRESS:
            raise AddressError(f"{self.path[:200]!r} is no folder of a repository on the Hub. {_FORM}")

    def __str__(self) -> str:
        at = f"@{quote(self.revision, safe='')}" if self.revision else ""
        return f"{PREFIX}datasets/{self.repo_id}{at}" + (f"/{self.path}" if self.path else "")


def parse(url: str) -> Address:
    """Read an address.

    Raises:
        AddressError: it is not complete, or not of a dataset.

    >>> parse("hf://datasets/owner/zoo@v1/small")
    Address(repo_id='owner/zoo', revision='v1', path='small')
    """
    check_address(url)
    form = re.fullmatch(
        r"hf://datasets/(?P<repo>[\w.-]+/[\w.-]+)(@(?P<rev>[^/@]+))?(/(?P<path>[^@]*))?",
        url.rstrip("/"),
        re.ASCII,
    )
    if not form:
        raise AddressError(f"{without_password(url)} is no address of a zoo on the Hub. {_FORM}")
    return Address(form["repo"], unquote(form["rev"]) if form["rev"] else None, form["path"] or "")


class HubSource(RemoteSource):
    """A zoo in a dataset repository at one commit.

    Manifest and tables come through the Hub library and its cache; weights are read by range from one address.
    """

    def __init__(
        self,
        address: Address,
        *,
        token: str | bool | None = None,
        endpoint: str | None = None,
        cache_dir: Path | None = None,
        offline: bool = False,
        force: bool = False,
    ) -> None:
        super().__init__(hub_files(address, token=token, endpoint=endpoint, offline=offline))
        self.address = address
        self.url = str(address)
        self._token, self._endpoint, self._cache_dir, self._offline = token, endpoint, cache_dir, offline
        self._force = force

    def read(self, path: str) -> memoryview:
        """Read a whole file, through the cache of the Hub library."""
        from huggingface_hub import hf_hub_download

        def fetch() -> Path:
            return Path(
                hf_hub_download(
                    self.address.repo_id,
                    f"{self.address.path}/{path}" if self.address.path else path,
                    repo_type="dataset",
                    revision=self.address.revision,
                    token=self._token,
                    endpoint=self._endpoint or settings.endpoint(),
                    cache_dir=self._cache_dir,
                    local_files_only=self._offline,
                    force_download=self._force and not self._offline,
                )
            )

        what = f"read {path} of {self.url}"
        try:
            place = ask(fetch, what=what, address=self.address, traffic=self.traffic)
        except WriteError:  # the cache is full or cannot be written: read past it
            return super().read(path)
        return memoryview(place.read_bytes())


def hub_files(
    address: Address, *, token: str | bool | None = None, endpoint: str | None = None, offline: bool = False
) -> Files:
    """Return the files below an address at one commit, read by range; the token goes to the Hub only."""
    from huggingface_hub import get_token

    assert address.revision is not None
    assert COMMIT.fullmatch(address.revision)
    if offline:
        return NoFiles(str(address))
    base = f"{endpoint or settings.endpoint()}/datasets/{address.repo_id}/resolve/{address.revision}"
    secret = token if isinstance(token, str) else None if token is False else get_token()
    headers = {"Authorization": f"Bearer {secret}"} if secret else {}
    return HttpFiles(f"{base}/{quote(address.path)}" if address.path else base, headers=headers, hint=_RIGHTS)


_RIGHTS = (
    "The repository may be private or gated: log in with `hf auth login`, or give token=, and ask its owner for access."
)


def assets() -> Path:
    """Return the directory that the Hub library gives to other libraries, below ``HF_HOME``."""
    from huggingface_hub import cached_assets_path

    return cached_assets_path("phasezoo")


def host(endpoint: str | None = None) -> str:
    """Return the name of the Hub: of `endpoint`, or of ``HF_ENDPOINT``."""
    return urlsplit(endpoint or settings.endpoint()).netloc


def resolve(address: Address, *, token: str | bool | None, endpoint: str | None) -> str:
    """Ask the Hub for the commit that a branch or tag means now.

    Raises:
        ZooNotFoundError: no such repository or revision.
        SourceError: the Hub refuses or cannot be reached.
    """
    from huggingface_hub import HfApi

    api = HfApi(endpoint=endpoint or settings.endpoint(), token=token, library_name="phasezoo")
    revision = address.revision or DEFAULT
    traffic = Traffic()
    try:
        info = ask(
            lambda: api.dataset_info(address.repo_id, revision=revision, timeout=30),
            what=f"resolve {address}",
            address=address,
            traffic=traffic,
        )
    except _NoRevision:
        raise ZooNotFoundError(
            f"no revision {revision!r} of {PREFIX}datasets/{address.repo_id}. {_revisions(api, address, revision)} "
            "A full commit hash works too."
        ) from None
    return str(info.sha)


class _NoRevision(ZooNotFoundError):
    """The repository is there, the revision is not."""


def _revisions(api: Any, address: Address, asked: str) -> str:
    """Say which revisions there are, if the Hub tells."""
    try:
        refs = api.list_repo_refs(address.repo_id, repo_type="dataset")
    except Exception:  # the message is about something else
        return ""
    return nearest(asked, [ref.name for ref in (*refs.tags, *refs.branches)])


def ask(call: Callable[[], Result], *, what: str, address: Address, traffic: Traffic) -> Result:
    """Call the Hub library, again where its own repetitions end, and say its errors in our words.

    It repeats neither a 503 of a file or of a revision, nor a commit.

    Raises:
        ZooNotFoundError: no such repository or revision, or not in the cache while offline.
        MissingFileError: no such file in the repository.
        SourceError: the Hub refuses or cannot be reached.
        WriteError: the cache cannot be written.
    """
    from huggingface_hub import errors

    from phasezoo.source.http import transport_error

    def attempt() -> Result:
        traffic.count(requests=1)
        try:
            return call()
        except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled) as error:
            cause = error.__cause__
            if isinstance(cause, errors.HfHubHTTPError):
                raise _http_error(cause, what) from None
            if cause is not None and not isinstance(cause, errors.OfflineModeIsEnabled):
                raise Transient(f"no connection ({type(cause).__name__})") from None
            raise ZooNotFoundError(
                f"cannot {what}: it is not in the cache, and local_files_only (or HF_HUB_OFFLINE) forbids to fetch it. "
                "Load it once without."
            ) from None
        except errors.GatedRepoError:
            raise SourceError(f"cannot {what}: the repository is gated. {_RIGHTS}") from None
        except errors.RepositoryNotFoundError as error:
            status = error.response.status_code
            raise ZooNotFoundError(
                f"cannot {what}: the Hub has no dataset {address.repo_id!r} that you may read ({status}). "
                f"Check the name. {_RIGHTS}"
            ) from None
        except errors.RevisionNotFoundError:
            raise _NoRevision(f"no revision {address.revision!r} of {PREFIX}datasets/{address.repo_id}.") from None
        except errors.EntryNotFoundError:
            raise MissingFileError(
                f"cannot {what}: the repository has no such file at this revision. Check that it holds a zoo."
            ) from None
        except errors.HfHubHTTPError as error:
            raise _http_error(error, what) from None
        except transport_error() as error:
            raise Transient(f"no connection ({str(error) or type(error).__name__})") from None
        except OSError as error:
            if error.errno is None:  # "Consistency check failed": the body was cut
                raise Transient(str(error).splitlines()[0]) from None
            raise WriteError(f"cannot {what}: the cache cannot be written ({error.strerror}).") from None

    return insist(attempt, what=what, traffic=traffic)


def _http_error(error: Any, what: str) -> Exception:
    status = error.response.status_code
    if status in TRANSIENT or status > 504:
        return Transient(f"the server answers {status}", wait=retry_after(error.response.headers.get("Retry-After")))
    if status in (401, 403):
        return SourceError(f"cannot {what}: the Hub refuses ({status}). {_RIGHTS}")
    return SourceError(f"cannot {what}: the server answers {status}. Check the address.")
