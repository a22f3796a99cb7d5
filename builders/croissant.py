"""Croissant metadata: croissant.json, by which data set search engines and loaders find the tables of a zoo.

The vocabulary is Croissant 1.0 (https://docs.mlcommons.org/croissant/docs/croissant-spec.html), in JSON-LD.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from phasezoo.manifest import MANIFEST, Manifest

CROISSANT = "croissant.json"

CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileObject": "cr:fileObject",
    "fileProperty": "cr:fileProperty",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}


def croissant(
    manifest: Manifest, tables: Mapping[str, pa.Table], *, endpoint: str, repo_id: str, published: str | None = None
) -> bytes:
    """Return the bytes of croissant.json for a zoo on the Hub.

    Every table with rows becomes a record set; the shards are a set of files, described and not parsed.

    Args:
        manifest: what the zoo is.
        tables: the tables, for their schemas.
        endpoint: address of the Hub.
        repo_id: ``owner/name`` of the data set there.
        published: date on which it appeared, ``YYYY-MM-DD``, if that is known.

    >>> import phasezoo
    >>> zoo = phasezoo.load("mlp-digits")
    >>> tables = {name: zoo.table(name) for name in zoo.manifest.tables}
    >>> where = {"endpoint": "https://huggingface.co", "repo_id": "owner/zoo", "published": "2026-01-31"}
    >>> [r["name"] for r in json.loads(croissant(zoo.manifest, tables, **where))["recordSet"]][:2]
    ['configs', 'results']
    """
    page = f"{endpoint}/datasets/{repo_id}"
    owner = repo_id.split("/")[0]
    filled = {name: table for name, table in tables.items() if table.num_rows}
    described = {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": manifest.name,
        "alternateName": [repo_id, manifest.title],
        "description": manifest.description or manifest.title,
        "url": page,
        "version": f"{manifest.format_version}.0.0",
        **({"datePublished": published} if published else {}),
        "license": _license(manifest.license),
        "citeAs": manifest.citation,
        "creator": {"@type": "Organization", "name": owner, "url": f"{endpoint}/{owner}"},
        "keywords": ["model zoo", "neural network weights", "loss landscape", "phase transitions"],
        "isLiveDataset": False,
        "distribution": [_repository(page), *(_file(manifest, page, name) for name in filled), *_shards(manifest)],
        "recordSet": [_records(name, table) for name, table in filled.items()],
    }
    return (json.dumps(described, indent=1, ensure_ascii=False) + "\n").encode()


def _license(name: str) -> str:
    """Return the address of a licence with an SPDX identifier, any other as it is."""
    return f"https://spdx.org/licenses/{name}.html" if re.fullmatch(r"[A-Z0-9][\w.+-]*", name) else name


def _repository(page: str) -> dict[str, Any]:
    return {
        "@type": "cr:FileObject",
        "@id": "repository",
        "name": "repository",
        "description": "The git repository of the data set.",
        "contentUrl": page,
        "encodingFormat": "git+https",
        # A repository has no hash; the issue is what the Croissant vocabulary prescribes in its place.
        "sha256": "https://github.com/mlcommons/croissant/issues/80",
    }


def _file(manifest: Manifest, page: str, name: str) -> dict[str, Any]:
    file = manifest.tables[name]
    return {
        "@type": "cr:FileObject",
        "@id": file.path,
        "name": file.path,
        "description": f"The table {name}: {file.rows:,} rows.",
        "contentUrl": f"{page}/resolve/main/{file.path}",
        "contentSize": f"{file.nbytes} B",
        "encodingFormat": "application/x-parquet",
        "sha256": file.sha256,
    }


def _shards(manifest: Manifest) -> list[dict[str, Any]]:
    if not manifest.shards:
        return []
    return [
        {
            "@type": "cr:FileSet",
            "@id": "shards",
            "name": "shards",
            "description": (
                f"{len(manifest.shards)} safetensors files with the weights; {MANIFEST} has their hashes, "
                "the table checkpoints says which bytes belong to which model and epoch."
            ),
            "containedIn": {"@id": "repository"},
            "encodingFormat": "application/octet-stream",
            "includes": "shards/**/*.safetensors",
        }
    ]


def _records(name: str, table: pa.Table) -> dict[str, Any]:
    return {
        "@type": "cr:RecordSet",
        "@id": name,
        "name": name,
        "description": f"One record per row of the table {name}.",
        **({"key": {"@id": f"{name}/model_id"}} if name == "configs" else {}),
        "field": [_field(name, field) for field in table.schema],
    }


def _field(table: str, field: pa.Field) -> dict[str, Any]:
    meta = {key.decode(): value.decode() for key, value in (field.metadata or {}).items()}
    unit = f" (unit: {meta['unit']})" if meta.get("unit") else ""
    foreign = field.name == "model_id" and table != "configs"
    nested = pa.types.is_list(field.type) or pa.types.is_large_list(field.type)
    return {
        "@type": "cr:Field",
        "@id": f"{table}/{field.name}",
        "name": field.name,
        "description": f"{meta.get('description', field.name)}{unit}",
        "dataType": _data_type(field.type.value_type if nested else field.type),
        **({"repeated": True} if nested else {}),
        **({"references": {"field": {"@id": "configs/model_id"}}} if foreign else {}),
        "source": {"fileObject": {"@id": f"tables/{table}.parquet"}, "extract": {"column": field.name}},
    }


def _data_type(kind: pa.DataType) -> str:
    if pa.types.is_boolean(kind):
        return "sc:Boolean"
    if pa.types.is_integer(kind):
        return "sc:Integer"
    if pa.types.is_floating(kind):
        return "sc:Float"
    return "sc:Text"  # bytes, too: Croissant has no type for them
