"""The `phasezoo` command. Errors are one line; a user's mistake exits with 2, damage with 1."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, NoReturn

from phasezoo.errors import IntegrityError, PhaseZooError

try:
    import typer
except ImportError:
    sys.exit("The phasezoo command needs typer: pip install 'phasezoo[cli]'")

if TYPE_CHECKING:
    import pyarrow as pa

    from phasezoo.zoo import Zoo

app = typer.Typer(
    help="Zoos of trained neural networks on phase transitions.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

MAX_PROBLEMS = 20  # that `verify` prints
ZooArgument = Annotated[str, typer.Argument(metavar="ZOO", help="Name from `phasezoo list`, or a zoo's directory.")]


@app.command("list")
def list_command() -> None:
    """List the zoos that have a name."""
    from phasezoo.registry import ZOOS

    _print(
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
            f"{opened.nbytes / 1e6:,.1f} MB in {len(manifest.shards)} shards"
            if manifest.shards
            else "none: not among the published files",
        ],
        ["made", f"{manifest.provenance.method}, {manifest.provenance.source}"],
        ["licence", manifest.license],
        *_findings(opened),
    ]
    _print(facts)
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
    _print([names, *_cells(table, names)])
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
    _print(
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
    typer.echo(f"wrote {page} ({page.stat().st_size / 1e6:.1f} MB)" + ("" if show_page else "; open it in a browser"))
    if show_page and not webbrowser.open(page.absolute().as_uri()):
        typer.echo(f"no browser could be started here: open {page} by hand", err=True)


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

        _print(
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
        f"{built.checkpoints:,} checkpoints, {built.nbytes / 1e6:,.1f} MB"
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
        epochs=_epochs(epochs),
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
    from phasezoo.training.grid import select, train_grid
    from phasezoo.training.recipes import recipe
    from phasezoo.training.smoke import smoke as try_out
    from phasezoo.training.train import check_switches

    check_switches(protocol, precision)
    chosen = recipe(name).shortened(epochs)
    place = out or name
    if dry_run:
        _print([["what", "amount"], *estimate(chosen, select(chosen, where)).rows()])
    elif smoke:
        _print([["network", "parameters", "done"], *try_out(chosen, place)])
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
            precision=precision,  # type: ignore[arg-type]
            compiled=compiled,
        )
        typer.echo(f"wrote {manifest.tables['configs'].rows} models to {place}" + (f" and {place}-raw" if raw else ""))


@app.command()
def recipe(name: Annotated[str | None, typer.Argument(metavar="NAME", help="Name of a recipe.")] = None) -> None:
    """Print how a zoo is trained, with what is an assumption marked; without a name, list the recipes."""
    from phasezoo.training.recipes import names
    from phasezoo.training.recipes import recipe as find

    if name is None:
        _print([["name", "models", "title"], *([n, len(find(n).trials()), find(n).title] for n in names())])
        return
    chosen = find(name)
    typer.echo(f"{chosen.title} ({chosen.name})\n{chosen.description}\n")
    _print([["field", "value", ""], *chosen.rows()])
    if chosen.assumptions:
        typer.echo("\nassumptions: what is not published")
        _print([["field", "chosen", "because"], *([a.field, a.value, a.reason] for a in chosen.assumptions)])
    for note in chosen.notes:
        typer.echo(f"- {note}")


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
        f"pushed {pushed.files} files, {pushed.nbytes / 1e6:,.1f} MB"
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
    names = _epochs(epochs) if epochs else None
    planned = view.download(where=where, epochs=names, dry_run=True)
    typer.echo(f"to fetch: {planned}")
    if not dry_run:
        done = view.download(where=where, epochs=names, max_workers=workers)
        typer.echo(f"fetched: {done}")


cache_app = typer.Typer(help="Look after what was fetched.", no_args_is_help=True)
app.add_typer(cache_app, name="cache")


@cache_app.command("list")
def cache_list() -> None:
    """Say what the cache holds."""
    from phasezoo.cache import Cache, cache_directory

    cache = Cache(cache_directory())
    kinds: dict[str, list[int]] = {"checkpoints and tables": [], "single tensors": []}
    for blob in cache.blobs():
        kinds["single tensors" if "-" in blob.key else "checkpoints and tables"].append(blob.nbytes)
    _print([["kind", "files", "MB"], *([kind, len(n), sum(n) / 1e6] for kind, n in kinds.items())])
    limit = "no limit" if cache.limit is None else f"limit {cache.limit / 1e6:,.0f} MB"
    typer.echo(f"in {cache.root} ({limit}; PHASEZOO_CACHE and PHASEZOO_CACHE_SIZE set place and limit)")


@cache_app.command("clean")
def cache_clean(
    keep: Annotated[float, typer.Option(min=0, help="MB that may stay; the least recently used goes first.")] = 0,
) -> None:
    """Remove weights and tables that were fetched; they can be fetched again."""
    from phasezoo.cache import Cache, cache_directory

    cache = Cache(cache_directory())
    files, nbytes = cache.clean(keep=int(keep * 1e6))
    typer.echo(f"removed {files:,} files, {nbytes / 1e6:,.1f} MB, from {cache.root}")


@cache_app.command("verify")
def cache_verify() -> None:
    """Read everything in the cache and remove what has changed on the disk."""
    from phasezoo.cache import Cache, cache_directory

    cache = Cache(cache_directory())
    found = list(cache.blobs())
    damaged = [blob for blob in found if not blob.sound]
    for blob in damaged:
        cache.discard(blob.key)
        typer.echo(f"damaged, and removed: {blob.key}")
    typer.echo(f"{len(found):,} files, {len(damaged)} damaged")
    if damaged:
        raise typer.Exit(1)


def _epochs(text: str) -> list[int | str]:
    return [int(e) if e.strip().isdigit() else e.strip() for e in text.split(",")]


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


def _print(rows: Sequence[Sequence[object]]) -> None:
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


def main() -> None:
    """Run the command; the entry point."""
    try:
        code = app(standalone_mode=False)
    except IntegrityError as error:
        _fail(1, str(error))
    except (PhaseZooError, ValueError) as error:
        _fail(2, str(error))
    except (KeyboardInterrupt, typer.Abort):
        _fail(130, "interrupted")
    except Exception as error:
        # typer brings its own copy of click or uses the installed one, by version: know its errors by their method.
        if not hasattr(error, "format_message"):
            raise
        if not sys.argv[1:]:
            error.show()  # type: ignore[attr-defined]  # the help text
            sys.exit(2)
        _fail(2, f"{error.format_message().rstrip('.')}. See `phasezoo --help`.")
    sys.exit(code or 0)


def _fail(code: int, message: str) -> NoReturn:
    typer.echo("phasezoo: " + " ".join(message.split()), err=True)
    sys.exit(code)
