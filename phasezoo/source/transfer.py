"""Asking again: which failures of a server are worth another try, and how long to wait before it."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from phasezoo.errors import SourceError
from phasezoo.progress import size

TRIES = 5  # per request
PAUSE = 0.5  # seconds before the second try; doubled before each further one
LONGEST_PAUSE = 20.0
LONGEST_RETRY_AFTER = 300.0  # what a server may ask for: rate limits of the Hub are counted in windows of 5 minutes
TIMEOUT = 30.0  # seconds without a byte
KEPT = "Nothing is lost: what arrived stays in the cache. Check the network and the proxy settings, or try again later."
TRANSIENT = frozenset({408, 425, 429, 500, 502, 503, 504})

Result = TypeVar("Result")
log = logging.getLogger(__name__)


class Transient(Exception):
    """A failure that may be gone at the next try.

    Attributes:
        wait: seconds that the server asks to wait.
    """

    def __init__(self, reason: str, *, wait: float | None = None) -> None:
        super().__init__(reason)
        self.wait = wait


@dataclass
class Traffic:
    """What was asked of a server.

    Attributes:
        requests: how many requests were sent.
        nbytes: bytes of the answers' bodies.
        repeated: failures that were followed by another try, by reason.
    """

    requests: int = 0
    nbytes: int = 0
    repeated: Counter[str] = field(default_factory=Counter)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def count(self, *, requests: int = 0, nbytes: int = 0, repeated: str | None = None) -> None:
        """Add to the counts; safe between threads."""
        with self._lock:
            self.requests += requests
            self.nbytes += nbytes
            if repeated is not None:
                self.repeated[repeated] += 1

    def __getstate__(self) -> dict[str, object]:
        return {"requests": self.requests, "nbytes": self.nbytes, "repeated": self.repeated}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._lock = threading.Lock()

    def __str__(self) -> str:
        text = f"{self.requests:,} requests, {size(self.nbytes)}"
        if self.repeated:
            text += ", repeated after: " + ", ".join(f"{why} ({n}x)" for why, n in self.repeated.most_common())
        return text


def insist(call: Callable[[], Result], *, what: str, traffic: Traffic, advice: str = KEPT) -> Result:
    """Call until it succeeds, at most `TRIES` times.

    Pauses double, with jitter, so that many clients do not return at the same moment; a server's Retry-After
    is honoured.

    Args:
        call: raises `Transient` when another try may help.
        what: what is tried, for the error: ``read bytes 0 to 10 of https://...``.
        traffic: where repetitions are counted.
        advice: what is kept and what to do when it is given up.

    Raises:
        SourceError: the last try failed too.
    """
    pause = PAUSE
    for left in reversed(range(TRIES)):
        try:
            return call()
        except Transient as failure:
            too_long = failure.wait is not None and failure.wait > LONGEST_RETRY_AFTER
            if not left or too_long:
                raise SourceError(_given_up(what, failure, advice, too_long=too_long)) from None
            traffic.count(repeated=str(failure))
            wait = failure.wait if failure.wait is not None else min(pause, LONGEST_PAUSE) * random.uniform(0.5, 1.0)
            log.info("cannot %s: %s; next try in %.1f s", what, failure, wait)
            time.sleep(wait)
            pause *= 2
    raise AssertionError("unreachable")


def _given_up(what: str, failure: Transient, advice: str, *, too_long: bool) -> str:
    if too_long:
        return f"cannot {what}: {failure}, and asks to come back in {failure.wait:,.0f} s. Try again then."
    return f"cannot {what}: {failure}; tried {TRIES} times. {advice}"


def retry_after(header: str | None) -> float | None:
    """Read a Retry-After header: seconds, or a date.

    >>> retry_after("7"), retry_after("soon"), retry_after("Wed, 21 Oct 2015 07:28:00 GMT")
    (7.0, None, 0.0)
    """
    from email.utils import parsedate_to_datetime

    if header is None:
        return None
    try:
        return max(0.0, float(header))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(header).timestamp() - time.time())
    except (TypeError, ValueError, OverflowError):
        return None
