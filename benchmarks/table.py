"""Run all benchmarks side by side with their peers and write one table, with the machine and every missed bar.

    python benchmarks/table.py [--small] [NAME ...]

Runs every script beside this one (or those that are named), shows what it prints, and writes ``results/latest.md``.
Ends with status 1 if a script fails or a bar is missed. With `--small` every path runs on little data: the numbers mean
nothing, no bar is judged, and the table goes to ``results/small.md``.
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

HERE = Path(__file__).parent
NO_BENCHMARKS = ("timing", "table", "networks", "peers")
PEERS = ("pandas", "PyHessian", "curvlinops-for-pytorch", "torch-cka", "rebasin")
LIBRARIES = ("torch", "numpy", "pyarrow", "safetensors", *PEERS)
# What `timing.report` prints.
ROW = re.compile(
    r"(?P<what>.*?) +phasezoo +(?P<ours>[\d.]+) ms   (?P<peer>.*?) +(?P<theirs>[\d.]+) ms +(?P<ratio>[\d.]+)x"
    r"   \((?P<bar>.*)\)"
)
# A bar in a line of another form: a number, and behind it the most that it may be.
AT_MOST = re.compile(r"(\d[\d.]*(?:e[+-]?\d+)?)(?: [a-z]+)? *\(<= (\d[\d.]*(?:e[+-]?\d+)?)\)")
# The same for times and memory: ``12.5 ms ... 140 MB   (bar: < 1 s, < 300 MB)``.
BELOW = re.compile(r"< ([\d.]+) (s|ms|MB)")


@dataclass(frozen=True)
class Row:
    """One comparison: times in milliseconds, the ratio theirs / ours, and the bar it is held against."""

    what: str
    ours: float
    peer: str
    theirs: float
    ratio: float
    bar: str

    @property
    def met(self) -> bool | None:
        """Is the bar met? None if there is none."""
        if self.peer == "itself":  # the peer is not installed
            return None
        if at_least := re.match(r">= ([\d.]+)x", self.bar):
            return self.ratio >= float(at_least[1])
        if below := re.match(r"< ([\d.]+) s", self.bar):
            return self.ours < 1000 * float(below[1])
        return None


@dataclass
class Run:
    """What a script printed.

    Attributes:
        name: of the script.
        about: its first sentence.
        lines: its rows, and the lines between them.
        failed: its last words, if it failed.
    """

    name: str
    about: str
    lines: list[Row | str] = field(default_factory=list)
    failed: str = ""

    @property
    def missed(self) -> list[str]:
        """Bars that are not met, each in words."""
        found = [f"{self.name} failed: {self.failed}"] if self.failed else []
        for line in self.lines:
            if isinstance(line, str):
                found += [f"{self.name}: {line}: {over}" for over in _over(line)]
            elif line.met is False:
                found.append(f"{self.name}: {line.what} against {line.peer}: {line.ratio:g}x, bar {line.bar}")
        return found


def _over(line: str) -> list[str]:
    """Say which of the bars in a line that is no row are exceeded.

    >>> _over("error 4.6e-09 (<= 1e-4)"), _over("52 MB = 2.50 checkpoints (<= 2)")
    ([], ['2.50 > 2'])
    >>> _over("open 1200.0 ms 300.0 ms of CPU 250 MB (bar: < 1 s, < 300 MB)")
    ['1200.0 ms > 1 s']
    """
    found = [f"{a} > {b}" for a, b in AT_MOST.findall(line) if float(a) > float(b)]
    said, _, bars = line.partition("(bar:")
    for limit, unit in BELOW.findall(bars):
        kind = "MB" if unit == "MB" else "ms"
        measured = re.search(rf"([\d.]+) {kind}\b", said)
        if measured and float(measured[1]) > float(limit) * (1000 if unit == "s" else 1):
            found.append(f"{measured[0]} > {limit} {unit}")
    return found


def parse(line: str) -> Row | str:
    """Read a line that a benchmark printed; what is no row stays text.

    >>> parse("open 8 models   phasezoo     2.500 ms   JSON lines    50.000 ms    20.00x   (>= 20x)").met
    True
    >>> parse("12 files per request")
    '12 files per request'
    """
    match = ROW.fullmatch(line.strip())
    if match is None:
        return " ".join(line.split())
    ours, theirs, ratio = (float(match[name]) for name in ("ours", "theirs", "ratio"))
    return Row(match["what"], ours, match["peer"], theirs, ratio, match["bar"])


def run(script: Path, arguments: Sequence[str] = ()) -> Run:
    """Run a benchmark, show what it prints, and return it."""
    about = re.search(r'"""(.*?)(?:\n\n|""")', script.read_text(), flags=re.DOTALL)
    done = Run(script.stem, " ".join(about[1].split()) if about else "")
    command = [sys.executable, str(script), *arguments]
    with tempfile.TemporaryFile("w+") as errors:
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True) as process:
            assert process.stdout is not None
            for line in process.stdout:
                print(line, end="", flush=True)
                if line.strip():
                    done.lines.append(parse(line))
        errors.seek(0)
        words = errors.read().strip().splitlines()
    if process.returncode:
        done.failed = words[-1] if words else f"status {process.returncode}"
        print(f"{script.name} failed: {done.failed}")
    return done


def machine() -> list[str]:
    """Return what the numbers depend on: processor, cores, memory, libraries."""
    cpu = platform.processor() or platform.machine()
    if os.path.exists("/proc/cpuinfo"):
        names = re.findall(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), flags=re.MULTILINE)
        cpu = names[0] if names else cpu
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30 if hasattr(os, "sysconf") else 0
    installed = []
    for name in LIBRARIES:
        try:
            installed.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            installed.append(f"{name} not installed")
    return [
        f"{cpu}, {os.cpu_count()} cores, {memory:.0f} GiB, {platform.system()}",
        f"Python {platform.python_version()}, {', '.join(installed)}",
    ]


def markdown(runs: Sequence[Run], *, small: bool, load: tuple[float, float]) -> str:
    """Return the table.

    Args:
        runs: what was run.
        small: on little data?
        load: processes that wanted to run, before and after.
    """
    parts = ["# Benchmarks", "\n".join(f"- {line}" for line in machine())]
    busy = f"{load[0]:.1f} before, {load[1]:.1f} after"
    parts[-1] += f"\n- other work on the machine (load average): {busy}"
    missed = [bar for done in runs for bar in done.missed]
    rows = [line for done in runs for line in done.lines if isinstance(line, Row)]
    if small:
        parts.append("Run with `--small`: every path ran, and the numbers mean nothing. No bar is judged.")
        missed = [f"{done.name} failed: {done.failed}" for done in runs if done.failed]
    else:
        parts.append(f"{len(rows)} comparisons, {sum(row.met is True for row in rows)} bars met, {len(missed)} missed.")
    if missed:
        parts.append("**Missed:**\n\n" + "\n".join(f"- {bar}" for bar in missed))
    for done in runs:
        parts += [f"## {done.name}", done.about]
        found = [line for line in done.lines if isinstance(line, Row)]
        if found:
            head = "| what | phasezoo, ms | peer | peer, ms | ratio | bar | |\n|---|---|---|---|---|---|---|\n"
            parts.append(head + "\n".join(_cells(row, small=small) for row in found))
        notes = [line for line in done.lines if isinstance(line, str)]
        if notes:
            parts.append("\n".join(f"- {note}" for note in notes))
    return "\n\n".join(parts) + "\n"


def _cells(row: Row, *, small: bool) -> str:
    mark = "" if small or row.met is None else "met" if row.met else "**missed**"
    cells = [row.what, _time(row.ours), row.peer, _time(row.theirs), f"{row.ratio:.2f}x", row.bar, mark]
    return f"| {' | '.join(cells)} |"


def _time(milliseconds: float) -> str:
    return f"{milliseconds:,.0f}" if milliseconds >= 100 else f"{milliseconds:.3g}"


def scripts(names: Sequence[str] = ()) -> list[Path]:
    """Return the benchmarks of these names, or all.

    >>> "access" in [path.stem for path in scripts()]
    True
    """
    found = {path.stem: path for path in sorted(HERE.glob("*.py")) if path.stem not in NO_BENCHMARKS}
    unknown = sorted(set(names) - set(found))
    if unknown:
        raise SystemExit(f"no benchmark {', '.join(unknown)}. There are: {', '.join(found)}.")
    return [found[name] for name in names or found]


def _load() -> float:
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0


def main() -> None:
    small = "--small" in sys.argv
    before = _load()
    runs = []
    for script in scripts([name for name in sys.argv[1:] if name != "--small"]):
        print(f"== {script.stem}")
        runs.append(run(script, ["--small"] if small else []))
    out = HERE / "results" / ("small.md" if small else "latest.md")
    out.parent.mkdir(exist_ok=True)
    out.write_text(markdown(runs, small=small, load=(before, _load())), encoding="utf-8")
    failed = [done.name for done in runs if done.failed]
    missed = [] if small else [bar for done in runs for bar in done.missed]
    print("\n".join([f"\n{out}", *(f"MISSED {bar}" for bar in missed)]))
    raise SystemExit(1 if failed or missed else 0)


if __name__ == "__main__":
    main()
