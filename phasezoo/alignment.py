"""The permutation of units that brings one network closest to another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from phasezoo.errors import DependencyError, MeasureError
from phasezoo.symmetry import Permutations, Symmetry, by_unit, entries, symmetry

State = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Match:
    """Permutations that bring one network close to another.

    Attributes:
        permutations: group -> permutation, for `Symmetry.apply`.
        objective: sum over permuted parameters of <a, P b>, before the first sweep and after each.
        converged: whether no group would change any more.

    >>> import phasezoo
    >>> ckpt = phasezoo.load("mlp-digits")["w8-lr0.03-s100"].checkpoint()
    >>> found = match_weights(ckpt.state_dict(), source=ckpt.state_dict(), spec=ckpt.symmetry())
    >>> found.permutations[1].tolist()
    [0, 1, 2, 3, 4, 5, 6, 7]
    """

    permutations: Permutations
    objective: list[float]
    converged: bool


def match_weights(target: State, *, source: State, spec: Symmetry, sweeps: int = 100, seed: int = 0) -> Match:
    """Match the units of `source` to those of `target` by their weights (Ainsworth et al. 2023, Algorithm 1).

        max over P of sum_l <A_l, P_l B_l P_{l-1}'>

    One group of units at a time, in random order, is a linear assignment problem; sweeps end when none changes, and
    pass over groups whose neighbours did not. Running statistics are no part of the objective.

    Args:
        target: state dict of the network that stays.
        source: state dict of the network whose units are permuted.
        spec: the permutations that the architecture allows.
        sweeps: at most so many.
        seed: seed of the order.

    Raises:
        MeasureError: the networks differ in shape.
        DependencyError: SciPy is not installed.

    >>> import phasezoo
    >>> ckpt = phasezoo.load("mlp-digits")["w8-lr0.03-s100"].checkpoint()
    >>> copy = phasezoo.permute(ckpt, seed=1)
    >>> found = match_weights(ckpt.state_dict(), source=copy.state_dict(), spec=ckpt.symmetry())
    >>> found.converged, found.objective[0] < found.objective[-1]
    (True, True)
    """
    try:
        from scipy.optimize import linear_sum_assignment
    except ImportError:
        raise DependencyError("matching units needs SciPy: pip install 'phasezoo[train]'.") from None

    a, b = _weights(target, spec), _weights(source, spec)
    for name, tensor in a.items():
        if name not in b or b[name].shape != tensor.shape:
            raise MeasureError(f"the networks differ in {name!r}. Match networks of one architecture.")
    permutations = {group: torch.arange(size) for group, size in spec.sizes.items()}
    uses: dict[int, list[tuple[str, int, int]]] = {group: [] for group in spec.sizes}
    for name in a:
        for axis, (group, repeats) in spec.axes[name].items():
            uses[group].append((name, axis, repeats))

    # B as permuted so far.
    moved = dict(b)

    def objective() -> float:
        return sum(torch.dot(a[name].flatten(), moved[name].flatten()).item() for name in a)

    fixed = {
        (name, axis): by_unit(a[name], axis=axis, units=spec.sizes[group], repeats=repeats)
        for group, use in uses.items()
        for name, axis, repeats in use
    }
    generator = torch.Generator().manual_seed(seed)
    history, groups = [objective()], list(spec.sizes)
    stale = set(groups)  # groups whose gains may have changed since their assignment was solved
    while stale and len(history) <= sweeps:
        for i in torch.randperm(len(groups), generator=generator).tolist():
            group = groups[i]
            if group not in stale:
                continue
            stale.remove(group)
            n = spec.sizes[group]
            gain = torch.zeros(n, n, dtype=torch.float64)  # gain[i, j]: of putting unit j, as B stands now, in place i
            for name, axis, repeats in uses[group]:
                rows = by_unit(moved[name], axis=axis, units=n, repeats=repeats)
                gain += (fixed[name, axis] @ rows.T).double().cpu()
            found = torch.from_numpy(linear_sum_assignment(gain.numpy(), maximize=True)[1])
            better = gain[torch.arange(n), found].sum() - gain.diagonal().sum()
            if better <= 1e-12 * gain.abs().sum():
                continue
            permutations[group] = permutations[group][found]
            for name, axis, repeats in uses[group]:
                places = entries(found, repeats=repeats, length=moved[name].shape[axis])
                moved[name] = moved[name].index_select(axis, places.to(moved[name].device))
                stale |= {other for other, _ in spec.axes[name].values() if other != group}
        history.append(objective())
    return Match(permutations, history, converged=not stale)


def _weights(state: State, spec: Symmetry) -> dict[str, torch.Tensor]:
    return {name: state[name].detach() for name in spec.axes if name in spec.parameters and spec.axes[name]}


def align(
    model: nn.Module, *, states: Sequence[State], reference: int = 0, seed: int = 0
) -> list[dict[str, torch.Tensor]]:
    """Permute the units of networks so that each is as close as possible to one of them.

    Args:
        model: a network of the architecture; its own weights are not used.
        states: their state dicts.
        reference: the network that stays.
        seed: seed of the order in which groups of units are matched.

    >>> net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    >>> spec = symmetry(net)
    >>> shuffled = spec.apply(net.state_dict(), spec.draw(seed=0))
    >>> first, second = align(net, states=[net.state_dict(), shuffled])
    >>> all(torch.equal(first[name], second[name]) for name in first)
    True
    """
    spec = symmetry(model)
    aligned = []
    for i, state in enumerate(states):
        if i == reference:
            aligned.append(dict(state))
            continue
        found = match_weights(states[reference], source=state, spec=spec, seed=seed)
        aligned.append(spec.apply(state, found.permutations))
    return aligned
