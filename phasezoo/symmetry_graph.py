"""Which permutations of units an architecture allows, read from its graph.

A convolution or a linear layer opens a group of units. Activations, pools and normalisations hand it on, an addition
makes two groups one, and the next layer closes it: its input axis belongs to the group. The network's input and output
stay in place, and so does every group that meets an operation not listed here; what is found is always a symmetry.
"""

from __future__ import annotations

import operator
from collections import defaultdict
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import fx, nn
from torch.nn import functional as F

from phasezoo.errors import MeasureError
from phasezoo.symmetry import Symmetry

POOLS = (nn.MaxPool1d, nn.MaxPool2d, nn.AvgPool1d, nn.AvgPool2d, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d)
POINTWISE = (nn.ReLU, nn.LeakyReLU, nn.ReLU6, nn.GELU, nn.SiLU, nn.ELU, nn.Tanh, nn.Sigmoid, nn.Hardtanh, nn.Softplus)
PASSING = (*POINTWISE, nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d)
POOL_FUNCTIONS: set[object] = {
    *(F.max_pool1d, F.max_pool2d, F.avg_pool1d, F.avg_pool2d, F.adaptive_avg_pool1d, F.adaptive_avg_pool2d),
}
PASSING_FUNCTIONS: set[object] = {
    *(torch.relu, torch.relu_, F.relu, F.relu_, F.leaky_relu, F.relu6, F.gelu, F.silu, F.elu, F.hardtanh, F.softplus),
    *(torch.tanh, torch.sigmoid, F.tanh, F.sigmoid, F.dropout, torch.neg, operator.neg),
}
PASSING_METHODS = {"relu", "relu_", "tanh", "sigmoid", "contiguous", "clone", "neg"}
SUMS: set[object] = {torch.add, torch.sub, operator.add, operator.iadd, operator.sub, "add", "add_", "sub"}
SCALINGS: set[object] = {torch.mul, torch.div, operator.mul, operator.truediv, "mul", "div"}
FIXED = 0


@dataclass(frozen=True)
class _Units:
    """Units in an activation: channels before positions, flattened with them, or along the last axis."""

    group: int
    place: Literal["map", "flat", "last"]


def traced(model: nn.Module) -> Symmetry:
    """Find the permutations of units that a network allows in its graph.

    Args:
        model: the network; only its graph and shapes count.

    Raises:
        MeasureError: the network cannot be traced.

    >>> traced(nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))).sizes
    {1: 3}
    """
    try:
        graph = fx.Tracer().trace(model)
    except Exception as error:  # whatever the network's own code raises when it meets a symbol
        raise MeasureError(
            f"{type(model).__name__} cannot be traced, so that its permutations are not known: {error} "
            "Average without alignment, or write its forward() without branches on values."
        ) from None
    return _Walk(model, graph).result()


