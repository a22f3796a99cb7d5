"""The tables of a zoo: read once, verified, in order, and what follows from them."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from functools import cached_property
from typing import TYPE_CHECKING, Any

from phasezoo.errors import (
    EpochNotFoundError,
    FormatError,
    ModelNotFoundError,
    TableNotFoundError,
    WeightsUnavailableError,
    nearest,
)
from phasezoo.locations import Locations
from phasezoo.manifest import MANIFEST, Manifest
from phasezoo.parquet import read_table
from phasezoo.store import Store

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

    from phasezoo.source import Source
    from phasezoo.thresholds import Thresholds

# Tables of the weights; a zoo of tables only has none of them.
WEIGHTS = ("checkpoints", "layouts", "digests")


class Index:
    """The tables of one zoo. Tables are read at first use and kept."""

    def __init__(
        self, store: Store, *, address: str | None = None, revision: str | None = None, manifest: bytes | None = None
    ) -> None:
        """Open the manifest.

        Args:
            store: where the bytes are.
            address: what `phasezoo.load` takes to open the same zoo again; its name by default.
            revision: the commit that is read, where there are commits.
            manifest: the bytes of zoo.json, if they were read already.
        """
        self.store = store
        self.revision = revision
        data = bytes(store.source.read(MANIFEST)) if manifest is None else manifest
        self.manifest = Manifest.from_bytes(data, where=f"{store.url}/{MANIFEST}")
        self.address = address if address is not None else self.manifest.name
        self._tables: dict[str, pa.Table] = {}
        self._starts: dict[str, list[int]] = {}

    @property
    def source(self) -> Source:
        """Where the files are."""
        return self.store.source

    def table(self, name: str) -> pa.Table:
        """Return a table, ordered by model and epoch as `configs` is.

        Raises:
            TableNotFoundError: the zoo has no such table.
            WeightsUnavailableError: it is a table of the weights, and the zoo has none.
            IntegrityError: the file is not the one that the manifest describes.
            FormatError: the file lacks a column that the format requires.
        """
        if name not in self._tables:
            if name not in self.manifest.tables:
                if name in WEIGHTS:
                    raise self._no_weights()
                raise TableNotFoundError(
                    f"zoo {self.manifest.name!r} has no table {name!r}. {nearest(name, self.manifest.tables)}"
                )
            self._tables[name] = self._ordered(name, self._read(name))
        return self._tables[name]

    @property
    def has_weights(self) -> bool:
        """Are there weights, or tables only?"""
        return "checkpoints" in self.manifest.tables

    def _no_weights(self) -> WeightsUnavailableError:
        name = self.manifest.name
        return WeightsUnavailableError(
            f"zoo {name!r} has tables only: its weights are not published as files that can be fetched. Three ways on: "
            f"build it from a raw copy (`phasezoo build SOURCE OUT --zoo {name}`), load a copy with weights from its "
            f"directory, a mirror or the Hub (PHASEZOO_HUB), or regenerate it (`phasezoo train {name}`)."
        )

    def _read(self, name: str) -> pa.Table:
        entry = self.manifest.tables[name]
        data = self.store.file(entry)
        return read_table(name, data, rows=entry.rows, where=f"{self.source.url}/{entry.path}")

    def _ordered(self, name: str, table: pa.Table) -> pa.Table:
        """Order rows by (model as in configs, epoch), so that a model's rows are one slice."""
        import numpy as np
        import pyarrow.compute as pc

        if name in ("configs", "layouts", "landscape") or "model_id" not in table.column_names:
            return table
        ids = self.table("configs")["model_id"]
        rank = pc.index_in(table["model_id"], value_set=ids.combine_chunks())
        if rank.null_count:
            stray = table.filter(pc.is_null(rank))["model_id"][0]
            raise FormatError(f"table {name!r} has rows of model {stray}, which `configs` does not list.")
        ranks, epochs = _numbers(rank), _numbers(table["epoch"])
        order = np.lexsort((epochs, ranks))
        if not np.array_equal(order, np.arange(len(order))):
            table, ranks, epochs = table.take(order), ranks[order], epochs[order]
        twice = np.flatnonzero((np.diff(ranks) == 0) & (np.diff(epochs) == 0))
        if len(twice):
            model_id, epoch = ids[int(ranks[twice[0]])], epochs[twice[0]]
            raise FormatError(f"table {name!r} has several rows of model {model_id} at epoch {epoch}. Rebuild the zoo.")
        self._starts[name] = np.searchsorted(ranks, np.arange(len(ids) + 1)).tolist()
        return table

    @cached_property
    def _configs(self) -> list[dict[str, Any]]:
        configs: list[dict[str, Any]] = self.table("configs").to_pylist()
        return configs

    def config(self, row: int) -> dict[str, Any]:
        """Return a copy of a row of `configs`."""
        return dict(self._configs[row])

    @cached_property
    def rows(self) -> dict[str, int]:
        """Row of each model in `configs`."""
        ids = [config["model_id"] for config in self._configs]
        rows = {model_id: i for i, model_id in enumerate(ids)}
        if len(rows) != len(ids):
            raise FormatError(f"zoo {self.manifest.name!r}: a model_id occurs twice in `configs`.")
        return rows

    def row(self, model_id: str) -> int:
        """Return the row of a model in `configs`."""
        try:
            return self.rows[model_id]
        except (KeyError, TypeError):
            raise ModelNotFoundError(
                f"no model {model_id!r} in zoo {self.manifest.name!r}. {nearest(model_id, self.rows)}"
            ) from None

    def span(self, name: str, row: int) -> tuple[int, int]:
        """Return the first and one-past-last row that a model has in a table."""
        self.table(name)
        starts = self._starts[name]
        return starts[row], starts[row + 1]

    def epochs(self, row: int) -> list[int]:
        """Return the epochs at which a model has a checkpoint, ascending; none in a zoo of tables only."""
        if not self.has_weights:
            return []
        start, stop = self.span("checkpoints", row)
        result: list[int] = self.checkpoint_epochs[start:stop]
        return result

    @cached_property
    def checkpoint_epochs(self) -> list[int]:
        """Epoch of each row of `checkpoints`."""
        epochs: list[int] = self.table("checkpoints")["epoch"].to_pylist()
        return epochs

    def checkpoint_row(self, row: int, epoch: int | str) -> int:
        """Return the row in `checkpoints` of a model's epoch (a number, ``"first"`` or ``"last"``)."""
        start, _ = self.span("checkpoints", row)
        epochs = self.epochs(row)
        wanted = {"first": epochs[0], "last": epochs[-1]}.get(str(epoch), epoch) if epochs else epoch
        try:
            return start + epochs.index(wanted)  # type: ignore[arg-type]
        except ValueError:
            model_id = self.table("configs")["model_id"][row]
            exist = ", ".join(map(str, epochs)) or "none at all"
            raise EpochNotFoundError(
                f"model {str(model_id)!r} has no checkpoint at epoch {epoch!r}. "
                f"It has checkpoints at: {exist}; 'first' and 'last' work too."
            ) from None

    @cached_property
    def locations(self) -> Locations:
        """Where each row of `checkpoints` lies."""
        return Locations(self.table, {file.path: file.nbytes for file in self.manifest.shards})

    def with_checkpoints(self, checkpoint_rows: Sequence[int]) -> Index:
        """Return this index as if only these checkpoints were in the zoo; all other tables are shared."""
        import pyarrow as pa

        kept = pa.array(sorted(checkpoint_rows), pa.int64())
        part = copy(self)
        part._tables, part._starts = dict(self._tables), dict(self._starts)
        for name in ("checkpoints", "digests"):
            part._tables[name] = part._ordered(name, self.table(name).take(kept))
        for name in ("checkpoint_epochs", "locations"):
            part.__dict__.pop(name, None)
        return part

    @property
    def measured(self) -> bool:
        """Are there landscape metrics?"""
        return "landscape" in self.manifest.tables and self.manifest.tables["landscape"].rows > 0

    @cached_property
    def cells(self) -> pa.Table:
        """One row per cell and epoch, without labels."""
        from phasezoo.cells import cell_table

        landscape = self.table("landscape") if self.measured else None
        return cell_table(self.table("configs"), self.table("results"), landscape)

    @cached_property
    def classes(self) -> int | None:
        """Number of classes of the task, if it is a classification and the number is known."""
        from phasezoo.cells import classes_of

        return classes_of(self.manifest.name, self.table("configs"))

    def epoch_cells(self, epoch: int | None, thresholds: Thresholds) -> pa.Table:
        """Return the cells of one epoch, without labels; by default of the last epoch that was measured.

        Raises:
            EpochNotFoundError: there are no results at that epoch.
        """
        import pyarrow.compute as pc

        from phasezoo.cells import default_epoch

        if epoch is None:
            epoch = default_epoch(self.cells, thresholds)
        found = self.cells.filter(pc.field("epoch") == epoch)
        if not found.num_rows:
            epochs = sorted(set(self.cells["epoch"].to_pylist()))
            span = f"There are results from epoch {epochs[0]} to {epochs[-1]}." if epochs else "There are no results."
            raise EpochNotFoundError(f"no results at epoch {epoch!r} in zoo {self.manifest.name!r}. {span}")
        return found

    @cached_property
    def configs(self) -> pa.Table:
        """`configs`, with the phase of each model's cell if the zoo was measured."""
        configs = self.table("configs")
        if not self.measured or configs.num_rows == 0:
            return configs
        from phasezoo.cells import model_phases
        from phasezoo.thresholds import thresholds_for

        thresholds = thresholds_for(self.manifest.name)
        cells = self.epoch_cells(None, thresholds)
        phases = model_phases(configs, self.table("results"), cells, thresholds, classes=self.classes)
        for name in phases.column_names:
            configs = configs.append_column(phases.schema.field(name), phases[name])
        return configs

    @cached_property
    def summary(self) -> pa.Table:
        """`configs` with, for each model, the results of its last epoch appended."""
        configs = self.configs
        if "results" not in self.manifest.tables:
            return configs
        import pyarrow as pa

        results = self.table("results")
        spans = [self.span("results", row) for row in range(configs.num_rows)]
        last = results.take(pa.array([stop - 1 if stop > start else None for start, stop in spans], pa.int64()))
        for name in results.column_names:
            if name not in configs.column_names:
                configs = configs.append_column(results.schema.field(name), last[name])
        return configs


def _numbers(column: pa.ChunkedArray) -> NDArray[np.int64]:
    """Return integers without nulls as numpy; `to_numpy` would import pandas, for 0.15 s."""
    import numpy as np

    return np.concatenate([np.empty(0, np.int64), *(np.from_dlpack(chunk) for chunk in column.chunks)])
