"""Raw zoos that somebody planted: pickles that would run code or take all memory, zips, parameters, result lines."""

from __future__ import annotations

import collections
import io
import json
import os
import pickle
import shutil
import struct
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import phasezoo
from phasezoo import shard
from phasezoo.builders.build import build_zoo
from phasezoo.builders.plan import make_plan
from phasezoo.builders.tree import open_tree
from phasezoo.builders.trial import read_trial
from phasezoo.builders.weights import BadCheckpoint, read_weights
from phasezoo.errors import FormatError, IntegrityError, PhaseZooError, ZooNotFoundError
from phasezoo.layout import Layout
from phasezoo.source.archive import Zip, open_zip
from phasezoo.source.local import LocalRanges
from phasezoo.verify import verify
from tests.fuzz import long, quick, values
from tests.raw_zoo import Hostile, saved

# Pickles.


class WithState:
    """Unpickling it would leave a file."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __getstate__(self) -> dict[str, Any]:
        return {"trace": str(self.trace)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        open(state["trace"], "w").close()


class Command:
    """Unpickling it would run a command."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.trace}",)


def legacy(content: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=False)
    return buffer.getvalue()


def with_pickle(code: bytes) -> bytes:
    """A checkpoint in the new format whose pickle is this program."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(saved({"w": torch.ones(2)}))) as source, zipfile.ZipFile(buffer, "w") as target:
        for entry in source.infolist():
            target.writestr(entry.filename, code if entry.filename.endswith("data.pkl") else source.read(entry))
    return buffer.getvalue()


def tar_of_pickles(content: Any) -> bytes:
    """The oldest format of torch."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name in ("storages", "tensors", "pickle"):
            data = pickle.dumps(content)
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


ZEROS = b"\x80\x02cbuiltins\nbytearray\n\x8a\x05" + (8 * 10**9).to_bytes(5, "little") + b"\x85R."


@pytest.mark.parametrize("hostile", [Hostile, Command, WithState])
def test_no_pickle_runs_code(hostile: Callable[[Path], Any], tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    planted = hostile(trace)
    for content in (
        planted,
        {"w": planted},
        {"w": torch.ones(2), "x": [{"y": (planted,)}]},
        {"state_dict": {"w": planted}},
    ):
        for data in (saved(content), legacy(content), pickle.dumps(content), tar_of_pickles(content)):
            (tmp_path / "checkpoint").write_bytes(data)
            for file in (data, tmp_path / "checkpoint"):
                with pytest.raises(BadCheckpoint) as caught:
                    read_weights(file)
                assert caught.value.kind in ("hostile-pickle", "unreadable")
    assert not trace.exists()


def test_a_pickle_cannot_ask_for_memory(tmp_path: Path) -> None:
    import resource

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for code in (ZEROS, b"\x80\x02}X\x01\x00\x00\x00a" + ZEROS[2:-1] + b"s."):
        for data in (with_pickle(code), code):
            with pytest.raises(BadCheckpoint):
                read_weights(data)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kB; it asks for 8 GB


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        ({"w": torch.ones(2, device="meta")}, "tensor-type"),
        ({"w": torch.ones(2**40, device="meta")}, "tensor-type"),
        ({"w": torch._neg_view(torch.ones(2))}, "tensor-type"),
        ({"w": torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])}, "tensor-type"),
        ({"w": torch.ones(2).to_sparse()}, "tensor-type"),
        ({"w": torch.ones(2, dtype=torch.complex64).conj()}, "tensor-type"),
        ({"w": torch.ones(2).to(torch.float8_e4m3fn)}, "tensor-type"),
        ({"w": torch.ones([1] * 80)}, "tensor-type"),
        ({"w": torch.ones(1).expand(10**9)}, "bomb"),
        ({f"t{i}": torch.empty(0) for i in range(shard.MAX_TENSORS + 1)}, "bomb"),
        ({"\ud800": torch.ones(2)}, "no-state-dict"),
        ({"a\nb": torch.ones(2)}, "no-state-dict"),
        ({"x" * 30_000_000: torch.ones(2)}, "no-state-dict"),
        ({1: torch.ones(2)}, "no-state-dict"),
        ({"state_dict": {"state_dict": {"model": 1}}}, "no-state-dict"),
        (collections.Counter({"a": 1}), "no-state-dict"),
        (torch.ones(2), "no-state-dict"),
        (None, "no-state-dict"),
    ],
)
def test_tensors_that_are_none_are_left_out(content: Any, kind: str) -> None:
    with pytest.raises(BadCheckpoint) as caught:
        read_weights(saved(content))
    assert caught.value.kind == kind
    assert len(str(caught.value)) < 500
    assert str(caught.value).encode()


