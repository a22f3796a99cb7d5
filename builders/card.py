"""The dataset card: README.md with the front matter that makes `datasets.load_dataset` work on the zoo."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from phasezoo.cells import cell_table, classes_of, default_epoch, labelled
from phasezoo.manifest import Manifest
from phasezoo.progress import size
from phasezoo.registry import ZOOS
from phasezoo.thresholds import thresholds_for

CARD = "README.md"
# The licences that the Hub has a name for and zoos are likely to have; any other is "other" with its own name.
LICENSES = re.compile(
    r"mit|apache-2\.0|bsd-[23]-clause|cc0-1\.0|cc-by(-nc)?(-sa|-nd)?-4\.0|odbl|odc-by|pddl|[al]?gpl-3\.0"
)


def write_card(manifest: Manifest, tables: Mapping[str, pa.Table], out: Path) -> None:
    """Write ``README.md`` beside the manifest.

    Args:
        manifest: what the zoo is.
        tables: the tables, for their schemas.
        out: the zoo's directory.
    """
    (out / CARD).write_text(card(manifest, tables), encoding="utf-8")


def card(
    manifest: Manifest, tables: Mapping[str, pa.Table], *, repo_id: str | None = None, picture: str | None = None
) -> str:
    """Return the text of the card.

    Args:
        manifest: what the zoo is.
        tables: the tables, for their schemas.
        repo_id: ``owner/name`` of the data set on the Hub that the card is for.
        picture: path of the phase map beside the card, if there is one.

    >>> import phasezoo
    >>> zoo = phasezoo.load("mlp-digits")
    >>> text = card(zoo.manifest, {name: zoo.table(name) for name in zoo.manifest.tables}, repo_id="owner/zoo")
    >>> 'phasezoo.load("hf://datasets/owner/zoo")' in text
    True
    """
    return _front_matter(manifest) + _body(manifest, tables, repo_id, picture)


def _front_matter(manifest: Manifest) -> str:
    license = manifest.license.lower()
    lines = ["---", f"pretty_name: {json.dumps(manifest.title)}"]
    if LICENSES.fullmatch(license):
        lines.append(f"license: {license}")
    else:
        lines += ["license: other", f"license_name: {json.dumps(manifest.license)}"]
    lines += ["tags:", "- model-zoo", "- weight-space-learning", "- phasezoo", "configs:"]
    # `datasets` refuses a configuration without rows.
    for name, table in ((name, table) for name, table in manifest.tables.items() if table.rows):
        lines += [f"- config_name: {name}", f"  data_files: {table.path}"]
        if name == "configs":
            lines.append("  default: true")
    return "\n".join([*lines, "---", ""])


def _body(
    manifest: Manifest, tables: Mapping[str, pa.Table], repo_id: str | None = None, picture: str | None = None
) -> str:
    load, temperature = manifest.load, manifest.temperature
    parts = [
        f"# {manifest.title}",
        manifest.description,
        f"- architecture: `{manifest.architecture}`; data set: {manifest.dataset}; task: {manifest.task}\n"
        f"- load: {load.label} (`{load.column}`) in {_values(load.values)}\n"
        f"- temperature: {temperature.label} (`{temperature.column}`) in {_values(temperature.values)}\n"
        f"- {tables['configs'].num_rows} models; {len(manifest.shards)} shards, "
        f"{size(sum(shard.nbytes for shard in manifest.shards))}",
        _use(manifest, repo_id),
    ]
    if manifest.provenance.notes:
        parts.append("## What to know\n\n" + "\n".join(f"- {note}" for note in manifest.provenance.notes))
    if tables["landscape"].num_rows:
        image = f"![The phase of each cell, paler where it is less sure]({picture})" if picture else ""
        parts += ["## Phases", image, _phases(manifest, tables)]
    parts.append("## Tables")
    for name, table in tables.items():
        rows = [
            f"| {f.name} | {_type(f.type)} | {_meta(f, 'unit')} | {_meta(f, 'description')} |" for f in table.schema
        ]
        head = f"### {name} ({table.num_rows:,} rows)\n\n| column | type | unit | meaning |\n|---|---|---|---|\n"
        parts.append(head + "\n".join(rows))
    parts += ["## How it was built", *_provenance(manifest)]
    parts += ["## Licence", manifest.license, "## Citation", f"```bibtex\n{manifest.citation}\n```"]
    return "\n\n".join(part for part in parts if part) + "\n"


def _use(manifest: Manifest, repo_id: str | None) -> str:
    entry = ZOOS.get(manifest.name)
    place = f"hf://datasets/{repo_id}" if repo_id else manifest.name if entry and entry.embedded else "DIRECTORY"
    lines = ["import phasezoo", "", f'zoo = phasezoo.load("{place}")']
    if repo_id is None:
        lines[-1] += "  # the directory of this file" if place == "DIRECTORY" else "  # or the directory of this file"
    if manifest.shards:
        lines.append("net = zoo[0].checkpoint().module()  # reads this checkpoint and no other")
    if repo_id:
        lines += ["", "import datasets", "", f'configs = datasets.load_dataset("{repo_id}", "configs", split="train")']
    return "\n".join(["```python", *lines, "```"])


def _provenance(manifest: Manifest) -> list[str]:
    p = manifest.provenance
    software = ", ".join(f"{name} {version}" for name, version in p.software.items())
    parts = [
        f"Method: {p.method}. Source: {p.source.rstrip('.')}.",
        f"Software: {software}." if software else "",
        f"Format version {manifest.format_version}. `zoo.json` has size and sha256 of every file; "
        "`phasezoo verify` checks them, and every tensor.",
    ]
    for what, settings in (("Recipe", p.recipe), ("Settings of the landscape metrics", manifest.protocols)):
        if settings:
            text = json.dumps(settings, indent=2, ensure_ascii=False)
            parts.append(f"{what}:\n\n```json\n{text}\n```")
    return parts


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


def _type(kind: pa.DataType) -> str:
    return f"list of {kind.value_type}" if pa.types.is_list(kind) else str(kind)


def _meta(field: pa.Field, key: str) -> str:
    text: str = (field.metadata or {}).get(key.encode(), b"").decode()
    return text.replace("|", "\\|")  # which would end the cell of the table
