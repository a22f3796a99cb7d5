"""Publish a zoo as a data set on the Hugging Face Hub."""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from phasezoo.builders.card import CARD, card
from phasezoo.builders.croissant import CROISSANT, croissant
from phasezoo.builders.repository import Item, Repository
from phasezoo.errors import (
    AddressError,
    DependencyError,
    FormatError,
    IntegrityError,
    SourceNotSupportedError,
    WriteError,
)
from phasezoo.manifest import FORMAT_VERSION, MANIFEST, Manifest
from phasezoo.report import REPORT
from phasezoo.source.hub import parse

if TYPE_CHECKING:
    from huggingface_hub.hf_api import DatasetInfo, RepoFile

    from phasezoo.zoo import Zoo

PICTURE = "phases.png"
FORMAT_TAG = f"format-{FORMAT_VERSION}"
OURS = ("tables/", "shards/")  # folders of the repository that hold the zoo and nothing else
HARMLESS = re.compile(r"\.git.*|README\.md|LICENSE.*|CITATION\.cff", re.IGNORECASE)  # in a repository without a zoo


@dataclass(frozen=True)
class Pushed:
    """What a push did.

    Attributes:
        address: what `phasezoo.load` takes.
        commit: the commit that holds the zoo.
        files: how many files were new or changed.
        nbytes: their size.
        removed: how many files of an older version were removed.
        tags: the tags that point to the commit.
        notes: what was left out, as sentences.

    >>> again = Pushed("hf://datasets/owner/zoo", "4f1c", files=0, nbytes=0, removed=0, tags=("format-1",), notes=())
    >>> again.files == again.removed == 0  # what is there already is not sent again
    True
    """

    address: str
    commit: str
    files: int
    nbytes: int
    removed: int
    tags: tuple[str, ...]
    notes: tuple[str, ...]


def parse_address(address: str) -> str:
    """Return ``owner/name`` of ``hf://datasets/owner/name``.

    Raises:
        AddressError: it is no such address.

    >>> parse_address("hf://datasets/owner/zoo")
    'owner/zoo'
    """
    found = parse(address)
    if found.revision or found.path:
        raise AddressError(
            f"cannot push to {address}: give hf://datasets/owner/name alone. A push makes a new commit on main "
            "for the whole of a data set; --tag names it."
        )
    return found.repo_id


def push(zoo: str | Path, address: str, *, private: bool = False, tag: str | None = None) -> Pushed:
    """Publish a zoo: tables, shards, manifest, card, Croissant metadata, and a picture of the phase map.

    The zoo is verified first. All files appear in one commit, so that nobody ever opens half a zoo; what is uploaded
    before it stays with the Hub, so that a push that was stopped goes on when it is given again. A push of what is
    there already uploads nothing. The tag ``format-1`` is moved to the newest zoo in format version 1.

    Card, Croissant metadata and picture are made for the address; the zoo's directory is left as it is. The token is
    that of `huggingface_hub`: ``HF_TOKEN``, or what ``hf auth login`` stored.

    Args:
        zoo: the directory of a zoo, or the name of one.
        address: ``hf://datasets/owner/name``; the data set is made if it does not exist.
        private: make a new data set private.
        tag: a further name for this version; it must not name another one.

    Raises:
        AddressError: the address is not that of a data set on the Hub.
        AccessError: there is no token, or it may not write there.
        IntegrityError: the zoo does not verify.
        WriteError: there is something else at the address, or the Hub refuses the files.
        SourceError: the Hub cannot be reached, or fails again and again.

    >>> push("mlp-digits", "hf://datasets/owner/zoo@v1.0")
    Traceback (most recent call last):
    ...
    phasezoo.errors.AddressError: cannot push to hf://datasets/owner/zoo@v1.0: give hf://datasets/owner/name alone. ...
    """
    from phasezoo import load

    repository = Repository(parse_address(address))
    _check_tag_name(tag)
    opened = load(zoo)
    if opened._index.source.local(MANIFEST) is None:
        raise SourceNotSupportedError(f"{zoo} is not on this machine. Download it, and push the directory.")
    # What can fail at once comes before what takes long.
    found = repository.info()
    if found is None:
        repository.check_owner()
    else:
        _check_target(repository, opened.manifest, found, private)
        _check_tag(repository, tag, head=found.sha)
    _verify(opened, zoo)
    if found is None:
        repository.create(private=private)
    head = repository.head()
    items, notes = _items(opened, repository)
    missing, stale = _compare(items, repository.files(head))
    commit = head
    if missing or stale:
        _check_tag(repository, tag, head=None)
        commit = repository.commit(missing, stale, parent=head, title=f"{opened.name}, format {FORMAT_VERSION}")
        left, _ = _compare(items, repository.files(commit))
        if left:
            raise WriteError(
                f"{repository.repo_id} lacks {left[0].path} after the commit. Is there a .gitignore in it? Remove it."
            )
    tags = (FORMAT_TAG, *([tag] if tag else []))
    for name in tags:
        repository.tag(name, commit)
    sent = sum(item.nbytes for item in missing)
    return Pushed(f"hf://datasets/{repository.repo_id}", commit, len(missing), sent, len(stale), tags, notes)


