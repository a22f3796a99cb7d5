"""The pages of docs/: they say what the code does, and their links lead somewhere."""

from __future__ import annotations

import doctest
import hashlib
import importlib
import json
import re
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

import phasezoo
from phasezoo import manifest, shard

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))

sys.path.insert(0, str(DOCS / "scripts"))
import generate  # noqa: E402

# The format, read by nothing but docs/format.md: no name of phasezoo occurs up to `read_tensors`.


def read_table(zoo: Path, name: str) -> list[dict]:
    entry = json.loads((zoo / "zoo.json").read_text())["tables"][name]
    data = (zoo / entry["path"]).read_bytes()
    assert len(data) == entry["nbytes"]
    assert hashlib.sha256(data).hexdigest() == entry["sha256"]
    return pq.read_table(zoo / entry["path"]).to_pylist()


def read_tensors(zoo: Path, model_id: str, epoch: int) -> dict[str, tuple[list[int], tuple[float, ...]]]:
    about = json.loads((zoo / "zoo.json").read_text())
    assert (about["format"], about["format_version"]) == ("phasezoo", 1)
    (row,) = (r for r in read_table(zoo, "checkpoints") if (r["model_id"], r["epoch"]) == (model_id, epoch))
    (digests,) = (r for r in read_table(zoo, "digests") if (r["model_id"], r["epoch"]) == (model_id, epoch))
    with open(zoo / row["shard"], "rb") as file:
        file.seek(row["offset"])
        data = file.read(row["nbytes"])
    assert hashlib.sha256(data).hexdigest() == row["sha256"]
    layout = sorted(
        (r for r in read_table(zoo, "layouts") if r["layout_id"] == row["layout_id"]), key=lambda r: r["position"]
    )
    tensors = {}
    for i, tensor in enumerate(layout):
        raw = data[tensor["offset"] : tensor["offset"] + tensor["nbytes"]]
        digest = digests["digests"][8 * i : 8 * i + 8]
        assert hashlib.blake2b(raw, digest_size=8).digest() == digest
        code = {"F32": "f", "I64": "q"}[tensor["dtype"]]
        tensors[tensor["name"]] = tensor["shape"], struct.unpack(f"<{len(raw) // struct.calcsize(code)}{code}", raw)
    return tensors


@pytest.mark.parametrize("epoch", [0, 150])
def test_a_reader_written_from_the_page_on_the_format_agrees(
    zoo: phasezoo.Zoo, embedded_path: Path, epoch: int
) -> None:
    model = zoo.filter(width=12, lr=0.03)[1]
    state = model.checkpoint(epoch).state_dict()
    found = read_tensors(embedded_path, model.id, epoch)
    assert list(found) == list(state)
    for name, (shape, values) in found.items():
        assert torch.equal(torch.tensor(values).reshape(shape), state[name])


def test_shards_are_as_the_page_says(embedded_path: Path) -> None:
    padded = shared = 0
    for path in sorted(embedded_path.rglob("*.safetensors"))[::7]:
        data = path.read_bytes()
        (length,) = struct.unpack("<Q", data[:8])
        assert (8 + length) % 64 == 0
        header = json.loads(data[8 : 8 + length])
        (key,) = header.pop("__metadata__").items()
        assert key[0] == "phasezoo"
        about = json.loads(key[1])
        assert about["format_version"] == 1
        shared += len(about.get("shared", {}))
        at, before = 0, ""
        for name, tensor in header.items():
            start, stop = tensor["data_offsets"]
            assert start == at
            at = stop
            if name.startswith("__pad__/"):
                assert name == f"__pad__/{start}"
                assert data[8 + length + start : 8 + length + stop].strip(b"\0") == b""
                padded += 1
                continue
            model_id, epoch, _ = name.split("/", 2)
            assert re.fullmatch(r"e\d+", epoch)
            if f"{model_id}/{epoch}" != before:
                before = f"{model_id}/{epoch}"
                assert (8 + length + start) % 64 == 0
        assert 8 + length + at == len(data)
    assert padded
    assert shared


