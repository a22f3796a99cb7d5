"""Publish and fetch zoos: push, download."""

from __future__ import annotations

from typing import Annotated

import typer

from phasezoo.cli.app import ZooArgument, app, parse_epochs
from phasezoo.progress import size


@app.command()
def push(
    zoo: Annotated[str, typer.Argument(metavar="ZOO", help="Directory of the zoo.")],
    address: Annotated[str, typer.Argument(metavar="ADDRESS", help="hf://datasets/OWNER/NAME; made if it is new.")],
    private: Annotated[bool, typer.Option("--private", help="Make a new data set private.")] = False,
    tag: Annotated[str | None, typer.Option(help="Name of this version, such as v1.0.")] = None,
) -> None:
    """Publish a zoo on the Hugging Face Hub. A stopped push goes on when the command is given again."""
    from phasezoo.builders.push import push as publish

    pushed = publish(zoo, address, private=private, tag=tag)
    for note in pushed.notes:
        typer.echo(note, err=True)
    typer.echo(
        f"pushed {pushed.files} files, {size(pushed.nbytes)}"
        + (f"; removed {pushed.removed} of an older version" if pushed.removed else "")
        if pushed.files or pushed.removed
        else "nothing to push: it is there already"
    )
    typer.echo(f"{pushed.address} at commit {pushed.commit}, tagged {', '.join(pushed.tags)}")


@app.command()
def download(
    zoo: ZooArgument,
    where: Annotated[str | None, typer.Option(help="Condition on the models, such as 'width <= 8'.")] = None,
    epochs: Annotated[str | None, typer.Option(help="Epochs, separated by commas; 'last' works too. All else.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what it would take.")] = False,
    workers: Annotated[int, typer.Option(min=1, help="Requests at the same time.")] = 8,
) -> None:
    """Fetch the weights of a zoo into the cache. An interrupted download goes on when the command is given again."""
    from phasezoo import load

    view = load(zoo)
    names = parse_epochs(epochs) if epochs else None
    planned = view.download(where=where, epochs=names, dry_run=True)
    typer.echo(f"to fetch: {planned}")
    if not dry_run:
        done = view.download(where=where, epochs=names, max_workers=workers)
        typer.echo(f"fetched: {done}")
