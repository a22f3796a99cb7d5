"""Publishing: what arrives at the Hub, what is sent twice, what is refused, and how it is said."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from typer.testing import CliRunner

import phasezoo
from phasezoo.builders.card import card
from phasezoo.builders.push import Pushed, push
from phasezoo.cli import app
from phasezoo.errors import AccessError, AddressError, IntegrityError, SourceError, WriteError
from phasezoo.source import transfer
from tests.hub import Hub, hub
from tests.loopback import Fault

ADDRESS = "hf://datasets/org/zoo"
TOKEN = "hf_a_token_that_must_not_be_seen"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with hub(tokens={TOKEN: "write", "hf_reader": "read"}, owners=["user", "org"], cdn=True) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.setattr(transfer, "PAUSE", 0.0)
        yield server


def command(server: Hub, home: Path, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    code = "from phasezoo.cli import main; main()"
    return subprocess.Popen(
        [sys.executable, "-c", code, "push", *arguments],
        env=server.environment(home) | {"OMP_NUM_THREADS": "1"} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def contents(root: Path) -> dict[str, bytes]:
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def commits(server: Hub) -> list[str]:
    return [commit.title for commit in server.repos["org/zoo"].commits.values()]


def test_what_arrives_is_the_zoo_with_card_and_metadata_under_the_tag_of_its_format(
    server: Hub, embedded_path: Path
) -> None:
    before = contents(embedded_path)
    pushed = push("mlp-digits", ADDRESS)
    there = server.files("org/zoo", "format-1")
    assert contents(embedded_path) == before
    made = {"README.md", "croissant.json", "phases.png", ".gitattributes"}
    assert there.keys() == before.keys() | made
    assert all(there[path] == data for path, data in before.items() if path not in made)
    assert there["phases.png"].startswith(b"\x89PNG")
    assert pushed.commit == server.repos["org/zoo"].head.oid
    assert (pushed.files, pushed.removed, pushed.tags) == (len(before) + 2, 0, ("format-1",))
    assert len(commits(server)) == 2  # the one of a new repository, and all of the zoo at once


def test_datasets_loads_and_streams_each_table_of_a_pushed_zoo(
    server: Hub, embedded_path: Path, tmp_path: Path
) -> None:
    push("mlp-digits", ADDRESS)
    code = f"""
import datasets, json, pyarrow.parquet as pq
for name in json.load(open("{embedded_path}/zoo.json"))["tables"]:
    expected = pq.read_table(f"{embedded_path}/tables/{{name}}.parquet").to_pylist()
    loaded = datasets.load_dataset("org/zoo", name, split="train")
    streamed = datasets.load_dataset("org/zoo", name, split="train", streaming=True)
    assert loaded.to_list() == expected, name
    assert list(streamed.take(300)) == expected[:300], name
    print(name, len(expected))
