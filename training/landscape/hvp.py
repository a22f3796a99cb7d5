"""The Hessian of a mean loss as an operator: products with vectors, never the matrix."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from math import prod

import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import cross_entropy

from phasezoo.errors import MeasureError, TensorNotFoundError, nearest
from phasezoo.training.landscape.replay import Batch, Loss, device_and_dtype, placed, require_replayable
from phasezoo.training.landscape.structure import Structure, structure

BIG = 1e6  # bytes of a graph from which on the time of a call from C++ to Python is no matter


class HessianOperator:
    """The Hessian of the mean loss over fixed micro-batches, for one model or many of one architecture.

        L(w) = sum_b n_b / N loss(f(x_b; w), y_b)        H v = d/dw <dL/dw, v>        (Pearlmutter 1994)

    Reverse over reverse. The graphs of the gradients are kept for as many micro-batches as fit into `cache_bytes`
    and replayed for every product (2.5 to 2.7 gradients each); the others are rebuilt (3.9 gradients), once for all
    vectors of a `matmat`. The models themselves are left alone: neither their mode nor any ``.grad`` is touched.

    With a list of M models the operator is block-diagonal and its vectors are ``[M, P]``. That pays for small
    perceptrons, where a product is all overhead; for convolutions on a CPU a loop over models is faster.

    Args:
        model: a network in eval mode, or a list of networks of one architecture.
        batches: (inputs, labels) pairs, fixed and replayed; 32 to 64 samples each are a good size.
        loss: loss of logits and labels, a mean over the samples.
        params: names of parameters, or of modules whose parameters are meant; all by default, frozen ones too.
        cache_bytes: memory that cached graphs may take.
        dtype: type to compute in; by default that of the parameters.

    Attributes:
        shape: shape of the vectors: ``(P,)``, or ``(M, P)`` for a list of models.
        model: the network; for a list a copy without weights.
        names: names of the parameters, in the order in which they lie in a vector.
        products: how many products with a vector were computed so far.
        batches: the micro-batches, placed.
        samples: how many samples they hold, N.
        params: the parameters that are differentiated, by name, with a leading model axis for a list of models.
        fixed: all other tensors, by name.

    Raises:
        MeasureError: a network is not a function of weights and input alone, or there is no sample.
        TensorNotFoundError: no parameter or module of a name in `params`.

    >>> net = nn.Linear(1, 1, bias=False)
    >>> half_square = lambda out, y: (out - y).square().mean() / 2
    >>> H = HessianOperator(net, batches=[(torch.tensor([[3.0]]), torch.zeros(1, 1))], loss=half_square)
    >>> H.matvec(torch.tensor([2.0]))  # L = (3 w)^2 / 2, so that H = 9
    tensor([18.])
    >>> torch.allclose(H.gradient(), H.matvec(net.weight[0].detach()))  # dL/dw = 9 w
    True
    >>> H.named(torch.tensor([2.0]))
    {'weight': tensor([[2.]])}
    """

    def __init__(
        self,
        model: nn.Module | Sequence[nn.Module],
        *,
        batches: Iterable[Batch],
        loss: Loss = cross_entropy,
        params: Sequence[str] | None = None,
        cache_bytes: float = 2e9,
        dtype: torch.dtype | None = None,
    ) -> None:
        models = [model] if isinstance(model, nn.Module) else list(model)
        for one in models:
            require_replayable(one)
        self._stacked = not isinstance(model, nn.Module)
        self.model = copy.deepcopy(models[0]).to("meta") if self._stacked else models[0]
        self.loss = loss
        self.device, own = device_and_dtype(models[0])
        self.dtype = own if dtype is None else dtype
        self.batches = placed(batches, device=self.device, dtype=self.dtype)
        self.samples = sum(len(x) for x, _ in self.batches)
        self._weights = [len(x) / self.samples for x, _ in self.batches]

        chosen = select(dict(models[0].named_parameters()), params)
        self.fixed, self.params = self._gather(models, chosen)
        self.names = tuple(self.params)
        self._shapes = [models[0].get_parameter(name).shape for name in self.names]
        lead = (len(models),) if self._stacked else ()
        self.shape = (*lead, sum(map(prod, self._shapes)))
        self.products = 0
        self._graphs: dict[int, _Graph] = {}
        self._cache_bytes = cache_bytes

    def matvec(self, vector: torch.Tensor) -> torch.Tensor:
        """Return H v for a vector of the operator's shape."""
        return self.matmat(vector[None])[0]

    def matmat(self, vectors: torch.Tensor) -> torch.Tensor:
        """Return H v for K vectors ``[K, *shape]``, one row each."""
        out = torch.zeros_like(vectors)
        for i, weight in enumerate(self._weights):
            graph = self._graph(i)
            for vector, total in zip(vectors, out, strict=True):
                products = graph.times(self._split(vector))
                for view, product in zip(self._split(total), products, strict=True):
                    view.add_(product, alpha=weight)
        self.products += len(vectors)
        return out

    def gradient(self) -> torch.Tensor:
        """Return dL/dw, in the shape of the operator's vectors."""
        out = torch.zeros(self.shape, dtype=self.dtype, device=self.device)
        for batch, weight in zip(self.batches, self._weights, strict=True):
            grads = torch.autograd.grad(self._total(batch), list(self.params.values()), materialize_grads=True)
            for view, grad in zip(self._split(out), grads, strict=True):
                view.add_(grad, alpha=weight)
        return out

    def named(self, vector: torch.Tensor) -> dict[str, torch.Tensor]:
        """View a vector as one tensor per parameter, by name."""
        return dict(zip(self.names, self._split(vector), strict=True))

    @cached_property
    def structure(self) -> Structure:
        """Which identities hold exactly for the network, the loss and the parameters."""
        return structure(self.model, loss=self.loss, params=self.names)

    def _gather(
        self, models: Sequence[nn.Module], chosen: Sequence[str]
    ) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        """Return what is held fixed and what is differentiated, detached from the models."""
        every = [{**dict(one.named_parameters()), **dict(one.named_buffers())} for one in models]

        def tensor(name: str) -> torch.Tensor:
            first = every[0][name].detach()
            try:
                own = torch.stack([one[name].detach() for one in every]) if self._stacked else first
            except (KeyError, RuntimeError):
                raise MeasureError(
                    f"the models differ in {name!r}: many models at once must be of one architecture. "
                    "Make one operator per architecture."
                ) from None
            return own.to(self.dtype) if own.is_floating_point() else own

        fixed = {name: tensor(name) for name in every[0] if name not in chosen}
        return fixed, {name: tensor(name).detach().requires_grad_() for name in chosen}

    def _split(self, vector: torch.Tensor) -> list[torch.Tensor]:
        parts = torch.split(vector, [prod(shape) for shape in self._shapes], -1)
        return [part.view(*part.shape[:-1], *shape) for part, shape in zip(parts, self._shapes, strict=True)]

    def _total(self, batch: Batch) -> torch.Tensor:
        """Return the loss of one micro-batch, summed over the models."""
        x, y = batch
        # The fused attention kernels have no second derivative; the plain formula has.
        with sdpa_kernel(SDPBackend.MATH):
            if not self._stacked:
                return self.loss(functional_call(self.model, {**self.params, **self.fixed}, (x,)), y)

            def one(params: Mapping[str, torch.Tensor], fixed: Mapping[str, torch.Tensor]) -> torch.Tensor:
                return self.loss(functional_call(self.model, {**params, **fixed}, (x,)), y)

            total: torch.Tensor = torch.vmap(one)(self.params, self.fixed).sum()
            return total

    def _graph(self, i: int) -> _Graph:
        if i in self._graphs:
            return self._graphs[i]
        graph = _Graph(self._total(self.batches[i]), list(self.params.values()))
        if i < self.cached:
            self._graphs[i] = graph
        return graph

    @cached_property
    def cached(self) -> int:
        """How many micro-batches keep their graph: as many as fit, by the size of the first one's."""
        saved: dict[int, int] = {}

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            saved[storage.data_ptr()] = storage.nbytes()
            return tensor.detach()  # with its history it would hold its own graph, for ever

        before = _generator_state(self.device)
        with saved_tensors_hooks(pack, lambda tensor: tensor):
            # Kept to the end: freed memory would be handed out again, and counted once for two tensors.
            graph = _Graph(self._total(self.batches[0]), list(self.params.values()))
        if not torch.equal(before, _generator_state(self.device)):
            raise MeasureError(
                f"{type(self.model).__name__} draws random numbers when it is called, so that every pass differs. "
                "Call model.eval() first, or remove the dropout from its forward()."
            )
        for tensor in (*self.params.values(), *self.fixed.values(), *self.batches[0]):
            saved.pop(tensor.untyped_storage().data_ptr(), None)
        if BIG <= sum(saved.values()) <= self._cache_bytes:
            self._graphs[0] = graph  # building it again would take longer than its hooks ever will
        per_sample, used = sum(saved.values()) / len(self.batches[0][0]), 0.0
        for i, (x, _) in enumerate(self.batches):
            used += per_sample * len(x)
            if used > self._cache_bytes:
                return i
        return len(self.batches)


