"""The stand-in for the Hub behaves towards `huggingface_hub` and `datasets` as the Hub does."""

from __future__ import annotations

import hashlib
import http.client
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub import HfApi, HfFileSystem, hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from tests.hub import Hub, hub
from tests.loopback import Fault
from tests.serve import serve

BINARY = bytes(range(256)) * 40
FILES = {"README.md": b"---\nlicense: mit\n---\n", "shards/a.safetensors": BINARY, "tables/deep/b.json": b"{}"}


@pytest.fixture
def server() -> Iterator[Hub]:
    with hub() as server:
        server.seed("org/zoo", FILES, tag="format-1")
        yield server


def api(server: Hub, token: str | bool = False) -> HfApi:
    return HfApi(endpoint=server.url, token=token)


def get(url: str, **headers: str) -> tuple[int, bytes]:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers)) as response:
            return response.status, response.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def test_a_file_is_downloaded_once_and_then_asked_for_by_etag(server: Hub, tmp_path: Path) -> None:
    for _ in range(2):
        path = hf_hub_download(
            "org/zoo",
            "shards/a.safetensors",
            repo_type="dataset",
            endpoint=server.url,
            cache_dir=tmp_path,
            token=False,
        )
        assert Path(path).read_bytes() == BINARY
    assert [r.method for r in server.requests] == ["HEAD", "GET", "HEAD"]
    assert server.repos["org/zoo"].head.oid in path


def test_a_snapshot_has_every_file_whatever_the_size_of_a_page(tmp_path: Path) -> None:
    many = {f"shards/{i:02}/x.safetensors": b"%d" % i for i in range(11)}
    with hub(page=4) as server:
        server.seed("org/zoo", many)
        root = snapshot_download(
            "org/zoo", repo_type="dataset", endpoint=server.url, cache_dir=tmp_path, allow_patterns="shards/*"
        )
        assert {p.relative_to(root).as_posix(): p.read_bytes() for p in Path(root).rglob("*.safetensors")} == many
        assert len(server.asked("/tree/")) > 2


def test_what_does_not_exist_is_told_apart(server: Hub, tmp_path: Path) -> None:
    def download(repo: str = "org/zoo", file: str = "README.md", revision: str = "main") -> None:
        hf_hub_download(
            repo, file, revision=revision, repo_type="dataset", endpoint=server.url, cache_dir=tmp_path, token=False
        )

    with pytest.raises(RepositoryNotFoundError):
        download(repo="org/none")
    with pytest.raises(RevisionNotFoundError):
        download(revision="v9")
    with pytest.raises(EntryNotFoundError):
        download(file="none.txt")


def test_tags_and_branches_resolve_to_commits_and_stay_when_main_moves(server: Hub) -> None:
    first = api(server).dataset_info("org/zoo").sha
    second = server.seed("org/zoo", {"README.md": b"changed"})
    assert first != second == api(server).dataset_info("org/zoo").sha
    assert api(server).dataset_info("org/zoo", revision="format-1").sha == first
    refs = api(server).list_repo_refs("org/zoo", repo_type="dataset")
    assert [(t.name, t.target_commit) for t in refs.tags] == [("format-1", first)]
    api(server).create_branch("org/zoo", branch="old", revision=first, repo_type="dataset")
    api(server).create_tag("org/zoo", tag="two", repo_type="dataset")
    assert server.repos["org/zoo"].tags["two"] == second
    assert get(f"{server.url}/datasets/org/zoo/resolve/old/README.md")[1] == FILES["README.md"]
    assert [c.commit_id for c in api(server).list_repo_commits("org/zoo", repo_type="dataset")][:2] == [second, first]


def test_the_file_system_lists_and_reads_ranges(server: Hub) -> None:
    fs = HfFileSystem(endpoint=server.url, token=False, skip_instance_cache=True)
    assert fs.glob("datasets/org/zoo/**/*.json") == ["datasets/org/zoo/tables/deep/b.json"]
    assert fs.info("datasets/org/zoo/shards/a.safetensors")["size"] == len(BINARY)
    server.forget()
    # cat_file would read ahead to the end of the file.
    with fs.open("datasets/org/zoo/shards/a.safetensors", cache_type="none") as file:
        assert file.seek(100) + len(file.read(100)) == 200
    assert [(r.range, r.status, r.sent) for r in server.asked("^GET .*/resolve/")] == [("bytes=100-199", 206, 100)]


