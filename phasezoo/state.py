"""The weights of a network of known architecture: as they were stored, or a variant made from them."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any, overload

from phasezoo.errors import ArchitectureError
from phasezoo.nets import build

if TYPE_CHECKING:
    import torch

    from phasezoo.model import Model
    from phasezoo.symmetry import Symmetry


class State(Mapping[str, "torch.Tensor"]):
    """Tensors by name, in module order, and the architecture that they fit.

    Attributes:
        config: what is known of the network, `architecture` and `architecture_config` at least.
    """

    config: dict[str, Any]

    @property
    @abstractmethod
    def origin(self) -> str:
        """Where the weights come from.

        >>> import phasezoo
        >>> ckpt = phasezoo.load("mlp-digits")["w8-lr0.03-s100"].checkpoint()
        >>> ckpt.canonical().origin
        'w8-lr0.03-s100 epoch 150 in canonical order'
        """

    @abstractmethod
    def state_dict(self) -> dict[str, torch.Tensor]:
        """Return all tensors, in module order.

        >>> import phasezoo
        >>> ckpt = phasezoo.load("mlp-digits")["w8-lr0.03-s100"].checkpoint()
        >>> list(ckpt.canonical().state_dict()) == list(ckpt.state_dict())
        True
        """

    def module(self, *, train: bool = False) -> torch.nn.Module:
        """Put the weights into a new instance of the model class.

        Args:
            train: return the module in training mode with gradients on; by default it is in eval mode.

        Raises:
            ArchitectureError: phasezoo does not know the architecture, or the weights do not fit it.

        >>> import phasezoo
        >>> phasezoo.load("mlp-digits")["w8-lr0.03-s100"].checkpoint().module().training
        False
        """
        config = json.loads(self.config["architecture_config"] or "{}")
        state_dict = self.state_dict()
        try:
            module = build(self.config["architecture"], **{**config, "device": "meta"})
            module.load_state_dict(state_dict, strict=True, assign=True)
        except (TypeError, RuntimeError) as error:
            raise ArchitectureError(
                f"the weights of {self.origin} do not fit {self.config['architecture']!r} with {config}: {error}. "
                "Use state_dict()."
            ) from None
        return module.train(train)

    def symmetry(self) -> Symmetry:
        """Return the permutations of units that leave the network's function alone, as data.

        >>> import phasezoo
        >>> ckpt = phasezoo.load("mlp-digits")["w8-lr0.03-s100"].checkpoint()
        >>> ckpt.symmetry().sizes, ckpt.symmetry().axes["layers.1.weight"]
        ({1: 8, 2: 8}, {1: (1, 1), 0: (2, 1)})
        """
        return _symmetry(self.config["architecture"], self.config["architecture_config"])

    def align_to(self, other: State, *, seed: int = 0) -> Variant:
        """Permute the units so that the weights come close to those of another network (Ainsworth et al. 2023).

        Args:
            other: a network of the same architecture.
            seed: seed of the order in which groups of units are matched.

        Raises:
            ArchitectureError: the networks are not of one architecture.
            DependencyError: SciPy is not installed.

        >>> import phasezoo
        >>> ckpt = phasezoo.load("mlp-digits")["w8-lr0.03-s100"].checkpoint()
        >>> back = phasezoo.permute(ckpt, seed=1).align_to(ckpt)
        >>> all(bool((back[name] == ckpt[name]).all()) for name in ckpt)
        True
        """
        from phasezoo.alignment import match_weights

        require_alike([other, self])
        spec, own = self.symmetry(), self.state_dict()
        found = match_weights(other.state_dict(), source=own, spec=spec, seed=seed)
        return Variant(
            spec.apply(own, found.permutations), config=self.config, origin=f"{self.origin} aligned to {other.origin}"
        )

    def canonical(self) -> Variant:
        """Put the units in an order of their own, the same for every permuted copy.

        >>> import phasezoo
        >>> ckpt = phasezoo.load("mlp-digits")["w8-lr0.03-s100"].checkpoint()
        >>> copy = phasezoo.permute(ckpt, seed=1).canonical()
        >>> all(bool((tensor == copy[name]).all()) for name, tensor in ckpt.canonical().items())
        True
        """
        from phasezoo.canonical import canonical_order

        spec, own = self.symmetry(), self.state_dict()
        return Variant(
            spec.apply(own, canonical_order(own, spec=spec)),
            config=self.config,
            origin=f"{self.origin} in canonical order",
        )


class Variant(State):
    """Weights made from others, in memory: permuted, aligned, averaged, pruned.

    Args:
        tensors: the tensors of the architecture's state dict.
        config: what is known of the network, `architecture` and `architecture_config` at least.
        origin: what was done to what.

    >>> import phasezoo
    >>> phasezoo.prune(phasezoo.load("mlp-digits")["w8-lr0.03-s100"], density=0.5)
    Variant(w8-lr0.03-s100 epoch 150 pruned to density 0.5)
    """

    def __init__(self, tensors: Mapping[str, torch.Tensor], *, config: Mapping[str, Any], origin: str) -> None:
        self._tensors = dict(tensors)
        self._origin = origin
        self.config = dict(config)

    @property
    def origin(self) -> str:
        """What was done to what.

        >>> import phasezoo
        >>> ckpt = phasezoo.load("mlp-digits")["w8-lr0.03-s100"].checkpoint()
        >>> phasezoo.permute(ckpt, seed=1).origin
        'w8-lr0.03-s100 epoch 150 permuted with seed 1'
        """
        return self._origin

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Return all tensors, in module order, as copies.

        >>> import phasezoo
        >>> ckpt = phasezoo.load("mlp-digits")["w8-lr0.03-s100"].checkpoint()
        >>> variant = phasezoo.permute(ckpt, seed=1)
        >>> {name: tuple(tensor.shape) for name, tensor in variant.state_dict().items()} == ckpt.shapes
        True
        """
        return {name: tensor.clone() for name, tensor in self._tensors.items()}

    def __getitem__(self, name: str) -> torch.Tensor:
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def __repr__(self) -> str:
        return f"Variant({self.origin})"


