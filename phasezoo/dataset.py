"""Torch datasets whose samples are networks."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, get_worker_info

from phasezoo.batches import Batches, collate, one_of, seed_of
from phasezoo.errors import TopologyError
from phasezoo.normalise import Normaliser
from phasezoo.representations import Representation, of
from phasezoo.store import Store
from phasezoo.target import targets
from phasezoo.weights import Epochs, Sample, read, samples

if TYPE_CHECKING:
    from phasezoo.view import View

StateDict = dict[str, torch.Tensor]


class WeightDataset(Dataset[Any]):
    """A map-style dataset of checkpoints: ``dataset[i]`` is x, or (x, y) where there is a target.

    ``dataset[[3, 1, 2]]`` is a batch, read from the shards and represented in one go; `loader` uses that. A sample
    depends on the seed, the epoch of training (`set_epoch`) and the checkpoint alone: not on the order, the process
    or what was drawn before, so that workers and restarts change nothing.

    Attributes:
        ids: id of the model of each sample.
        epochs: epoch of each sample.
        targets: what to predict, one row per sample; None without a target.
        classes: what the numbers stand for, where the target is a column of words.

    >>> import phasezoo
    >>> dataset = phasezoo.load("mlp-digits").filter(width=8).to_torch("flat", target="test_acc")
    >>> x, y = dataset[0]
    >>> len(dataset), x.shape, dataset[[3, 1, 2]][0].shape
    (24, torch.Size([682]), torch.Size([3, 682]))
    """

    def __init__(
        self,
        store: Store,
        wanted: Sequence[Sample],
        *,
        representation: Representation,
        targets: torch.Tensor | None = None,
        classes: tuple[str, ...] | None = None,
        normaliser: Normaliser | None = None,
        augment: Callable[[StateDict], StateDict] | None = None,
        transform: Callable[[Any], Any] | None = None,
        seed: int = 0,
    ) -> None:
        self._store = store
        self._samples = list(wanted)
        self.representation = representation
        self.targets = targets
        self.classes = classes
        self._normaliser = normaliser
        self._augment = augment
        self._transform = transform
        self.seed = seed
        # Shared with workers: one that persists sees the epoch, and none hashes again what another has hashed.
        self._epoch = torch.zeros((), dtype=torch.long)
        self._checked = torch.zeros(len(self._samples), dtype=torch.bool)
        for shared in (self._epoch, self._checked):
            cast(Any, shared).share_memory_()

    @property
    def ids(self) -> list[str]:
        """Id of the model of each sample."""
        return [sample.model_id for sample in self._samples]

    @property
    def epochs(self) -> list[int]:
        """Epoch of each sample."""
        return [sample.epoch for sample in self._samples]

    @property
    def epoch(self) -> int:
        """Epoch of the training that reads the dataset; see `set_epoch`."""
        return int(self._epoch)

    def set_epoch(self, epoch: int) -> None:
        """Draw another order and other random augmentations, the same for the same number.

        >>> import phasezoo
        >>> dataset = phasezoo.load("mlp-digits").filter(width=8).to_torch("flat", target="test_acc")
        >>> first = [y for x, y in dataset.loader()]
        >>> dataset.set_epoch(1)  # before each epoch of training: another order
        >>> bool((first[0] == next(iter(dataset.loader()))[1]).all())
        False
        """
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int | Sequence[int]) -> Any:
        if isinstance(index, Sequence):
            x = self._batch(list(index))
            return x if self.targets is None else (x, self.targets[list(index)])
        if not -len(self) <= operator.index(index) < len(self):
            raise IndexError(f"no sample {index}: there are {len(self)}.")
        return self.__getitems__([index % len(self)])[0]

    def __getitems__(self, indices: list[int]) -> list[Any]:
        """Return several samples; a DataLoader with its own batches calls this."""
        found = self._each(indices)
        return found if self.targets is None else list(zip(found, self.targets[indices], strict=True))

    def _each(self, indices: list[int]) -> list[Any]:
        """Represent networks one by one; those of one layout are read and represented together."""
        if len({id(self._samples[i].location.layout) for i in indices}) > 1:
            return [x for i in indices for x in self._each([i])]
        batch = self._encoded(indices)
        found = []
        for place, i in enumerate(indices):
            x = one_of(batch, place)
            if self._transform is not None:
                with self._seeded(i, "transform"):
                    x = self._transform(x)
            found.append(x)
        return found

    def _batch(self, indices: list[int]) -> Any:
        """Represent networks as one batch, without taking it apart if nothing is done to each."""
        several = len({id(self._samples[i].location.layout) for i in indices}) > 1
        return collate(self._each(indices)) if several or self._transform is not None else self._encoded(indices)

    def _encoded(self, indices: list[int]) -> Any:
        return self.representation.encode(self._read(indices), self._samples[indices[0]].location.layout)

    def _read(self, indices: list[int]) -> StateDict:
        wanted = [self._samples[i] for i in indices]
        for sample, checked in zip(wanted, self._checked[indices].tolist(), strict=True):
            if checked:
                self._store.trust(sample.piece)
        tensors = read(self._store, wanted)
        self._checked[indices] = True
        if self._augment is not None:
            changed = []
            for place, i in enumerate(indices):
                with self._seeded(i, "augment"):
                    changed.append(self._augment({name: tensor[place] for name, tensor in tensors.items()}))
            tensors = {name: torch.stack([each[name] for each in changed]) for name in tensors}
        return tensors if self._normaliser is None else self._normaliser.apply(tensors)

    @contextmanager
    def _seeded(self, index: int, what: str) -> Iterator[None]:
        """Make torch's generator a function of seed, epoch and checkpoint, and put it back afterwards."""
        sample = self._samples[index]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_of(self.seed, self.epoch, what, sample.model_id, sample.epoch))
            yield

    def decode(self, x: Any) -> StateDict:
        """Turn a batch back into ``{name: [models, ...]}``: undo the representation, then the normaliser.

        Raises:
            TopologyError: the networks have several topologies, or the representation cannot be inverted.

        >>> import phasezoo
        >>> dataset = phasezoo.load("mlp-digits").filter(width=8).to_torch("flat", target="test_acc")
        >>> {name: tuple(t.shape) for name, t in dataset.decode(dataset[[0, 1]][0]).items()}["layers.0.weight"]
        (2, 8, 64)
        """
        layouts = {sample.location.layout.layout_id: sample.location.layout for sample in self._samples}
        if len(layouts) != 1:
            raise TopologyError(
                f"the networks of this dataset have {len(layouts)} layouts: call representation.decode(x, layout)."
            )
        tensors = self.representation.decode(x, *layouts.values())
        return tensors if self._normaliser is None else self._normaliser.invert(tensors)

    def loader(self, *, batch_size: int = 32, shuffle: bool = True, num_workers: int = 0) -> DataLoader[Any]:
        """Return a DataLoader of whole batches, in an order that depends on seed and epoch only.

        >>> import phasezoo
        >>> dataset = phasezoo.load("mlp-digits").filter(width=8).to_torch("flat", target="test_acc")
        >>> [x.shape[0] for x, y in dataset.loader(batch_size=10)]
        [10, 10, 4]
        """
        batches = Batches(self, batch_size=batch_size, shuffle=shuffle)
        return DataLoader(self, batch_size=None, sampler=batches, num_workers=num_workers)

    def stream(self, *, batch_size: int = 32, shuffle: bool = True) -> WeightStream:
        """Return an iterable dataset of the same batches, for ``DataLoader(stream, batch_size=None)``.

        >>> import phasezoo
        >>> dataset = phasezoo.load("mlp-digits").filter(width=8).to_torch("flat", target="test_acc")
        >>> [len(y) for x, y in dataset.stream(batch_size=10)]
        [10, 10, 4]
        """
        return WeightStream(self, batch_size=batch_size, shuffle=shuffle)


