"""Writes those parts of the pages that follow from the code: columns, protocols, thresholds, modules and their imports.

Each part stands between ``<!-- begin NAME -->`` and ``<!-- end NAME -->``. A test fails when one is out of date;
``make docs`` brings all up to date.
"""

from __future__ import annotations

import ast
import re
import runpy
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
HOMES = {"phasezoo": "phasezoo", "builders": "phasezoo.builders", "training": "phasezoo.training"}

# table -> its first and last standard column, in the order of COLUMNS; columns that are required come first.
SECTIONS = {
    "configs": ("model_id", "source"),
    "results": ("epoch", "cell_mean_columns"),
    "landscape": ("protocol", "reasons"),
    "checkpoints": ("shard", "layout_id"),
    "layouts": ("position", "shape"),
    "digests": ("digests", "digests"),
}


def markdown(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a table.

    >>> print(markdown(["a", "b"], [[1, 2]]))
    | a | b |
    |---|---|
    | 1 | 2 |
    """
    lines = [" | ".join(head), "|".join(["---"] * len(head)), *(" | ".join(map(str, row)) for row in rows)]
    return "\n".join(f"|{line}|" if set(line) <= {"-", "|"} else f"| {line} |" for line in lines)


def standard_columns(table: str) -> list[str]:
    """Return the required and the other standard columns of a table."""
    from phasezoo.parquet import REQUIRED
    from phasezoo.tables import COLUMNS

    names = list(COLUMNS)
    first, last = (names.index(name) for name in SECTIONS[table])
    return list(dict.fromkeys([*REQUIRED[table], *names[first : last + 1]]))


def columns(table: str) -> str:
    """Return the columns of a table: name, type, unit, whether required, meaning."""
    from phasezoo.parquet import REQUIRED
    from phasezoo.tables import COLUMNS

    rows = []
    for name in standard_columns(table):
        kind, unit, text = COLUMNS[name]
        needed = "yes" if name in REQUIRED[table] else ""
        rows.append([f"`{name}`", str(kind).replace("element: ", ""), unit or "", needed, text])
    return markdown(["column", "type", "unit", "required", "meaning"], rows)


def dtypes() -> str:
    """Return the element types of tensors."""
    from phasezoo.layout import DTYPES

    return markdown(["code", "bytes", "type"], [[f"`{c}`", n, name] for c, (n, name) in DTYPES.items()])


def protocols() -> str:
    """Return the settings of all named protocols, side by side."""
    from dataclasses import fields

    from phasezoo.training.landscape.protocols import NAMED, MeasureProtocol

    names = [field.name for field in fields(MeasureProtocol) if field.name != "name"]
    settings = {name: protocol.settings() for name, protocol in NAMED.items()}
    rows = [[f"`{key}`", *(_setting(settings[name][key]) for name in NAMED)] for key in names]
    rows.append(["id", *(f"`{protocol.id}`" for protocol in NAMED.values())])
    return markdown(["setting", *(f"`{name}`" for name in NAMED)], rows)


def _setting(value: object) -> str:
    return "none" if value is None else str(value)


def thresholds() -> str:
    """Return the sets of thresholds of the zoos."""
    from phasezoo.thresholds import BY_ZOO, DEFAULT, NAMED

    sets = {f"`{name}` (a name)": found for name, found in NAMED.items()}
    sets |= {f"`{name}`": found for name, found in BY_ZOO.items()}
    rows = []
    for name, found in sets.items():
        cka = found.cka_cut if found.cka_cut is not None else f"{found.cka_of_max} of the largest"
        unit = "" if found.mc == DEFAULT.mc else f" (`{found.mc}`)"
        rows.append([name, found.method, f"`{found.fit}` < {found.fit_cut}", f"{found.mc_eps}{unit}", cka])
    return markdown(["zoo", "method", "fit", "mc_eps", "cka_cut"], rows)


@cache
def modules() -> dict[str, Path]:
    """Return all modules, by the name under which they are installed."""
    found = {}
    for folder, package in HOMES.items():
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            found[".".join([package, *(part for part in parts if part != "__init__")])] = path
    return found


@cache
def imports(name: str, *, inside: bool = False) -> tuple[str, ...]:
    """Return the modules of the project that a module imports, at its top or (with `inside`) only inside functions."""
    top, all_of_it = set(), set()

    def visit(node: ast.AST, into: set[str]) -> None:
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            return
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            into = all_of_it
        if isinstance(node, ast.Import):
            into.update(alias.name for alias in node.names if alias.name in modules())
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                into.update([full] if full in modules() else [node.module] if node.module in modules() else [])
        for child in ast.iter_child_nodes(node):
            visit(child, into)

    visit(ast.parse(modules()[name].read_text()), top)
    return tuple(sorted((all_of_it - top if inside else top) - {name}))


@cache
def level(name: str) -> int:
    """Return 0 for a module that imports none of its package at its top, else one more than the highest of those."""
    return 1 + max((level(other) for other in imports(name)), default=-1)


def purpose(name: str) -> str:
    """Return the first sentence of a module's docstring."""
    text = ast.get_docstring(ast.parse(modules()[name].read_text())) or ""
    return " ".join(text.split("\n\n")[0].split())


def arrows(package: str) -> str:
    """Return the modules of a package, those below first, with what they own and what they import."""
    others = [home for home in HOMES.values() if home != package]
    ours = [
        name
        for name in modules()
        if f"{name}.".startswith(f"{package}.") and not (package == "phasezoo" and f"{name}.".startswith(tuple(others)))
    ]

    def short(names: Iterable[str]) -> str:
        return ", ".join(f"`{n.removeprefix(f'{package}.')}`" for n in names)

    rows = [
        [level(name), short([name]), purpose(name), short(imports(name)), short(imports(name, inside=True))]
        for name in sorted(ours, key=lambda name: (level(name), name))
    ]
    return markdown(["level", "module", "owns", "imports", "imports when used"], rows)


def benchmarks() -> str:
    """Return what each benchmark compares, as it says itself."""
    table = runpy.run_path(str(ROOT / "benchmarks" / "table.py"))
    rows = []
    for path in table["scripts"]():
        text = ast.get_docstring(ast.parse(path.read_text())) or ""
        rows.append([f"`{path.stem}`", " ".join(text.split("\n\n")[0].split())])
    return markdown(["benchmark", "what is compared"], rows)


def results() -> str:
    """Return the table of the last `make bench`, with headings for the page on performance."""
    path = ROOT / "benchmarks" / "results" / "latest.md"
    if not path.exists():
        return "This copy of the sources holds no run: `make bench` makes one."
    return re.sub(r"^## ", "### ", path.read_text().removeprefix("# Benchmarks").strip(), flags=re.MULTILINE)


PARTS: dict[str, Callable[[], str]] = {
    **{f"columns of {table}": (lambda table=table: columns(table)) for table in SECTIONS},
    "dtypes": dtypes,
    "protocols": protocols,
    "thresholds": thresholds,
    "benchmarks": benchmarks,
    "results": results,
    **{f"modules of {package}": (lambda package=package: arrows(package)) for package in HOMES.values()},
}


def filled(page: str) -> str:
    """Return the text of a page with all of its parts written anew."""

    def part(match: re.Match[str]) -> str:
        return f"<!-- begin {match[1]} -->\n\n{PARTS[match[1]]()}\n\n<!-- end {match[1]} -->"

    return re.sub(r"<!-- begin (.*?) -->\n.*?<!-- end \1 -->", part, page, flags=re.DOTALL)


if __name__ == "__main__":
    for path in sorted((ROOT / "docs").glob("*.md")):
        path.write_text(filled(path.read_text()))
