"""Browse zoos: list, info, show, phases, explore."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from phasezoo.cli.app import ZooArgument, app
from phasezoo.cli.output import print_rows
from phasezoo.progress import size

if TYPE_CHECKING:
    import pyarrow as pa

    from phasezoo.zoo import Zoo


@app.command("list")
def list_command() -> None:
    """List the zoos that have a name."""
    from phasezoo.registry import ZOOS

    print_rows(
        [
            ["name", "models", "source", "title"],
            *([z.name, z.models, z.source, z.title] for z in ZOOS.values() if z.variant_of is None),
        ]
    )


@app.command()
def info(zoo: ZooArgument) -> None:
    """Say what a zoo is: grid, tables, weights, provenance, licence."""
    from phasezoo import load

    opened = load(zoo)
    manifest = opened.manifest
    typer.echo(f"{manifest.title} ({manifest.name})\n{manifest.description}\n")
    facts = [
        ["architecture", manifest.architecture],
        ["data set", manifest.dataset],
        *(
            [what, f"{axis.label} ({axis.column}): " + ", ".join(f"{value:g}" for value in axis.values)]
            for what, axis in (("load", manifest.load), ("temperature", manifest.temperature))
        ),
        ["models", f"{len(opened):,}"],
        *([f"table {name}", _rows(table.rows)] for name, table in manifest.tables.items()),
        [
            "weights",
            f"{size(opened.nbytes)} in {len(manifest.shards)} shards"
            if manifest.shards
            else "none: not among the published files",
        ],
        ["made", f"{manifest.provenance.method}, {manifest.provenance.source}"],
        ["licence", manifest.license],
        *_findings(opened),
    ]
    print_rows(facts)
    for note in manifest.provenance.notes:
        typer.echo(f"- {note}")


@app.command()
def show(
    zoo: ZooArgument,
    where: Annotated[str | None, typer.Option(help="Condition, such as 'width <= 8 and test_acc > 0.9'.")] = None,
    sort: Annotated[str | None, typer.Option(help="Column to sort by; '-column' for descending.")] = None,
    columns: Annotated[str | None, typer.Option(help="Columns to print, separated by commas.")] = None,
    limit: Annotated[int, typer.Option(min=0, help="Rows to print at most.")] = 20,
) -> None:
    """Print the models of a zoo with their results at the last epoch."""
    from phasezoo import load

    view = load(zoo)
    total = len(view)
    if where:
        view = view.filter(where)
    if sort:
        view = view.sort(sort.removeprefix("-"), descending=sort.startswith("-"))
    manifest = view.manifest
    default = f"model_id,{manifest.load.column},{manifest.temperature.column},seed,epoch,train_loss,test_loss,test_acc"
    names = (columns or default).split(",")
    table = view[:limit].table("summary")
    if columns is None:
        names = [name for name in names if name in table.column_names]
    print_rows([names, *_cells(table, names)])
    typer.echo(f"{min(limit, len(view))} of {len(view)} models" + (f" ({total} in the zoo)" if where else ""))


@app.command()
def phases(
    zoo: ZooArgument,
    epoch: Annotated[int | None, typer.Option(help="Epoch; by default the last one with landscape metrics.")] = None,
    thresholds: Annotated[
        str | None, typer.Option(help="default, strict_yang2021 or otsu; else the zoo's own.")
    ] = None,
    sensitivity: Annotated[
        bool, typer.Option("--sensitivity", help="Count what moving each cut would change.")
    ] = False,
) -> None:
    """Print the phase map of a zoo: load from left to right, hot on top."""
    from phasezoo import load
    from phasezoo.sensitivity import sensitivity as moved
    from phasezoo.sensitivity import stability
    from phasezoo.thresholds import thresholds_for

    opened = load(zoo)
    chosen = thresholds_for(opened.name, thresholds)
    rows = opened.phases(epoch=epoch, thresholds=chosen).to_pylist()
    load_axis, temperature = opened.manifest.load, opened.manifest.temperature
    found = {(r["load"], r["temperature"]): r["phase"] or ", ".join(r["phase_flags"]) or "unknown" for r in rows}
    loads = sorted({r["load"] for r in rows})
    hot_first = sorted({r["temperature"] for r in rows}, reverse=temperature.hot != "low")
    print_rows(
        [
            [f"{temperature.column} \\ {load_axis.column}", *(f"{x:g}" for x in loads)],
            *([f"{y:g}", *(found.get((x, y), "") for x in loads)] for y in hot_first),
        ]
    )
    typer.echo(
        f"epoch {rows[0]['epoch']}; thresholds {chosen.name} ({chosen.id}): {chosen.fit} < {chosen.fit_cut:g}, "
        f"{chosen.mc} >= {-chosen.mc_eps:g}, {chosen.cka} >= "
        + (f"{chosen.cka_cut:g}" if chosen.cka_cut is not None else f"{chosen.cka_of_max:g} of the largest in IV")
    )
    if sensitivity:
        for change in moved(opened, epoch=epoch):
            typer.echo(f"{change.cut} at {change.value:.3g}: {change.changed} of {change.cells} cells change")
        kept = sorted(stability(opened, epoch=epoch).values())
        firm = sum(share >= 0.9 for share in kept)
        typer.echo(f"seeds drawn anew: {firm} of {len(kept)} cells keep their label in 90 % of the draws or more")


@app.command()
def explore(
    zoo: ZooArgument,
    out: Annotated[str | None, typer.Option(help="File to write; NAME.html by default.")] = None,
    show_page: Annotated[bool, typer.Option("--open", help="Show the page in the browser.")] = False,
) -> None:
    """Write one self-contained page to explore a zoo with a mouse or a keyboard."""
    import webbrowser

    from phasezoo import load
    from phasezoo.explorer import explore as write

    opened = load(zoo)
    page = write(opened, out or f"{opened.name}.html")
    typer.echo(f"wrote {page} ({size(page.stat().st_size)})" + ("" if show_page else "; open it in a browser"))
    if show_page and not webbrowser.open(page.absolute().as_uri()):
        typer.echo(f"no browser could be started here: open {page} by hand", err=True)


def _findings(zoo: Zoo) -> list[list[str]]:
    """Say what the build report lists, if the zoo has one on this machine."""
    import json

    from phasezoo.report import REPORT

    path = zoo._index.source.local(REPORT)
    if path is None or not path.is_file():
        return []
    kinds = json.loads(path.read_bytes())["findings_by_kind"]
    found = ", ".join(f"{count} {kind}" for kind, count in kinds.items()) or "no findings"
    return [["build report", f"{found} ({path})"]]


def _rows(n: int) -> str:
    return f"{n:,} rows" if n else "empty: no metrics computed yet"


def _cells(table: pa.Table, names: list[str]) -> Sequence[Sequence[object]]:
    from phasezoo.errors import ColumnNotFoundError, nearest

    for name in names:
        if name not in table.column_names:
            raise ColumnNotFoundError(f"no column {name!r}. {nearest(name, table.column_names, limit=40)}")
    return [[row[name] for name in names] for row in table.to_pylist()]
