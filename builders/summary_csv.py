"""A published summary table (CSV) to a zoo of tables on disk: configs, results, landscape; no weights."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from phasezoo.builders.tables import write_zoo
from phasezoo.errors import FormatError, ZooNotFoundError, nearest
from phasezoo.registry import ZOOS, Entry
from phasezoo.report import REPORT, Built, to_json
from phasezoo.source import open_ranges, vacant
from phasezoo.summary import draft, parse


def build_summary(source: str | Path, out: str | Path, *, zoo: str | None = None, dry_run: bool = False) -> Built:
    r"""Build a zoo of tables from a published summary table.

    What was left out, merged or doubtful is listed in ``build_report.json`` beside the manifest.

    Args:
        source: path or URL of the CSV file.
        out: directory that does not exist yet or is empty.
        zoo: name of the zoo, as `phasezoo.list_zoos` gives it; by default the one whose published file is called so.
        dry_run: only say what would be built.

    Returns:
        Counts and findings.

    Raises:
        ZooNotFoundError: no such file, or no zoo of that name.
        FormatError: the name of the zoo is needed, or the file is no summary table of it.
        WriteError: `out` exists and is not empty, or cannot be written.

    >>> import phasezoo, tempfile
    >>> columns = "model,width,seed,lr,wd,batchsize,epoch,train_loss,train_acc,test_loss,test_acc"
    >>> row = "training_batchsize=16_0,4,0,0.1,0.0005,16,0,2.31,0.1,2.31,0.1"
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = Path(folder, "summary.csv")
    ...     _ = file.write_text(f"{columns}\n{row}\n")
    ...     built = build_summary(file, f"{folder}/zoo", zoo="resnet18-cifar10")
    ...     print(phasezoo.load(f"{folder}/zoo")[0].id, sorted({finding.kind for finding in built.findings}))
    w4-b16-s0 ['model-missing', 'near-chance']
    """
    out, file = vacant(out), open_ranges(str(source))
    entry = _entry(file.url, zoo)
    data = bytes(file.read(0, file.size))
    tables = parse(data, entry, where=file.url)
    if not dry_run:
        write_zoo(
            out,
            draft(entry, tables, data),
            configs=tables.configs,
            results=tables.results,
            landscape=tables.landscape,
            extra={REPORT: to_json(tables.findings, tables.counts)},
        )
    return Built(tables.counts["models"], tables.counts["cells"], 0, 0, tables.findings)


def _entry(source: str, name: str | None) -> Entry:
    published = {entry.name: entry for entry in ZOOS.values() if entry.summary is not None}
    if name is not None:
        if name not in published:
            raise ZooNotFoundError(f"no zoo named {name!r} has a summary table. {nearest(name, published, limit=20)}")
        return published[name]
    file = PurePosixPath(source).name
    for entry in published.values():
        if entry.variant_of is None and entry.summary and PurePosixPath(entry.summary.file).name == file:
            return entry
    known = nearest(file, published, limit=20)
    raise FormatError(f"{file} does not say which zoo it describes. Name it (--zoo). {known}")