@overload
def permute(state: State, *, seed: int | None, spec: Symmetry | None = None) -> Variant: ...
@overload
def permute(
    state: dict[str, torch.Tensor], *, seed: int | None, spec: Symmetry | None = None
) -> dict[str, torch.Tensor]: ...
def permute(
    state: State | dict[str, torch.Tensor], *, seed: int | None, spec: Symmetry | None = None
) -> Variant | dict[str, torch.Tensor]:
    """Permute the units of a network at random; its function stays the same.

    Args:
        state: a checkpoint, a variant, or a plain state dict.
        seed: seed of the permutations, which are uniform; None draws from torch's own generator, as what augments
            samples should: ``view.to_torch(augment=partial(permute, seed=None, spec=spec))``.
        spec: the permutations that the architecture allows; a plain state dict needs it (`phasezoo.symmetry.symmetry`).

    Returns:
        A variant; for a plain state dict a state dict. Outputs agree to 1e-12 of their scale in float64, and to 1e-5
        in float32.

    Raises:
        ArchitectureError: a plain state dict without its symmetries.

    >>> import phasezoo, torch
    >>> ckpt = phasezoo.load("mlp-digits")["w8-lr0.03-s100"].checkpoint()
    >>> copy, x = phasezoo.permute(ckpt, seed=0), torch.randn(5, 64)
    >>> bool((copy["layers.0.weight"] == ckpt["layers.0.weight"]).all())
    False
    >>> bool(torch.allclose(copy.module()(x), ckpt.module()(x), atol=1e-4))
    True
    """
    if isinstance(state, State):
        spec = spec or state.symmetry()
        moved = spec.apply(state.state_dict(), spec.draw(seed=seed))
        return Variant(moved, config=state.config, origin=f"{state.origin} permuted with seed {seed}")
    if spec is None:
        raise ArchitectureError(
            "a plain state dict does not say what its architecture is. Pass a checkpoint, or spec=symmetry(module) "
            "from phasezoo.symmetry."
        )
    return spec.apply(state, spec.draw(seed=seed))


def states_of(networks: Iterable[Model | State], *, epoch: int | str) -> list[State]:
    """Return the weights of networks: of models those at an epoch, of checkpoints and variants their own."""
    return [one if isinstance(one, State) else one.checkpoint(epoch) for one in networks]


def require_alike(states: Iterable[State]) -> None:
    """Refuse networks of several architectures.

    Raises:
        ArchitectureError: there are two.
    """
    first: dict[tuple[str, str], State] = {}
    for state in states:
        first.setdefault((state.config["architecture"], state.config["architecture_config"]), state)
    if len(first) > 1:
        listing = "; ".join(f"{state.origin}: {name} {config}" for (name, config), state in list(first.items())[:3])
        raise ArchitectureError(
            f"the networks are of {len(first)} architectures ({listing}). Choose one, such as by zoo.filter(width=...)."
        )


@lru_cache(maxsize=64)
def _symmetry(architecture: str, config: str) -> Symmetry:
    from phasezoo.symmetry import symmetry

    return symmetry(build(architecture, device="meta", **json.loads(config)))
