"""Where each checkpoint of a zoo lies: what the tables of the weights state, checked before it is believed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from phasezoo.errors import FormatError
from phasezoo.layout import Layout
from phasezoo.manifest import MANIFEST, SHA256
from phasezoo.store import Location

if TYPE_CHECKING:
    import pyarrow as pa

# What of a row of checkpoints says where it lies.
PLACE = ["shard", "offset", "nbytes", "sha256", "layout_id"]


class Locations:
    """Where the rows of the table `checkpoints` lie, in what layout, and what their tensors hash to.

    Args:
        table: returns a table of the zoo; each is asked for at first use.
        shards: bytes of each shard that the manifest names.
    """

    def __init__(self, table: Callable[[str], pa.Table], shards: Mapping[str, int]) -> None:
        self._table = table
        self._shards = shards

    def __getitem__(self, row: int) -> Location:
        table = self._table("checkpoints")
        return self._location(*(table[name][row].as_py() for name in PLACE))

    def take(self, rows: Sequence[int]) -> list[Location]:
        """Return where several checkpoints lie."""
        import pyarrow as pa

        wanted = self._table("checkpoints").select(PLACE).take(pa.array(rows, pa.int64()))
        return [self._location(*row) for row in zip(*(column.to_pylist() for column in wanted.columns), strict=True)]

    def _location(self, shard: str, offset: int, nbytes: int, sha256: str, layout_id: str) -> Location:
        layout = self._layouts.get(layout_id)
        if layout is None or layout.nbytes != nbytes:
            raise FormatError(f"checkpoint in {shard} at {offset} names layout {layout_id}, which does not fit it.")
        # The path and the hash become names of files: neither may lead elsewhere.
        if not 0 <= offset <= self._shards.get(shard, -1) - nbytes or not SHA256.fullmatch(sha256):
            raise FormatError(
                f"the index states a checkpoint of {nbytes} bytes at byte {offset} of {shard[:200]!r} with sha256 "
                f"{sha256[:64]!r}; {MANIFEST} knows no such place. Rebuild the zoo with `phasezoo build`."
            )
        return Location(shard, offset, nbytes, sha256, layout)

    def digests(self, row: int) -> bytes:
        """Return the digests of a checkpoint's tensors, 8 bytes each, in layout order."""
        result: bytes = self._digests[row].as_py()
        if len(result) != 8 * len(self[row].layout):
            raise FormatError("the table 'digests' has not one digest for each tensor. Rebuild the zoo.")
        return result

    @cached_property
    def _digests(self) -> pa.ChunkedArray:
        table, checkpoints = self._table("digests"), self._table("checkpoints")
        if not all(table[name].equals(checkpoints[name]) for name in ("model_id", "epoch")):
            raise FormatError("the tables 'digests' and 'checkpoints' list other checkpoints. Rebuild the zoo.")
        return table["digests"]

    @cached_property
    def _layouts(self) -> dict[str, Layout]:
        """All layouts of the zoo, checked against the offsets that the table states."""
        import pyarrow.compute as pc

        table = self._table("layouts")
        order = pc.sort_indices(table, sort_keys=[("layout_id", "ascending"), ("position", "ascending")])
        groups: dict[str, list[dict[str, Any]]] = {}
        for row in table.take(order).to_pylist():
            groups.setdefault(row["layout_id"], []).append(row)
        layouts = {}
        for layout_id, rows in groups.items():
            layout = Layout.of((r["name"], r["dtype"], r["shape"]) for r in rows)
            stated = [(r["offset"], r["nbytes"]) for r in rows]
            if stated != [(s.offset, s.nbytes) for s in layout.tensors] or layout.layout_id != layout_id:
                raise FormatError(f"layout {layout_id} in table 'layouts' contradicts itself. Rebuild the zoo.")
            layouts[layout_id] = layout
        return layouts