def test_ids_are_hashes_of_what_the_page_says(embedded_path: Path) -> None:
    layouts: dict[str, list[dict]] = {}
    for row in sorted(read_table(embedded_path, "layouts"), key=lambda row: row["position"]):
        layouts.setdefault(row["layout_id"], []).append(row)
    for layout_id, rows in layouts.items():
        assert [row["offset"] for row in rows] == [sum(r["nbytes"] for r in rows[:i]) for i in range(len(rows))]
        text = json.dumps([[r["name"], r["dtype"], r["shape"]] for r in rows], separators=(",", ":"))
        assert hashlib.sha256(text.encode()).hexdigest()[:16] == layout_id
    for row in read_table(embedded_path, "configs")[::20]:
        text = f"{row['architecture']} {row['architecture_config']}"
        assert row["topology_id"] == f"{row['architecture']}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def table_after(text: str, heading: str) -> list[list[str]]:
    """Return the cells of the first table behind a heading, without its own two lines."""
    lines = text[text.index(heading) :].splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith("|"))
    rows = []
    for line in lines[first + 2 :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows


@pytest.mark.parametrize(
    ("heading", "models"),
    [
        ("## The manifest", [manifest.Manifest]),
        ("**Axis.**", [manifest.Axis]),
        ("**Provenance.**", [manifest.Provenance]),
        ("**File.**", [manifest.Table, manifest.Shard]),
    ],
)
def test_the_page_names_every_key_of_the_manifest(heading: str, models: list[type]) -> None:
    rows = table_after((DOCS / "format.md").read_text(), heading)
    fields = {name: field for model in models for name, field in model.model_fields.items()}
    assert [row[0].strip("`") for row in rows] == list(fields)
    for row in rows if len(rows[0]) == 4 else []:
        field = fields[row[0].strip("`")]
        has_default = not field.is_required() and row[0].strip("`") not in ("format", "format_version")
        assert bool(row[2]) == has_default, row


def test_the_page_states_the_caps_of_a_shard() -> None:
    text = (DOCS / "format.md").read_text()
    for number in (shard.MAX_BYTES, shard.MAX_TENSORS, shard.MAX_HEADER):
        assert f"{number:,}" in text
    assert shard.ALIGNMENT == 64


@pytest.mark.parametrize("name", generate.SECTIONS)
def test_every_column_of_the_embedded_zoo_is_on_the_page(embedded_path: Path, name: str) -> None:
    names = pq.read_schema(embedded_path / "tables" / f"{name}.parquet").names
    assert set(names) <= set(generate.standard_columns(name))


@pytest.mark.parametrize("path", [p for p in PAGES if "<!-- begin" in p.read_text()], ids=lambda path: path.name)
def test_parts_that_follow_from_the_code_are_up_to_date(path: Path) -> None:
    assert path.read_text() == generate.filled(path.read_text()), "run `make docs`"


def test_every_standard_column_is_on_the_page() -> None:
    from phasezoo.tables import COLUMNS

    assert {name for table in generate.SECTIONS for name in generate.standard_columns(table)} == set(COLUMNS)


def test_findings_that_pages_name_exist() -> None:
    named = re.findall(r"[Ff]indings? ((?:\(?`[a-z-]+`(?:, | and )?)+)", (DOCS / "differences.md").read_text())
    kinds = {kind for text in named for kind in re.findall(r"`([a-z-]+)`", text)}
    code = "".join(path.read_text() for home in ("phasezoo", "builders") for path in (ROOT / home).rglob("*.py"))
    assert len(kinds) > 5
    assert not [kind for kind in kinds if f'"{kind}"' not in code]


def test_examples_of_the_scripts_run() -> None:
    assert doctest.testmod(generate).failed == 0
    pytest.importorskip("griffe", reason="the API pages need mkdocstrings")
    assert doctest.testmod(importlib.import_module("doctests")).failed == 0


# Links


def nav() -> list[str]:
    text = (ROOT / "mkdocs.yml").read_text()
    return re.findall(r"^ +- .*?(?:: )?([\w/-]+\.md)$", text[text.index("\nnav:") :], flags=re.MULTILINE)


def test_the_navigation_has_every_page_once() -> None:
    assert sorted(nav()) == sorted(str(path.relative_to(DOCS)) for path in PAGES)


def anchors(path: Path) -> set[str]:
    """Return the anchors of the headings of a page, as Markdown's table of contents makes them."""
    text = re.sub(r"^```.*?^```", "", path.read_text(), flags=re.DOTALL | re.MULTILINE)
    titles = re.findall(r"^#+ (.*)$", text, flags=re.MULTILINE)
    return {re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", title).strip().lower()) for title in titles}


def links(path: Path) -> Iterator[str]:
    text = re.sub(r"^```.*?^```|`[^`\n]*`", "", path.read_text(), flags=re.DOTALL | re.MULTILINE)
    yield from re.findall(r"\]\(([^)\s]+)\)", text)


@pytest.mark.parametrize("path", [ROOT / "README.md", *PAGES], ids=lambda path: str(path.relative_to(ROOT)))
def test_links_between_pages_lead_somewhere(path: Path) -> None:
    for link in links(path):
        if "://" in link:
            continue
        place, _, anchor = link.partition("#")
        target = (path.parent / place).resolve() if place else path
        assert target.is_file(), link
        assert DOCS in target.parents or path == ROOT / "README.md", f"{link} would be missing in the built pages"
        if anchor:
            assert anchor in anchors(target), link


def described() -> list[str]:
    return [name for path in PAGES for name in re.findall(r"^::: (\S+)$", path.read_text(), flags=re.MULTILINE)]


@pytest.mark.parametrize("name", described())
def test_what_the_reference_describes_exists(name: str) -> None:
    parts = name.split(".")
    for i in range(len(parts), 0, -1):
        try:
            found: object = importlib.import_module(".".join(parts[:i]))
        except ImportError:
            continue
        for part in parts[i:]:
            found = getattr(found, part)
        assert found.__doc__
        return
    raise AssertionError(name)


def test_the_reference_has_every_public_name_of_the_package() -> None:
    homes = {getattr(phasezoo, name).__module__: name for name in phasezoo.__all__}
    shown = described()
    assert not [f"{home}.{name}" for home, name in homes.items() if not {home, f"{home}.{name}"} & {*shown}]


# Commands


def commands() -> list[tuple[str, str]]:
    found = []
    for path in PAGES:
        text = path.read_text()
        blocks = "".join(re.findall(r"^```(?:console|text)\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE))
        shown = re.findall(r"^(?:\$ )?phasezoo ([a-z].*)$", blocks, flags=re.MULTILINE)
        named = re.findall(r"`phasezoo ([a-z][^`]*)`", text)
        found += [(path.name, line.split("#")[0].strip()) for line in (*shown, *named)]
    return sorted(set(found))


@pytest.mark.parametrize(("page", "line"), commands())
def test_commands_and_options_that_pages_show_exist(page: str, line: str) -> None:
    typer = pytest.importorskip("typer", reason="the command line needs typer")
    from phasezoo.cli import app

    command = typer.main.get_command(app)
    words = line.split()
    while hasattr(command, "commands") and words:
        word = words.pop(0)
        assert word in command.commands, line
        command = command.commands[word]
    options = {option for parameter in command.params for option in parameter.opts}
    assert set(re.findall(r"(?<!\S)\[?(--[a-z][a-z-]*)", line)) <= options | {"--help"}, line
