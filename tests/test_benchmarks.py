"""The table of benchmarks: what scripts print comes back as rows, and a missed bar is seen."""

from __future__ import annotations

import doctest
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))
import table  # noqa: E402
import timing  # noqa: E402


@pytest.mark.parametrize(
    ("ours", "theirs", "bar", "met"),
    [
        (0.001, 0.020, ">= 20x", True),
        (0.001, 0.019, ">= 20x", False),
        (0.0012, 0.001, ">= 0.83x: at most 1.2 times its time", True),
        (2.9, 0.5, "< 3 s", True),
        (3.1, 9.0, "< 3 s", False),
        (1.0, 2.0, "for comparison", None),
    ],
)
def test_a_reported_line_is_read_and_judged(
    capsys: pytest.CaptureFixture[str], ours: float, theirs: float, bar: str, met: bool | None
) -> None:
    timing.report("open 64 models x 4 epochs, later", ours, theirs, "JSON lines, 3 files", bar)
    row = table.parse(capsys.readouterr().out)
    assert (row.what, row.peer, row.bar) == ("open 64 models x 4 epochs, later", "JSON lines, 3 files", bar)
    assert row.ours == pytest.approx(1000 * ours)
    assert row.met is met


def test_a_line_with_a_long_name_is_read_too(capsys: pytest.CaptureFixture[str]) -> None:
    timing.report("x" * 60, 1.0, 2.0, "y" * 30, ">= 1x")
    assert table.parse(capsys.readouterr().out).peer == "y" * 30


def test_a_peer_that_is_not_installed_is_not_judged() -> None:
    assert table.Row("matching", 1.0, "itself", 1.0, 1.0, ">= 10x").met is None


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "fast.py"
    path.write_text(
        f'"""Fast things\nagainst slow ones.\n\nMore."""\nimport sys\nsys.path.insert(0, {str(BENCHMARKS)!r})\n'
        "from timing import report\n"
        'report("reading", 0.001, 0.030, "loop", ">= 20x")\n'
        'report("writing", 0.001, 0.010, "loop", ">= 20x")\n'
        'print("peak memory: 52 MB = 2.50 checkpoints   (<= 2)")\n'
        'print("   error 4.6e-09 (<= 1e-4)")\n'
    )
    return path


def test_missed_bars_stand_at_the_top_of_the_table(script: Path) -> None:
    done = table.run(script)
    assert done.about == "Fast things against slow ones."
    assert len(done.missed) == 2
    text = table.markdown([done], small=False, load=(0.0, 0.0))
    top = text[: text.index("## fast")]
    assert "2 comparisons, 1 bars met, 2 missed." in top
    assert "writing against loop: 10x" in top
    assert "2.50 > 2" in top
    assert "reading" not in top
    assert "**missed**" in text
    small = table.markdown([done], small=True, load=(0.0, 0.0))
    assert "Missed" not in small
    assert "**missed**" not in small


def test_a_script_that_fails_is_in_the_table(script: Path) -> None:
    script.write_text(script.read_text() + "raise ValueError('no peer')\n")
    done = table.run(script)
    assert done.failed == "ValueError: no peer"
    assert "fast failed: ValueError: no peer" in table.markdown([done], small=True, load=(0.0, 0.0))


def test_every_script_is_run_and_names_that_do_not_exist_are_refused() -> None:
    assert {"access", "hessian", "matching"} <= {path.stem for path in table.scripts()}
    assert not {"timing", "table", "networks", "peers"} & {path.stem for path in table.scripts()}
    with pytest.raises(SystemExit, match="no benchmark acess. There are: access"):
        table.scripts(["acess"])


def test_examples_of_the_table_run() -> None:
    assert doctest.testmod(table).attempted >= 2
    assert doctest.testmod(table).failed == 0


@pytest.mark.parametrize("script", table.scripts(), ids=lambda script: script.name)
def test_a_benchmark_runs_small(script: Path) -> None:
    result = subprocess.run([sys.executable, script, "--small"], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "x   (" in result.stdout or "(bar: " in result.stdout
