"""A data set on the Hugging Face Hub, as a place to write a zoo to: what is there, uploads, commits, tags."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phasezoo import settings
from phasezoo.builders.ask import ask
from phasezoo.errors import AccessError, IntegrityError, SourceError
from phasezoo.progress import bar
from phasezoo.source.transfer import Result, Traffic

if TYPE_CHECKING:
    from huggingface_hub.hf_api import DatasetInfo, RepoFile

BATCH_FILES, BATCH_BYTES = 50, 256 << 20  # uploaded between two steps of the progress bar


@dataclass(frozen=True)
class Item:
    """A file to be published.

    Attributes:
        path: its path in the repository.
        content: its bytes, or where they lie on disk.
        nbytes: how many they are.
        sha256: what they must hash to.
    """

    path: str
    content: bytes | Path
    nbytes: int
    sha256: str

    def is_in(self, files: Mapping[str, RepoFile]) -> bool:
        """Say whether the Hub has this content there; it knows large ones by sha256, others as git does."""
        there = files.get(self.path)
        if there is None or there.size != self.nbytes:
            return False
        if there.lfs:
            return there.lfs.sha256 == self.sha256
        data = self.content if isinstance(self.content, bytes) else self.content.read_bytes()
        return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest() == there.blob_id


class Repository:
    """One data set on the Hub.

    Args:
        repo_id: ``owner/name``.

    Raises:
        AccessError: there is no token on this machine.
        SourceError: the Hub must not be used, because ``HF_HUB_OFFLINE`` is set.
    """

    def __init__(self, repo_id: str) -> None:
        from huggingface_hub import HfApi, get_token

        self.repo_id = repo_id
        self.endpoint = settings.endpoint()
        if settings.offline():
            raise SourceError(f"cannot push to {repo_id}: HF_HUB_OFFLINE is set. Unset it, and try again.")
        token = get_token()
        if not token:
            raise AccessError(
                f"cannot push to {repo_id}: there is no token. Make one with write permission at "
                f"{self.endpoint}/settings/tokens, then run `hf auth login` or set HF_TOKEN."
            )
        self._token, self._traffic = token, Traffic()
        self._api = HfApi(endpoint=self.endpoint, token=token, library_name="phasezoo")
        self._of: dict[str, Any] = {"repo_id": repo_id, "repo_type": "dataset"}

    def info(self) -> DatasetInfo | None:
        """Return what the Hub says of the repository; None if there is none."""
        from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

        def look() -> DatasetInfo | None:
            try:
                return self._api.dataset_info(self.repo_id)
            except GatedRepoError:
                raise
            except RepositoryNotFoundError:
                return None

        return self._again("look it up", look)

    def head(self) -> str:
        """Return the newest commit on main."""
        info = self.info()
        if info is None or info.sha is None:
            raise AccessError(f"the Hub does not show {self.repo_id} to this token. Was it removed, or renamed?")
        return info.sha

    def files(self, commit: str) -> dict[str, RepoFile]:
        """Return the files of a commit by path."""
        from huggingface_hub.hf_api import RepoFile

        tree = self._again(
            "list its files", lambda: list(self._api.list_repo_tree(**self._of, recursive=True, revision=commit))
        )
        return {entry.path: entry for entry in tree if isinstance(entry, RepoFile)}

    def read(self, path: str, commit: str) -> bytes:
        """Return the content of a small file."""
        with tempfile.TemporaryDirectory() as cache:
            return self._again(
                f"read {path} of it",
                lambda: Path(
                    self._api.hf_hub_download(**self._of, filename=path, revision=commit, cache_dir=cache)
                ).read_bytes(),
            )

    def tags(self) -> dict[str, str]:
        """Return tag to commit."""
        refs = self._again("list its tags", lambda: self._api.list_repo_refs(**self._of))
        return {ref.name: ref.target_commit for ref in refs.tags}

    def check_owner(self) -> None:
        """Refuse an owner for whom the token cannot make repositories.

        Raises:
            AccessError: the owner is neither the user nor an organisation of theirs.
        """
        who = self._again("ask who the token belongs to", self._api.whoami)
        owner, names = self.repo_id.split("/")[0], [who["name"], *(org["name"] for org in who.get("orgs", ()))]
        if owner not in names:
            raise AccessError(
                f"cannot create {self.repo_id}: the token belongs to {who['name']!r}, who is no member of an "
                f"organisation {owner!r}. It can push to: {', '.join(names)}."
            )

    def create(self, *, private: bool) -> None:
        """Make the repository; it may exist already."""
        from huggingface_hub.errors import HfHubHTTPError

        def make() -> None:
            try:
                self._api.create_repo(**self._of, private=private)
            except HfHubHTTPError as error:
                if error.response.status_code != 409:
                    raise

        self._again("create it", make)

    def commit(self, items: Sequence[Item], stale: Sequence[str], *, parent: str, title: str) -> str:
        """Upload files, then make them appear, and others disappear, in one commit.

        What the Hub has of an earlier try is not sent again.

        Args:
            items: what to add or replace.
            stale: paths to remove.
            parent: the commit that is expected to be the newest one.
            title: of the commit.

        Returns:
            The new commit.

        Raises:
            IntegrityError: a file on disk is not what it was said to be.
            WriteError: the newest commit is another one, or the Hub refuses the files.
        """
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete

        additions: list[CommitOperationAdd] = []
        with bar("uploading", total=sum(item.nbytes for item in items), unit="B") as progress, _quiet():
            for batch in _batches(items):
                operations = [
                    CommitOperationAdd(
                        item.path, item.content if isinstance(item.content, bytes) else str(item.content)
                    )
                    for item in batch
                ]
                self._again(
                    "upload to it",
                    lambda operations=operations: self._api.preupload_lfs_files(  # type: ignore[misc]
                        **self._of, additions=operations, free_memory=False
                    ),
                )
                for item, operation in zip(batch, operations, strict=True):
                    if operation.upload_info.sha256.hex() != item.sha256:
                        raise IntegrityError(f"{item.content!s} changed while it was uploaded. Nothing was published.")
                additions += operations
                progress.update(sum(item.nbytes for item in batch))

            def write() -> str:
                # The answer to an earlier try may have been lost: then the commit is there.
                head = self.head()
                if head != parent and _holds(self.files(head), items, stale):
                    return head
                deletions = [CommitOperationDelete(path) for path in stale]
                done = self._api.create_commit(
                    self.repo_id,
                    [*additions, *deletions],
                    commit_message=title,
                    repo_type="dataset",
                    parent_commit=parent,
                )
                return done.oid

            return self._again("commit to it", write)

    def tag(self, name: str, commit: str) -> None:
        """Let a tag point to a commit, wherever it pointed before."""
        at = self.tags().get(name)
        if at == commit:
            return
        if at is not None:
            self._again("move a tag of it", lambda: self._api.delete_tag(**self._of, tag=name))
        self._again("tag it", lambda: self._api.create_tag(**self._of, tag=name, revision=commit, exist_ok=True))

    def _again(self, what: str, call: Callable[[], Result]) -> Result:
        return ask(
            call, what=what, repo_id=self.repo_id, endpoint=self.endpoint, token=self._token, traffic=self._traffic
        )


def _holds(files: Mapping[str, RepoFile], items: Sequence[Item], stale: Sequence[str]) -> bool:
    return all(item.is_in(files) for item in items) and not any(path in files for path in stale)


def _batches(items: Sequence[Item]) -> Iterator[list[Item]]:
    batch: list[Item] = []
    for item in items:
        if batch and (len(batch) == BATCH_FILES or sum(i.nbytes for i in batch) + item.nbytes > BATCH_BYTES):
            yield batch
            batch = []
        batch.append(item)
    if batch:
        yield batch


@contextmanager
def _quiet() -> Iterator[None]:
    """Switch the progress bars of huggingface_hub off, one a file, for a while."""
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    if are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()
