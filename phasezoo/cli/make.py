"""Make zoos: build, export, measure, train, recipe."""

from __future__ import annotations

from typing import Annotated

import typer

from phasezoo.cli.app import ZooArgument, app, parse_epochs
from phasezoo.cli.output import print_rows
from phasezoo.progress import size


@app.command()
def build(
    source: Annotated[str, typer.Argument(help="Ray Tune folder, a zip or URL of one, or a summary CSV.")],
    out: Annotated[str, typer.Argument(help="Directory to write the zoo to; must not exist or be empty.")],
    zoo: Annotated[str | None, typer.Option(help="Name of the published zoo that this is.")] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes that build at the same time.")] = 1,
    ray: Annotated[str | None, typer.Option(help="Address of a Ray cluster that builds instead; 'auto'.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be built, write nothing.")] = False,
) -> None:
    """Build a zoo from raw data. Stopped builds go on where they were when the command is given again."""
    from collections import Counter

    from phasezoo.builders.build import build_zoo

    built = build_zoo(source, out, zoo=zoo, workers=workers, ray=ray, dry_run=dry_run)
    typer.echo(
        f"{'would build' if dry_run else 'built'} {built.models} models in {built.cells} cells with "
        f"{built.checkpoints:,} checkpoints, {size(built.nbytes)}"
    )
    for kind, n in sorted(Counter(finding.kind for finding in built.findings).items()):
        example = next(finding for finding in built.findings if finding.kind == kind)
        typer.echo(f"  {n} x {kind}, such as {example.where}: {example.what}")
    if not dry_run:
        typer.echo(f"wrote {out}; every finding is in {out}/build_report.json")


@app.command()
def export(
    zoo: ZooArgument,
    out: Annotated[str, typer.Argument(help="Directory to write to; must not exist or be empty.")],
    where: Annotated[str | None, typer.Option(help="Condition, such as 'width <= 8'.")] = None,
    layout: Annotated[str, typer.Option(help="The layout: ray.")] = "ray",
) -> None:
    """Write models as the folders that existing code for model zoos reads."""
    from phasezoo import load

    view = load(zoo).filter(where)
    typer.echo(f"wrote {len(view)} models to {view.export(out, layout=layout)}")


@app.command()
def measure(
    zoo: Annotated[str, typer.Argument(metavar="ZOO", help="Directory of the zoo; its landscape table is written.")],
    metrics: Annotated[
        str, typer.Option(help="Any of hessian, cka, curves, averaging.")
    ] = "hessian,cka,curves,averaging",
    epochs: Annotated[str, typer.Option(help="Epochs with checkpoints; 'first' and 'last' work too.")] = "last",
    protocol: Annotated[
        str | None, typer.Option(help="Name of a protocol, such as published; else that of the zoo.")
    ] = None,
    where: Annotated[str | None, typer.Option(help="Condition, such as 'width <= 8'.")] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes that measure at the same time.")] = 1,
    ray: Annotated[str | None, typer.Option(help="Address of a Ray cluster that measures instead; 'auto'.")] = None,
) -> None:
    """Compute loss-landscape metrics. A stopped measurement goes on when the command is given again."""
    import json
    from collections import Counter

    from phasezoo.training.landscape.measure import measure as run

    table = run(
        zoo,
        metrics=[name.strip() for name in metrics.split(",")],
        epochs=parse_epochs(epochs),
        protocol=protocol,
        where=where,
        workers=workers,
        ray=ray,
    )
    typer.echo(f"the landscape table of {zoo} has {table.num_rows} rows")
    texts = table["reasons"].to_pylist() if "reasons" in table.column_names else []
    why = Counter((k.partition(" of ")[0], v) for text in texts if text for k, v in json.loads(text).items())
    for (column, reason), n in sorted(why.items()):
        typer.echo(f"  {n} rows without {column}: {reason}")


@app.command()
def train(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of a recipe: `phasezoo recipe` lists them.")],
    out: Annotated[str | None, typer.Option(help="Directory to write the zoo to; NAME by default.")] = None,
    where: Annotated[str | None, typer.Option(help="Condition on the models, such as 'width <= 8'.")] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Train for so many epochs instead.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what it would take, train nothing.")] = False,
    smoke: Annotated[bool, typer.Option("--smoke", help="Two steps of the smallest and the largest network.")] = False,
    workers: Annotated[int, typer.Option(min=1, help="Processes that train at the same time.")] = 1,
    ray: Annotated[str | None, typer.Option(help="Address of a Ray cluster that trains instead; 'auto'.")] = None,
    raw: Annotated[bool, typer.Option("--raw", help="Also write OUT-raw in the layout of the published zoos.")] = False,
    protocol: Annotated[
        str, typer.Option(help="published repeats what the published trainer did with micro-batches.")
    ] = "corrected",
    precision: Annotated[str, typer.Option(help="float32 or bfloat16.")] = "float32",
    compiled: Annotated[bool, typer.Option("--compile", help="Compile the networks.")] = False,
) -> None:
    """Train the models of a recipe and write the zoo. A stopped training goes on when the command is given again."""
    from phasezoo.training.estimate import estimate
    from phasezoo.training.grid import train_grid
    from phasezoo.training.recipes import recipe
    from phasezoo.training.select import select
    from phasezoo.training.smoke import smoke as try_out
    from phasezoo.training.train import check_switches

    check_switches(protocol, precision)
    chosen = recipe(name).shortened(epochs)
    place = out or name
    if dry_run:
        print_rows([["what", "amount"], *estimate(chosen, select(chosen, where)).rows()])
    elif smoke:
        print_rows([["network", "parameters", "done"], *try_out(chosen, place)])
        typer.echo(f"wrote {place}")
    else:
        manifest = train_grid(
            chosen,
            place,
            where=where,
            workers=workers,
            ray=ray,
            raw=raw,
            protocol=protocol,  # type: ignore[arg-type]  # checked above
            precision=precision,  # type: ignore[arg-type]  # checked above
            compiled=compiled,
        )
        typer.echo(f"wrote {manifest.tables['configs'].rows} models to {place}" + (f" and {place}-raw" if raw else ""))


@app.command()
def recipe(name: Annotated[str | None, typer.Argument(metavar="NAME", help="Name of a recipe.")] = None) -> None:
    """Print how a zoo is trained, with what is an assumption marked; without a name, list the recipes."""
    from phasezoo.training.recipes import names
    from phasezoo.training.recipes import recipe as find

    if name is None:
        print_rows([["name", "models", "title"], *([n, len(find(n).trials()), find(n).title] for n in names())])
        return
    chosen = find(name)
    typer.echo(f"{chosen.title} ({chosen.name})\n{chosen.description}\n")
    print_rows([["field", "value", ""], *chosen.rows()])
    if chosen.assumptions:
        typer.echo("\nassumptions: what is not published")
        print_rows([["field", "chosen", "because"], *([a.field, a.value, a.reason] for a in chosen.assumptions)])
    for note in chosen.notes:
        typer.echo(f"- {note}")
