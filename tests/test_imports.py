"""What an import costs, and who may import whom."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HEAVY = ["torch", "datasets", "pyarrow", "pandas", "numpy", "fsspec", "huggingface_hub", "tqdm", "typer"]

# A module imports only from lines above its own (modules of one line do not import each other).
ORDER = [
    ["errors"],
    ["settings", "progress", "report", "manifest", "layout"],
    ["source.transfer", "source.local"],
    ["source.http", "source.fs"],
    ["source.remote"],
    ["source.hub", "source.archive", "source.download"],
    ["source"],
    ["shard.header"],
    ["shard.reader"],
    ["shard.writer"],
    ["shard", "where"],
    ["cache"],
    ["store"],
    ["parquet", "locations"],
    ["index"],
    ["tables"],
    ["thresholds"],
    ["phases"],
    ["nets.layer"],
    ["nets.resnet", "nets.vit", "nets.gpt2", "nets.mlp"],
    ["nets"],
    ["symmetry", "batchnorm"],
    ["symmetry_graph", "symmetry_names", "alignment", "canonical"],
    ["state"],
    ["averaging", "ensembles", "pruning"],
    ["checkpoint"],
    ["model"],
    ["registry"],
    ["annotation"],
    ["cells"],
    ["trials"],
    ["summary"],
    ["published"],
    ["sensitivity", "plot", "explorer"],
    ["view"],
    ["zoo"],
    ["weights"],
    ["stack", "split", "normalise", "target", "sql"],
    ["representations.structure"],
    ["representations.flat", "representations.tokens", "representations.nfn"],
    ["representations.layers", "representations.graph", "representations.statistics", "representations.only"],
    ["representations"],
    ["batches"],
    ["dataset"],
    ["probing"],
    ["pairs"],
    ["download", "opening"],
    ["load", "verify", "audit", "export"],
    [""],
    ["cli.app", "cli.output"],
    ["cli.browse", "cli.share", "cli.check", "cli.make", "cli.cache"],
    ["cli"],
]
RANK = {name: rank for rank, names in enumerate(ORDER) for name in names}


def modules() -> list[Path]:
    return sorted((ROOT / "phasezoo").rglob("*.py"))


def imports_of(path: Path, *, top_level_only: bool) -> set[str]:
    """Names imported by a module, not counting those for type checkers."""
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            return
        if top_level_only and isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            return
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(path.read_text()))
    return found


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT / "phasezoo").with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@pytest.mark.parametrize("name", HEAVY)
def test_import_phasezoo_leaves_heavy_libraries_out(name: str) -> None:
    code = f"import sys, phasezoo; phasezoo.list_zoos(); sys.exit({name!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-W", "error", "-c", code], check=False).returncode == 0


def test_opening_a_zoo_loads_no_torch(embedded_path: Path) -> None:
    code = (
        "import sys, phasezoo; z = phasezoo.load('mlp-digits').filter('width <= 8').sort('test_acc');"
        "z.table('results'); z.nbytes; z[0].checkpoint(); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_modules_import_only_from_lines_above_their_own(path: Path) -> None:
    own = RANK[name_of(path)]
    for imported in imports_of(path, top_level_only=True):
        name = imported.removeprefix("phasezoo").removeprefix(".")
        if imported.startswith("phasezoo") and name in RANK and name != "":
            assert RANK[name] < own, f"{name_of(path)} imports {name}"


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_the_access_side_never_imports_builders_or_training(path: Path) -> None:
    inner = imports_of(path, top_level_only=name_of(path).startswith("cli"))
    assert not [name for name in inner if name.startswith(("phasezoo.builders", "phasezoo.training"))]


def test_only_zoo_imports_datasets_and_only_source_touches_files_and_network() -> None:
    allowed = {"datasets": {"zoo"}, "fsspec": {"source.fs"}}
    for path in modules():
        for imported in imports_of(path, top_level_only=False):
            library = imported.split(".")[0]
            assert name_of(path) in allowed.get(library, {name_of(path)}), f"{name_of(path)} imports {imported}"
            if library == "huggingface_hub":
                assert name_of(path).startswith("source."), f"{name_of(path)} imports {imported}"


def test_no_name_of_the_package_is_shadowed_by_a_submodule() -> None:
    import phasezoo
    import phasezoo.load as module

    assert callable(phasezoo.load)
    assert module is phasezoo.load
    with pytest.raises(AttributeError, match=r"no attribute 'laod'"):
        phasezoo.laod  # noqa: B018
