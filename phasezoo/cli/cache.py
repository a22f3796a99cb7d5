"""Look after what was fetched: cache list, clean, verify."""

from __future__ import annotations

from typing import Annotated

import typer

from phasezoo.cli.app import app
from phasezoo.cli.output import print_rows
from phasezoo.progress import size

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
    print_rows([["kind", "files", "MB"], *([kind, len(n), sum(n) / 1e6] for kind, n in kinds.items())])
    limit = "no limit" if cache.limit is None else f"limit {size(cache.limit)}"
    typer.echo(f"in {cache.root} ({limit}; PHASEZOO_CACHE and PHASEZOO_CACHE_SIZE set place and limit)")


@cache_app.command("clean")
def cache_clean(
    keep: Annotated[float, typer.Option(min=0, help="MB that may stay; the least recently used goes first.")] = 0,
) -> None:
    """Remove weights and tables that were fetched; they can be fetched again."""
    from phasezoo.cache import Cache, cache_directory

    cache = Cache(cache_directory())
    files, nbytes = cache.clean(keep=int(keep * 1e6))
    typer.echo(f"removed {files:,} files, {size(nbytes)}, from {cache.root}")


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