@pytest.mark.parametrize("data", [b"<html>404</html>", b"version https://git-lfs.github.com/spec/v1\n", bytes(100)])
def test_a_file_that_is_no_pickle_is_not_called_hostile(data: bytes) -> None:
    with pytest.raises(BadCheckpoint, match=r"no pickle of protocol 2") as caught:
        read_weights(data)
    assert caught.value.kind == "unreadable"


def test_the_finding_of_a_hostile_pickle_says_what_it_asks_for(tmp_path: Path) -> None:
    with pytest.raises(BadCheckpoint, match=r"holds more than tensors \(Unsupported global: GLOBAL \w"):
        read_weights(saved({"w": Hostile(tmp_path / "trace")}))


def test_a_pickle_that_holds_itself_is_left_out() -> None:
    for code in (b"\x80\x02}q\x00X\x01\x00\x00\x00ah\x00s.", b"\x80\x02}q\x00X\x0a\x00\x00\x00state_dicth\x00s."):
        with pytest.raises(BadCheckpoint):
            read_weights(with_pickle(code))


def test_tensors_of_any_stride_are_read_as_they_are(tmp_path: Path) -> None:
    content = {
        "strided": torch.arange(100.0)[::7],
        "transposed": torch.arange(6).reshape(2, 3).T,
        "expanded": torch.ones(1).expand(10),
        "grad": torch.ones(2, requires_grad=True),
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "scalar": torch.tensor(1.5),
        "empty": torch.empty(2**40, 0),
    }
    for data in (saved(content), legacy(content)):
        read, _ = read_weights(data)
        file = shard.write(tmp_path / "s", [shard.Entry("m", 0, Layout.of_state_dict(read))], [read])
        written = (tmp_path / "s").read_bytes()[file.written[0].offset :]
        decoded = shard.decode(memoryview(bytearray(written)), file.written[0].entry.layout)
        assert all(torch.equal(decoded[name], content[name]) for name in content)


OPCODES = st.sampled_from(
    [
        *(
            b"}",
            b"]",
            b")",
            b"N",
            b"K\x01",
            b"M\x00\x01",
            b"X\x01\x00\x00\x00a",
            b"q\x00",
            b"h\x00",
            b"(",
            b"t",
            b"\x85",
        ),
        *(b"R", b"\x81", b"b", b"s", b"u", b"a", b"e", b"Q", b"0", b"2", b"\x8a\x01\x07", b"G" + bytes(8), b"\x88"),
        *(b"ctorch._utils\n_rebuild_tensor_v2\n", b"ccollections\nOrderedDict\n", b"ctorch\nFloatStorage\n"),
        *(b"ctorch\nSize\n", b"cos\nsystem\n", b"cbuiltins\nset\n", b"ctorch\nFloatTensor\n", b"c_codecs\nencode\n"),
        *(
            b"ctorch.nn.parameter\nParameter\n",
            b"X\x07\x00\x00\x00storage",
            b"X\x03\x00\x00\x00cpu",
            b"X\x01\x00\x00\x000",
        ),
    ]
)
PICKLES = st.lists(OPCODES, max_size=14).map(lambda codes: b"\x80\x02" + b"".join(codes) + b".")


@st.composite
def checkpoints(draw: st.DrawFn) -> bytes:
    """A checkpoint with another pickle, or a few other bytes, or without its end."""
    if draw(st.booleans()):
        code = draw(PICKLES)
        return draw(st.sampled_from([with_pickle(code), code]))
    content = {"a.weight": torch.ones(2, 3), "a.bias": torch.zeros(3, dtype=torch.int64)}
    data = bytearray(draw(st.sampled_from([saved, legacy]))(content))
    for place, byte in draw(st.lists(st.tuples(st.integers(0, len(data) - 1), st.integers(0, 255)), max_size=4)):
        data[place] = byte
    return bytes(data[: draw(st.just(len(data)) | st.integers(0, len(data)))])


