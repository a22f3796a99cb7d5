"""What people and other programs type: conditions, addresses, settings: understood, or refused in a sentence."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import phasezoo
from phasezoo import settings
from phasezoo.errors import AddressError, FilterError, PhaseZooError, SourceError, ZooNotFoundError
from phasezoo.source import transfer
from phasezoo.source.hub import Address, parse
from tests.fuzz import atoms, long, quick

# Conditions.

COLUMNS = st.sampled_from(
    ["width", "lr", "seed", "model_id", "architecture", "test_acc", "phase", "phase_reasons", "widht"]
)
LITERALS = st.sampled_from(
    [
        *(
            "0",
            "-1",
            "1.5",
            "1e400",
            "'x'",
            "'\\ud800'",
            "b'x'",
            "1j",
            "None",
            "True",
            "2**70",
            "1180591620717411303424",
        ),
        *("-9223372036854775809", "[]", "()", "{}", "{1: 2}", "[[1]]", "[1, 'a']", "[None]", "[True, 2]", "[b'x', 1]"),
        *("[1180591620717411303424]", "['\\ud800']", "...", "x.y", "x[0]", "f(1)", "__import__('os')", "-'x'"),
    ]
)
OPERATORS = st.sampled_from(["==", "!=", "<", ">=", "in", "not in", "is", "is not", "+", "**", "@", ":="])
COMPARISONS = st.builds(" ".join, st.tuples(COLUMNS | LITERALS, OPERATORS, LITERALS | COLUMNS))
CONDITIONS = st.one_of(
    COMPARISONS,
    st.builds(
        " ".join, st.tuples(st.sampled_from(["", "not"]), COMPARISONS, st.sampled_from(["and", "or"]), COMPARISONS)
    ),
    st.builds(" ".join, st.lists(COLUMNS | LITERALS | OPERATORS | st.text(max_size=3), max_size=6)),
    st.text(max_size=20),
)


def check_condition(zoo: phasezoo.Zoo, condition: str) -> None:
    try:
        found = len(zoo.filter(condition))
    except PhaseZooError:
        return
    assert 0 <= found <= len(zoo)


@quick(250)
@given(condition=CONDITIONS)
def test_a_condition_is_understood_or_refused(zoo: phasezoo.Zoo, condition: str) -> None:
    check_condition(zoo, condition)


@pytest.mark.slow
@long(20_000)
@given(condition=CONDITIONS)
def test_a_condition_is_understood_or_refused_at_length(zoo: phasezoo.Zoo, condition: str) -> None:
    check_condition(zoo, condition)


@quick(100)
@given(name=COLUMNS, value=atoms | st.lists(atoms, max_size=3))
def test_a_value_is_looked_for_or_refused(zoo: phasezoo.Zoo, name: str, value: Any) -> None:
    with suppress(PhaseZooError):
        assert len(zoo.filter(**{name: value})) <= len(zoo)


@pytest.mark.parametrize(
    "condition",
    [
        " and ".join(["width == 2"] * 20_000),  # Arrow would overflow the stack, and end the process
        "width" + " < width" * 20_000,
        "not " * 1000 + "width == 2",
        "width == " + "-" * 1000 + "1",
        "width == " + "+".join(["1"] * 1000),
        "width" + ".x" * 1000,
        "width in " + "[" * 1000 + "]" * 1000,
        "width == 1" + "0" * 1000,
        "width == " + "1" * 5000,
        "width in [1180591620717411303424]",
        "model_id == '\\ud800'",
        "width in [1, 'a']",
    ],
)
def test_a_condition_that_is_too_deep_or_too_large_is_refused_briefly(zoo: phasezoo.Zoo, condition: str) -> None:
    with pytest.raises(FilterError) as caught:
        zoo.filter(condition)
    assert len(str(caught.value)) < 1500


def test_a_long_list_is_no_long_condition(zoo: phasezoo.Zoo) -> None:
    assert len(zoo.filter(f"width in {list(range(8, 20_000))}")) == len(zoo.filter("width >= 8"))


# Addresses and paths.

PIECES = st.sampled_from(
    [
        *(
            "..",
            ".",
            "/",
            "//",
            "@",
            "%2F",
            "%00",
            "%2e%2e",
            "\0",
            "\n",
            "\t",
            " ",
            "é",
            "²",
            "\ud800",
            "\udc80",
            "?",
            "#",
        ),
        *("x", "owner", "name", "zoo.zip", ":", "[", "]", "::1", "u:p@", "127.0.0.1", ":99999", ":-1", ":x", "\\", "~"),
        *(
            "~nobody",
            "x" * 300,
            "x" * 70_000,
            "--",
            "-",
            "*",
            "%",
            "\u202e",
            "&",
            "hf://",
            "http://",
            "memory://",
            "zip://",
        ),
    ]
)
STARTS = st.sampled_from(
    [
        *(
            "",
            "hf://datasets/",
            "hf://datasets/owner/name",
            "hf://datasets/owner/name@",
            "http://127.0.0.1:9/",
            "http://",
        ),
        *("memory://", "./", "/", "~", "http://u:p@127.0.0.1/", "hf://u:p@datasets/o/n", "x://"),
    ]
)
PLACES = st.builds("".join, st.tuples(STARTS, st.lists(PIECES, max_size=4).map("".join)))
REVISIONS = st.none() | st.sampled_from(["..", ".", "", "a/../b", "\0", "\ud800", "x" * 3000, "main"])


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    """Stand in an empty directory; nothing answers and nobody waits."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("PHASEZOO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(transfer, "TRIES", 1)