def _compare(items: Sequence[Item], there: Mapping[str, RepoFile]) -> tuple[list[Item], list[str]]:
    """Return what has to be uploaded, and the paths of an older version's files."""
    paths = {item.path for item in items}
    return (
        [item for item in items if not item.is_in(there)],
        sorted(path for path in there if path.startswith(OURS) and path not in paths),
    )


def _check_target(repository: Repository, manifest: Manifest, found: DatasetInfo, private: bool) -> None:
    """Refuse to write over what is not this zoo, or to publish what is meant to be private."""
    name = repository.repo_id
    if private and not found.private:
        raise WriteError(
            f"{name} exists and is public, and --private only makes new data sets private. Change it in its settings "
            "on the Hub, or give another name."
        )
    files: Mapping[str, RepoFile] = repository.files(found.sha or "main")
    if MANIFEST in files:
        data = repository.read(MANIFEST, found.sha or "main")
        try:
            there = Manifest.from_bytes(data, where=f"{MANIFEST} of {name}").name
        except FormatError as error:
            raise WriteError(f"{name} holds something else: {error}") from None
        if there != manifest.name:
            raise WriteError(f"{name} holds another zoo: {there!r}, not {manifest.name!r}. Give another address.")
        return
    others = sorted(path for path in files if not HARMLESS.fullmatch(path))
    if others:
        raise WriteError(
            f"{name} is not empty, and it is no zoo: it has {', '.join(others[:3])}"
            + (f" and {len(others) - 3} more files" if len(others) > 3 else "")
            + ". Give the address of an empty data set, or of one that does not exist yet."
        )


def _check_tag_name(tag: str | None) -> None:
    if tag is None:
        return
    if not re.fullmatch(r"\w[\w.+-]*", tag) or re.fullmatch(r"[0-9a-f]{7,40}|format-\d+|main", tag):
        raise WriteError(
            f"{tag!r} cannot be the tag of a version. Take letters, digits, '.', '-' and '_', such as v1.0; "
            f"{FORMAT_TAG} is set by every push."
        )


def _check_tag(repository: Repository, tag: str | None, *, head: str | None) -> None:
    """Refuse a tag that names another commit than `head`."""
    there = repository.tags().get(tag) if tag else None
    if there is not None and there != head:
        raise WriteError(
            f"the tag {tag!r} of {repository.repo_id} names another version already, commit {there[:12]}. "
            "Take another tag."
        )


def _verify(zoo: Zoo, where: str | Path) -> None:
    from phasezoo.verify import verify

    problems = verify(zoo).problems
    if problems:
        more = f" And {len(problems) - 3} more problems." if len(problems) > 3 else ""
        raise IntegrityError(
            f"{where} does not verify, so nothing was published: {' '.join(problems[:3])}{more} "
            "`phasezoo verify` lists all problems."
        )


def _items(zoo: Zoo, repository: Repository) -> tuple[list[Item], tuple[str, ...]]:
    """List the files of the published zoo, and say what is left out."""
    manifest, notes, drawn = zoo.manifest, [], None
    root = zoo._index.source.local("")
    assert root is not None
    tables = {name: zoo._index.table(name) for name in manifest.tables}
    # The day on which the data set was made, not today: a second push shall have nothing new.
    info = repository.info()
    made = info.created_at if info else None
    try:
        drawn = picture(zoo)
    except DependencyError as error:
        notes.append(f"the card has no picture of the phase map: {error}")
    texts = {
        MANIFEST: (root / MANIFEST).read_bytes(),
        CARD: card(manifest, tables, repo_id=repository.repo_id, picture=PICTURE if drawn else None).encode(),
        CROISSANT: croissant(
            manifest,
            tables,
            endpoint=repository.endpoint,
            repo_id=repository.repo_id,
            published=f"{made:%Y-%m-%d}" if made else None,
        ),
    }
    if drawn:
        texts[PICTURE] = drawn
    if (root / REPORT).is_file():
        texts[REPORT] = (root / REPORT).read_bytes()
    files = (*manifest.tables.values(), *manifest.shards)
    items = [Item(file.path, root / file.path, file.nbytes, file.sha256) for file in files]
    items += [Item(path, data, len(data), hashlib.sha256(data).hexdigest()) for path, data in texts.items()]
    return items, tuple(notes)


def picture(zoo: Zoo) -> bytes | None:
    """Draw the phase map as a PNG file: the same bytes for the same zoo; None if no cell was measured.

    Raises:
        DependencyError: matplotlib is not installed.
    """
    if not zoo.manifest.tables["landscape"].rows:
        return None
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise DependencyError("pictures need matplotlib: pip install 'phasezoo[plot]'.") from None
    loads, temperatures = zoo.manifest.load.values, zoo.manifest.temperature.values
    figure = Figure(figsize=(2.4 + 0.55 * len(loads), 1.3 + 0.42 * len(temperatures)), layout="constrained")
    zoo.phase_diagram(ax=figure.subplots())
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=150, metadata={"Software": None})
    return data.getvalue()