def check_checkpoint(data: bytes) -> None:
    try:
        read, _ = read_weights(data)
    except BadCheckpoint:
        return
    layout = Layout.of_state_dict(read)
    with tempfile.TemporaryDirectory() as folder:
        shard.write(Path(folder, "s"), [shard.Entry("m", 0, layout)], [read])


@quick(250)
@given(checkpoints())
def test_a_checkpoint_is_read_or_left_out(data: bytes) -> None:
    check_checkpoint(data)


@pytest.mark.slow
@long(10_000)
@given(checkpoints())
def test_a_checkpoint_is_read_or_left_out_at_length(data: bytes) -> None:
    check_checkpoint(data)


# Zips.

FIELDS = {  # of a directory entry, of the end of the directory, of a local header: offset and length
    b"PK\x01\x02": [(8, 2), (10, 2), (16, 4), (20, 4), (24, 4), (28, 2), (30, 2), (32, 2), (38, 4), (42, 4)],
    b"PK\x05\x06": [(8, 2), (10, 2), (12, 4), (16, 4), (20, 2)],
    b"PK\x03\x04": [(18, 4), (26, 2), (28, 2)],
}
ENTRIES = st.sampled_from(
    [
        *("a", "b/c", "zoo.json", "z/zoo.json", "../x", "/abs", "a\\b", "c:x", "x" * 2000, "é", "\0x", "a/", "."),
        *("a/../b", "./a", "\u202e", "zoo.json/../../x"),
    ]
)


def zip_of(members: list[tuple[str, bytes, int, int]]) -> bytearray:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content, method, mode in members:
            entry = zipfile.ZipInfo(name)
            entry.compress_type, entry.external_attr = method, mode << 16
            archive.writestr(entry, content)
    return bytearray(buffer.getvalue())


@st.composite
def zips(draw: st.DrawFn) -> bytes:
    contents = st.sampled_from([b"", b"{}", b"x" * 10, bytes(20_000)])
    modes, methods = (
        st.sampled_from([0o100644, 0o120777, 0]),
        st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]),
    )
    members = st.lists(st.tuples(ENTRIES, contents, methods, modes), max_size=4, unique_by=lambda member: member[0])
    data = zip_of(draw(members))
    for signature in draw(st.lists(st.sampled_from(sorted(FIELDS)), max_size=2)):
        at = data.find(signature)
        offset, length = draw(st.sampled_from(FIELDS[signature]))
        if at >= 0:
            number = draw(st.sampled_from([0, 1, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF])) % 256**length
            data[at + offset : at + offset + length] = number.to_bytes(length, "little")
    for place, byte in draw(st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), max_size=1)):
        data[place % len(data)] = byte
    return bytes(data[: draw(st.just(len(data)) | st.integers(0, len(data)))])


def opened(data: bytes, folder: Path) -> Zip:
    (folder / "z.zip").write_bytes(data)
    return open_zip(LocalRanges(folder / "z.zip"))


