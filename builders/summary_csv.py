"""A published summary table (CSV) to a zoo of tables on disk: configs, results, landscape; no weights."""

from __future__ import annotations

from pathlib import Path

from phasezoo.builders.tables import vacant, write_zoo
from phasezoo.errors import FormatError, ZooNotFoundError, nearest
from phasezoo.manifest import Manifest
from phasezoo.registry import ZOOS, Entry
from phasezoo.report import REPORT, to_json
from phasezoo.summary import draft, parse


def build_summary(source: str | Path, out: str | Path, *, name: str | None = None) -> Manifest:
    """Build a zoo of tables from a published summary table.

    What was left out, merged or doubtful is listed in ``build_report.json`` beside the manifest.

    Args:
        source: the CSV file.
        out: directory that does not exist yet or is empty.
        name: name of the zoo, as `phasezoo.list_zoos` gives it; by default the one whose published file is called so.

    Raises:
        ZooNotFoundError: no such file, or no zoo of that name.
        FormatError: the name of the zoo is needed, or the file is no summary table of it.
        WriteError: `out` exists and is not empty, or cannot be written.
    """
    source, out = Path(source).expanduser(), vacant(out)
    entry = _entry(source, name)
    try:
        data = source.read_bytes()
    except OSError as error:
        raise ZooNotFoundError(f"cannot read {source}: {error.strerror}. Give the path of a summary table.") from None
    tables = parse(data, entry, where=str(source))
    return write_zoo(
        out,
        draft(entry, tables, data),
        configs=tables.configs,
        results=tables.results,
        landscape=tables.landscape,
        extra={REPORT: to_json(tables.findings, tables.counts)},
    )


def _entry(source: Path, name: str | None) -> Entry:
    published = {entry.name: entry for entry in ZOOS.values() if entry.summary is not None}
    if name is not None:
        if name not in published:
            raise ZooNotFoundError(f"no zoo named {name!r} has a summary table. {nearest(name, published, limit=20)}")
        return published[name]
    for entry in published.values():
        if entry.variant_of is None and entry.summary and Path(entry.summary.file).name == source.name:
            return entry
    known = nearest(source.stem, published, limit=20)
    raise FormatError(f"{source.name} does not say which zoo it describes. Name it (--zoo). {known}")
