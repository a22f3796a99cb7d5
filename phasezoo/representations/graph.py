"""The weights of a network as a graph: neurons are nodes, weights are edges.

After Kofinas et al., *Graph neural networks for learning equivariant representations of neural networks*, ICLR 2024.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache, reduce
from math import prod
from typing import TYPE_CHECKING, Any, NamedTuple

from phasezoo.errors import DependencyError, TopologyError
from phasezoo.layout import DTYPES, Layout, TensorSpec
from phasezoo.representations.structure import layers

if TYPE_CHECKING:
    import torch


class NeuralGraph(NamedTuple):
    """A network as a graph; with a first dimension for the models where it is a batch.

    Attributes:
        nodes: ``[nodes, 1]``: bias of each neuron or channel, zero for inputs and where there is none.
        edges: ``[2, edges]``: from a node to a node of the next layer.
        features: ``[edges, kernel]``: the weight, or the kernel, padded with zeros to the largest of the network.
        layers: ``[nodes]``: 0 for inputs, then the number of the layer.
    """

    nodes: torch.Tensor
    edges: torch.Tensor
    features: torch.Tensor
    layers: torch.Tensor

    def to_pyg(self) -> Any:
        """Return one network as `torch_geometric.data.Data`.

        Raises:
            DependencyError: torch_geometric is not installed.
        """
        try:
            from torch_geometric.data import Data
        except ImportError as error:
            raise DependencyError(
                f"a PyG graph needs torch_geometric, which cannot be imported ({error}): pip install torch_geometric."
            ) from None
        return Data(x=self.nodes, edge_index=self.edges, edge_attr=self.features, layer=self.layers)


@dataclass(frozen=True)
class Graph:
    """Neurons as nodes, weights as edges, for plain chains of linear layers and convolutions. Inverts bit for bit.

    >>> import phasezoo
    >>> view = phasezoo.load("mlp-digits").filter(width=8)
    >>> x = view.to_torch("graph")[0]
    >>> x.nodes.shape, x.edges.shape
    (torch.Size([90, 1]), torch.Size([2, 656]))
    """

    def encode(self, tensors: Mapping[str, torch.Tensor], layout: Layout) -> NeuralGraph:
        """Turn ``{name: [models, ...]}`` into nodes, edges and features.

        Raises:
            TopologyError: the layers do not follow one another in a chain, or there are other tensors.

        >>> import torch
        >>> state_dict = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Linear(2, 1)).state_dict()
        >>> batch = {name: t[None] for name, t in state_dict.items()}
        >>> graph = Graph().encode(batch, Layout.of_state_dict(state_dict))
        >>> graph.nodes.shape, graph.edges[0, 0].tolist()
        (torch.Size([1, 6, 1]), [0, 1, 2, 0, 1, 2, 3, 4])
        """
        import torch

        plan = _plan(layout)
        models = len(next(iter(tensors.values())))
        dtype = reduce(torch.promote_types, (tensor.dtype for tensor in tensors.values()))
        nodes = torch.zeros((models, len(plan.layers), 1), dtype=dtype)
        features = torch.zeros((models, plan.edges.shape[1], plan.kernel), dtype=dtype)
        for link in plan.links:
            kernels = tensors[link.weight.name].reshape(models, link.edges, link.kernel)
            features[:, link.first_edge : link.first_edge + link.edges, : link.kernel] = kernels
            if link.bias:
                nodes[:, link.first_node : link.first_node + link.weight.shape[0], 0] = tensors[link.bias.name]
        edges, numbers = (x.expand(models, *x.shape) for x in (plan.edges, plan.layers))
        return NeuralGraph(nodes, edges, features, numbers)

    def decode(self, x: NeuralGraph, layout: Layout) -> dict[str, torch.Tensor]:
        """Turn nodes and features back into ``{name: [models, ...]}``.

        >>> import torch
        >>> state_dict = torch.nn.Linear(3, 2).state_dict()
        >>> layout, batch = Layout.of_state_dict(state_dict), {name: t[None] for name, t in state_dict.items()}
        >>> back = Graph().decode(Graph().encode(batch, layout), layout)
        >>> bool((back["weight"] == batch["weight"]).all())
        True
        """
        import torch

        models = len(x.nodes)
        found: dict[str, torch.Tensor] = {}
        for link in _plan(layout).links:
            kernels = x.features[:, link.first_edge : link.first_edge + link.edges, : link.kernel]
            found[link.weight.name] = kernels.reshape(models, *link.weight.shape)
            if link.bias:
                found[link.bias.name] = x.nodes[:, link.first_node : link.first_node + link.weight.shape[0], 0]
        kinds = {spec.name: getattr(torch, DTYPES[spec.dtype][1]) for spec in layout.tensors}
        return {name: found[name].to(kinds[name]) for name in layout.names}


@dataclass(frozen=True)
class _Link:
    """One layer: its edges, and the nodes that they end in."""

    weight: TensorSpec
    bias: TensorSpec | None
    first_node: int
    first_edge: int
    edges: int
    kernel: int


@dataclass(frozen=True)
class _Plan:
    links: tuple[_Link, ...]
    edges: torch.Tensor
    layers: torch.Tensor
    kernel: int


@lru_cache(maxsize=64)
def _plan(layout: Layout) -> _Plan:
    """Say where everything goes; the same for all networks of a layout."""
    import torch

    links: list[_Link] = []
    edges: list[torch.Tensor] = []
    sizes: list[int] = []
    first_edge = 0
    for layer in layers(layout):
        weight, bias = layer.floats.get("weight"), layer.floats.get("bias")
        if weight is None or len(weight.shape) < 2 or set(layer.floats) - {"weight", "bias"} or layer.counters:
            raise _no_chain(layer.name, "is not a linear layer or a convolution")
        n_out = weight.shape[0]
        n_in = sizes[-1] if sizes else weight.shape[1]
        # After a convolution that is flattened, a linear layer has several weights per channel.
        if prod(weight.shape[1:]) % n_in or (len(weight.shape) > 2 and weight.shape[1] != n_in):
            raise _no_chain(layer.name, f"does not take the {n_in} outputs of the layer before it")
        sizes += [n_out] if sizes else [n_in, n_out]
        before, here = sum(sizes[:-2]), sum(sizes[:-1])
        source = torch.arange(before, before + n_in).repeat(n_out)
        target = torch.arange(here, here + n_out).repeat_interleave(n_in)
        edges.append(torch.stack([source, target]))
        links.append(_Link(weight, bias, here, first_edge, n_in * n_out, prod(weight.shape[1:]) // n_in))
        first_edge += n_in * n_out
    numbers = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    return _Plan(tuple(links), torch.cat(edges, 1), numbers, max(link.kernel for link in links))


def _no_chain(name: str, what: str) -> TopologyError:
    return TopologyError(
        f"the graph representation takes plain chains of layers; here {name!r} {what}. "
        "Use another representation: 'tokens', 'flat', 'layers' or 'statistics'."
    )
