"""A view of some models of a zoo: which ones, their tables, and how to narrow it further."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from phasezoo.errors import ColumnNotFoundError, nearest
from phasezoo.index import Index
from phasezoo.manifest import Manifest
from phasezoo.where import match

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.compute as pc
    from typing_extensions import Self

    from phasezoo.thresholds import Thresholds


class View:
    """Some models of a zoo, in an order: what `Zoo` does with tables and rows, without weights.

    >>> import phasezoo
    >>> view = phasezoo.load("mlp-digits").filter(width=8).sort("test_acc")
    >>> len(view), view.table("results").num_rows
    (24, 3624)
    """

    def __init__(self, index: Index, rows: Sequence[int] | None = None) -> None:
        self._index = index
        self._all = rows is None
        self._rows: Sequence[int] = range(index.table("configs").num_rows) if rows is None else rows

    @property
    def manifest(self) -> Manifest:
        """What the zoo is: title, axes, provenance, licence, citation, files.

        >>> import phasezoo
        >>> zoo = phasezoo.load("mlp-digits")
        >>> zoo.manifest.load.column, zoo.manifest.temperature.column, zoo.manifest.license
        ('width', 'lr', 'MIT')
        """
        return self._index.manifest

    @property
    def name(self) -> str:
        """Name of the zoo.

        >>> import phasezoo
        >>> phasezoo.load("mlp-digits").name
        'mlp-digits'
        """
        return self.manifest.name

    def phases(
        self, *, epoch: int | None = None, thresholds: str | Thresholds | dict[str, Any] | None = None
    ) -> pa.Table:
        """Label the cells of this view at one epoch.

        Cuts that depend on the data are those of the whole zoo, so that a view does not change a label.

        Args:
            epoch: which; by default the last one with landscape metrics.
            thresholds: a set, the name of one (``"strict_yang2021"``), or numbers to change, such as
                ``{"mc_eps": 5.0}``; by default those of the zoo.

        Returns:
            One row per cell: metrics, `phase`, `phase_confidence`, probabilities, margins, reasons and flags.

        Raises:
            EpochNotFoundError: there are no results at that epoch.
            ThresholdError: no thresholds of that name.

        >>> import phasezoo
        >>> view = phasezoo.load("mlp-digits").filter(width=8)
        >>> cells = view.phases()
        >>> cells["cell_id"][0].as_py(), cells["phase"][0].as_py(), cells["phase_reasons"][0].as_py()
        ('w8-lr0.005', 'III', ['train_loss 0.0109 < 0.1 (the rule)', 'curve_mc_train_loss -0.0696 < -0.05'])
        """
        from phasezoo.thresholds import thresholds_for

        chosen = thresholds_for(self.name, thresholds)
        return self._cells(self._index.epoch_cells(epoch, chosen), chosen)

    def _cells(self, cells: pa.Table | None, thresholds: Thresholds | None) -> pa.Table:
        """Label cells (all, by default) and keep those of this view."""
        import pyarrow.compute as pc

        from phasezoo.cells import labelled
        from phasezoo.thresholds import thresholds_for

        index = self._index
        chosen = thresholds or thresholds_for(self.name)
        table = labelled(index.cells if cells is None else cells, chosen, classes=index.classes)
        if self._all:
            return table
        ours = self.table("configs")["cell_id"].combine_chunks().unique()
        return table.filter(pc.field("cell_id").isin(ours))

    def table(self, name: str) -> pa.Table:
        """Return a table of this view as Arrow, with units and descriptions in the field metadata.

        Args:
            name: ``configs``, ``results``, ``landscape``, ``checkpoints``, ``layouts``, ``digests``, ``summary`` or
                ``cells``.

        Raises:
            TableNotFoundError: no table of that name.

        >>> import phasezoo
        >>> phasezoo.load("mlp-digits").filter(width=8, seed=100).table("results").num_rows
        1208
        """
        import pyarrow as pa
        import pyarrow.compute as pc

        if name == "cells":
            return self._cells(None, None)
        derived = {"summary": lambda: self._index.summary, "configs": lambda: self._index.configs}
        table = derived[name]() if name in derived else self._index.table(name)
        if self._all or name == "layouts":
            return table
        if name in ("configs", "summary"):
            return table.take(pa.array(self._rows, pa.int64()))
        configs = self.table("configs")
        if name == "landscape":
            # Rows on a cell have no model_id; they belong to every view that holds a model of the cell.
            ours = pc.field("model_id").isin(configs["model_id"].combine_chunks())
            cells = pc.field("cell_id").isin(configs["cell_id"].combine_chunks().unique())
            return table.filter(ours | (pc.field("model_id").is_null() & cells))
        spans = [self._index.span(name, row) for row in self._rows]
        slices = [table.slice(start, stop - start) for start, stop in spans]
        return pa.concat_tables(slices) if slices else table.slice(0, 0)

    @property
    def nbytes(self) -> int:
        """Bytes that reading every checkpoint of this view would take; 0 for a zoo of tables only.

        >>> import phasezoo
        >>> zoo = phasezoo.load("mlp-digits")
        >>> zoo.nbytes, zoo.filter(width=8).nbytes
        (9708672, 261888)
        """
        if not self._index.has_weights:
            return 0
        import pyarrow.compute as pc

        return pc.sum(self.table("checkpoints")["nbytes"]).as_py() or 0

    def filter(self, condition: pc.Expression | str | None = None, /, **columns: Any) -> Self:
        """Keep the models that satisfy a condition.

        Args:
            condition: a `pyarrow.compute` expression, or text such as ``"width <= 8 and test_acc > 0.9"``,
                on the columns of `summary`.
            **columns: column=value; a list, tuple, set or range means any of its values.

        Raises:
            ColumnNotFoundError: no such column.
            FilterError: the condition cannot be read or does not fit its columns.

        >>> import phasezoo, pyarrow.compute as pc
        >>> zoo = phasezoo.load("mlp-digits")
        >>> len(zoo.filter(width=[2, 64], lr=0.1)), len(zoo.filter(pc.field("train_loss") < 0.003))
        (6, 97)
        """
        kept = set(match(self._index.summary, condition, columns))
        return self._view([row for row in self._rows if row in kept])

    def select(self, indices: Sequence[int]) -> Self:
        """Keep the models at these positions of the view, in the order given.

        >>> import phasezoo
        >>> zoo = phasezoo.load("mlp-digits")
        >>> [model.id for model in zoo.select([0, -1])]
        ['w2-lr0.005-s100', 'w64-lr0.1-s102']
        """
        return self._view([self._rows[i] for i in indices])

    def sort(self, by: str, *, descending: bool = False) -> Self:
        """Order the models by a column of `summary`; missing values come last, equal ones keep their order.

        >>> import phasezoo
        >>> zoo = phasezoo.load("mlp-digits")
        >>> [model.id for model in zoo.sort("test_acc", descending=True)[:2]]
        ['w48-lr0.08-s101', 'w32-lr0.06-s101']
        """
        values = self._column(by)
        present = [i for i, value in enumerate(values) if value is not None]
        present.sort(key=lambda i: values[i], reverse=descending)
        return self.select(present + [i for i, value in enumerate(values) if value is None])

    def sample(self, n: int, *, seed: int) -> Self:
        """Draw `n` models without replacement, reproducibly.

        Raises:
            ValueError: the view has fewer models.

        >>> import phasezoo
        >>> zoo = phasezoo.load("mlp-digits")
        >>> len(zoo.sample(5, seed=0)), zoo.sample(5, seed=0)[0].id == zoo.sample(5, seed=0)[0].id
        (5, True)
        """
        if not 0 <= n <= len(self):
            raise ValueError(f"cannot draw {n} of {len(self)} models. Ask for at most {len(self)}.")
        return self.select(random.Random(seed).sample(range(len(self)), n))

    def groupby(self, *by: str) -> Iterator[tuple[Any, Self]]:
        """Yield (value, view) for each value of a column, ascending; with several columns, tuples of values.

        >>> import phasezoo
        >>> [(width, len(view)) for width, view in phasezoo.load("mlp-digits").groupby("width")][:2]
        [(2, 24), (3, 24)]
        """
        columns = [self._column(name) for name in by]
        groups: dict[Any, list[int]] = {}
        for i, key in enumerate(zip(*columns, strict=True)):
            groups.setdefault(key, []).append(i)
        # None sorts last: it cannot be compared with other values.
        for key in sorted(groups, key=lambda key: [(value is None, value) for value in key]):
            yield (key if len(by) > 1 else key[0]), self.select(groups[key])

    def _column(self, name: str) -> list[Any]:
        names = self._index.summary.column_names
        if name not in names:
            raise ColumnNotFoundError(f"no column {name!r}. {nearest(name, names, limit=40)}")
        values: list[Any] = self._index.summary[name].to_pylist()
        return [values[row] for row in self._rows]

    def _view(self, rows: Sequence[int]) -> Self:
        return type(self)(self._index, rows)

    def __len__(self) -> int:
        return len(self._rows)