@pytest.mark.parametrize(
    ("header", "status", "part"),
    [
        ("bytes=0-0", 206, slice(0, 1)),
        ("bytes=10200-", 206, slice(10200, None)),
        ("bytes=-7", 206, slice(-7, None)),
        ("bytes=10000-99999", 206, slice(10000, None)),
        ("bytes=10240-", 416, slice(0, 0)),
        ("lines=1-2", 200, slice(None)),
    ],
)
def test_ranges_are_what_rfc_9110_says(server: Hub, header: str, status: int, part: slice) -> None:
    url = f"{server.url}/datasets/org/zoo/resolve/main/shards/a.safetensors"
    assert get(url, Range=header) == (status, BINARY[part])


def test_an_upload_is_stored_by_content_and_a_second_one_sends_nothing(tmp_path: Path) -> None:
    for path, data in FILES.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(data)
    with hub(tokens={"hf_w": "write"}, owners=["org"], cdn=True) as server:
        for private in (True, False):
            api(server, "hf_w").create_repo("org/zoo", repo_type="dataset", private=private, exist_ok=True)
            api(server, "hf_w").upload_folder(repo_id="org/zoo", folder_path=tmp_path, repo_type="dataset")
        assert FILES.items() <= server.files("org/zoo").items()
        assert server.repos["org/zoo"].private
        puts = server.asked("^PUT ")
        assert [(r.origin, r.received, r.path) for r in puts] == [
            (server.cdn, len(BINARY), f"/lfs/{hashlib.sha256(BINARY).hexdigest()}")
        ]
        assert len(server.asked("/commit/main")) == 1
        assert next(c.title for c in server.repos["org/zoo"].commits.values()) == "initial commit"
        api(server, "hf_w").delete_folder("tables", "org/zoo", repo_type="dataset")
        assert "tables/deep/b.json" not in server.files("org/zoo")


def test_who_may_do_what_depends_on_the_token(tmp_path: Path) -> None:
    with hub(tokens={"hf_w": "write", "hf_r": "read"}, owners=["org"]) as server:
        server.seed("org/zoo", FILES, private=True)
        server.seed("org/open", FILES)
        assert api(server).dataset_info("org/open").private is False
        assert api(server, "hf_r").dataset_info("org/zoo").private is True
        with pytest.raises(RepositoryNotFoundError):
            api(server).dataset_info("org/zoo")
        with pytest.raises(HfHubHTTPError, match="401"):
            api(server, "hf_x").dataset_info("org/open")
        with pytest.raises(HfHubHTTPError, match="write token"):
            api(server, "hf_r").create_tag("org/zoo", tag="a", repo_type="dataset")
        with pytest.raises(HfHubHTTPError, match='rights to create a dataset under the namespace "else"'):
            api(server, "hf_w").create_repo("else/zoo", repo_type="dataset")
        with pytest.raises(HfHubHTTPError, match="409"):
            api(server, "hf_w").create_repo("org/zoo", repo_type="dataset")
        assert {r.authorization for r in server.requests} == {None, "Bearer hf_w", "Bearer hf_r", "Bearer hf_x"}


def test_large_files_come_from_another_origin_without_the_token(tmp_path: Path) -> None:
    with hub(tokens={"hf_r": "read"}, cdn=True) as server:
        server.seed("org/zoo", FILES, private=True)
        for name in ("shards/a.safetensors", "README.md"):
            path = hf_hub_download(
                "org/zoo", name, repo_type="dataset", endpoint=server.url, cache_dir=tmp_path, token="hf_r"
            )
            assert Path(path).read_bytes() == FILES[name]
        there = [r for r in server.requests if r.origin == server.cdn]
        assert [(r.method, r.authorization) for r in there] == [("GET", None)]
        assert get(f"{server.cdn}{there[0].path}", Authorization="Bearer hf_r")[0] == 400


