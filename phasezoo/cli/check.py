"""Check zoos: verify, audit."""

from __future__ import annotations

from typing import Annotated

import typer

from phasezoo.cli.app import ZooArgument, app
from phasezoo.cli.output import print_rows
from phasezoo.errors import IntegrityError

MAX_PROBLEMS = 20  # that `verify` prints


@app.command()
def verify(
    zoo: ZooArgument,
    metrics: Annotated[
        str | None, typer.Option(help="Also recompute recorded metrics from the weights: all, or sample:N.")
    ] = None,
) -> None:
    """Read every byte of a zoo and check hashes, layouts, index and agreement with stock safetensors."""
    from phasezoo import load
    from phasezoo.verify import verify as check

    opened = load(zoo)
    report = check(opened)
    typer.echo(
        f"{report.tables} tables, {report.shards} shards, {report.checkpoints:,} checkpoints, "
        f"{report.tensors:,} tensors read"
    )
    for problem in report.problems[:MAX_PROBLEMS]:
        typer.echo(f"problem: {problem}", err=True)
    if report.problems:
        more = len(report.problems) - MAX_PROBLEMS
        raise IntegrityError(
            f"{len(report.problems)} problem(s) found in {zoo}"
            + (f", of which {more} are not printed; `phasezoo.verify.verify` returns all." if more > 0 else ".")
        )
    typer.echo("no problems found")
    if metrics is not None:
        from phasezoo.training.recheck import recheck, summary

        print_rows(
            [
                ["recorded", "compared", "largest difference", "where", "not the same thing"],
                *summary(recheck(opened, metrics)),
            ]
        )


@app.command()
def audit(zoo: ZooArgument) -> None:
    """Read every checkpoint and list what looks wrong: duplicates, runs that do not continue, broken weights."""
    from phasezoo import load
    from phasezoo.audit import audit as check

    found = check(load(zoo))
    for s in found:
        typer.echo(f"{s.kind}: {s.model_id}" + ("" if s.epoch is None else f" epoch {s.epoch}") + f": {s.what}")
    typer.echo(f"{len(found)} suspicion(s)")
    if found:
        raise typer.Exit(1)