class _Walk:
    """One pass over the graph, with union-find over groups."""

    def __init__(self, model: nn.Module, graph: fx.Graph) -> None:
        self.model = model
        self.parents = [FIXED]
        self.sizes = [0]
        self.claims: dict[int, dict[int, tuple[int, int]]] = defaultdict(dict)  # id of a tensor -> axes
        units: dict[fx.Node, _Units | None] = {}
        for node in graph.nodes:
            given = [units[arg] for arg in node.all_input_nodes if units[arg] is not None]
            units[node] = self._follow(node, [u for u in given if u is not None])

    def result(self) -> Symmetry:
        axes: dict[str, dict[int, tuple[int, int]]] = {}
        parameters = dict(self.model.named_parameters(remove_duplicate=False))
        for name, tensor in (*parameters.items(), *self.model.named_buffers(remove_duplicate=False)):
            claims = ((axis, self._root(group), n) for axis, (group, n) in self.claims[id(tensor)].items())
            free = {axis: (root, n) for axis, root, n in claims if root != FIXED}
            if free:
                axes[name] = free
        roots = sorted({root for claims in axes.values() for root, _ in claims.values()})
        return Symmetry(axes, {root: self.sizes[root] for root in roots}, frozenset(parameters))

    def _open(self, size: int) -> int:
        self.parents.append(len(self.parents))
        self.sizes.append(size)
        return len(self.parents) - 1

    def _root(self, group: int) -> int:
        while self.parents[group] != group:
            group = self.parents[group]
        return group

    def _join(self, *groups: int) -> int:
        """Make groups one; those of different sizes are fixed."""
        roots = {self._root(group) for group in groups}
        if len({self.sizes[root] for root in roots}) > 1:
            roots.add(FIXED)
        first = min(roots)
        for root in roots:
            self.parents[root] = first
        return first

    def _claim(self, tensor: Any, axis: int, group: int, repeats: int = 1) -> int:
        """Say that an axis of a tensor belongs to a group; a tensor used twice joins its groups."""
        if not isinstance(tensor, torch.Tensor):
            return group
        known, n = self.claims[id(tensor)].get(axis, (group, repeats))
        group = self._join(known, group) if n == repeats else self._join(known, group, FIXED)
        self.claims[id(tensor)][axis] = (group, n)
        return group

    def _fix(self, given: list[_Units]) -> _Units:
        return _Units(self._join(FIXED, *(units.group for units in given)), "last")

    def _follow(self, node: fx.Node, given: list[_Units]) -> _Units | None:
        """Return the units in what a node gives; None for what is no activation."""
        if node.op == "call_module":
            return self._layer(self.model.get_submodule(str(node.target)), given)
        if node.op == "call_function" and node.target is getattr:
            return None  # a shape
        if node.op == "call_method" and node.target in ("size", "dim"):
            return None
        if node.op not in ("call_function", "call_method"):
            return self._fix(given)  # input, output, and tensors that belong to no layer
        if not given:
            return None  # arithmetic on shapes
        first, target = given[0], node.target
        alone = len(given) == 1
        if target in SUMS:
            same = len({units.place for units in given}) == 1 and _else_numbers(node, len(given))
            return _Units(self._join(*(units.group for units in given)), first.place) if same else self._fix(given)
        if alone and target in SCALINGS and _else_numbers(node, 1):
            return first
        if alone and (target in PASSING_FUNCTIONS or (node.op == "call_method" and target in PASSING_METHODS)):
            return first
        if alone and first.place == "map":
            if target in POOL_FUNCTIONS:
                return first
            if _flattens(node):
                return _Units(first.group, "flat")
            if target in (torch.mean, "mean") and (kept := _averages_positions(node)) is not None:
                return _Units(first.group, "map" if kept else "flat")
        if alone and first.place == "last" and _flattens(node):
            return first
        return self._fix(given)

    def _layer(self, module: nn.Module, given: list[_Units]) -> _Units:
        if len(given) != 1:
            return self._fix(given)
        units, size = given[0], self.sizes[self._root(given[0].group)]
        if type(module) in PASSING or (type(module) in POOLS and units.place == "map"):
            return units
        if type(module) is nn.Flatten and (module.start_dim, module.end_dim) == (1, -1):
            return _Units(units.group, "flat" if units.place == "map" else units.place)
        if type(module) is nn.Linear:
            return self._linear(module, units, size)
        if type(module) in (nn.Conv1d, nn.Conv2d):
            assert isinstance(module, (nn.Conv1d, nn.Conv2d))
            return self._convolution(module, units, size)
        one_axis = type(module) is nn.LayerNorm and units.place == "last" and module.normalized_shape == (size,)
        per_unit = type(module) in (nn.BatchNorm1d, nn.BatchNorm2d) and module.num_features == size
        if one_axis or per_unit:
            group = units.group
            for name in ("weight", "bias", "running_mean", "running_var"):
                group = self._claim(getattr(module, name, None), 0, group)
            return _Units(group, units.place)
        return self._unknown(module, given)

    def _linear(self, module: nn.Linear, units: _Units, size: int) -> _Units:
        group, repeats = units.group, module.in_features // size if size else 1
        fits = size * repeats == module.in_features and (units.place == "flat" or repeats == 1)
        if not fits or units.place == "map":
            group, repeats = self._fix([units]).group, 1
        self._claim(module.weight, 1, group, repeats)
        return self._opened(module, "last")

    def _convolution(self, module: nn.Conv1d | nn.Conv2d, units: _Units, size: int) -> _Units:
        if module.groups == 1:
            group = units.group if size == module.in_channels and units.place == "map" else self._fix([units]).group
            self._claim(module.weight, 1, group)
            return self._opened(module, "map")
        if module.groups == module.in_channels == module.out_channels == size:  # one filter for each unit
            group = self._claim(module.bias, 0, self._claim(module.weight, 0, units.group))
            return _Units(group, "map")
        return self._unknown(module, [units])

    def _opened(self, module: nn.Linear | nn.Conv1d | nn.Conv2d, place: Literal["map", "last"]) -> _Units:
        group = self._claim(module.weight, 0, self._open(module.weight.shape[0]))
        return _Units(self._claim(module.bias, 0, group), place)

    def _unknown(self, module: nn.Module, given: list[_Units]) -> _Units:
        """Fix the input of a layer and all of its tensors."""
        for tensor in (*module.parameters(), *module.buffers()):
            for axis in range(tensor.dim()):
                self._claim(tensor, axis, FIXED)
        return self._fix(given)


def _else_numbers(node: fx.Node, activations: int) -> bool:
    """Whether the operands are so many activations, and numbers."""
    numbers = [arg for arg in node.args if isinstance(arg, (int, float))]
    return not node.kwargs and len(numbers) + activations == len(node.args)


def _flattens(node: fx.Node) -> bool:
    """Whether a node flattens all axes but the first."""
    if node.target in (torch.flatten, "flatten"):
        return tuple(node.args[1:]) in ((1,), (1, -1)) and not node.kwargs
    return node.target in ("view", "reshape") and len(node.args) == 3 and bool(node.args[2] == -1)


def _averages_positions(node: fx.Node) -> bool | None:
    """Whether a mean over positions keeps their axes; None if it is no such mean."""
    dims = node.kwargs.get("dim", node.args[1] if len(node.args) > 1 else None)
    over = {dims} if isinstance(dims, int) else set(dims) if isinstance(dims, (tuple, list)) else set()
    keeps = node.kwargs.get("keepdim", node.args[2] if len(node.args) > 2 else False)
    if over in ({2, 3}, {-1, -2}):
        return bool(keeps)
    return None
