"""The dataset card: README.md with the front matter that makes `datasets.load_dataset` work on the zoo."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from phasezoo.cells import cell_table, classes_of, default_epoch, labelled
from phasezoo.manifest import Manifest
from phasezoo.thresholds import thresholds_for


def write_card(manifest: Manifest, tables: Mapping[str, pa.Table], out: Path) -> None:
    """Write ``README.md`` beside the manifest.

    Args:
        manifest: what the zoo is.
        tables: the tables, for their schemas.
        out: the zoo's directory.
    """
    (out / "README.md").write_text(_front_matter(manifest) + _body(manifest, tables), encoding="utf-8")


def _front_matter(manifest: Manifest) -> str:
    lines = ["---", f"pretty_name: {json.dumps(manifest.title)}", f"license: {manifest.license.lower()}"]
    lines += ["tags:", "- model-zoo", "- weight-space-learning", "- phasezoo", "configs:"]
    # `datasets` refuses a configuration without rows.
    for name, table in ((name, table) for name, table in manifest.tables.items() if table.rows):
        lines += [f"- config_name: {name}", f"  data_files: {table.path}"]
        if name == "configs":
            lines.append("  default: true")
    return "\n".join([*lines, "---", ""])


def _body(manifest: Manifest, tables: Mapping[str, pa.Table]) -> str:
    load, temperature = manifest.load, manifest.temperature
    parts = [
        f"# {manifest.title}",
        manifest.description,
        f"- architecture: `{manifest.architecture}`; data set: {manifest.dataset}; task: {manifest.task}\n"
        f"- load: {load.label} (`{load.column}`) in {_values(load.values)}\n"
        f"- temperature: {temperature.label} (`{temperature.column}`) in {_values(temperature.values)}\n"
        f"- {tables['configs'].num_rows} models; {len(manifest.shards)} shards, "
        f"{sum(shard.nbytes for shard in manifest.shards) / 1e6:,.1f} MB",
        "```python\nimport phasezoo\n\n"
        f'zoo = phasezoo.load("{manifest.name}")  # or the path of this directory\n'
        "net = zoo[0].checkpoint().module()\n```",
    ]
    if manifest.provenance.notes:
        parts.append("## What to know\n\n" + "\n".join(f"- {note}" for note in manifest.provenance.notes))
    if tables["landscape"].num_rows:
        parts += ["## Phases", _phases(manifest, tables)]
    parts.append("## Tables")
    for name, table in tables.items():
        rows = [f"| {f.name} | {f.type} | {_meta(f, 'unit')} | {_meta(f, 'description')} |" for f in table.schema]
        head = f"### {name} ({table.num_rows:,} rows)\n\n| column | type | unit | meaning |\n|---|---|---|---|\n"
        parts.append(head + "\n".join(rows))
    parts += ["## Source", f"{manifest.provenance.method} from {manifest.provenance.source}"]
    parts += [f"Licence: {manifest.license}", "## Citation", f"```bibtex\n{manifest.citation}\n```"]
    return "\n\n".join(part for part in parts if part) + "\n"


def _phases(manifest: Manifest, tables: Mapping[str, pa.Table]) -> str:
    """Write the phase map at the last measured epoch as a table: load from left to right, hot on top."""
    configs = tables["configs"]
    thresholds = thresholds_for(manifest.name)
    cells = cell_table(configs, tables["results"], tables["landscape"])
    epoch = default_epoch(cells, thresholds)
    at = cells.filter(pc.equal(cells["epoch"], pa.scalar(epoch, pa.int64())))
    rows = labelled(at, thresholds, classes=classes_of(manifest.name, configs)).to_pylist()
    found = {(row["load"], row["temperature"]): row["phase"] or ", ".join(row["phase_flags"]) for row in rows}
    loads = sorted({row["load"] for row in rows})
    hot_first = sorted({row["temperature"] for row in rows}, reverse=manifest.temperature.hot != "low")
    head = f"| {manifest.temperature.column} \\ {manifest.load.column} | " + " | ".join(f"{x:g}" for x in loads) + " |"
    body = [f"| {y:g} | " + " | ".join(found.get((x, y), "") for x in loads) + " |" for y in hot_first]
    rule = "|---" * (len(loads) + 1) + "|"
    intro = (
        f"At epoch {epoch}, after Yang et al. (2021), by the thresholds `{thresholds.name}` ({thresholds.id}). "
        "Labels are computed from the tables; `zoo.phases(thresholds=...)` makes others."
    )
    return "\n".join([intro, "", head, rule, *body])


def _values(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:g}" for value in values)


def _meta(field: pa.Field, key: str) -> str:
    text: str = (field.metadata or {}).get(key.encode(), b"").decode()
    return text