assert datasets.load_dataset("org/zoo", split="train").num_rows == 264  # configs is the default
"""
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=server.environment(tmp_path)
    )
    assert result.returncode == 0, result.stderr
    assert {"configs 264", "results 39864"} < set(result.stdout.split("\n"))


def test_the_metadata_is_valid_croissant_from_which_the_tables_can_be_read(server: Hub, tmp_path: Path) -> None:
    mlcroissant = pytest.importorskip("mlcroissant", reason="mlcroissant is not installed")
    push("mlp-digits", ADDRESS)
    path = tmp_path / "croissant.json"
    path.write_bytes(server.files("org/zoo")["croissant.json"])
    validate = "import sys; from absl import app; from mlcroissant.scripts import validate; app.run(validate.main)"
    result = subprocess.run(
        [sys.executable, "-c", validate, "--jsonld", str(path)],
        capture_output=True,
        text=True,
        env=server.environment(tmp_path),
    )
    assert result.returncode == 0, result.stderr
    assert "Done" in result.stderr
    assert "WARNING" not in result.stderr.upper()
    described = mlcroissant.Dataset(str(path))
    zoo = phasezoo.load("mlp-digits")
    for name, column in (("configs", "lr"), ("layouts", "shape"), ("checkpoints", "nbytes")):
        records = list(described.records(name))
        assert [record[f"{name}/{column}"] for record in records] == zoo.table(name)[column].to_pylist()
    fields = described.metadata.record_sets[1].fields
    assert {f.name: f.description for f in fields}["train_loss"].endswith("(unit: nats)")


def test_what_was_pushed_is_loaded_in_a_fresh_process_with_every_table_and_tensor(
    server: Hub, embedded_path: Path, tmp_path: Path
) -> None:
    push(embedded_path, ADDRESS)
    code = (
        "import sys, torch, phasezoo\n"
        f"there, here = phasezoo.load({ADDRESS!r}), phasezoo.load(sys.argv[1])\n"
        "assert there.revision and all(there.table(n).equals(here.table(n)) for n in here.manifest.tables)\n"
        "there.download()\n"
        "for model in here:\n"
        "    for ckpt in model.checkpoints():\n"
        "        mine, other = ckpt.state_dict(), there[model.id].checkpoint(ckpt.epoch).state_dict()\n"
        "        assert list(mine) == list(other) and all(torch.equal(mine[k], other[k]) for k in mine)\n"
    )
    environment = {**os.environ, **server.environment(tmp_path / "home"), "PHASEZOO_CACHE": str(tmp_path / "cache")}
    result = subprocess.run(
        [sys.executable, "-c", code, str(embedded_path)], env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr


def test_a_second_push_uploads_nothing_and_makes_no_commit(server: Hub, small: Callable[..., Path]) -> None:
    path = small()
    first = push(path, ADDRESS)
    server.forget()
    second = push(path, ADDRESS)
    assert second == Pushed(ADDRESS, first.commit, 0, 0, 0, ("format-1",), ())
    assert not server.asked("^(PUT|POST|DELETE) ")


def test_a_killed_push_goes_on_where_it_was(server: Hub, tmp_path: Path) -> None:
    process: list[subprocess.Popen[str]] = []
    server.faults.append(Fault("^PUT ", at=20, call=lambda: process[0].kill()))
    process.append(command(server, tmp_path, "mlp-digits", ADDRESS, HF_TOKEN=TOKEN))
    process[0].communicate()
    assert process[0].returncode < 0
    assert commits(server) == ["initial commit"]
    kept = set(server.stored)
    assert len(kept) >= 15
    server.forget()
    push("mlp-digits", ADDRESS)
    # Distinct ones: what the killed process had on its way may reach the server late, beside the second sending.
    sent = {request.path.removeprefix("/lfs/") for request in server.asked("^PUT ")}
    assert sent
    assert not kept & sent
    assert len(kept) + len(sent) == len(server.stored)
    assert len(commits(server)) == 2


def test_what_huggingface_hub_does_not_try_again_is_tried_again(
    server: Hub, small: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    monkeypatch.setattr(transfer, "time", SimpleNamespace(sleep=waits.append, time=time.time))
    server.faults += [
        Fault("^GET /api/datasets/org/zoo$", at=1, status=503),
        Fault("^POST /api/repos/create", at=1, status=429, headers={"Retry-After": "7"}),
        Fault("^POST .*/commit/", at=range(1, 3), status=503),
        Fault("^POST .*/tag/", at=1, cut=0),
    ]
    push(small(), ADDRESS)
    assert len(commits(server)) == 2
    assert server.repos["org/zoo"].tags["format-1"] == server.repos["org/zoo"].head.oid
    assert waits == [0.0, 7.0, 0.0, 0.0, 0.0]
    puts = Counter(request.path for request in server.asked("^PUT "))
    assert set(puts.values()) == {1}


def test_a_commit_whose_answer_is_lost_is_not_made_twice(server: Hub, small: Callable[..., Path]) -> None:
    server.faults.append(Fault("^POST .*/commit/", at=1, cut=0))
    pushed = push(small(), ADDRESS)
    assert len(server.asked("^POST .*/commit/")) == 1
    assert commits(server) == ["initial commit", "small, format 1"]
    assert pushed.commit == server.repos["org/zoo"].head.oid


def test_a_hub_that_stays_broken_is_given_up_with_a_way_on(server: Hub, small: Callable[..., Path]) -> None:
    server.faults.append(Fault("^POST .*/commit/", status=503))
    with pytest.raises(SourceError, match="commit to it.*503.*tried 5 times.*the same command goes on"):
        push(small(), ADDRESS)
    assert commits(server) == ["initial commit"]


def test_a_changed_zoo_replaces_the_old_one_and_leaves_what_is_not_its_own(
    server: Hub, small: Callable[..., Path]
) -> None:
    path = small()
    first = push(path, ADDRESS, tag="v1")
    server.seed("org/zoo", {"shards/old/00000.safetensors": b"old", "figures/mine.svg": b"<svg/>"})
    server.forget()
    second = push(path, ADDRESS, tag="v2")
    assert (second.files, second.removed) == (0, 1)
    there = server.files("org/zoo")
    assert "figures/mine.svg" in there
    assert "shards/old/00000.safetensors" not in there
    assert server.repos["org/zoo"].tags == {"format-1": second.commit, "v1": first.commit, "v2": second.commit}
    with pytest.raises(WriteError, match=f"'v1' of org/zoo names another version already, commit {first.commit[:12]}"):
        push(path, ADDRESS, tag="v1")


def test_a_damaged_zoo_is_refused_before_anything_is_made(server: Hub, small: Callable[..., Path]) -> None:
    path = small()
    shard = next((path / "shards").rglob("*.safetensors"))
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    with pytest.raises(IntegrityError, match=f"does not verify, so nothing was published: .*{shard.parent.name}"):
        push(path, ADDRESS)
    assert "org/zoo" not in server.repos
    assert not server.asked("^(PUT|POST) ")


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("org/zoo", "hf://datasets/owner/name"),
        ("hf://org/zoo", "hf://datasets/owner/name"),
        ("https://huggingface.co/datasets/org/zoo", "hf://datasets/owner/name"),
        ("hf://datasets/zoo", "hf://datasets/owner/name"),
        ("hf://datasets/org/zoo@v1", "--tag names it"),
    ],
)
def test_an_address_that_is_none_is_refused_with_an_example(server: Hub, address: str, says: str) -> None:
    with pytest.raises(AddressError) as caught:
        push("mlp-digits", address)
    assert address in str(caught.value)
    assert says in str(caught.value)
    assert not server.requests


def test_who_may_not_push_is_told_why(server: Hub, small: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    path = small()
    with pytest.raises(AccessError, match="belongs to 'user'.* no member of an organisation 'orgg'.*: user, org"):
        push(path, "hf://datasets/orgg/zoo")
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(AccessError, match="does not accept the token.*Invalid credentials.*settings/tokens.*HF_TOKEN"):
        push(path, ADDRESS)
    monkeypatch.setenv("HF_TOKEN", "hf_reader")
    with pytest.raises(AccessError, match="may not create it.*rights to create.*needs write permission for org"):
        push(path, ADDRESS)
    server.seed("org/zoo", {})
    with pytest.raises(AccessError, match="may not upload to it.*write token.*needs write permission for org"):
        push(path, ADDRESS)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(SourceError, match="HF_HUB_OFFLINE is set"):
        push(path, ADDRESS)


def test_what_is_at_the_address_already_is_not_written_over(server: Hub, small: Callable[..., Path]) -> None:
    path = small()
    server.seed("org/pictures", {"README.md": b"", "a.png": b"1", "b.png": b"2"})
    with pytest.raises(WriteError, match="org/pictures is not empty, and it is no zoo: it has a.png, b.png"):
        push(path, "hf://datasets/org/pictures")
    server.seed("org/other", {"zoo.json": b"{}"})
    with pytest.raises(WriteError, match="org/other holds something else: .*not a phasezoo manifest"):
        push(path, "hf://datasets/org/other")
    push(path, ADDRESS)
    with pytest.raises(WriteError, match="org/zoo holds another zoo: 'small', not 'mlp-digits'"):
        push("mlp-digits", ADDRESS)
    with pytest.raises(WriteError, match="org/zoo exists and is public"):
        push(path, ADDRESS, private=True)
    server.seed("org/card", {"README.md": b"mine", "LICENSE": b"MIT"})
    assert push(path, "hf://datasets/org/card").files


@pytest.mark.parametrize("tag", ["format-2", "0123abcd", "a b", "main", "-x"])
def test_a_tag_that_cannot_be_is_refused(server: Hub, small: Callable[..., Path], tag: str) -> None:
    with pytest.raises(WriteError, match="cannot be the tag of a version"):
        push(small(), ADDRESS, tag=tag)
    assert not server.requests


def test_somebody_else_who_pushes_meanwhile_is_noticed(server: Hub, small: Callable[..., Path]) -> None:
    server.faults.append(Fault("/preupload/", at=1, call=lambda: server.seed("org/zoo", {"theirs.txt": b""})))
    with pytest.raises(WriteError, match="somebody else changed org/zoo meanwhile"):
        push(small(), ADDRESS)
    assert "zoo.json" not in server.files("org/zoo")


def test_files_that_the_repository_ignores_are_missed(server: Hub, small: Callable[..., Path]) -> None:
    server.seed("org/zoo", {".gitignore": b"*.safetensors\n"})
    with pytest.raises(WriteError, match=r"lacks shards/.* after the commit. Is there a .gitignore"):
        push(small(), ADDRESS)


def test_private_is_private(server: Hub, small: Callable[..., Path]) -> None:
    push(small(), ADDRESS, private=True)
    assert server.repos["org/zoo"].private
    push(small("again"), ADDRESS, private=True)


def test_without_matplotlib_the_card_has_no_picture_and_that_is_said(
    server: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("matplotlib", "matplotlib.figure", "matplotlib.pyplot"):
        monkeypatch.setitem(sys.modules, name, None)
    pushed = push("mlp-digits", ADDRESS)
    (note,) = pushed.notes
    assert "no picture of the phase map" in note
    assert "pip install 'phasezoo[plot]'" in note
    there = server.files("org/zoo")
    assert "phases.png" not in there
    assert b"![" not in there["README.md"]


def test_the_token_is_never_printed_stored_or_sent_to_another_origin(
    server: Hub, small: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = command(server, tmp_path / "home", str(small()), ADDRESS, HF_TOKEN=TOKEN, HF_DEBUG="1")
    out, err = process.communicate()
    assert process.returncode == 0, err
    assert TOKEN not in out + err
    assert not [file for file, data in server.files("org/zoo").items() if TOKEN.encode() in data]
    assert not [p for p in tmp_path.rglob("*") if p.is_file() and TOKEN.encode() in p.read_bytes()]
    assert {r.authorization for r in server.requests if r.origin == server.cdn} == {None}
    server.faults.append(Fault("^GET ", status=403, headers={"X-Error-Message": f"{TOKEN} may not"}))
    with pytest.raises(AccessError, match=r"\*\*\* may not") as caught:
        push(tmp_path / "small", ADDRESS)
    assert TOKEN not in str(caught.value)


def test_the_command_says_what_it_did(server: Hub, small: Callable[..., Path]) -> None:
    path = str(small())
    for first in (r"pushed 13 files, [0-9.]+ kB", "nothing to push: it is there already"):
        result = CliRunner().invoke(app, ["push", path, ADDRESS, "--tag", "v1"])
        commit = server.repos["org/zoo"].head.oid
        done, where = result.stdout.splitlines()
        assert re.fullmatch(first, done)
        assert where == f"{ADDRESS} at commit {commit}, tagged format-1, v1"


def test_without_a_token_the_command_says_where_to_get_one(server: Hub, tmp_path: Path) -> None:
    process = command(server, tmp_path, "mlp-digits", ADDRESS)
    _, err = process.communicate()
    assert process.returncode == 2
    assert "there is no token" in err
    assert f"{server.url}/settings/tokens" in err
    assert not server.asked("api/datasets")


def test_the_card_has_one_configuration_for_each_table_with_rows(small: Callable[..., Path]) -> None:
    zoo = phasezoo.load(small())
    tables = {name: zoo._index.table(name) for name in zoo.manifest.tables}
    text = card(zoo.manifest.model_copy(update={"license": "Research only"}), tables, repo_id="org/zoo")
    _, front, body = text.split("---\n", 2)
    meta = yaml.safe_load(front)
    assert {c["config_name"]: c["data_files"] for c in meta["configs"]} == {
        name: f"tables/{name}.parquet" for name in tables if name != "landscape"
    }
    assert (meta["license"], meta["license_name"]) == ("other", "Research only")
    assert "| shape | list of int64 |  | shape of the tensor |" in body
    assert "| nbytes | int64 | bytes | length |" in body
    for word in ("How it was built", "```bibtex", 'load_dataset("org/zoo", "configs"'):
        assert word in body
