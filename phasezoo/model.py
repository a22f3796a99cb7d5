"""One model of a zoo: its config, its results, and its checkpoints over the epochs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

from phasezoo.checkpoint import Checkpoint
from phasezoo.errors import EpochNotFoundError
from phasezoo.shard import decode_tensor

if TYPE_CHECKING:
    import pyarrow as pa
    import torch

    from phasezoo.index import Index


class Model:
    """One network of a zoo: one cell of the grid, one seed.

    Attributes:
        id: id of the model.

    >>> import phasezoo
    >>> model = phasezoo.load("mlp-digits")["w8-lr0.03-s100"]
    >>> model.config["width"], model.epochs
    (8, [0, 10, 50, 150])
    """

    def __init__(self, index: Index, row: int) -> None:
        self._index = index
        self._row = row
        self.id: str = index.table("configs")["model_id"][row].as_py()

    @cached_property
    def config(self) -> dict[str, Any]:
        """The model's row of `configs`.

        >>> import phasezoo
        >>> model = phasezoo.load("mlp-digits")["w8-lr0.03-s100"]
        >>> model.config["width"], model.config["lr"], model.config["optimizer"]
        (8, 0.03, 'sgd')
        """
        return self._index.config(self._row)

    @property
    def phase(self) -> str | None:
        """The phase of the model's cell; None if the zoo was not measured.

        >>> import phasezoo
        >>> phasezoo.load("mlp-digits")["w64-lr0.03-s100"].phase
        'IV-B'
        """
        configs = self._index.configs
        phase: str | None = configs["phase"][self._row].as_py() if "phase" in configs.column_names else None
        return phase

    @property
    def results(self) -> pa.Table:
        """The model's rows of `results`, one per epoch.

        >>> import phasezoo
        >>> model = phasezoo.load("mlp-digits")["w8-lr0.03-s100"]
        >>> model.results.num_rows, round(model.results["test_acc"][-1].as_py(), 4)
        (151, 0.941)
        """
        start, stop = self._index.span("results", self._row)
        return self._index.table("results").slice(start, stop - start)

    @property
    def landscape(self) -> pa.Table:
        """The rows of `landscape` on this model and on its cell.

        >>> import phasezoo
        >>> model = phasezoo.load("mlp-digits")["w8-lr0.03-s100"]
        >>> model.landscape["epoch"].to_pylist()
        [10, 10, 50, 50, 150, 150]
        """
        import pyarrow.compute as pc

        of_cell = (pc.field("cell_id") == self.config["cell_id"]) & pc.field("model_id").is_null()
        return self._index.table("landscape").filter((pc.field("model_id") == self.id) | of_cell)

    @property
    def epochs(self) -> list[int]:
        """Epochs at which there is a checkpoint, ascending.

        >>> import phasezoo
        >>> phasezoo.load("mlp-digits")["w8-lr0.03-s100"].epochs
        [0, 10, 50, 150]
        """
        return self._index.epochs(self._row)

    def checkpoint(self, epoch: int | str = "last") -> Checkpoint:
        """Return the checkpoint of an epoch; reads no weight yet.

        Args:
            epoch: a number, ``"first"`` or ``"last"``.

        Raises:
            EpochNotFoundError: there is no checkpoint at that epoch.
            WeightsUnavailableError: the zoo has tables only.

        >>> import phasezoo
        >>> model = phasezoo.load("mlp-digits")["w8-lr0.03-s100"]
        >>> model.checkpoint(50)
        Checkpoint(w8-lr0.03-s100, epoch 50, 6 tensors, 2,728 bytes)
        >>> model.checkpoint("first").epoch
        0
        """
        row = self._index.checkpoint_row(self._row, epoch)
        number = self.epochs[row - self._index.span("checkpoints", self._row)[0]]
        return Checkpoint(
            self._index.store,
            self._index.locations[row],
            model_id=self.id,
            epoch=number,
            config=self.config,
            metrics=partial(self._metrics, number),
            digests=partial(self._index.locations.digests, row),
        )

    def checkpoints(self) -> Iterator[Checkpoint]:
        """Yield the checkpoints in the order of their epochs.

        Raises:
            WeightsUnavailableError: the zoo has tables only.

        >>> import phasezoo
        >>> model = phasezoo.load("mlp-digits")["w8-lr0.03-s100"]
        >>> [round(ckpt.metrics["test_acc"], 3) for ckpt in model.checkpoints()]
        [0.08, 0.912, 0.941, 0.941]
        """
        self._index.table("checkpoints")
        return (self.checkpoint(epoch) for epoch in self.epochs)

    def trajectory(self, name: str, *, epochs: Sequence[int] | None = None) -> torch.Tensor:
        """Read one tensor over the epochs, ``[epochs, ...]``.

        Args:
            name: name of the tensor.
            epochs: which epochs; all by default.

        Raises:
            EpochNotFoundError: there is no checkpoint at one of the epochs, or there are none.
            WeightsUnavailableError: the zoo has tables only.

        >>> import phasezoo
        >>> phasezoo.load("mlp-digits")["w8-lr0.03-s100"].trajectory("layers.2.bias").shape
        torch.Size([4, 10])
        """
        import torch

        self._index.table("checkpoints")
        wanted = self.epochs if epochs is None else epochs
        pieces = [self.checkpoint(epoch).piece(name) for epoch in wanted]
        if not pieces:
            raise EpochNotFoundError(
                f"no epochs of model {self.id!r} are asked for. It has checkpoints at {self.epochs}."
            )
        specs = [piece.location.layout[name] for piece in pieces]
        buffers = self._index.store.read(pieces)
        return torch.stack([decode_tensor(buffer, s.dtype, s.shape) for buffer, s in zip(buffers, specs, strict=True)])

    def _metrics(self, epoch: int) -> dict[str, Any]:
        if "results" not in self._index.manifest.tables:
            return {}
        results = self.results
        try:
            row = results["epoch"].to_pylist().index(epoch)
        except ValueError:
            return {}
        metrics: dict[str, Any] = results.slice(row, 1).to_pylist()[0]
        return metrics

    def __repr__(self) -> str:
        return f"Model({self.id}, {self._index.manifest.architecture}, epochs {self.epochs})"
