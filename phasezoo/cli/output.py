"""Rows as text."""

from __future__ import annotations

from collections.abc import Sequence

import typer


def print_rows(rows: Sequence[Sequence[object]]) -> None:
    """Print rows in aligned columns; numbers to the right."""
    text = [[_text(value) for value in row] for row in rows]
    widths = [max(len(row[i]) for row in text) for i in range(len(text[0]))]
    numeric = [all(isinstance(row[i], (int, float)) for row in rows[1:]) and len(rows) > 1 for i in range(len(widths))]
    for row in text:
        cells = [c.rjust(w) if n else c.ljust(w) for c, w, n in zip(row, widths, numeric, strict=True)]
        typer.echo("  ".join(cells).rstrip())


def _text(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return "" if value is None else str(value)
