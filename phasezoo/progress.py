"""One progress bar per user call; none without a terminal."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tqdm import tqdm


def bar(description: str, *, total: int | None, unit: str) -> tqdm[None]:
    """Open the progress bar of one user call.

    Args:
        description: what is going on, in two or three words.
        total: how many units the whole call has; None if that is not known.
        unit: the unit, ``"B"`` for bytes (scaled to kB, MB, ...).

    Returns:
        A tqdm bar, to be used as a context manager; silent where standard error is not a terminal.
    """
    from tqdm import tqdm

    return tqdm(
        desc=description,
        total=total,
        unit=unit,
        unit_scale=unit == "B",
        disable=not sys.stderr.isatty(),
        leave=False,
    )


def size(nbytes: float) -> str:
    """Say a number of bytes.

    >>> size(0), size(21_400), size(3_220_000)
    ('0 bytes', '21.4 kB', '3.2 MB')
    """
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if nbytes >= scale:
            return f"{nbytes / scale:,.1f} {unit}"
    return f"{nbytes:,.0f} bytes"
