"""Repositories of a stand-in for the Hub: content-addressed files, commits, branches and tags."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

LFS = (".parquet", ".safetensors", ".png", ".zip", ".npy", ".bin", ".gz")  # as the Hub's default .gitattributes
LFS_SIZE = 10 << 20  # what is larger is stored so, too


@dataclass(frozen=True)
class Blob:
    """The content of a file."""

    data: bytes | Path = field(repr=False)
    size: int
    sha256: str
    git: str
    lfs: bool

    @classmethod
    def of(cls, data: bytes | Path, *, lfs: bool) -> Blob:
        """Hash the content of a file."""
        size = _size(data)
        sha256, git = hashlib.sha256(), hashlib.sha1(b"blob %d\0" % size)
        for part in [data] if isinstance(data, bytes) else _parts(data):
            sha256.update(part)
            git.update(part)
        return cls(data, size, sha256.hexdigest(), git.hexdigest(), lfs)

    @property
    def etag(self) -> str:
        return self.sha256 if self.lfs else self.git


@dataclass(frozen=True)
class Commit:
    """A tree of files, and the commit before it."""

    oid: str
    parent: str | None
    title: str
    files: Mapping[str, Blob]


@dataclass
class Repo:
    """A repository: commits, and the branches and tags that point to them."""

    private: bool
    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    def find(self, revision: str) -> Commit | None:
        """Return the commit that a branch, a tag or the first digits (7 or more) of an oid name."""
        oid = self.branches.get(revision) or self.tags.get(revision)
        if oid is None and len(revision) >= 7:
            oid = next((oid for oid in self.commits if oid.startswith(revision)), None)
        return self.commits.get(oid or "")

    @property
    def head(self) -> Commit:
        return self.commits[self.branches["main"]]

    def add(self, changes: Mapping[str, Blob | None], *, branch: str = "main", title: str = "change") -> Commit:
        """Move a branch to a new commit; a change to None deletes a file or folder."""
        parent = self.commits[self.branches[branch]] if self.branches else None
        files = dict(parent.files) if parent else {}
        for path, blob in changes.items():
            if blob is None:
                files = {name: b for name, b in files.items() if name != path and not name.startswith(f"{path}/")}
            else:
                files[path] = blob
        tree = sorted((path, blob.etag) for path, blob in files.items())
        oid = hashlib.sha1(repr((len(self.commits), parent and parent.oid, title, tree)).encode()).hexdigest()
        self.commits[oid] = Commit(oid, parent and parent.oid, title, files)
        self.branches[branch] = oid
        return self.commits[oid]


def new_repo(private: bool) -> Repo:
    """Return a repository with a first commit, as the Hub makes it."""
    repo = Repo(private)
    attributes = Blob.of(b"*.parquet filter=lfs diff=lfs merge=lfs -text\n", lfs=False)
    repo.add({".gitattributes": attributes}, title="initial commit")
    return repo


def is_lfs(path: str, data: bytes | Path | int) -> bool:
    """Say how a file, given by its content or size, is stored."""
    return path.endswith(LFS) or (data if isinstance(data, int) else _size(data)) > LFS_SIZE


def _size(data: bytes | Path) -> int:
    return data.stat().st_size if isinstance(data, Path) else len(data)


def _parts(path: Path) -> Iterator[bytes]:
    with open(path, "rb") as file:
        while part := file.read(1 << 20):
            yield part
