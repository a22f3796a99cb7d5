"""A stand-in for the Hugging Face Hub on loopback: what `huggingface_hub` and `datasets` ask of it, for data sets.

    with hub(tokens={"hf_writer": "write"}, cdn=True) as server:
        commit = server.seed("org/zoo", directory, tag="format-1")
        HfApi(endpoint=server.url, token="hf_writer").upload_folder(...)
        server.faults.append(Fault("GET .*/resolve/", at=2, status=503))
        assert len(server.asked("GET .*shards/")) == 1

Files are addressed by content. There is no Xet: set ``HF_HUB_DISABLE_XET=1``, which like ``HF_ENDPOINT`` is read when
`huggingface_hub` is imported; `environment` returns both, for a process of its own.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, unquote

from tests.loopback import Answer, Asked, Fault, Server, running
from tests.repository import Blob, Commit, Repo, is_lfs, new_repo

DATE = "2026-01-01T00:00:00.000Z"


@dataclass
class Hub(Server):
    """A running stand-in.

    Attributes:
        cdn: address of the second origin that LFS files are redirected to; empty if there is none.
        tokens: token to ``"read"`` or ``"write"``; empty if nobody is asked for one.
        owners: the users and organisations that exist; None: all.
        repos: name to repository.
        stored: sha256 to what was uploaded by LFS.
    """

    cdn: str = ""
    tokens: dict[str, str] = field(default_factory=dict)
    owners: set[str] | None = None
    page: int = 1000
    repos: dict[str, Repo] = field(default_factory=dict)
    stored: dict[str, Blob] = field(default_factory=dict)

    def seed(
        self,
        repo_id: str,
        files: Path | Mapping[str, bytes | Path | None],
        *,
        private: bool = False,
        branch: str = "main",
        tag: str | None = None,
    ) -> str:
        """Commit files without HTTP, making the repository if it does not exist, and return the commit.

        Args:
            repo_id: ``owner/name``.
            files: a directory; or path to content: bytes, a file that is served as it lies on disk, or None to delete.
            private: whether reading needs a token, if the repository is new.
            branch: the branch that is moved.
            tag: set this tag on the commit, too.
        """
        if isinstance(files, Path):
            root = files
            files = {p.relative_to(root).as_posix(): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}
        changes = {path: None if data is None else self.store(path, data) for path, data in files.items()}
        with self.lock:
            if repo_id not in self.repos:
                self.repos[repo_id] = new_repo(private)
            repo = self.repos[repo_id]
            repo.branches.setdefault(branch, repo.branches["main"])
            commit = repo.add(changes, branch=branch)
            if tag:
                repo.tags[tag] = commit.oid
        return commit.oid

    def store(self, path: str, data: bytes | Path) -> Blob:
        """Keep the content of a file."""
        blob = Blob.of(data, lfs=is_lfs(path, data))
        if blob.lfs:
            self.stored[blob.sha256] = blob
        return blob

    def files(self, repo_id: str, revision: str = "main") -> dict[str, bytes]:
        """Return the files of a revision."""
        commit = self.repos[repo_id].find(revision)
        assert commit, f"no revision {revision}"
        return {p: b.data if isinstance(b.data, bytes) else b.data.read_bytes() for p, b in commit.files.items()}

    def environment(self, home: Path) -> dict[str, str]:
        """Return what to set for a process that shall use this hub, and keep its caches in `home`."""
        return {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
        }


@contextlib.contextmanager
def hub(
    *,
    tokens: Mapping[str, str] | None = None,
    owners: Sequence[str] | None = None,
    cdn: bool = False,
    page: int = 1000,
    faults: Sequence[Fault] = (),
) -> Iterator[Hub]:
    """Run a stand-in for the Hub.

    Args:
        tokens: token to ``"read"`` or ``"write"``: writing needs the latter, a private repository one of them, and
            any other token is refused. By default nobody is asked for a token.
        owners: the users and organisations that exist; by default all.
        cdn: redirect reads of LFS files to a second origin, which refuses an Authorization header, as S3 does.
        page: entries in a page of a listing.
        faults: what goes wrong, at either origin.
    """
    server = Hub("", faults=list(faults), tokens=dict(tokens or {}), page=page)
    server.owners = None if owners is None else set(owners)
    with contextlib.ExitStack() as stack:
        server.url = stack.enter_context(running(server, lambda asked: respond(server, asked)))
        if cdn:
            server.cdn = stack.enter_context(running(server, lambda asked: respond_cdn(server, asked)))
        yield server


def error(status: int, code: str, message: str, **headers: str) -> Answer:
    """Answer an error the way the Hub does: what the client goes by is in the headers."""
    named = {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {})
    return json_answer({"error": message}, status, **named, **headers)


def json_answer(value: Any, status: int = 200, **headers: str) -> Answer:
    return Answer(status, json.dumps(value).encode(), {"Content-Type": "application/json", **headers})


def respond(hub: Hub, asked: Asked) -> Answer:
    """Answer a request to the Hub itself."""
    rights = "write"
    if hub.tokens:
        authorization = asked.headers.get("Authorization")
        rights = hub.tokens.get((authorization or "").removeprefix("Bearer "), "none")
        if authorization and rights == "none":
            return error(401, "", "Invalid credentials in Authorization header")
    parts = [unquote(part) for part in asked.path.strip("/").split("/")]
    if asked.method == "PUT" and parts[0] == "lfs":
        return put(hub, asked, parts[1])
    with hub.lock:
        if parts[:2] == ["api", "datasets"] and len(parts) >= 4:
            return repo_api(hub, asked, rights, "/".join(parts[2:4]), parts[4:])
        if parts[0] == "api":
            return api(hub, asked, rights, parts[1:])
        if parts[0] == "datasets" and len(parts) > 5 and parts[3] == "resolve":
            return resolve(hub, rights, "/".join(parts[1:3]), parts[4], "/".join(parts[5:]))
        if parts[0] == "datasets" and parts[3:] == ["info", "lfs", "objects", "batch"]:
            return batch(hub, asked, rights, "/".join(parts[1:3]).removesuffix(".git"))
    return Answer(404)


def respond_cdn(hub: Hub, asked: Asked) -> Answer:
    """Answer a request to the second origin, whose addresses are signed."""
    if asked.headers.get("Authorization"):
        return Answer(400, b"Only one auth mechanism allowed")
    oid = asked.path.rpartition("/")[2]
    if asked.method == "PUT":
        return put(hub, asked, oid)
    blob = hub.stored.get(oid)
    if blob is None or "signature" not in asked.query:
        return Answer(403)
    return Answer(body=blob.data, part=True, headers={"ETag": f'"{blob.etag}"'})


def api(hub: Hub, asked: Asked, rights: str, parts: list[str]) -> Answer:
    """Answer what does not belong to one repository."""
    if parts == ["whoami-v2"]:
        if hub.tokens and rights == "none":
            return error(401, "", "Invalid username or password.")
        orgs = [{"name": name} for name in sorted(hub.owners or ())]
        return json_answer({"type": "user", "name": "user", "orgs": orgs, "auth": {"accessToken": {"role": rights}}})
    if parts == ["validate-yaml"]:
        import yaml

        try:
            meta = yaml.safe_load(json.loads(asked.body)["content"].split("---\n")[1])
        except (yaml.YAMLError, IndexError) as e:
            return json_answer({"errors": [{"message": str(e)}], "warnings": []}, 400)
        warnings = [] if isinstance(meta, dict) and meta else [{"message": "empty or missing yaml metadata"}]
        return json_answer({"errors": [], "warnings": warnings})
    if parts == ["repos", "create"] and asked.method == "POST":
        wanted = json.loads(asked.body)
        owner = wanted.get("organization") or "user"
        repo_id = f"{owner}/{wanted['name']}"
        if rights == "none":
            return error(401, "", "Invalid username or password.")
        if rights != "write" or (hub.owners is not None and owner not in hub.owners):
            message = f'You don\'t have the rights to create a dataset under the namespace "{owner}"'
            return error(403, "", message)
        if repo_id in hub.repos:
            message = "You already created this dataset repo"
            return json_answer({"error": message, "url": f"{hub.url}/datasets/{repo_id}"}, 409)
        hub.repos[repo_id] = new_repo(wanted.get("visibility") == "private" or bool(wanted.get("private")))
        return json_answer({"url": f"{hub.url}/datasets/{repo_id}", "name": repo_id, "id": "0"})
    return Answer(404)


def admitted(hub: Hub, rights: str, repo_id: str, *, write: bool = False) -> Repo | Answer:
    """Return the repository, or the refusal; what exists in secret is refused as what does not exist."""
    repo = hub.repos.get(repo_id)
    if repo is None or (repo.private and rights == "none"):
        if rights == "none":
            return error(401, "RepoNotFound", "Invalid username or password.")
        return error(404, "RepoNotFound", "Repository not found")
    if write and rights == "none":
        return error(401, "", "Invalid username or password.")
    if write and rights != "write":
        return error(403, "", "Forbidden: you must use a write token to upload to a repository.")
    return repo


def repo_api(hub: Hub, asked: Asked, rights: str, repo_id: str, parts: list[str]) -> Answer:
    """Answer ``/api/datasets/<owner>/<name>/...``."""
    what = parts[0] if parts else "revision"
    repo = admitted(hub, rights, repo_id, write=what in ("commit", "tag", "branch", "preupload"))
    if isinstance(repo, Answer):
        return repo
    if what == "refs":
        refs = {
            kind: [{"name": k, "ref": f"refs/{short}/{k}", "targetCommit": v} for k, v in found.items()]
            for kind, short, found in (("branches", "heads", repo.branches), ("tags", "tags", repo.tags))
        }
        return json_answer({**refs, "converts": []})
    revision = parts[1] if len(parts) > 1 else "main"
    if what in ("tag", "branch"):
        return point(repo, asked, what, revision)
    commit = repo.find(revision)
    if commit is None:
        return error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
    if what == "revision":
        return json_answer(info(repo, repo_id, commit))
    if what == "commits":
        return json_answer([commit_info(c) for c in history(repo, commit)])
    if what == "tree":
        return tree(hub, asked, commit, "/".join(parts[2:]))
    if what == "paths-info":
        paths = parse_qs(asked.body.decode()).get("paths", [])
        if asked.headers.get("Content-Type", "").startswith("application/json"):
            paths = json.loads(asked.body)["paths"]
        return json_answer([entry for path in paths if (entry := at(commit, path))])
    if what == "preupload":
        return preupload(asked, commit)
    if what == "commit" and revision in repo.branches:
        return write_commit(hub, asked, repo, repo_id, revision)
    return Answer(404)


def point(repo: Repo, asked: Asked, what: str, name: str) -> Answer:
    """Make or delete a tag or a branch."""
    refs = repo.tags if what == "tag" else repo.branches
    if asked.method == "DELETE":
        if name not in refs:
            return error(404, "RevisionNotFound", f"no {what} {name}")
        del refs[name]
        return json_answer({})
    wanted = json.loads(asked.body or b"{}")
    target = repo.find(name if what == "tag" else wanted.get("startingPoint", "main"))
    name = wanted["tag"] if what == "tag" else name
    if target is None:
        return error(404, "RevisionNotFound", "Invalid rev id")
    if name in refs:
        return error(409, "", f"{what.capitalize()} already exists")
    refs[name] = target.oid
    return json_answer({})


def info(repo: Repo, repo_id: str, commit: Commit) -> dict[str, Any]:
    siblings = [
        {
            "rfilename": path,
            "size": b.size,
            "blobId": b.git,
            **({"lfs": {"size": b.size, "sha256": b.sha256, "pointerSize": 130}} if b.lfs else {}),
        }
        for path, b in sorted(commit.files.items())
    ]
    facts = {"id": repo_id, "_id": "0", "author": repo_id.split("/")[0], "sha": commit.oid, "lastModified": DATE}
    state = {"private": repo.private, "gated": False, "disabled": False, "tags": [], "downloads": 0, "likes": 0}
    return facts | state | {"createdAt": DATE, "siblings": siblings}


def history(repo: Repo, commit: Commit) -> Iterator[Commit]:
    while True:
        yield commit
        if commit.parent is None:
            return
        commit = repo.commits[commit.parent]


def commit_info(c: Commit) -> dict[str, Any]:
    return {"id": c.oid, "title": c.title, "message": "", "authors": [{"user": "user"}], "date": DATE}


def at(commit: Commit, path: str) -> dict[str, Any] | None:
    """Describe the file or folder at a path."""
    blob = commit.files.get(path)
    if blob is None:
        if not any(name.startswith(f"{path}/") for name in commit.files):
            return None
        oid = hashlib.sha1(path.encode()).hexdigest()
        return {"type": "directory", "path": path, "oid": oid, "size": 0}
    entry = {"type": "file", "path": path, "oid": blob.git, "size": blob.size}
    return entry | ({"lfs": {"oid": blob.sha256, "size": blob.size, "pointerSize": 130}} if blob.lfs else {})


def tree(hub: Hub, asked: Asked, commit: Commit, folder: str) -> Answer:
    """List a folder, page by page; the address of the next page is in the header Link."""
    prefix = f"{folder}/" if folder else ""
    names = {name.removeprefix(prefix) for name in commit.files if name.startswith(prefix)}
    if folder and not names:
        return error(404, "EntryNotFound", f"{folder} does not exist on {commit.oid}")
    folders = {"/".join(name.split("/")[:i]) for name in names for i in range(1, name.count("/") + 1)}
    found = sorted(names | folders)
    if asked.query.get("recursive", "false").lower() not in ("true", "1"):
        found = [name for name in found if "/" not in name]
    start = int(asked.query.get("cursor", "0"))
    stop = start + min(int(asked.query.get("limit", hub.page)), hub.page)
    headers = {}
    if stop < len(found):
        query = "&".join(f"{k}={quote(v)}" for k, v in asked.query.items() if k != "cursor")
        headers["Link"] = f'<{hub.url}{asked.path}?{query}&cursor={stop}>; rel="next"'
    return json_answer([at(commit, prefix + name) for name in found[start:stop]], **headers)


def resolve(hub: Hub, rights: str, repo_id: str, revision: str, path: str) -> Answer:
    """Answer with a file, or with the address at which the second origin has it."""
    repo = admitted(hub, rights, repo_id)
    if isinstance(repo, Answer):
        return repo
    commit = repo.find(revision)
    if commit is None:
        return error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
    blob = commit.files.get(path)
    if blob is None:
        return error(404, "EntryNotFound", "Entry not found", **{"X-Repo-Commit": commit.oid})
    headers = {"X-Repo-Commit": commit.oid, "ETag": f'"{blob.etag}"', "Accept-Ranges": "bytes"}
    if blob.lfs:
        headers |= {"X-Linked-ETag": f'"{blob.sha256}"', "X-Linked-Size": str(blob.size)}
        if hub.cdn:
            return Answer(302, headers=headers | {"Location": f"{hub.cdn}/blobs/{blob.sha256}?signature=1"})
    return Answer(body=blob.data, headers=headers, part=True)


def preupload(asked: Asked, commit: Commit) -> Answer:
    """Say of each file how it has to be uploaded, and what is there already."""
    ignored = commit.files[".gitignore"].data.decode().split() if ".gitignore" in commit.files else []
    files = [
        {
            "path": file["path"],
            "uploadMode": "lfs" if is_lfs(file["path"], file["size"]) else "regular",
            "shouldIgnore": any(fnmatch(file["path"], pattern) for pattern in ignored),
            "oid": commit.files[file["path"]].etag if file["path"] in commit.files else None,
        }
        for file in json.loads(asked.body)["files"]
    ]
    return json_answer({"files": files})


def batch(hub: Hub, asked: Asked, rights: str, repo_id: str) -> Answer:
    """Say where to put each LFS object that is not stored yet."""
    repo = admitted(hub, rights, repo_id, write=True)
    if isinstance(repo, Answer):
        return repo
    objects = [
        {"oid": o["oid"], "size": o["size"]}
        | ({} if o["oid"] in hub.stored else {"actions": {"upload": {"href": f"{hub.cdn or hub.url}/lfs/{o['oid']}"}}})
        for o in json.loads(asked.body)["objects"]
    ]
    return json_answer({"transfer": "basic", "objects": objects})


def put(hub: Hub, asked: Asked, oid: str) -> Answer:
    """Store an LFS object, if it is what it is said to be."""
    blob = Blob.of(asked.body, lfs=True)
    if blob.sha256 != oid:
        return Answer(400, b"the content does not have this sha256")
    with hub.lock:
        hub.stored[oid] = blob
    return Answer()


def write_commit(hub: Hub, asked: Asked, repo: Repo, repo_id: str, branch: str) -> Answer:
    """Make a commit out of JSON lines."""
    changes: dict[str, Blob | None] = {}
    title = ""
    for line in asked.body.splitlines():
        item = json.loads(line)
        key, value = item["key"], item["value"]
        if key == "header":
            title = value["summary"]
            parent = value.get("parentCommit")
            if parent and not repo.branches[branch].startswith(parent):
                return error(412, "", "A commit has happened since. Please refresh and try again.")
        elif key == "file":
            data = base64.b64decode(value["content"])
            if data and is_lfs(value["path"], data):
                return error(400, "", f"{value['path']} has to be stored by LFS")
            changes[value["path"]] = hub.store(value["path"], data)
        elif key == "lfsFile":
            if value["oid"] not in hub.stored:
                return error(400, "", f"LFS pointer to an object that was not uploaded: {value['path']}")
            changes[value["path"]] = hub.stored[value["oid"]]
        else:
            changes[value["path"].rstrip("/")] = None
    commit = repo.add(changes, branch=branch, title=title)
    return json_answer({"commitUrl": f"{hub.url}/datasets/{repo_id}/commit/{commit.oid}", "commitOid": commit.oid})