def test_datasets_loads_and_streams_a_table(tmp_path: Path) -> None:
    pq.write_table(pa.table({"x": [1, 2, 3]}), tmp_path / "t.parquet")
    card = b"---\nconfigs:\n- config_name: t\n  data_files: tables/t.parquet\n---\n"
    code = """
import datasets
whole = datasets.load_dataset("org/zoo", "t", split="train")
streamed = datasets.load_dataset("org/zoo", "t", split="train", streaming=True)
print(whole["x"][:], [row["x"] for row in streamed])
"""
    with hub() as server:
        server.seed("org/zoo", {"README.md": card, "tables/t.parquet": (tmp_path / "t.parquet").read_bytes()})
        result = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, env=server.environment(tmp_path / "home")
        )
    assert result.stdout.split("\n")[-2] == "[1, 2, 3] [1, 2, 3]", result.stderr


def test_a_commit_on_another_parent_or_of_a_missing_object_is_refused(server: Hub) -> None:
    old = server.repos["org/zoo"].head.oid
    server.seed("org/zoo", {"a": b""})
    with pytest.raises(HfHubHTTPError, match="412"):
        api(server).upload_file(
            path_or_fileobj=b"b", path_in_repo="b", repo_id="org/zoo", repo_type="dataset", parent_commit=old
        )
    line = b'{"key": "lfsFile", "value": {"path": "x.bin", "algo": "sha256", "oid": "00", "size": 3}}\n'
    request = urllib.request.Request(f"{server.url}/api/datasets/org/zoo/commit/main", data=line)
    with pytest.raises(urllib.error.HTTPError, match="400"):
        urllib.request.urlopen(request)


@pytest.mark.parametrize("kind", ["plain", "hub"])
def test_faults_hit_the_request_they_are_meant_for(kind: str, tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(BINARY)
    moved = []
    faults = [
        Fault(r"^GET .*a\.bin", at=1, status=429, headers={"Retry-After": "1"}),
        Fault(r"^GET .*a\.bin", at=range(2, 4), status=503),
        Fault(r"^GET .*a\.bin", at=4, cut=1000),
        Fault(r"^GET .*a\.bin", at=5, other_bytes=True),
        Fault(r"^GET .*a\.bin", at=6, ignore_range=True, call=lambda: moved.append(1)),
    ]
    running = serve(tmp_path, faults=faults) if kind == "plain" else hub(faults=faults)
    with running as server:
        url = f"{server.url}/a.bin"
        if isinstance(server, Hub):
            server.seed("org/zoo", {"a.bin": tmp_path / "a.bin"})
            url = f"{server.url}/datasets/org/zoo/resolve/main/a.bin"
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(url)
        assert (caught.value.code, caught.value.headers["Retry-After"]) == (429, "1")
        assert [get(url)[0] for _ in range(2)] == [503, 503]
        with pytest.raises(Exception, match="IncompleteRead\\(1000 bytes read, 9240 more expected"):
            get(url)
        status, other = get(url, Range="bytes=0-99")
        assert (status, len(other), other == BINARY[:100]) == (206, 100, False)
        assert get(url, Range="bytes=0-99") == (200, BINARY)
        assert moved == [1]
        assert get(url, Range="bytes=0-99") == (206, BINARY[:100])
        assert [(r.status, r.sent) for r in server.asked("^GET .*a.bin")] == [
            (429, 0),
            (503, 0),
            (503, 0),
            (200, 1000),
            (206, 100),
            (200, len(BINARY)),
            (206, 100),
        ]
        assert server.sent == 2 * 100 + 1000 + len(BINARY)


def test_a_server_that_has_ended_answers_nobody_even_on_an_open_connection(tmp_path: Path) -> None:
    with serve(tmp_path) as server:
        connection = http.client.HTTPConnection(server.url.removeprefix("http://"))

        def ask() -> bytes:
            connection.request("GET", "/none")
            return connection.getresponse().read()

        assert ask() == ask() == b""
        connection.auto_open = 0
    with pytest.raises((OSError, http.client.HTTPException)):
        ask()