class _Graph:
    """The gradient of one micro-batch, with the graph that differentiates it once more."""

    def __init__(self, loss: torch.Tensor, params: Sequence[torch.Tensor]) -> None:
        self.params = params
        grads = torch.autograd.grad(loss, params, create_graph=True, materialize_grads=True)
        # Where the loss is linear in a parameter the gradient is constant, and its row of H is zero.
        self.varying = [i for i, grad in enumerate(grads) if grad.requires_grad]
        self.grads = [grads[i] for i in self.varying]

    def times(self, vector: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
        """Return d/dw <g, v> for one vector, a tensor per parameter."""
        if not self.grads:
            return [torch.zeros_like(param) for param in self.params]
        weights = [vector[i] for i in self.varying]
        return torch.autograd.grad(self.grads, self.params, weights, retain_graph=True, materialize_grads=True)


def select(named: Mapping[str, object], names: Sequence[str] | None) -> list[str]:
    """Return the parameters that are meant by names of parameters or modules, in module order.

    Args:
        named: all parameters, by name.
        names: names of parameters, or of modules whose parameters are meant; None means all.

    Raises:
        TensorNotFoundError: a name matches none, or no name is given.

    >>> select({"a.weight": 0, "a.bias": 0, "ab.weight": 0}, ["a"])
    ['a.weight', 'a.bias']
    """
    if names is None:
        return list(named)
    chosen: set[str] = set()
    for name in names:
        found = [key for key in named if key == name or key.startswith(f"{name}.")]
        if not found:
            raise TensorNotFoundError(f"no parameter or module {name!r}. {nearest(name, named)}")
        chosen.update(found)
    if not chosen:
        raise TensorNotFoundError(f"`params` names nothing; leave it out for all parameters. {nearest('', named)}")
    return [name for name in named if name in chosen]


def _generator_state(device: torch.device) -> torch.Tensor:
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()
