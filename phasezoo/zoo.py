"""A zoo, or a view of some of its models: tables at once, weights on touch."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from phasezoo.errors import ModelNotFoundError
from phasezoo.model import Model
from phasezoo.progress import size
from phasezoo.view import View

if TYPE_CHECKING:
    import datasets
    import pandas as pd
    import polars as pl
    import pyarrow as pa
    import torch
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from phasezoo.dataset import WeightDataset
    from phasezoo.download import Download
    from phasezoo.normalise import Normaliser
    from phasezoo.pairs import PairDataset
    from phasezoo.representations import Representation
    from phasezoo.split import Splits
    from phasezoo.stack import Stack
    from phasezoo.thresholds import Thresholds
    from phasezoo.weights import Epochs


class Zoo(View):
    """A grid of trained networks, or a view of some of them.

    `filter`, `select`, `sort`, `sample`, `groupby` and slices return views; none reads a weight.

    >>> import phasezoo
    >>> zoo = phasezoo.load("mlp-digits")
    >>> len(zoo), len(zoo.filter(width=8)), len(zoo.filter("width <= 8 and test_acc > 0.9"))
    (264, 24, 31)
    """

    @property
    def revision(self) -> str | None:
        """The commit that is read, of a zoo on the Hub; None elsewhere.

        >>> import phasezoo
        >>> phasezoo.load("mlp-digits").revision is None
        True
        """
        return self._index.revision

    @property
    def configs(self) -> datasets.Dataset:
        """One row per model: place in the grid, architecture, optimiser, source.

        >>> import phasezoo
        >>> row = phasezoo.load("mlp-digits").configs[0]
        >>> row["model_id"], row["width"], row["lr"], row["seed"]
        ('w2-lr0.005-s100', 2, 0.005, 100)
        """
        return self._dataset("configs")

    @property
    def results(self) -> datasets.Dataset:
        """One row per model and epoch: losses and accuracies.

        >>> import phasezoo
        >>> zoo = phasezoo.load("mlp-digits")
        >>> zoo.results.num_rows, zoo.results["epoch"][:3]
        (39864, [0, 1, 2])
        """
        return self._dataset("results")

    @property
    def landscape(self) -> datasets.Dataset:
        """One row per model (or cell), epoch and protocol: loss-landscape metrics.

        >>> import phasezoo
        >>> zoo = phasezoo.load("mlp-digits")
        >>> zoo.landscape.num_rows, sorted(set(zoo.landscape["epoch"]))
        (1056, [10, 50, 150])
        """
        return self._dataset("landscape")

    @property
    def checkpoints(self) -> datasets.Dataset:
        """One row per model and epoch: where the weights lie.

        >>> import phasezoo
        >>> zoo = phasezoo.load("mlp-digits")
        >>> row = zoo.checkpoints[0]
        >>> row["model_id"], row["epoch"], row["nbytes"]
        ('w2-lr0.005-s100', 0, 664)
        """
        return self._dataset("checkpoints")

    @property
    def summary(self) -> datasets.Dataset:
        """One row per model: `configs` with the results of its last epoch; what `filter` and `sort` see.

        >>> import phasezoo
        >>> zoo = phasezoo.load("mlp-digits")
        >>> round(max(zoo.summary["test_acc"]), 3)
        0.985
        """
        return self._dataset("summary")

    @property
    def cells(self) -> datasets.Dataset:
        """One row per load x temperature x epoch: seed means and spreads, landscape metrics, phase.

        >>> import phasezoo
        >>> zoo = phasezoo.load("mlp-digits")
        >>> cells = zoo.cells
        >>> cells.num_rows, cells["cell_id"][0], cells["epoch"][0], cells["n_models"][0]
        (13288, 'w2-lr0.005', 0, 3)
        """
        return self._dataset("cells")

    def stack(self, *, epoch: Epochs = "last") -> Stack:
        """Read models of one topology into ``{name: [models, ...]}``; see `phasezoo.stack.stack`.

        >>> import phasezoo
        >>> zoo = phasezoo.load("mlp-digits")
        >>> stack = zoo.filter(width=8).stack(epoch="all")
        >>> stack["layers.0.weight"].shape
        torch.Size([24, 4, 8, 64])
        """
        from phasezoo.stack import stack

        return stack(self, epoch=epoch)

    def split(self, *, by: str = "cell", test: float = 0.2, val: float = 0.1, seed: int = 0) -> Splits:
        """Divide into train, validation and test without dividing a cell, run, seed...; see `phasezoo.split.split`.

        >>> import phasezoo
        >>> zoo = phasezoo.load("mlp-digits")
        >>> splits = zoo.split(by="seed", test=0.34, val=0)
        >>> len(splits.train), len(splits.test), set(splits.train.configs["seed"]) & set(splits.test.configs["seed"])
        (176, 88, set())
        """
        from phasezoo.split import split

        return split(self, by=by, test=test, val=val, seed=seed)

    def to_torch(
        self,
        representation: str | Representation = "flat",
        *,
        target: str | Sequence[str] | None = None,
        epochs: Epochs = "last",
        normaliser: Normaliser | None = None,
        augment: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]] | None = None,
        transform: Callable[[Any], Any] | None = None,
        seed: int = 0,
    ) -> WeightDataset:
        """Make a torch dataset whose samples are networks; see `phasezoo.dataset.to_torch`.

        >>> import phasezoo
        >>> view = phasezoo.load("mlp-digits").filter(width=8)
        >>> dataset = view.to_torch(target="test_acc")
        >>> x, y = dataset[0]
        >>> len(dataset), x.shape
        (24, torch.Size([682]))
        """
        from phasezoo.dataset import to_torch

        return to_torch(
            self,
            representation,
            target=target,
            epochs=epochs,
            normaliser=normaliser,
            augment=augment,
            transform=transform,
            seed=seed,
        )

    def pairs(
        self,
        *,
        within: str,
        representation: str | Representation = "flat",
        target: str | Sequence[str] | None = None,
        epochs: Epochs | None = None,
        gap: int | None = None,
        layer: str | None = None,
        normaliser: Normaliser | None = None,
        seed: int = 0,
    ) -> PairDataset:
        """Make a torch dataset of two epochs of a run, or two seeds of a cell; see `phasezoo.pairs.pairs`.

        >>> import phasezoo
        >>> view = phasezoo.load("mlp-digits").filter(width=8)
        >>> pairs = view.pairs(within="run", epochs=(50, 150))
        >>> len(pairs), pairs[0].a.shape, pairs[0].epochs.tolist()
        (24, torch.Size([682]), [50, 150])
        """
        from phasezoo.pairs import pairs

        return pairs(
            self,
            within=within,
            representation=representation,
            target=target,
            epochs=epochs,
            gap=gap,
            layer=layer,
            normaliser=normaliser,
            seed=seed,
        )

    def sql(self, query: str) -> pa.Table:
        """Answer a query over the tables of the view with DuckDB; see `phasezoo.sql.sql`.

        >>> import phasezoo
        >>> zoo = phasezoo.load("mlp-digits")
        >>> zoo.sql("select width, count(*) as models from configs group by width order by width limit 2").to_pylist()
        [{'width': 2, 'models': 24}, {'width': 3, 'models': 24}]
        """
        from phasezoo.sql import sql

        return sql(self, query)

    def to_pandas(self, table: str = "summary") -> pd.DataFrame:
        """Return a table of the view as a pandas data frame.

        >>> import phasezoo
        >>> view = phasezoo.load("mlp-digits").filter(width=8)
        >>> view.to_pandas().groupby("lr").test_acc.mean().round(2).to_dict()[0.02]
        0.95
        """
        from phasezoo.sql import to_pandas

        return to_pandas(self, table)

    def to_polars(self, table: str = "summary") -> pl.DataFrame:
        """Return a table of the view as a Polars data frame.

        >>> import phasezoo
        >>> view = phasezoo.load("mlp-digits").filter(width=8)
        >>> view.to_polars("results").shape
        (3624, 6)
        """
        from phasezoo.sql import to_polars

        return to_polars(self, table)

    def download(
        self,
        *,
        where: str | None = None,
        epochs: Sequence[int | str] | None = None,
        dry_run: bool = False,
        max_workers: int = 8,
    ) -> Download:
        """Fetch checkpoints ahead of their use, for work offline; see `phasezoo.download.download`.

        >>> import phasezoo
        >>> view = phasezoo.load("mlp-digits").filter(width=8)
        >>> done = view.download(dry_run=True)
        >>> done.transfer  # bytes: nothing, this zoo is on the disk already
        0
        """
        from phasezoo.download import download

        return download(self, where=where, epochs=epochs, dry_run=dry_run, max_workers=max_workers)

    def export(self, out: str | Path, *, layout: str = "ray") -> Path:
        """Write the models as the folders that existing code for model zoos reads; see `phasezoo.export.export`.

        >>> import tempfile
        >>> import phasezoo
        >>> view = phasezoo.load("mlp-digits").filter(width=8)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     out = view[:2].export(f"{folder}/raw")
        ...     sorted(path.name for path in out.iterdir())
        ['w8-lr0.005-s100', 'w8-lr0.005-s101']
        """
        from phasezoo.export import export

        return export(self, out, layout=layout)

    def heatmap(self, metric: str, *, epoch: int | None = None, ax: Axes | None = None) -> Axes:
        """Draw a metric of the cells over load x temperature; see `phasezoo.plot.heatmap`.

        >>> import phasezoo
        >>> zoo = phasezoo.load("mlp-digits")
        >>> ax = zoo.heatmap("test_acc")
        >>> ax.get_xlabel(), ax.get_ylabel()
        ('width (load)', 'learning rate (temperature)')
        """
        from phasezoo.plot import heatmap

        return heatmap(self, metric, epoch=epoch, ax=ax)

    def phase_diagram(
        self,
        *,
        epoch: int | None = None,
        thresholds: str | Thresholds | dict[str, Any] | None = None,
        ax: Axes | None = None,
    ) -> Axes:
        """Draw the phase of each cell; see `phasezoo.plot.phase_diagram`.

        >>> import phasezoo
        >>> zoo = phasezoo.load("mlp-digits")
        >>> ax = zoo.phase_diagram()
        >>> ax.get_title()
        'mlp-digits, epoch 150'
        """
        from phasezoo.plot import phase_diagram

        return phase_diagram(self, epoch=epoch, thresholds=thresholds, ax=ax)

    def figure(
        self, *, epoch: int | None = None, thresholds: str | Thresholds | dict[str, Any] | None = None
    ) -> Figure:
        """Draw every metric that the zoo has, and the phase map; see `phasezoo.plot.figure`.

        >>> import phasezoo
        >>> zoo = phasezoo.load("mlp-digits")
        >>> figure = zoo.figure()
        >>> len(figure.axes)
        17
        """
        from phasezoo.plot import figure

        return figure(self, epoch=epoch, thresholds=thresholds)

    def explore(self, out: str | Path) -> Path:
        """Write one self-contained page to explore the models with a mouse; see `phasezoo.explorer.explore`.

        >>> import tempfile
        >>> import phasezoo
        >>> zoo = phasezoo.load("mlp-digits")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     zoo.explore(f"{folder}/zoo.html").read_text()[:15]
        '<!doctype html>'
        """
        from phasezoo.explorer import explore

        return explore(self, out)

    def _dataset(self, name: str) -> datasets.Dataset:
        import datasets
        from datasets.table import InMemoryTable

        return datasets.Dataset(InMemoryTable(self.table(name)))

    def __iter__(self) -> Iterator[Model]:
        return (Model(self._index, row) for row in self._rows)

    @overload
    def __getitem__(self, key: int | str) -> Model: ...
    @overload
    def __getitem__(self, key: slice) -> Zoo: ...
    def __getitem__(self, key: int | str | slice) -> Model | Zoo:
        if isinstance(key, slice):
            return self._view(self._rows[key])
        if not isinstance(key, str):
            if not -len(self) <= operator.index(key) < len(self):
                raise IndexError(f"no model number {key}: this view has {len(self)} models.")
            return Model(self._index, self._rows[key])
        row = self._index.row(key)
        if row not in self._rows:
            raise ModelNotFoundError(
                f"model {key!r} is in zoo {self.name!r} but not in this view of {len(self)} models. "
                "Look it up in the zoo that the view was filtered from."
            )
        return Model(self._index, row)

    def __repr__(self) -> str:
        load, temperature = self.manifest.load, self.manifest.temperature
        cells = len(set(self._column("cell_id")))
        weights = f"{size(self.nbytes)} of weights" if self.manifest.shards else "no weights"
        return (
            f"Zoo({self.name}: {len(self)} models in {cells} cells of {load.column} x {temperature.column}, {weights})"
        )