def check_zip(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        try:
            archive = opened(data, folder)
        except FormatError:
            return
        for finding in archive.refused:
            assert finding.where.isascii()
        for path, size in archive.sizes.items():
            assert (Path("/zoo") / path).resolve().is_relative_to("/zoo")
            with suppress(IntegrityError):
                assert len(archive.read(path)) == size
            with suppress(IntegrityError):
                archive.stored_at(path)
        with pytest.raises(PhaseZooError):
            phasezoo.load(folder / "z.zip")


@quick(200)
@given(zips())
def test_a_zip_is_read_or_refused(data: bytes) -> None:
    check_zip(data)


@pytest.mark.slow
@long(5_000)
@given(zips())
def test_a_zip_is_read_or_refused_at_length(data: bytes) -> None:
    check_zip(data)


def test_a_zip_that_states_places_before_its_beginning_is_refused(tmp_path: Path) -> None:
    data = zip_of([("a", b"x" * 10, 0, 0)])
    end = data.find(b"PK\x05\x06")
    data[end + 12 : end + 16] = struct.pack("<I", len(data) * 2)  # the directory is longer than the zip
    with pytest.raises(FormatError, match=r"not a readable zip"):
        opened(bytes(data), tmp_path)


def test_entries_that_lie_outside_or_would_not_fit_into_memory_are_refused(tmp_path: Path) -> None:
    data = zip_of([("a", b"x" * 10, 0, 0), ("b", b"x" * 10, 0, 0), ("c", b"", 8, 0), ("d" * 2000, b"", 0, 0)])
    second = data.find(b"PK\x01\x02", data.find(b"PK\x01\x02") + 1)
    data[second + 42 : second + 46] = struct.pack("<I", 0x7FFFFFFF)
    third = data.find(b"PK\x01\x02", second + 1)
    data[third + 20 : third + 28] = struct.pack("<II", 20, 2**31)  # 20 bytes declare 2 GiB
    archive = opened(bytes(data), tmp_path)
    assert list(archive.sizes) == ["a"]
    assert {finding.kind for finding in archive.refused} == {"outside", "bomb", "long-name"}


def test_zip64_is_read(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive, archive.open("a", "w", force_zip64=True) as member:
        member.write(b"content")
    assert opened(buffer.getvalue(), tmp_path).read("a") == b"content"


# Parameters, result lines, names of folders.

KEYS = st.sampled_from(
    [
        *(
            "model::width",
            "seed",
            "training::batchsize",
            "optim::lr",
            "model::type",
            "model::o_dim",
            "model::channels_in",
        ),
        *("optim::optimizer", "training.epochs_train", "model/beta", "::", "width::x"),
    ]
)
LINE_KEYS = st.sampled_from(
    [
        *("training_iteration", "train_loss", "test_acc", "curve_mc_train_error", "log_hessian_trace", "config"),
        *("checkpoint_dir_name", "time_this_iter_s"),
    ]
)
PLAIN = {"model::width": 2, "seed": 0, "training::batchsize": 8, "model::type": "Resnet18_width", "model::o_dim": 3}


@st.composite
def trials(draw: st.DrawFn) -> tuple[str, bytes, bytes]:
    """Name, params.json and result.json of a trial, with strange values in a few places."""
    params = {
        **PLAIN,
        "model::width": draw(st.sampled_from([2, 4])),
        "training::batchsize": draw(st.sampled_from([8, 16])),
    }
    params.update(draw(st.dictionaries(KEYS, values, max_size=2)))
    lines = []
    for epoch in draw(st.lists(st.sampled_from([0, 1, 2, 2, 5, 999_999, 10**12, -1]), max_size=4)):
        line = {"training_iteration": epoch, "train_loss": 0.5, "config": {"training::accumulate_gradients_steps": 2}}
        lines.append({**line, **draw(st.dictionaries(LINE_KEYS, values, max_size=2))})
    name = draw(
        st.sampled_from(["trial", f"T_0ada0_00000_0_batchsize={'9' * 60}_2024-05-21_10-11-12", "_aaaaa_00000_0_" * 15])
    )
    ascii_only = draw(st.booleans())
    texts = [json.dumps(one, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass") for one in (params, *lines)]
    return name, texts[0], b"\n".join(texts[1:])[: draw(st.just(100_000) | st.integers(0, 200))]


def check_trials(found: list[tuple[str, bytes, bytes]], content: bytes, *, zipped: bool) -> None:
    with tempfile.TemporaryDirectory() as name:
        root = Path(name, "raw")
        for i, (folder, params, results) in enumerate(found):
            at = root / f"{i}{folder}" / "checkpoint_000000"
            at.mkdir(parents=True)
            (at / "checkpoints").write_bytes(content)
            (at.parent / "params.json").write_bytes(params)
            (at.parent / "result.json").write_bytes(results)
        source = Path(shutil.make_archive(str(root), "zip", root)) if zipped else root
        try:
            build_zoo(source, Path(name, "out"))
        except PhaseZooError:
            return
        zoo = phasezoo.load(Path(name, "out"))
        assert verify(zoo).problems == ()
        ids = [model.id for model in zoo]
        assert len(set(ids)) == len(ids) > 0
        assert zoo.table("summary").num_rows == len(ids)
        if zoo.table("results").num_rows:
            zoo.phases()


CONTENT = saved({"w": torch.ones(3), "n": torch.zeros((), dtype=torch.int64)})


@quick(60)
@given(found=st.lists(trials(), min_size=1, max_size=3), zipped=st.booleans())
def test_any_raw_zoo_is_built_soundly_or_refused(found: list[tuple[str, bytes, bytes]], zipped: bool) -> None:
    check_trials(found, CONTENT, zipped=zipped)


@pytest.mark.slow
@long(500)
@given(found=st.lists(trials(), min_size=1, max_size=3), zipped=st.booleans())
def test_any_raw_zoo_is_built_soundly_or_refused_at_length(found: list[tuple[str, bytes, bytes]], zipped: bool) -> None:
    check_trials(found, CONTENT, zipped=zipped)


@pytest.mark.parametrize(
    "value", ["NaN", "Infinity", "-Infinity", "1e400", "true", "1.5", "9" * 30, '"64"', "[64]", "null"]
)
def test_a_setting_that_its_column_cannot_hold_is_not_taken(value: str) -> None:
    trial = read_trial("t", f'{{"model::width": {value}, "seed": 1}}'.encode(), b"", where="t")
    assert trial.settings == {"seed": 1, "accumulation_steps": 1, "micro_batch_size": None}


def test_epochs_of_a_distant_future_are_no_reason_to_count_to_them() -> None:
    lines = b'{"training_iteration": 0}\n{"training_iteration": 1000000000000}\n{"training_iteration": 999999}'
    start = time.process_time()
    trial = read_trial("t", b'{"seed": 1}', lines, where="t")
    assert time.process_time() - start < 5
    assert list(trial.results) == [0, 999_999]
    assert [finding.kind for finding in trial.findings] == ["cut-line", "epoch-missing"]


def test_metrics_that_no_float_holds_are_missing() -> None:
    line = f'{{"training_iteration": 0, "train_loss": 1{"0" * 400}, "test_loss": [[[1]]], "test_acc": [1e308, 1e308]}}'
    trial = read_trial("t", b'{"seed": 1}', line.encode(), where="t")
    assert trial.results == {0: {"train_loss": None, "test_loss": None, "test_acc": None}}


def plant(root: Path, **settings: Any) -> Path:
    at = root / f"t{len(list(root.glob('*')))}"
    at.mkdir(parents=True)
    (at / "params.json").write_text(json.dumps({**PLAIN, "model::type": "net", **settings}))
    (at / "result.json").write_text('{"training_iteration": 0, "train_loss": 0.5}\n')
    return at


def test_cells_whose_numbers_look_alike_stay_apart(tmp_path: Path) -> None:
    for batch in (1_234_567, 1_234_568):
        for width in (2, 4):
            plant(tmp_path / "raw", **{"training::batchsize": batch, "model::width": width})
    plan = make_plan(open_tree(tmp_path / "raw"))
    assert [cell.cell_id for cell in plan.cells] == ["w2-b1234567", "w2-b1234568", "w4-b1234567", "w4-b1234568"]
    assert len(plan.trials) == 4


def test_parameters_that_describe_no_network_are_reported_and_the_weights_kept(tmp_path: Path) -> None:
    for width in (-2, 2**62):
        at = plant(tmp_path / "raw", **{"model::width": width, "model::type": "resnet18"}) / "checkpoint_000000"
        at.mkdir()
        (at / "checkpoints").write_bytes(CONTENT)
    built = build_zoo(tmp_path / "raw", tmp_path / "out")
    assert [finding.kind for finding in built.findings if finding.kind == "architecture"] == ["architecture"] * 2
    assert phasezoo.load(tmp_path / "out")[0].checkpoint()["w"].tolist() == [1, 1, 1]


def test_a_raw_zoo_without_results_is_built_and_one_without_places_is_refused(tmp_path: Path) -> None:
    for seed in (0, 1):
        (plant(tmp_path / "raw", seed=seed) / "result.json").write_text("")
    zoo = phasezoo.load(tmp_path / "out") if build_zoo(tmp_path / "raw", tmp_path / "out") else None
    assert zoo is not None
    assert (len(zoo), zoo.table("results").num_rows) == (2, 0)
    plant(tmp_path / "other", seed="x")
    with pytest.raises(FormatError, match=r"no trial of 'other' has width, batch_size and seed"):
        build_zoo(tmp_path / "other", tmp_path / "out2")


def test_names_that_are_no_text_and_pipes_are_passed_over(tmp_path: Path) -> None:
    plant(tmp_path / "raw", seed=0)
    strange = plant(tmp_path / "raw", seed=1)
    strange.rename(strange.with_name(os.fsdecode(b"\xff")))
    os.mkfifo(tmp_path / "raw" / "pipe")
    built = build_zoo(tmp_path / "raw", tmp_path / "out")
    assert (built.models, [f.where for f in built.findings if f.kind == "no-text"]) == (1, ["\\udcff"])
    with pytest.raises(ZooNotFoundError):
        build_zoo(tmp_path / "raw" / "pipe", tmp_path / "out2")
