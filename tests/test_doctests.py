"""Every example in a docstring, and every block of the README and of the pages in docs/, runs."""

from __future__ import annotations

import doctest
import importlib
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.examples import examples

ROOT = Path(__file__).parents[1]
HOMES = {"phasezoo": "phasezoo", "builders": "phasezoo.builders", "training": "phasezoo.training"}
README = (ROOT / "README.md").read_text()


def module_names() -> list[str]:
    names = []
    for folder, package in HOMES.items():
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            names.append(".".join((package, *(part for part in parts if part != "__init__"))))
    return names


@pytest.mark.parametrize("name", module_names())
def test_examples_in_docstrings(name: str) -> None:
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    for test in examples(importlib.import_module(name)):
        runner.run(test)
    assert runner.failures == 0


def blocks(language: str, path: Path) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", path.read_text(), flags=re.DOTALL | re.MULTILINE)


def pages_with(language: str, start: str = "") -> list[Path]:
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    return [path for path in pages if any(block.startswith(start) for block in blocks(language, path))]


@pytest.mark.parametrize("path", pages_with("python"), ids=lambda path: path.name)
def test_python_blocks_of_pages_give_the_output_that_they_show(
    path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for i, block in enumerate(blocks("python", path)):
        test = doctest.DocTestParser().get_doctest(block, names, f"block {i}", path.name, 0)
        assert test.examples, "a block without a prompt would not be checked"
        runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
        assert runner.run(test, clear_globs=False).failed == 0
        names = test.globs


@pytest.mark.parametrize("path", pages_with("console", "$ phasezoo"), ids=lambda path: path.name)
def test_console_blocks_of_pages_give_the_output_that_they_show(path: Path) -> None:
    for block in (block for block in blocks("console", path) if block.startswith("$ phasezoo")):
        for command, expected in re.findall(r"^\$ phasezoo (.*)\n((?:[^$\n].*\n?)*)", block, flags=re.MULTILINE):
            code = "import sys, shlex; sys.argv[1:] = shlex.split(sys.argv[1]); from phasezoo.cli import main; main()"
            result = subprocess.run([sys.executable, "-c", code, command], capture_output=True, text=True, check=False)
            assert result.stdout.split() == expected.split(), command


def test_make_targets_of_the_readme_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"(?:^|`)make (\w[\w-]*)", README, flags=re.MULTILINE))
    assert {"demo", "test"} <= targets
    for target in targets:
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target


@pytest.mark.parametrize("name", [path.name for path in sorted((ROOT / "examples").glob("*.py"))])
def test_examples_run(name: str, tmp_path: Path) -> None:
    if "pip install nfn" in (ROOT / "examples" / name).read_text():
        pytest.importorskip("nfn", reason="the example is about nfn")
    result = subprocess.run([sys.executable, ROOT / "examples" / name], cwd=tmp_path, capture_output=True, check=False)
    assert result.returncode == 0, result.stderr.decode()


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.ipynb")), ids=lambda path: path.name)
def test_notebooks_run(path: Path, tmp_path: Path) -> None:
    """Cells run in order as a script; what a notebook adds is the display of each last value."""
    cells = json.loads(path.read_text())["cells"]
    source = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    command = [sys.executable, "-c", "import matplotlib\nmatplotlib.use('Agg')\n" + source]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert all(not cell.get("outputs") for cell in cells), "outputs do not belong into the repository"
