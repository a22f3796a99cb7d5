"""Time alternatives in turn within one run, so that a ratio holds when the machine's speed drifts."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping


def interleave(sides: Mapping[str, Callable[[], object]], *, rounds: int) -> dict[str, float]:
    """Call each side once a round after one warm-up and return the median seconds of each.

    Args:
        sides: name to what is timed.
        rounds: how many timed rounds.
    """
    times: dict[str, list[float]] = {name: [] for name in sides}
    for round_ in range(rounds + 1):
        for name, call in sides.items():
            start = time.perf_counter()
            call()
            if round_:
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def report(what: str, ours: float, theirs: float, peer: str, bar: str) -> None:
    """Print one line: both times, the ratio theirs / ours, and the bar it is held against."""
    print(
        f"{what:44s} phasezoo {ours * 1e3:9.3f} ms   {peer:20s} {theirs * 1e3:9.3f} ms   "
        f"{theirs / ours:6.2f}x   ({bar})"
    )
