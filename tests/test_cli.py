"""The command line, as a user types it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from phasezoo import load
from tests.raw_zoo import write_raw_zoo


def phasezoo(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from phasezoo.cli import main; main()", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_list_and_info() -> None:
    assert "mlp-digits" in phasezoo("list").stdout
    info = phasezoo("info", "mlp-digits").stdout
    for fact in ("264", "0.005, 0.01", "1,056 rows", "MIT", "unit death"):
        assert fact in info


def test_show_filters_sorts_and_limits() -> None:
    result = phasezoo(
        "show", "mlp-digits", "--where", "width <= 8 and test_acc > 0.9", "--sort=-test_acc", "--limit", "3"
    )
    header, *rows, count = result.stdout.splitlines()
    assert header.split()[:3] == ["model_id", "width", "lr"]
    accuracies = [float(row.split()[-1]) for row in rows]
    assert len(rows) == 3
    assert accuracies == sorted(accuracies, reverse=True)
    good = load("mlp-digits").filter("width <= 8 and test_acc > 0.9")
    assert count == f"3 of {len(good)} models (264 in the zoo)"


def test_show_prints_the_columns_asked_for() -> None:
    result = phasezoo("show", "mlp-digits", "--columns", "seed,model_id", "--limit", "1")
    assert result.stdout.splitlines()[:2] == ["seed  model_id", " 100  w2-lr0.005-s100"]


def test_verify_says_what_it_read_and_what_is_wrong(small, tmp_path: Path) -> None:
    path = small()
    good = phasezoo("verify", str(path))
    assert (good.returncode, good.stdout.splitlines()[-1]) == (0, "no problems found")
    shard = next((path / "shards").rglob("*.safetensors"))
    shard.write_bytes(shard.read_bytes()[:-1])
    bad = phasezoo("verify", str(path))
    assert bad.returncode == 1
    assert shard.parent.name in bad.stderr


def test_phases_prints_the_map_and_what_moving_a_cut_changes() -> None:
    result = phasezoo("phases", "mlp-digits", "--sensitivity")
    lines = result.stdout.splitlines()
    assert lines[0].split() == ["lr", "\\", "width", "2", "3", "4", "6", "8", "12", "16", "24", "32", "48", "64"]
    assert lines[1].split()[0] == "0.1"  # hot on top
    assert lines[8].split()[-1] == "IV-B"
    assert "train_loss < 0.1" in lines[9]
    assert sum("of 88 cells change" in line for line in lines) == 6
    strict = phasezoo("phases", "mlp-digits", "--epoch", "50", "--thresholds", "strict_yang2021")
    assert "train_loss < 0.003" in strict.stdout
    assert "no set of thresholds" in phasezoo("phases", "mlp-digits", "--thresholds", "strict").stderr


def test_build_audit_and_export(tmp_path: Path) -> None:
    write_raw_zoo(tmp_path / "raw", tmp_path / "trace")
    dry = phasezoo("build", str(tmp_path / "raw"), str(tmp_path / "zoo"), "--dry-run")
    assert dry.stdout.startswith("would build 12 models in 4 cells")
    assert not (tmp_path / "zoo").exists()
    built = phasezoo("build", str(tmp_path / "raw"), str(tmp_path / "zoo"), "--workers", "2")
    assert built.stdout.startswith("built 12 models in 4 cells with 29 checkpoints")
    assert "1 x hostile-pickle" in built.stdout
    audited = phasezoo("audit", str(tmp_path / "zoo"))
    assert (audited.returncode, audited.stdout.splitlines()[-1]) == (0, "0 suspicion(s)")
    exported = phasezoo("export", str(tmp_path / "zoo"), str(tmp_path / "ray"), "--where", "width == 4")
    assert exported.stdout.startswith("wrote 6 models")
    assert (tmp_path / "ray" / "w4-b1024-s0" / "params.json").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["info", "mlp-digit"], "Did you mean 'mlp-digits'"),
        (["show", "mlp-digits", "--where", "widht<8"], "Did you mean 'width'"),
        (["show", "mlp-digits", "--columns", "widht"], "Did you mean 'width'"),
        (["show", "mlp-digits", "--limit", "x"], "--limit"),
        (["show"], "ZOO"),
        (["shwo"], "shwo"),
        (["build", "nowhere", "x"], "no file at"),
        (["build", str(Path(__file__).parent), "x"], "no trial found"),
        (["train", "mlp-digit", "--out", "x"], "Did you mean 'mlp-digits'"),
        (["train", "mlp-digits", "--out", str(Path(__file__).parent)], "not an empty directory"),
    ],
)
def test_a_mistake_is_one_line_and_exits_with_two(arguments: list[str], message: str) -> None:
    result = phasezoo(*arguments)
    assert result.returncode == 2
    assert result.stderr.startswith("phasezoo: ")
    assert message in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert result.stdout == ""


def test_without_typer_the_command_says_what_to_install() -> None:
    code = "import sys; sys.modules['typer'] = None; import phasezoo.cli"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert result.stderr == "The phasezoo command needs typer: pip install 'phasezoo[cli]'\n"
