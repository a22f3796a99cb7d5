"""The shard format: contiguous, aligned, in module order, readable by any safetensors reader."""

from __future__ import annotations

import hashlib
import json
import string
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from phasezoo import shard
from phasezoo.errors import FormatError
from phasezoo.layout import DTYPES, Layout


def batch_norm_net() -> dict[str, torch.Tensor]:
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 5, 3), torch.nn.BatchNorm2d(5), torch.nn.Conv2d(5, 7, 1))
    net(torch.randn(2, 3, 8, 8))
    return net.state_dict()


def write(path: Path, state_dicts: list[dict[str, torch.Tensor]]) -> shard.File:
    entries = [shard.Entry("m", i, Layout.of_state_dict(s)) for i, s in enumerate(state_dicts)]
    return shard.write(path, entries, iter(state_dicts))


def reader(path: Path) -> tuple[Callable[[int, int], bytes], int]:
    data = path.read_bytes()
    return (lambda start, stop: data[start:stop]), len(data)


def test_a_checkpoint_is_contiguous_and_aligned_and_keeps_module_order(tmp_path: Path) -> None:
    nets = [batch_norm_net() for _ in range(3)]
    file = write(tmp_path / "s.safetensors", nets)
    data = (tmp_path / "s.safetensors").read_bytes()
    assert hashlib.sha256(data).hexdigest() == file.sha256
    assert len(data) == file.nbytes
    for state_dict, w in zip(nets, file.written, strict=True):
        assert w.offset % 64 == 0
        piece = data[w.offset : w.offset + w.entry.layout.nbytes]
        assert hashlib.sha256(piece).hexdigest() == w.sha256
        read = shard.decode(memoryview(bytearray(piece)), w.entry.layout)
        assert list(read) == list(state_dict)  # 1.num_batches_tracked stays where BatchNorm has it
        assert all(torch.equal(read[name], state_dict[name]) for name in state_dict)


def test_the_stock_reader_agrees_on_every_tensor(tmp_path: Path) -> None:
    nets = [batch_norm_net() for _ in range(2)]
    write(tmp_path / "s.safetensors", nets)
    with safe_open(tmp_path / "s.safetensors", framework="pt") as stock:
        assert list(stock.metadata()) == ["phasezoo"]
        for epoch, state_dict in enumerate(nets):
            for name, tensor in state_dict.items():
                assert torch.equal(stock.get_tensor(f"m/e{epoch}/{name}"), tensor)


def test_the_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    nets = [batch_norm_net()]
    assert write(tmp_path / "a", nets) == write(tmp_path / "b", nets)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_scanning_a_shard_finds_what_was_written(tmp_path: Path) -> None:
    nets = [batch_norm_net(), {"w": torch.arange(3)}]
    entries = [
        shard.Entry("a", 0, Layout.of_state_dict(nets[0]), ("b", "c")),
        shard.Entry("a", 7, Layout.of_state_dict(nets[1])),
    ]
    file = shard.write(tmp_path / "s", entries, nets)
    read, size = reader(tmp_path / "s")
    assert tuple(shard.scan(read, size, where="s")) == file.written


def test_writing_streams_one_checkpoint_at_a_time(tmp_path: Path) -> None:
    alive = 0

    def produce():
        nonlocal alive
        for i in range(5):
            alive += 1
            assert alive <= 2
            yield {"w": torch.full((100,), float(i))}
            alive -= 1

    layout = Layout.of([("w", "F32", (100,))])
    shard.write(tmp_path / "s", [shard.Entry("m", i, layout) for i in range(5)], produce())


def test_a_state_dict_that_differs_from_its_layout_is_refused(tmp_path: Path) -> None:
    layout = Layout.of([("a", "F32", (2,)), ("b", "F32", (2,))])
    entry = shard.Entry("m", 0, layout)
    right = {"a": torch.zeros(2), "b": torch.zeros(2)}
    for wrong in (
        {"b": right["b"], "a": right["a"]},
        {"a": right["a"]},
        {"a": torch.zeros(3), "b": right["b"]},
        {"a": torch.zeros(2).double(), "b": right["b"]},
    ):
        with pytest.raises(FormatError, match=r"m/e0"):
            shard.write(tmp_path / "s", [entry], [wrong])


names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40)
specs = st.lists(
    st.tuples(names, st.sampled_from(sorted(DTYPES)), st.lists(st.integers(0, 4), max_size=3)),
    min_size=1,
    max_size=6,
    unique_by=lambda spec: spec[0],
)


