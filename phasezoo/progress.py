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