def check_place(place: str, revision: str | None) -> None:
    with pytest.raises(PhaseZooError) as caught:
        phasezoo.load(place, revision=revision, local_files_only=True)
    assert "://u:p@" not in str(caught.value)


@quick(300)
@given(place=PLACES, revision=REVISIONS)
def test_a_place_where_no_zoo_is_is_refused_without_showing_a_password(
    nowhere: None, place: str, revision: str | None
) -> None:
    check_place(place, revision)


@pytest.mark.slow
@long(5_000)
@given(place=PLACES, revision=REVISIONS)
def test_a_place_where_no_zoo_is_is_refused_without_showing_a_password_at_length(
    nowhere: None, place: str, revision: str | None
) -> None:
    check_place(place, revision)


@pytest.mark.parametrize(
    ("place", "error"),
    [
        ("http://[", AddressError),
        ("http://", AddressError),
        ("http://127.0.0.1:x/zoo", AddressError),
        ("http://127.0.0.1:99999/zoo", AddressError),
        ("http://127.0.0.1:9/\n", AddressError),
        ("http://127.0.0.1:9/\u202eoooz", AddressError),
        ("http://127.0.0.1:9/" + "x" * 70_000, AddressError),
        ("http://" + "x" * 300 + "/zoo", SourceError),
        ("hf://datasets/../..", AddressError),
        ("hf://datasets/owner/name-", AddressError),
        ("hf://datasets/owner/name/a/./b", AddressError),
        ("hf://datasets/owner/name@%2e%2e", AddressError),
        ("hf://datasets/owner/name@a%2F..%2Fb", AddressError),
        ("hf://datasets/owner/name@" + "x" * 300, AddressError),
        ("~nobody-of-that-name/zoo", ZooNotFoundError),
        ("x" * 5000, ZooNotFoundError),
        ("./" + "x" * 5000, ZooNotFoundError),
        ("a/\0", ZooNotFoundError),
        ("a/\ud800", ZooNotFoundError),
        ("\ud800.zip", ZooNotFoundError),
    ],
)
def test_a_place_that_cannot_exist_is_refused_at_once(nowhere: None, place: str, error: type[PhaseZooError]) -> None:
    start = time.monotonic()
    with pytest.raises(error):
        phasezoo.load(place)
    assert time.monotonic() - start < 5


@pytest.mark.parametrize(
    "place",
    [
        "http://u:p@127.0.0.1/zoo",
        "hf://u:p@datasets/o/n",
        "hf://datasets/hf://u:p@",
        "x://u:p@",
        "simplecache::http://u:p@h/z",
    ],
)
def test_no_error_shows_a_password(nowhere: None, place: str) -> None:
    for revision in (None, "main"):
        check_place(place, revision)


def test_a_revision_cannot_climb_out_of_its_repository() -> None:
    for revision in ("..", ".", "", "a/../b", "a//b", "a\nb"):
        with pytest.raises(AddressError, match=r"is no revision"):
            Address("owner/name", revision, "")


SEGMENTS = st.text("abcXYZ019_", min_size=1, max_size=8)
BRANCHES = st.text("abcXYZ019_%@é#?+ ", min_size=1, max_size=8)


@quick(100)
@given(SEGMENTS, SEGMENTS, st.none() | st.lists(BRANCHES, min_size=1, max_size=3), st.lists(SEGMENTS, max_size=3))
def test_an_address_on_the_hub_reads_back_as_it_is_written(
    owner: str, name: str, revision: list[str] | None, folders: list[str]
) -> None:
    address = Address(f"{owner}/{name}", revision and "/".join(revision), "/".join(folders))
    assert parse(str(address)) == address


# Settings.


@quick(100)
@given(st.text(max_size=12) | st.from_regex(r"\s*\d{1,400}(\.\d+)?\s*[kKmMgGtT]?[bB]?", fullmatch=True))
def test_a_cache_size_is_a_number_of_bytes_or_refused(text: str) -> None:
    if "\0" in text or not text.isprintable():  # no variable of an environment can hold it
        return
    before = os.environ.get("PHASEZOO_CACHE_SIZE")
    os.environ["PHASEZOO_CACHE_SIZE"] = text
    try:
        size = settings.cache_size()
        assert size is None or 0 <= size < 2**101
    except ValueError as error:
        assert "Write it like" in str(error)  # noqa: PT017
    finally:
        os.environ.pop("PHASEZOO_CACHE_SIZE") if before is None else os.environ.update(PHASEZOO_CACHE_SIZE=before)