@settings(max_examples=150, deadline=None)
@given(specs, st.randoms(use_true_random=False))
def test_write_then_read_is_the_identity_for_any_layout(specs, rng) -> None:
    layout = Layout.of(specs)
    state_dict = {
        s.name: torch.tensor(
            [rng.randrange(2) if s.dtype == "BOOL" else rng.randrange(256) for _ in range(s.nbytes)], dtype=torch.uint8
        )
        .view(getattr(torch, DTYPES[s.dtype][1]))
        .reshape(s.shape)
        for s in layout.tensors
    }
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "s.safetensors")
        entry = shard.Entry("model", 3, layout)
        file = shard.write(path, [entry, shard.Entry("model", 4, layout)], [state_dict, state_dict])
        read, size = reader(path)
        assert tuple(shard.scan(read, size, where="s")) == file.written
        w = file.written[1]
        decoded = shard.decode(memoryview(bytearray(read(w.offset, w.offset + layout.nbytes))), layout)
        with safe_open(path, framework="pt") as stock:
            for name, tensor in state_dict.items():
                for other in (decoded[name], stock.get_tensor(f"model/e4/{name}")):
                    assert other.dtype == tensor.dtype
                    assert other.shape == tensor.shape
                    flat = other.contiguous().reshape(-1).view(torch.uint8)
                    assert torch.equal(flat, tensor.contiguous().reshape(-1).view(torch.uint8))


def broken(change) -> bytes:
    header = {
        "m/e0/a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
        "m/e0/b": {"dtype": "U8", "shape": [4], "data_offsets": [8, 12]},
    }
    change(header)
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + bytes(12)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0" * 7,
        (2**63).to_bytes(8, "little") + b"{}",
        (10).to_bytes(8, "little") + b"{not json}",
        (2).to_bytes(8, "little") + b"[]",
        (40).to_bytes(8, "little") + b"[" * 40,
        broken(lambda h: h["m/e0/b"].update(data_offsets=[4, 8])),  # overlap
        broken(lambda h: h["m/e0/b"].update(data_offsets=[9, 13])),  # hole
        broken(lambda h: h["m/e0/a"].update(data_offsets=[-8, 0])),
        broken(lambda h: h["m/e0/a"].update(shape=[3])),
        broken(lambda h: h["m/e0/a"].update(shape=[-2])),
        broken(lambda h: h["m/e0/a"].update(shape=[2.0])),
        broken(lambda h: h["m/e0/a"].update(dtype="F33")),
        broken(lambda h: h["m/e0/a"].pop("shape")),
        broken(lambda h: h.update({"m/e0/b": None})),
        broken(lambda h: h.pop("m/e0/b")),  # file longer than its header says
        broken(lambda h: h.update(__metadata__=[1])),
        broken(lambda h: h.update(__metadata__={"phasezoo": "[1]"})),
        broken(lambda h: h.update(__metadata__={"phasezoo": '{"shared": {"m/e0": 5}}'})),
        broken(lambda h: h.update({"loose": h.pop("m/e0/b")})),
        broken(lambda h: h.update({"m/x9/b": h.pop("m/e0/b")})),
    ],
)
def test_a_broken_header_is_a_format_error(data: bytes) -> None:
    with pytest.raises(FormatError):
        list(shard.scan(lambda start, stop: data[start:stop], len(data), where="file.safetensors"))


def test_a_duplicated_key_is_a_format_error() -> None:
    tensor = '{"dtype":"U8","shape":[1],"data_offsets":[0,1]}'
    text = f'{{"m/e0/a":{tensor},"m/e0/a":{tensor}}}'.encode()
    data = len(text).to_bytes(8, "little") + text + b"\0"
    with pytest.raises(FormatError, match=r"twice"):
        shard.parse_header(lambda start, stop: data[start:stop], len(data), where="f")


def test_model_ids_with_a_slash_are_refused(tmp_path: Path) -> None:
    layout = Layout.of([("w", "F32", (1,))])
    for bad in ("a/b", "__pad__"):
        with pytest.raises(FormatError, match=r"model id"):
            shard.write(tmp_path / "s", [shard.Entry(bad, 0, layout)], [{"w": torch.zeros(1)}])


def test_names_may_hold_slashes_and_unicode(tmp_path: Path) -> None:
    state_dict = {"a/b": torch.zeros(1), "größe": torch.ones(2), string.printable: torch.ones(1)}
    file = write(tmp_path / "s", [state_dict])
    read, size = reader(tmp_path / "s")
    assert next(shard.scan(read, size, where="s")).entry.layout.names == tuple(state_dict)
    assert file.n_tensors == 3