class WeightStream(IterableDataset[Any]):
    """An iterable dataset of whole batches; workers take turns, so that their number changes nothing.

    >>> import phasezoo
    >>> from torch.utils.data import DataLoader
    >>> stream = phasezoo.load("mlp-digits").filter(width=8).to_torch("flat").stream(batch_size=10)
    >>> [len(x) for x in DataLoader(stream, batch_size=None)]
    [10, 10, 4]
    """

    def __init__(self, dataset: WeightDataset, *, batch_size: int = 32, shuffle: bool = True) -> None:
        self.dataset = dataset
        self._batches = Batches(dataset, batch_size=batch_size, shuffle=shuffle)

    def set_epoch(self, epoch: int) -> None:
        """Draw another order and other random augmentations, the same for the same number."""
        self.dataset.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[Any]:
        worker = get_worker_info()
        first, step = (0, 1) if worker is None else (worker.id, worker.num_workers)
        return (self.dataset[batch] for batch in list(self._batches)[first::step])


def to_torch(
    view: View,
    representation: str | Representation = "flat",
    *,
    target: str | Sequence[str] | None = None,
    epochs: Epochs = "last",
    normaliser: Normaliser | None = None,
    augment: Callable[[StateDict], StateDict] | None = None,
    transform: Callable[[Any], Any] | None = None,
    seed: int = 0,
) -> WeightDataset:
    """Make a dataset of the networks of a view; weights are read when a sample is asked for.

    Args:
        view: the models.
        representation: a name (``"flat"``, ``"layers"``, ``"tokens"``, ``"nfn"``, ``"graph"``, ``"statistics"``), or
            an object with options such as ``Tokens(size=288, batchnorm=False)``.
        target: a column of `results` or `landscape` at the epoch of the sample, or of `configs`; several for a vector.
            Numbers are float32, words (`phase`) class numbers.
        epochs: which checkpoints of each model: a number, ``"first"``, ``"last"``, ``"all"``, or a list of numbers.
        normaliser: fitted on the training set; applied before the representation.
        augment: applied to each state dict as it was stored, such as a permutation of channels.
        transform: applied to each sample after the representation, such as a window over tokens.
        seed: of the order and of torch's generator during `augment` and `transform`.

    Raises:
        ValueError: no representation of that name.
        ColumnNotFoundError: no such target.
        MeasureError: a checkpoint has no value of the target.
        EpochNotFoundError: a model has no checkpoint at an epoch.
        TopologyError: the representation cannot take these networks.

    >>> import phasezoo
    >>> dataset = to_torch(phasezoo.load("mlp-digits").filter(width=8), "nfn", target="test_acc")
    >>> (weights, biases), accuracy = dataset[0]
    >>> len(dataset), weights[0].shape, accuracy.dtype
    (24, torch.Size([1, 8, 64]), torch.float32)
    """
    wanted = samples(view, epochs)
    if not wanted:
        raise TopologyError("there is no model to make a dataset of. Widen the filter of the view.")
    y, classes = (None, None) if target is None else targets(view, wanted, target)
    return WeightDataset(
        view._index.store,
        wanted,
        representation=of(representation),
        targets=y,
        classes=classes,
        normaliser=normaliser,
        augment=augment,
        transform=transform,
        seed=seed,
    )
