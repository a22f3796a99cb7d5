"""From an address elsewhere to the index of the zoo there."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote

from phasezoo import settings
from phasezoo.cache import Cache, cache_directory
from phasezoo.errors import MissingFileError, SourceError, ZooNotFoundError, nearest
from phasezoo.index import Index
from phasezoo.manifest import MANIFEST
from phasezoo.source import RemoteSource, Source, is_zip_name, open_source, zip_source
from phasezoo.source.remote import NoFiles
from phasezoo.store import Store

if TYPE_CHECKING:
    import os


def open_address(
    url: str,
    *,
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
    force_download: bool = False,
    storage_options: dict[str, Any] | None = None,
) -> Index:
    """Open the zoo below an address, or in a zip there; see `phasezoo.load`.

    Its manifest is asked for each time: an address, unlike a commit, may come to hold another zoo. Offline, the
    manifest that was found last is used.
    """
    cache = Cache(cache_directory(cache_dir))
    name = f"manifests/{hashlib.sha256(url.encode()).hexdigest()}"
    if local_files_only or settings.offline():
        if force_download:
            raise _both(url)
        manifest = cache.noted(name)
        if manifest is None:
            raise _not_cached(url)
        return Index(Store(RemoteSource(NoFiles(url)), cache), address=url, manifest=manifest)
    source = open_source(url, storage_options=storage_options)
    manifest = _manifest(source)
    index = Index(Store(source, cache, fresh=force_download), address=url, manifest=manifest)
    cache.note(name, manifest)  # only now: it is a manifest
    return index


def open_hub(
    url: str,
    *,
    revision: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
    force_download: bool = False,
    storage_options: dict[str, Any] | None = None,
) -> Index:
    """Open a zoo on the Hub; see `phasezoo.load`.

    A branch or tag is resolved to a commit here, once; all that is read afterwards is of that commit.
    """
    from phasezoo.source.hub import HubSource, hub_files, parse

    address = parse(url)
    if revision is not None and address.revision not in (None, revision):
        raise SourceError(f"{url} names revision {address.revision!r}, and revision={revision!r} asks for another.")
    endpoint = _endpoint(storage_options)
    offline = local_files_only or settings.offline()
    if offline and force_download:
        raise _both(url)
    root = cache_directory(cache_dir)
    cache = Cache(root)
    address = replace(address, revision=revision or address.revision)
    commit = _commit(address, cache, token=token, endpoint=endpoint, offline=offline)
    address = replace(address, revision=commit)
    if is_zip_name(address.path):
        source: Source = zip_source(hub_files(address, token=token, endpoint=endpoint, offline=offline))
        store = Store(source, cache, fresh=force_download)
    else:
        source = HubSource(
            address,
            token=token,
            endpoint=endpoint,
            cache_dir=root / "hub" if cache_dir or settings.cache() else None,
            offline=offline,
            force=force_download,
        )
        store = Store(source, cache, keep_files=False)
    return Index(store, address=str(address), revision=commit, manifest=_manifest(source))


def _commit(address: Any, cache: Cache, *, token: str | bool | None, endpoint: str | None, offline: bool) -> str:
    from phasezoo.source.hub import COMMIT, DEFAULT, host, resolve

    wanted = address.revision or DEFAULT
    if COMMIT.fullmatch(wanted):
        return str(wanted)
    folder = f"refs/{host(endpoint).replace(':', '-')}/{address.repo_id.replace('/', '--')}"
    if not offline:
        commit = resolve(replace(address, revision=wanted), token=token, endpoint=endpoint)
        cache.note(f"{folder}/{quote(wanted, safe='')}", commit.encode())
        return commit
    noted = cache.noted(f"{folder}/{quote(wanted, safe='')}")
    if noted is None or not COMMIT.fullmatch(noted.decode("ascii", "replace")):
        place = cache.root / "addresses" / folder
        known = sorted(unquote(path.name) for path in place.iterdir() if path.name[0] != ".") if place.is_dir() else []
        raise ZooNotFoundError(
            f"which commit is revision {wanted!r} of hf://datasets/{address.repo_id} is not known offline: it was not "
            f"opened before. {nearest(wanted, known)} Open it once without local_files_only (or HF_HUB_OFFLINE)."
        )
    return noted.decode("ascii")


def _manifest(source: Source) -> bytes:
    try:
        return bytes(source.read(MANIFEST))
    except MissingFileError as error:
        raise ZooNotFoundError(
            f"no zoo at {source.url}: it holds no {MANIFEST}. Give the address of the folder that contains {MANIFEST}. "
            f"({error})"
        ) from None


def _endpoint(storage_options: dict[str, Any] | None) -> str | None:
    unknown = sorted(set(storage_options or {}) - {"endpoint"})
    if unknown:
        raise SourceError(f"storage_options of a zoo on the Hub may hold 'endpoint' only; got {unknown}.")
    endpoint: str | None = (storage_options or {}).get("endpoint")
    return endpoint


def _not_cached(url: str) -> ZooNotFoundError:
    return ZooNotFoundError(
        f"the zoo at {url} is not in the cache, and local_files_only (or HF_HUB_OFFLINE) forbids to fetch it. "
        "Load it once without."
    )


def _both(what: str) -> ZooNotFoundError:
    return ZooNotFoundError(
        f"force_download would fetch {what}, and local_files_only (or HF_HUB_OFFLINE) forbids it. Leave out one."
    )
