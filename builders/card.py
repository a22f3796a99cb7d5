"""The dataset card: README.md with the front matter that makes `datasets.load_dataset` work on the zoo."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa

from phasezoo.manifest import Manifest


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
    parts.append("## Tables")
    for name, table in tables.items():
        rows = [f"| {f.name} | {f.type} | {_meta(f, 'unit')} | {_meta(f, 'description')} |" for f in table.schema]
        head = f"### {name} ({table.num_rows:,} rows)\n\n| column | type | unit | meaning |\n|---|---|---|---|\n"
        parts.append(head + "\n".join(rows))
    parts += ["## Source", f"{manifest.provenance.method} from {manifest.provenance.source}"]
    parts += [f"Licence: {manifest.license}", "## Citation", f"```bibtex\n{manifest.citation}\n```"]
    return "\n\n".join(part for part in parts if part) + "\n"


def _values(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:g}" for value in values)


def _meta(field: pa.Field, key: str) -> str:
    text: str = (field.metadata or {}).get(key.encode(), b"").decode()
    return text
