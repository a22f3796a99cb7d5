"""What the graph of a network says about its curvature: which identities hold exactly."""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass

import torch
from torch import fx, nn
from torch.nn import functional as F

from phasezoo.training.landscape.replay import Loss

# Layers whose per-sample gradients `gauss_newton` knows; the output is affine in the parameters of each.
COUNTED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.BatchNorm1d, nn.BatchNorm2d)

# Piecewise linear in the input (BatchNorm in eval mode, Dropout too: `require_replayable` sees to that).
LINEAR_MODULES: set[object] = {
    *COUNTED,
    *(nn.Identity, nn.Flatten, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.ZeroPad2d),
    *(nn.ReLU, nn.LeakyReLU, nn.ReLU6, nn.Hardtanh),
    *(nn.MaxPool1d, nn.MaxPool2d, nn.AvgPool1d, nn.AvgPool2d),
    *(nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d),
}
LINEAR_FUNCTIONS: set[object] = {
    *(torch.relu, torch.relu_, F.relu, F.relu_, F.relu6, F.leaky_relu, F.hardtanh),
    *(F.max_pool1d, F.max_pool2d, F.avg_pool1d, F.avg_pool2d, F.adaptive_avg_pool1d, F.adaptive_avg_pool2d),
    *(torch.add, torch.sub, torch.neg, operator.add, operator.iadd, operator.sub, operator.neg, operator.getitem),
    *(torch.flatten, torch.cat, torch.mean, torch.sum, torch.permute, torch.transpose, torch.reshape, F.pad, getattr),
}
LINEAR_METHODS: set[object] = {
    *("relu", "relu_", "add", "add_", "sub", "neg", "mean", "sum", "size", "dim"),
    *("flatten", "view", "reshape", "permute", "transpose", "contiguous", "squeeze", "unsqueeze", "clone"),
}
# Linear where all but one operand is a constant.
SCALINGS: set[object] = {torch.mul, torch.div, operator.mul, operator.truediv}


@dataclass(frozen=True)
class Structure:
    """Which identities hold for a network, a loss and a choice of parameters.

    Attributes:
        layers: names of the modules that hold the chosen parameters.
        no_gauss_newton: why the Gauss-Newton matrix has no exact diagonal here; None if it has.
        not_piecewise_linear: why that diagonal is not the Hessian's; None if it is.
    """

    layers: tuple[str, ...]
    no_gauss_newton: str | None
    not_piecewise_linear: str | None


def structure(model: nn.Module, *, loss: Loss, params: Collection[str]) -> Structure:
    """Read from the graph of a network which identities hold exactly.

    With cross-entropy, H = G + sum_c dL/dz_c d^2 z_c / dw^2. If the network is piecewise linear and uses each parameter
    once, its logits z are affine in every single parameter almost everywhere; the second term has a zero diagonal,
    and diag(H) = diag(G). Nothing is assumed: whatever the graph holds that is not known to be piecewise linear is
    the reason why not.

    Args:
        model: the network, in eval mode.
        loss: the loss.
        params: names of the parameters that are differentiated.

    >>> relu = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> names = [name for name, _ in relu.named_parameters()]
    >>> structure(relu, loss=F.cross_entropy, params=names).not_piecewise_linear is None
    True
    >>> tanh = nn.Sequential(nn.Linear(2, 2), nn.Tanh())
    >>> structure(tanh, loss=F.cross_entropy, params=["0.bias"]).not_piecewise_linear
    "layer '1' (Tanh) is not piecewise linear"
    """
    layers = tuple(dict.fromkeys(name.rpartition(".")[0] for name in params))
    if not _is_cross_entropy(loss):
        reason = "the loss is not plain mean cross-entropy"
        return Structure(layers, reason, reason)
    try:
        graph = _traced(model)
    except Exception as error:  # whatever the network's own code raises when it meets a symbol
        reason = f"the network cannot be traced ({type(error).__name__})"
        return Structure(layers, reason, reason)
    uncounted = next(_uncounted(model, graph, layers, params), None)
    bent = next((why for node in graph.nodes if (why := _bent(model, node))), None)
    return Structure(layers, uncounted, uncounted or bent)


def _traced(model: nn.Module) -> fx.Graph:
    """Trace a network; one that is a single layer as a call of that layer, not as what the layer does inside."""
    tracer = fx.Tracer()
    if any(model.children()) or not tracer.is_leaf_module(model, ""):
        return tracer.trace(model)
    graph = tracer.trace(nn.Sequential(model))
    for node in graph.nodes:
        if node.op == "call_module":
            node.target = ""
    return graph


def _is_cross_entropy(loss: Loss) -> bool:
    if type(loss) is nn.CrossEntropyLoss:
        return loss.weight is None and loss.reduction == "mean"
    return loss is F.cross_entropy


def _uncounted(model: nn.Module, graph: fx.Graph, layers: Collection[str], params: Collection[str]) -> Iterator[str]:
    """Yield what keeps per-sample gradients of the chosen parameters from being formed layer by layer."""
    calls = [node.target for node in graph.nodes if node.op == "call_module"]
    # A shared tensor has one name but is used in every place that holds it.
    uses = Counter(id(p) for name in calls for p in model.get_submodule(str(name)).parameters())
    for name, module in model.named_modules():
        if module._forward_hooks or module._forward_pre_hooks:
            yield f"layer {name!r} ({type(module).__name__}) has hooks, which may do anything"
    for name in layers:
        module = model.get_submodule(name)
        kind = f"layer {name!r} ({type(module).__name__})"
        if type(module) not in COUNTED:
            yield f"{kind} holds parameters whose per-sample gradients are not known"
        elif isinstance(module, (nn.Conv1d, nn.Conv2d)) and (module.padding_mode, module.padding) != (
            "zeros",
            tuple(n for n in module.padding if isinstance(n, int)),
        ):
            yield f"{kind} pads otherwise than with a fixed number of zeros"
    for name in params:
        n = uses[id(model.get_parameter(name))]
        if n != 1:
            yield f"parameter {name!r} is used by {n} layers in one pass"
    read = {str(node.target) for node in graph.nodes if node.op == "get_attr"}
    for name in params:
        if name in read:
            yield f"parameter {name!r} is used outside its layer"


def _bent(model: nn.Module, node: fx.Node) -> str | None:
    """Say why a node of the graph is not piecewise linear, or None if it is."""
    if node.op == "call_module":
        module = model.get_submodule(str(node.target))
        if type(module) in LINEAR_MODULES:
            return None
        return f"layer {str(node.target)!r} ({type(module).__name__}) is not piecewise linear"
    if node.op == "call_function" and (node.target in LINEAR_FUNCTIONS or _scales(node)):
        return None
    if node.op == "call_method" and (
        node.target in LINEAR_METHODS or (node.target in ("mul", "div") and _scales(node))
    ):
        return None
    if node.op in ("placeholder", "output", "get_attr"):
        return None
    return f"{getattr(node.target, '__name__', node.target)!r} is not known to be piecewise linear"


def _scales(node: fx.Node) -> bool:
    numbers = [isinstance(arg, (int, float)) for arg in node.args]
    divides = node.target in (torch.div, operator.truediv, "div")
    known = node.target in SCALINGS or node.op == "call_method"
    return known and sorted(numbers) == [False, True] and not (divides and numbers[0]) and not node.kwargs
