"""The command that the others belong to."""

from __future__ import annotations

from typing import Annotated

import typer

app = typer.Typer(
    help="Zoos of trained neural networks on phase transitions.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
ZooArgument = Annotated[
    str, typer.Argument(metavar="ZOO", help="Name from `phasezoo list`, or a zoo's directory or address.")
]


def parse_epochs(text: str) -> list[int | str]:
    """Read a list of epochs.

    >>> parse_epochs("10, last")
    [10, 'last']
    """
    return [int(e) if e.strip().isdigit() else e.strip() for e in text.split(",")]
