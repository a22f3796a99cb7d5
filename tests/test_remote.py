"""Zoos elsewhere: what is asked of a server, what is kept, and what a user sees when things go wrong."""

from __future__ import annotations

import errno
import hashlib
import os
import signal
import subprocess
import sys
import time
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import phasezoo
from phasezoo import store
from phasezoo.errors import (
    AddressError,
    EpochNotFoundError,
    IntegrityError,
    PhaseZooError,
    SourceError,
    WeightsUnavailableError,
    WriteError,
    ZooNotFoundError,
)
from phasezoo.source import transfer
from phasezoo.zoo import Zoo
from tests.hub import Hub, hub
from tests.loopback import Fault, Server
from tests.serve import serve

REPO = "owner/zoo"
ADDRESS = f"hf://datasets/{REPO}"
MODEL = "w64-lr0.03-s100"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and pauses that take no time."""
    monkeypatch.setenv("PHASEZOO_CACHE", str(tmp_path / "cache"))
    for name in ("HF_HUB_OFFLINE", "PHASEZOO_HUB", "PHASEZOO_CACHE_SIZE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(transfer, "PAUSE", 0.001)
    store._verified.clear()
    return tmp_path / "cache"


@pytest.fixture
def web(embedded_path: Path) -> Iterator[Server]:
    with serve(embedded_path) as server:
        yield server


@pytest.fixture
def heart(embedded_path: Path) -> Iterator[Hub]:
    with hub() as server:
        server.seed(REPO, embedded_path, tag="v1")
        yield server


def on_hub(server: Hub, address: str = ADDRESS, **arguments: object) -> Zoo:
    return phasezoo.load(address, storage_options={"endpoint": server.url}, **arguments)  # type: ignore[arg-type]


def weights(server: Server) -> list[tuple[str, str | None, int]]:
    return [(r.method, r.range, r.sent) for r in server.asked("shards/")]


def same(zoo: Zoo, other: Zoo, model_id: str = MODEL) -> bool:
    mine, theirs = (z[model_id].checkpoint().state_dict() for z in (zoo, other))
    return list(mine) == list(theirs) and all(torch.equal(mine[name], theirs[name]) for name in theirs)


# --- what is asked -----------------------------------------------------------------------------------------------


def test_opening_reads_the_manifest_and_the_table_of_configs(web: Server) -> None:
    zoo = phasezoo.load(web.url)
    assert len(zoo) == 264
    assert [r.path for r in web.requests] == ["/zoo.json", "/tables/configs.parquet"]
    assert len(zoo.table("results")) == 264 * 151
    assert [r.path for r in web.requests[2:]] == ["/tables/results.parquet"]


def test_a_zoo_on_the_hub_is_opened_with_its_manifest_and_configs(heart: Hub) -> None:
    zoo = on_hub(heart)
    assert zoo.revision == heart.repos[REPO].head.oid
    files = [r.path.rpartition(zoo.revision)[2] for r in heart.asked("GET .*/resolve/")]
    assert files == ["/zoo.json", "/tables/configs.parquet"]
    assert zoo._index.address == f"{ADDRESS}@{zoo.revision}"


def test_a_checkpoint_is_one_get_of_its_bytes(heart: Hub) -> None:
    ckpt = on_hub(heart)[MODEL].checkpoint("last")
    ckpt.state_dict()
    (asked,) = heart.asked("shards/")
    assert (asked.method, asked.sent) == ("GET", ckpt.nbytes)


def test_a_layer_is_one_get_of_its_bytes(heart: Hub) -> None:
    ckpt = on_hub(heart)[MODEL].checkpoint("last")
    assert ckpt["layers.1.weight"].shape == (64, 64)
    assert [(m, n) for m, _, n in weights(heart)] == [("GET", 64 * 64 * 4)]


def test_a_layer_over_the_epochs_is_few_ranges(small, tmp_path: Path) -> None:
    path = small(epochs=range(25), widths=(32,), lrs=(0.1,), seeds=(0,))
    with serve(path) as server:
        model = phasezoo.load(server.url)[0]
        path_of_weight = model.trajectory("layers.0.weight")
        assert path_of_weight.shape == (25, 32, 5)
        useful = path_of_weight.numel() * 4
        assert len(server.asked("shards/")) <= 25
        assert sum(n for _, _, n in weights(server)) <= 1.5 * useful
        server.forget()
        assert torch.equal(model.trajectory("layers.0.weight"), path_of_weight)
        assert server.requests == []


def test_neighbouring_checkpoints_are_read_together(web: Server) -> None:
    zoo = phasezoo.load(web.url)
    pieces = [ckpt.piece() for ckpt in zoo[MODEL].checkpoints()][1:]
    zoo._index.store.read(pieces)
    assert len(weights(web)) == 1


def test_a_second_reading_asks_for_nothing_and_so_does_one_offline(
    heart: Hub, monkeypatch: pytest.MonkeyPatch, embedded_path: Path
) -> None:
    zoo = on_hub(heart)
    zoo[MODEL].checkpoint().state_dict()
    assert zoo["w2-lr0.1-s100"].checkpoint()["layers.0.bias"] is not None
    zoo.table("results")
    heart.forget()
    zoo[MODEL].checkpoint().state_dict()
    zoo[MODEL].checkpoint()["layers.0.weight"]
    assert heart.requests == []
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    again = on_hub(heart)
    assert same(again, phasezoo.load(embedded_path))
    assert again["w2-lr0.1-s100"].checkpoint()["layers.0.bias"] is not None
    with pytest.raises(SourceError, match=r"not, or not wholly, in the cache.*phasezoo download"):
        again["w2-lr0.1-s100"].checkpoint()["layers.0.weight"]
    assert heart.requests == []


def test_the_web_works_offline_too(web: Server, embedded_path: Path) -> None:
    phasezoo.load(web.url)[MODEL].checkpoint().state_dict()
    web.forget()
    with pytest.raises(ZooNotFoundError, match=r"not in the cache"):
        phasezoo.load(f"{web.url}/elsewhere", local_files_only=True)
    assert same(phasezoo.load(web.url, local_files_only=True), phasezoo.load(embedded_path))
    assert web.requests == []


def test_fetching_anew_offline_is_a_contradiction_that_is_said(web: Server, heart: Hub) -> None:
    phasezoo.load(web.url)
    on_hub(heart)
    for load, place in ((phasezoo.load, web.url), (lambda url, **how: on_hub(heart, url, **how), ADDRESS)):
        with pytest.raises(ZooNotFoundError, match=r"force_download.*Leave out one"):
            load(place, local_files_only=True, force_download=True)


def test_every_tensor_and_table_is_that_of_the_zoo_on_disk(heart: Hub, embedded_path: Path) -> None:
    there, here = on_hub(heart), phasezoo.load(embedded_path)
    for name in here.manifest.tables:
        assert there.table(name).equals(here.table(name))
    there.filter(width=[2, 64]).download()
    for model in here.filter(width=[2, 64]):
        for ckpt in model.checkpoints():
            assert (
                there[model.id].checkpoint(ckpt.epoch)._store.read([ckpt.piece()])[0]
                == ckpt._store.read([ckpt.piece()])[0].tobytes()
            )


# --- other places ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def zipped(embedded_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("zips")
    for name, how in (("stored", zipfile.ZIP_STORED), ("deflated", zipfile.ZIP_DEFLATED)):
        with zipfile.ZipFile(folder / f"{name}.zip", "w", how) as archive:
            for file in sorted(embedded_path.rglob("*")):
                if file.is_file():
                    archive.write(file, f"mlp-digits/{file.relative_to(embedded_path)}")
    return folder


@pytest.mark.parametrize("name", ["stored", "deflated"])
def test_a_zoo_in_a_zip_is_read_in_place(zipped: Path, embedded_path: Path, name: str) -> None:
    here = phasezoo.load(embedded_path)
    assert same(phasezoo.load(zipped / f"{name}.zip"), here)
    with serve(zipped) as server:
        zoo = phasezoo.load(f"{server.url}/{name}.zip")
        assert same(zoo, here)
        if name == "stored":
            assert server.sent < 0.5 * (zipped / "stored.zip").stat().st_size
        server.forget()
        assert same(zoo, here)
        assert server.requests == []


def test_a_zip_without_a_zoo_says_so(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "raw.zip", "w") as archive:
        archive.writestr("trial/params.json", "{}")
    with pytest.raises(ZooNotFoundError, match=r"no zoo\.json.*phasezoo build"):
        phasezoo.load(tmp_path / "raw.zip")


def test_memory_and_any_file_system_of_fsspec(embedded_path: Path) -> None:
    import fsspec

    there = fsspec.filesystem("memory")
    there.put(str(embedded_path), "/zoo", recursive=True)
    assert same(phasezoo.load("memory://zoo"), phasezoo.load(embedded_path))
    with pytest.raises(ZooNotFoundError, match=r"memory://nothing.*holds no zoo\.json"):
        phasezoo.load("memory://nothing")
    with pytest.raises(PhaseZooError, match=r"(?i)protocol"):
        phasezoo.load("nosuch://zoo")


def test_s3(embedded_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server_of = pytest.importorskip("moto.server", reason="moto[server] is not installed")
    pytest.importorskip("s3fs", reason="s3fs is not installed")
    import s3fs

    server = server_of.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    options = {"key": "k", "secret": "s", "client_kwargs": {"endpoint_url": f"http://{host}:{port}"}}
    try:
        s3 = s3fs.S3FileSystem(**options)
        s3.mkdir("bucket")
        s3.put(str(embedded_path), "bucket/zoo", recursive=True)
        assert same(phasezoo.load("s3://bucket/zoo", storage_options=options), phasezoo.load(embedded_path))
        with pytest.raises(ZooNotFoundError, match=r"s3://bucket/none"):
            phasezoo.load("s3://bucket/none", storage_options=options)
    finally:
        server.stop()


# --- what goes wrong ---------------------------------------------------------------------------------------------


def test_a_cut_answer_is_continued_where_it_was_cut(heart: Hub, embedded_path: Path) -> None:
    zoo = on_hub(heart)
    heart.faults.append(Fault("GET .*shards/", at=1, cut=5000))
    assert same(zoo, phasezoo.load(embedded_path))
    first, second = heart.asked("shards/")
    assert second.sent == zoo[MODEL].checkpoint().nbytes - first.sent
    assert "the answer was cut" in str(zoo._index.source.traffic)


@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_server_is_asked_again(heart: Hub, embedded_path: Path, status: int, naps: list[float]) -> None:
    heart.faults.append(Fault("GET .*(shards/|configs|zoo.json)", at=range(1, 9, 2), status=status))
    heart.faults.append(Fault("GET .*/revision/", at=1, status=status))
    assert same(on_hub(heart), phasezoo.load(embedded_path))


def test_retry_after_is_honoured(web: Server, naps: list[float]) -> None:
    web.faults.append(Fault("GET .*configs", at=1, status=429, headers={"Retry-After": "7"}))
    phasezoo.load(web.url)
    assert naps == [7.0]
    web.faults.append(Fault("GET .*results", status=429, headers={"Retry-After": "3600"}))
    with pytest.raises(SourceError, match=r"come back in 3,600 s"):
        phasezoo.load(web.url).table("results")


def test_a_server_that_stays_down_is_given_up_with_a_sentence(web: Server, naps: list[float]) -> None:
    zoo = phasezoo.load(web.url)
    web.faults.append(Fault("shards/", status=503))
    with pytest.raises(SourceError, match=r"cannot read bytes .* answers 503; tried 5 times.*Nothing is lost"):
        zoo[MODEL].checkpoint().state_dict()
    assert len(naps) == 4


@pytest.mark.parametrize(
    ("status", "kind", "message"),
    [
        (404, FileNotFoundError, r"no file at http.*shards.*404"),
        (403, ConnectionError, r"refuses .*403.*hf auth login"),
        (401, ConnectionError, r"refuses .*401"),
        (416, OSError, r"cut short"),
        (418, ConnectionError, r"answers 418"),
    ],
)
def test_refusals_are_sentences(heart: Hub, status: int, kind: type[Exception], message: str) -> None:
    zoo = on_hub(heart)
    heart.faults.append(Fault("shards/", status=status))
    with pytest.raises(PhaseZooError, match=message) as caught:
        zoo[MODEL].checkpoint().state_dict()
    assert isinstance(caught.value, kind)
    assert len(heart.asked("shards/")) == 1


def test_a_server_that_ignores_range_is_found_out_and_download_works(embedded_path: Path) -> None:
    with serve(embedded_path, ranges=False) as server:
        zoo = phasezoo.load(server.url)
        with pytest.raises(SourceError, match=r"does not support ranges.*phasezoo download"):
            zoo[MODEL].checkpoint().state_dict()
        zoo.filter(width=64).download()
        assert same(zoo, phasezoo.load(embedded_path))
        zoo.filter(width=2).download(epochs=[10])  # a small part of each shard
        assert zoo.filter(width=2).download(epochs=[10], dry_run=True).checkpoints == 0


def test_other_bytes_of_the_right_length_are_not_believed_and_not_kept(heart: Hub, cache: Path) -> None:
    zoo = on_hub(heart)
    zoo.table("digests")
    heart.faults.append(Fault("shards/", at=range(1, 3), other_bytes=True))
    with pytest.raises(IntegrityError, match=rf"checkpoint {MODEL}.*damaged"):
        zoo[MODEL].checkpoint().state_dict()
    with pytest.raises(IntegrityError, match=r"tensor 'layers.0.weight'.*damaged"):
        zoo[MODEL].checkpoint()["layers.0.weight"]
    assert list((cache / "blobs").glob("*/*")) == []
    assert zoo[MODEL].checkpoint().state_dict()


def test_a_branch_that_moves_while_reading_changes_nothing(heart: Hub, embedded_path: Path) -> None:
    zoo = on_hub(heart)
    heart.seed(REPO, {"zoo.json": b"{}", "tables/results.parquet": None})
    assert zoo.table("results").num_rows == 264 * 151
    assert same(zoo, phasezoo.load(embedded_path))
    with pytest.raises(PhaseZooError):
        on_hub(heart)
    assert len(on_hub(heart, revision="v1")) == 264


def test_an_unknown_revision_is_an_error_online_and_offline(heart: Hub) -> None:
    with pytest.raises(ZooNotFoundError, match=r"no revision 'v9'.*There are: v1, main"):
        on_hub(heart, revision="v9")
    on_hub(heart, f"{ADDRESS}@v1")
    with pytest.raises(ZooNotFoundError, match=r"'v9'.*not known offline.*There are: v1"):
        on_hub(heart, revision="v9", local_files_only=True)
    assert on_hub(heart, revision="v1", local_files_only=True).revision == heart.repos[REPO].tags["v1"]
    with pytest.raises(SourceError, match=r"revision 'v1'.*revision='main'"):
        on_hub(heart, f"{ADDRESS}@v1", revision="main")


def test_addresses_that_cannot_be_read_say_why(heart: Hub, embedded_path: Path) -> None:
    with pytest.raises(ZooNotFoundError, match=r"no dataset 'owner/none' that you may read"):
        on_hub(heart, "hf://datasets/owner/none")
    for wrong in ("hf://owner/zoo", "hf://datasets/owner", "hf://datasets/owner/zoo/../../other"):
        with pytest.raises(AddressError, match=r"form hf://datasets/owner/name"):
            on_hub(heart, wrong)
    with pytest.raises(ZooNotFoundError, match=r"holds no zoo\.json"):
        on_hub(heart, f"{ADDRESS}/tables")
    with pytest.raises(SourceError, match=r"http://\.\.\.@127.*storage_options") as caught:
        phasezoo.load("http://user:secret@127.0.0.1/zoo")
    assert "user:secret" not in str(caught.value)
    with pytest.raises(SourceError, match=r"no revisions"):
        phasezoo.load("mlp-digits", revision="v1")
    with pytest.raises(TypeError):
        phasezoo.load("mlp-digits", revison="v1")  # type: ignore[call-arg]
    with pytest.raises(SourceError, match=r"(?i)no connection.*refused.*tried 5 times"):
        phasezoo.load("http://127.0.0.1:9/zoo")


def test_names_are_looked_up_at_the_hub_that_is_preferred(
    heart: Hub, embedded_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heart.seed("owner/zoo-resnet18-svhn", embedded_path)
    monkeypatch.setenv("PHASEZOO_HUB", "owner/zoo-")
    assert on_hub(heart, "resnet18-svhn").revision
    with pytest.raises(ZooNotFoundError, match=r"owner/zoo-gpt2-openwebtext"):
        on_hub(heart, "gpt2-openwebtext")
    monkeypatch.setenv("PHASEZOO_MIRROR", heart.url)
    with pytest.warns(UserWarning, match=r"owner/zoo-resnet18-cifar10.*published tables"), pytest.raises(PhaseZooError):
        on_hub(heart, "resnet18-cifar10")


# --- tokens ------------------------------------------------------------------------------------------------------


def test_a_token_stays_with_its_origin_and_out_of_logs_and_cache(
    embedded_path: Path, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    with hub(tokens={"hf_secret": "read"}, cdn=True) as server:
        server.seed(REPO, embedded_path, private=True)
        with pytest.raises(ZooNotFoundError, match=r"that you may read.*hf auth login"):
            on_hub(server, token=False)
        zoo = on_hub(server, token="hf_secret")
        assert same(zoo, phasezoo.load(embedded_path))
        zoo.filter(width=2).download()
        redirected = [r for r in server.requests if r.origin == server.cdn]
        assert redirected
        assert all(r.authorization is None for r in redirected)
        assert "hf_secret" not in caplog.text + repr(zoo) + str(zoo._index.source.traffic)
        assert not any(b"hf_secret" in path.read_bytes() for path in cache.rglob("*") if path.is_file())


def test_a_signed_address_is_asked_for_once_and_again_when_it_expires(embedded_path: Path) -> None:
    with hub(cdn=True) as server:
        server.seed(REPO, embedded_path)
        zoo = on_hub(server)
        for model in zoo.filter(width=64, seed=100):
            model.checkpoint().state_dict()
        first = [r for r in server.asked("resolve/.*shards/") if r.origin == server.url]
        assert len(first) == len({r.path for r in first})
        server.faults.append(Fault("GET .*signature", at=1, status=403))
        assert zoo[MODEL].checkpoint(10).state_dict()


# --- the cache ---------------------------------------------------------------------------------------------------


def test_a_blob_that_the_disk_has_changed_is_fetched_again(web: Server, cache: Path, embedded_path: Path) -> None:
    zoo = phasezoo.load(web.url)
    ckpt = zoo[MODEL].checkpoint()
    ckpt.state_dict()
    blob = cache / "blobs" / ckpt.sha256[:2] / ckpt.sha256
    data = bytearray(blob.read_bytes())
    data[100] ^= 1
    blob.write_bytes(data)
    store._verified.clear()
    assert same(zoo, phasezoo.load(embedded_path))
    blob.write_bytes(data[:-1])
    assert same(zoo, phasezoo.load(embedded_path))
    assert hashlib.sha256(blob.read_bytes()).hexdigest() == ckpt.sha256


def test_a_cache_that_cannot_be_written_is_read(web: Server, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    phasezoo.load(web.url)[MODEL].checkpoint().state_dict()
    before = {path for path in cache.rglob("*") if path.is_file()}

    def refuse(*_: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(os, "replace", refuse)  # the tests may run as a user whom no permission stops
    zoo = phasezoo.load(web.url)
    web.forget()
    zoo[MODEL].checkpoint().state_dict()
    assert weights(web) == []
    assert zoo["w2-lr0.1-s100"].checkpoint().state_dict()
    assert {path for path in cache.rglob("*") if path.is_file()} == before
    with pytest.raises(WriteError, match=r"Read-only.*PHASEZOO_CACHE"):
        zoo.filter(width=3).download()


def test_a_full_disk_stops_a_download_with_a_sentence_and_reading_goes_on(
    web: Server, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    zoo, replace, left = phasezoo.load(web.url), os.replace, iter(range(10))
    for name in zoo.manifest.tables:
        zoo.table(name)

    def fill(source: str, target: str) -> None:
        if next(left, None) is None:
            raise OSError(errno.ENOSPC, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(os, "replace", fill)
    with pytest.raises(WriteError, match=r"No space left.*cache clean.*what is complete is kept"):
        zoo.filter(width=64).download(max_workers=1)
    kept = [path for path in (cache / "blobs").glob("*/*") if path.stat().st_size == zoo[MODEL].checkpoint().nbytes]
    assert len(kept) == 10
    assert zoo["w64-lr0.1-s102"].checkpoint().state_dict()
    assert list(cache.rglob("*.partial-*")) == []


def test_the_least_recently_used_goes_when_the_cache_has_a_limit(
    web: Server, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PHASEZOO_CACHE_SIZE", "1MB")
    zoo = phasezoo.load(web.url)
    for model in zoo.filter(width=64):
        model.checkpoint().state_dict()
    assert sum(path.stat().st_size for path in (cache / "blobs").glob("*/*")) <= 1e6
    web.forget()
    zoo.filter(width=64)[-1].checkpoint().state_dict()
    assert web.requests == []
    monkeypatch.setenv("PHASEZOO_CACHE_SIZE", "lots")
    with pytest.raises(ValueError, match=r"'lots', which is no size"):
        phasezoo.load(web.url)


def test_eight_processes_that_want_the_same_checkpoint_leave_one_blob(web: Server, cache: Path) -> None:
    code = f"import phasezoo; phasezoo.load({web.url!r})[{MODEL!r}].checkpoint()._store.read" + (
        f"([phasezoo.load({web.url!r})[{MODEL!r}].checkpoint().piece()])"
    )
    running = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(8)]
    assert [process.wait() for process in running] == [0] * 8
    assert 1 <= len(weights(web)) <= 8
    sha256 = phasezoo.load(web.url)[MODEL].checkpoint().sha256
    blobs = [path.name for path in (cache / "blobs" / sha256[:2]).iterdir() if path.name.startswith(sha256)]
    assert blobs == [sha256]
    assert list(cache.rglob(".*")) == []


def test_64_readers_of_one_cache_see_the_right_weights_and_leave_nothing(
    web: Server, cache: Path, embedded_path: Path
) -> None:
    from concurrent.futures import ThreadPoolExecutor

    here = phasezoo.load(embedded_path)
    wanted = [model.id for model in here.filter(width=[2, 16, 64], seed=100)]

    def read(reader: int) -> list[bool]:
        zoo = phasezoo.load(web.url)
        return [same(zoo, here, wanted[(reader + i) % len(wanted)]) for i in range(3)]

    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    with ThreadPoolExecutor(64) as pool:
        assert all(all(found) for found in pool.map(read, range(64)))
    assert list(cache.rglob(".*")) == []
    if before:
        assert len(os.listdir("/proc/self/fd")) < before + 64 + 20  # one connection each at most


# --- download ----------------------------------------------------------------------------------------------------


def test_a_download_says_what_it_takes_and_takes_that(web: Server) -> None:
    zoo = phasezoo.load(web.url)
    plan = zoo.download(where="width == 64", epochs=["last"], dry_run=True)
    assert weights(web) == []
    done = zoo.download(where="width == 64", epochs=["last"])
    assert (plan.checkpoints, plan.nbytes) == (24, 24 * zoo[MODEL].checkpoint().nbytes)
    assert len(weights(web)) == plan.requests == done.requests
    assert sum(n for _, _, n in weights(web)) == plan.transfer
    assert str(plan).startswith("24 checkpoints, ")
    again = zoo.download(where="width == 64", epochs=["last"])
    assert (again.checkpoints, again.cached, again.requests) == (0, 24, 0)


def test_a_download_of_most_of_a_shard_is_one_request(web: Server) -> None:
    zoo = phasezoo.load(web.url)
    zoo.filter(width=64, lr=0.1).download()
    shards = {piece.location.shard for m in zoo.filter(width=64, lr=0.1) for piece in [m.checkpoint().piece()]}
    asked = [r for r in web.asked("shards/") if r.path.lstrip("/") in shards]
    assert len(asked) == len(shards)


def test_download_works_offline_afterwards(heart: Hub, embedded_path: Path) -> None:
    on_hub(heart).filter(width=8).download()
    heart.forget()
    offline = on_hub(heart, local_files_only=True)
    here = phasezoo.load(embedded_path)
    assert all(same(offline, here, model.id) for model in here.filter(width=8))
    assert offline.table("landscape").equals(here.table("landscape"))
    assert heart.requests == []


def test_a_cut_download_goes_on_behind_what_is_complete(web: Server) -> None:
    zoo = phasezoo.load(web.url)
    shard = zoo[MODEL].checkpoint().piece().location.shard
    web.faults.append(Fault(f"GET .*{shard}", at=1, cut=200_000))
    done = zoo.filter(width=64).download(max_workers=1)
    assert "the answer was cut" in done.traffic
    assert zoo.filter(width=64).download().checkpoints == 0
    first, second = web.asked(shard)[:2]
    assert second.range is not None
    assert 0 < int(second.range.removeprefix("bytes=").split("-")[0]) <= first.sent


def test_a_killed_download_fetches_at_most_one_checkpoint_twice(small, cache: Path) -> None:
    path = small(epochs=range(100), widths=(16,), lrs=(0.1,), seeds=(0,))
    with serve(path, faults=[Fault("GET .*shards/", latency=0.01)]) as server:
        code = (
            "import phasezoo, phasezoo.download, phasezoo.source.remote as remote;"
            "phasezoo.download.MOST, remote.LONGEST = 2, 1;"  # one request for each checkpoint
            f"phasezoo.load({server.url!r}).download(max_workers=1)"
        )
        running = subprocess.Popen([sys.executable, "-c", code])
        while len(server.asked("shards/")) < 40:
            assert running.poll() is None
        running.send_signal(signal.SIGKILL)
        running.wait()
        complete = len(list((cache / "blobs").glob("*/*")))
        assert 30 < complete < 100
        assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
        twice = [span for span, n in Counter(r.range for r in server.asked("shards/")).items() if n > 1]
        assert len(twice) <= 1
        assert phasezoo.load(server.url).download().checkpoints == 0
        assert len(server.asked("shards/")) in (100, 101)


def test_download_says_what_cannot_be(web: Server, embedded_path: Path) -> None:
    zoo = phasezoo.load(web.url)
    with pytest.raises(EpochNotFoundError, match=r"epoch 7.*0, 10, 50, 150"):
        zoo.download(epochs=[7])
    assert zoo.filter(width=999).download().checkpoints == 0


def test_the_command_line_downloads_and_keeps_house(web: Server, cache: Path) -> None:
    from tests.test_cli import phasezoo as command

    done = command("download", web.url, "--where", "width == 2", "--epochs", "last", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "24 checkpoints" in done.stdout
    done = command("download", web.url, "--where", "width == 2", "--epochs", "last")
    assert done.returncode == 0, done.stderr
    listed = command("cache", "list").stdout
    assert "checkpoints and tables     30" in listed  # with six tables
    assert str(cache) in listed
    assert command("cache", "verify").returncode == 0
    blob = next(p for p in (cache / "blobs").glob("*/*") if p.stat().st_size < 2000)
    blob.write_bytes(b"x")
    found = command("cache", "verify")
    assert found.returncode == 1
    assert blob.name[:12] in found.stdout + found.stderr
    assert command("cache", "clean").returncode == 0
    assert list((cache / "blobs").glob("*/*")) == []


def test_a_zoo_of_tables_has_nothing_to_download(small, tmp_path: Path) -> None:
    pytest.importorskip("phasezoo.builders")
    from phasezoo.builders.summary_csv import build_summary
    from tests.data.make_summary import Table

    (tmp_path / "t.csv").write_bytes(Table(widths=(2,), batches=(8,), epochs=2, annotated=(1,)).fill().to_bytes())
    build_summary(tmp_path / "t.csv", tmp_path / "zoo", zoo="resnet18-svhn")
    with serve(tmp_path / "zoo") as server, pytest.raises(WeightsUnavailableError):
        phasezoo.load(server.url).download()


@pytest.fixture
def naps(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses that would have been made."""
    made: list[float] = []
    monkeypatch.setattr(transfer, "time", SimpleNamespace(sleep=made.append, time=time.time))
    return made


@pytest.mark.parametrize("place", ["", "stored.zip"])
def test_an_open_zoo_can_be_sent_to_other_processes(zipped: Path, embedded_path: Path, place: str) -> None:
    import pickle

    with serve(zipped if place else embedded_path) as server:
        zoo = phasezoo.load(f"{server.url}/{place}")
        assert same(pickle.loads(pickle.dumps(zoo)), phasezoo.load(embedded_path))
