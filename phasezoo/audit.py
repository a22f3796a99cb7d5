"""Look for the defects that users of published checkpoint suites keep meeting.

Wrong bytes under a right name: one checkpoint under two names, trajectories that do not continue, runs that do not
descend from their own initial network; weights that are not finite, or constant; epochs in which nothing happened.
`verify` says whether a zoo is what was written; `audit` says whether what was written makes sense.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from phasezoo.progress import bar

if TYPE_CHECKING:
    import torch

    from phasezoo.zoo import Zoo

CLEARLY = 0.9  # how much nearer, so that networks that died and met at zero are not reported


@dataclass(frozen=True, order=True)
class Suspicion:
    """Something that looks wrong.

    Attributes:
        kind: what sort, as one or two words with hyphens.
        model_id: the model.
        epoch: the epoch, or None if it is about the run.
        what: a sentence.

    >>> found = Suspicion("not-finite", "w2-lr0.1-s100", 150, "NaN or infinity in layers.0.weight")
    >>> print(f"{found.model_id} at epoch {found.epoch}: {found.what}")
    w2-lr0.1-s100 at epoch 150: NaN or infinity in layers.0.weight
    """

    kind: str
    model_id: str
    epoch: int | None
    what: str


def audit(zoo: Zoo) -> list[Suspicion]:
    """Read every checkpoint of a view and list what looks wrong.

    Duplicates are found in the index alone; the other checks read the weights, one cell at a time.

    Args:
        zoo: the zoo or view.

    >>> import phasezoo
    >>> {s.kind for s in audit(phasezoo.load("mlp-digits").filter(width=8))}
    set()
    """
    found = list(_duplicates(zoo))
    with bar("auditing", total=zoo.nbytes, unit="B") as progress:
        for _, cell in zoo.groupby("cell_id"):
            found += _cell(cell)
            progress.update(cell.nbytes)
    return sorted(found, key=lambda s: (s.kind, s.model_id, s.epoch or 0))


def _duplicates(zoo: Zoo) -> Iterator[Suspicion]:
    """Find equal bytes under two names, unless they are one initial network shared by runs of one seed."""
    seeds = dict(zip(*(zoo.table("configs")[name].to_pylist() for name in ("model_id", "seed")), strict=True))
    first: dict[str, tuple[str, int]] = {}
    table = zoo.table("checkpoints")
    for model_id, epoch, sha256 in zip(
        *(table[name].to_pylist() for name in ("model_id", "epoch", "sha256")), strict=True
    ):
        other = first.setdefault(sha256, (model_id, epoch))
        shared = epoch == other[1] == 0 and seeds[model_id] == seeds[other[0]]
        if other != (model_id, epoch) and not shared:
            what = f"the same bytes as {other[0]} at epoch {other[1]}"
            kind = "dead-epoch" if other[0] == model_id else "duplicate"
            yield Suspicion(kind, model_id, epoch, what)


def _cell(cell: Zoo) -> Iterator[Suspicion]:
    """Check the weights of the runs of one cell along their epochs, all seeds side by side."""
    before: dict[str, torch.Tensor] = {}
    epochs = sorted({epoch for model in cell for epoch in model.epochs})
    for epoch in epochs:
        now: dict[str, torch.Tensor] = {}
        for model in cell:
            if epoch in model.epochs:
                state_dict = {k: t for k, t in model.checkpoint(epoch).state_dict().items() if t.is_floating_point()}
                yield from _values(model.id, epoch, state_dict)
                now[model.id] = _flat(state_dict)
        yield from _strangers(before, now, epoch)
        before |= now


def _values(model_id: str, epoch: int, state_dict: dict[str, torch.Tensor]) -> Iterator[Suspicion]:
    bad = [name for name, tensor in state_dict.items() if not tensor.isfinite().all()]
    if bad:
        yield Suspicion("not-finite", model_id, epoch, f"NaN or infinity in {', '.join(bad[:3])}")
    still = [n for n, t in state_dict.items() if t.dim() > 1 and t.numel() > 1 and bool((t == t.flatten()[0]).all())]
    if still:
        yield Suspicion("constant", model_id, epoch, f"all values equal in {', '.join(still[:3])}")


def _flat(state_dict: dict[str, torch.Tensor]) -> torch.Tensor:
    import torch

    return torch.cat([tensor.flatten().float() for tensor in state_dict.values()])


def _strangers(before: dict[str, torch.Tensor], now: dict[str, torch.Tensor], epoch: int) -> Iterator[Suspicion]:
    """Find checkpoints that lie nearer to another seed's previous checkpoint than to their own.

    A run remembers where it came from: different seeds of one cell are further apart than one run's next steps.
    """
    for model_id, here in now.items():
        comparable = {other: there for other, there in before.items() if there.shape == here.shape}
        if model_id not in comparable or not here.isfinite().all():
            continue
        distances = {other: float((here - there).norm()) for other, there in comparable.items()}
        nearest = min(distances, key=lambda other: distances[other])
        if distances[nearest] < CLEARLY * distances[model_id]:
            what = (
                f"lies at {distances[nearest]:.3g} from the previous checkpoint of {nearest} and at "
                f"{distances[model_id]:.3g} from its own: it does not continue its run"
            )
            yield Suspicion("discontinuous", model_id, epoch, what)
