"""Shards that nobody meant to write: whatever the bytes are, they are read as stock safetensors does, or refused."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors
import torch
from hypothesis import given
from hypothesis import strategies as st

from phasezoo import shard
from phasezoo.errors import FormatError, PhaseZooError
from phasezoo.layout import DTYPES, Layout
from tests.fuzz import atoms, long, quick

KEYS = st.sampled_from(
    [
        *(
            "m/e0/a",
            "m/e0/b",
            "m/e1/a",
            "m/e00/a",
            "m/e²/a",
            "m/e٣/a",
            "m/e/a",
            "m/e-1/a",
            "m//a",
            "/e0/a",
            "m/e0/",
            "m",
        ),
        *("__metadata__", "__pad__/", "__pad__/8", "\ud800/e0/a", "../e0/../a"),
        *(f"m/e{'9' * 30}/a", f"m/e{'9' * 5000}/a"),
    ]
)
FIELDS = st.sampled_from(["dtype", "shape", "data_offsets", "extra"])


@st.composite
def files(draw: st.DrawFn) -> bytes:
    """A file that is nearly a shard: a sound one, changed in up to four places, in its JSON or in its bytes."""
    header: dict[str, Any] = {}
    position = 0
    for i in range(draw(st.integers(0, 4))):
        dtype, shape = draw(st.sampled_from(sorted(DTYPES))), draw(st.lists(st.integers(0, 3), max_size=3))
        stop = position + Layout.of([("", dtype, shape)]).nbytes
        header[f"m/e{i // 2}/t{i}"] = {"dtype": dtype, "shape": shape, "data_offsets": [position, stop]}
        position = stop
    for _ in range(draw(st.integers(0, 3))):
        key = draw(st.sampled_from(sorted(header)) if header else KEYS)
        where = draw(st.integers(0, 4))
        value = header.get(key)
        if where == 0 or not isinstance(value, dict):
            header[draw(KEYS)] = draw(atoms)
        elif where == 1:
            header[draw(KEYS)] = header.pop(key)
        elif where == 2:
            value[draw(FIELDS)] = draw(atoms)
        elif where == 3 and isinstance(value.get("shape"), list):
            value["shape"] += draw(st.lists(st.sampled_from([0, 1, 2, 2**32, 2**62, 2**63, 2**64, -1]), max_size=4))
        else:
            header["__metadata__"] = draw(
                st.sampled_from([{"phasezoo": 1}, {"a": "b"}, {"a": None}, {"phasezoo": '{"shared":{"m/e0":["b"]}}'}])
                | atoms
            )
    encoding = draw(st.sampled_from(["utf-8"] * 12 + ["utf-16", "utf-32", "utf-8-sig"]))
    text = bytearray(json.dumps(header, ensure_ascii=draw(st.booleans())).encode(encoding, "surrogatepass"))
    for place, byte in draw(st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=1)):
        text[place % len(text)] = byte
    length = draw(st.sampled_from([len(text)] * 9 + [0, len(text) + 1, 2**63, 2**64 - 1]))
    return length.to_bytes(8, "little") + text + bytes(max(0, position + draw(st.sampled_from([0] * 9 + [-1, 1]))))


def check_shard(data: bytes) -> None:
    try:
        found = shard.parse_header(lambda start, stop: data[start:stop], len(data), where="f")
        written = list(shard.scan(lambda start, stop: data[start:stop], len(data), where="f"))
    except PhaseZooError:
        return
    stock = dict(safetensors.deserialize(data))
    assert stock.keys() == {tensor.key for tensor in found.tensors}
    checkpoints = [(w.entry.model_id, w.entry.epoch) for w in written]
    assert len(set(checkpoints)) == len(checkpoints)
    for w in written:
        piece = memoryview(bytearray(data[w.offset : w.offset + w.entry.layout.nbytes]))
        for name, tensor in shard.decode(piece, w.entry.layout).items():
            theirs = stock[f"{w.entry.prefix}/{name}"]
            assert list(tensor.shape) == theirs["shape"]
            assert tensor.reshape(-1).view(torch.uint8).numpy().tobytes() == bytes(theirs["data"])


@quick(400)
@given(files())
def test_any_file_is_read_as_stock_safetensors_does_or_refused(data: bytes) -> None:
    check_shard(data)


@pytest.mark.slow
@long(10_000)
@given(files())
def test_any_file_is_read_as_stock_safetensors_does_or_refused_at_length(data: bytes) -> None:
    check_shard(data)


def with_header(text: str, data: bytes = b"") -> bytes:
    encoded = text.encode("utf-8", "surrogatepass")
    return len(encoded).to_bytes(8, "little") + encoded + data


EMPTY = '{"dtype":"U8","shape":[0],"data_offsets":[0,0]}'


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (with_header(f'{{"m/e²/a":{EMPTY}}}'), "does not have the form"),
        (with_header(f'{{"m/e٣/a":{EMPTY}}}'), "does not have the form"),
        (with_header(f'{{"m/e00/a":{EMPTY}}}'), "does not have the form"),
        (with_header(f'{{"m/e{"9" * 5000}/a":{EMPTY}}}'), "does not have the form"),
        (with_header(f'{{"m/e0/a":{EMPTY},"m/e1/a":{EMPTY},"m/e0/b":{EMPTY}}}'), "torn, or in the shard twice"),
        (
            with_header(
                f'{{"__metadata__":{{"phasezoo":"{{\\"shared\\":{{\\"m/e0\\":[\\"m\\"]}}}}"}},"m/e0/a":{EMPTY}}}'
            ),
            "twice",
        ),
        (with_header('{"m/e0/a":{"dtype":"U8","shape":[0,9223372036854775808],"data_offsets":[0,0]}}'), "64 bits"),
        (with_header('{"m/e0/a":{"dtype":"U8","shape":[0,3,4611686018427387904],"data_offsets":[0,0]}}'), "64 bits"),
        (with_header('{"m/e0/a":{"dtype":"U8","shape":"","data_offsets":[0,1]}}', b"\0"), "described by"),
        (with_header(f'{{"m/e0/a":{EMPTY[:-1]},"more":NaN}}}}'), "NaN is no JSON"),
        (with_header(f'{{"m/e0/a":{EMPTY[:-1]},"more":1}}}}'), "described by"),
        (with_header(f'{{"\\ud800/e0/a":{EMPTY}}}'), "surrogates not allowed"),
        (with_header('{"__metadata__":{"a":1}}'), "texts to texts"),
        (b"\x06" + bytes(7) + "{}".encode("utf-16"), "broken safetensors header"),
        (with_header("\ufeff{}"), "broken safetensors header"),
    ],
)
def test_what_stock_safetensors_or_torch_would_refuse_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(FormatError, match=message):
        list(shard.scan(lambda start, stop: data[start:stop], len(data), where="f"))


@pytest.mark.parametrize(
    "text",
    [
        "{" + " " * 100_000_000 + "}",
        '{"m/e0/a":{"shape":' + "[" * 5_000_000,
        '{"m/e0/a":{"dtype":"U8","shape":[' + ",".join(["9" * 4200] * 2000) + '],"data_offsets":[0,1]}}',
        '{"m/e0/a":{"dtype":"U8","shape":[' + ",".join(["9" * 4200] * 60) + '],"data_offsets":[0,1]}}',
        "{" + f'"{"/" * 5_000_000}":{EMPTY}' + "}",
    ],
    ids=["100 MB", "deep", "many huge numbers", "huge numbers", "long key"],
)
def test_a_large_header_is_refused_at_once(text: str) -> None:
    data = with_header(text, b"\0")
    start = time.process_time()
    with pytest.raises(FormatError) as caught:
        list(shard.scan(lambda start, stop: data[start:stop], len(data), where="f"))
    assert time.process_time() - start < 5  # products of huge numbers would take minutes
    assert len(str(caught.value)) < 1000


def test_a_name_that_is_no_text_or_makes_the_header_too_long_is_refused_before_data_is_written(tmp_path: Path) -> None:
    for name, message in (("\ud800", "no text"), ("x" * shard.MAX_HEADER, "would take")):
        entry = shard.Entry("m", 0, Layout.of([(name, "F32", (1,))]))
        with pytest.raises(FormatError, match=message):
            shard.write(tmp_path / "s", [entry], [{name: torch.zeros(1)}])
        assert not (tmp_path / "s").exists()


NAMES = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), min_size=0, max_size=30),
    st.sampled_from(
        [".", "..", "../../x", "/", "//a//", "a.b.c", "x" * 5000, "\0", "__metadata__", "größe/重み", '"\\']
    ),
)
LAYOUTS = st.lists(
    st.tuples(NAMES, st.sampled_from(sorted(DTYPES)), st.lists(st.integers(0, 5), max_size=4)),
    min_size=1,
    max_size=8,
    unique_by=lambda spec: spec[0],
)


def check_identity(checkpoints: list[tuple[str, int, list[tuple[str, str, list[int]]]]], rng: Any) -> None:
    """Write, read, write again: the same bytes; and stock safetensors reads the same."""
    entries = [shard.Entry(model_id, epoch, Layout.of(specs)) for model_id, epoch, specs in checkpoints]
    state_dicts = [dict(_random(entry.layout, rng)) for entry in entries]
    with tempfile.TemporaryDirectory() as folder:
        first, second = Path(folder, "first"), Path(folder, "second")
        file = shard.write(first, entries, state_dicts)
        data = first.read_bytes()
        found = list(shard.scan(lambda start, stop: data[start:stop], len(data), where="first"))
        assert tuple(found) == file.written
        read = [
            shard.decode(memoryview(bytearray(data[w.offset : w.offset + w.entry.layout.nbytes])), w.entry.layout)
            for w in found
        ]
        assert shard.write(second, [w.entry for w in found], read) == file
        assert second.read_bytes() == data
    stock = dict(safetensors.deserialize(data))
    for entry, state_dict in zip(entries, state_dicts, strict=True):
        for name, tensor in state_dict.items():
            theirs = stock[f"{entry.prefix}/{name}"]
            assert theirs["shape"] == list(tensor.shape)
            assert bytes(theirs["data"]) == tensor.reshape(-1).view(torch.uint8).numpy().tobytes()


def _random(layout: Layout, rng: Any) -> Iterator[tuple[str, torch.Tensor]]:
    for spec in layout.tensors:  # any bit pattern: NaNs keep theirs
        raw = bytearray(rng.randrange(2 if spec.dtype == "BOOL" else 256) for _ in range(spec.nbytes))
        kind = getattr(torch, DTYPES[spec.dtype][1])
        flat = torch.frombuffer(raw, dtype=kind) if raw else torch.empty(0, dtype=kind)
        yield spec.name, flat.reshape(spec.shape)


CHECKPOINTS = st.lists(
    st.tuples(
        st.text(st.characters(exclude_categories=["Cs"], exclude_characters="/_"), max_size=12),
        st.integers(0, 10**17),
        LAYOUTS,
    ),
    min_size=1,
    max_size=4,
    unique_by=lambda one: one[:2],
)


@quick(60)
@given(CHECKPOINTS, st.randoms(use_true_random=False))
def test_writing_what_was_read_gives_the_same_bytes(checkpoints: Any, rng: Any) -> None:
    check_identity(checkpoints, rng)


@pytest.mark.slow
@long(2_000)
@given(CHECKPOINTS, st.randoms(use_true_random=False))
def test_writing_what_was_read_gives_the_same_bytes_at_length(checkpoints: Any, rng: Any) -> None:
    check_identity(checkpoints, rng)
