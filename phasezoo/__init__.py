"""phasezoo: zoos of trained neural networks on phase transitions.

>>> import phasezoo
>>> zoo = phasezoo.load("mlp-digits")
>>> zoo.filter(width=64, lr=0.1)[0].checkpoint().module()
MLP(64-64-64-10, relu)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

# Imported now although the rest is lazy: a later `import phasezoo.load` would put the module in the function's place.
from phasezoo.load import list_zoos, load

if TYPE_CHECKING:
    from phasezoo.averaging import average, interpolate
    from phasezoo.checkpoint import Checkpoint
    from phasezoo.ensembles import ensemble
    from phasezoo.errors import PhaseZooError
    from phasezoo.model import Model
    from phasezoo.probing import probe
    from phasezoo.pruning import prune
    from phasezoo.state import Variant, permute
    from phasezoo.zoo import Zoo

__version__ = "0.1.0"
__all__ = [
    "Checkpoint",
    "Model",
    "PhaseZooError",
    "Variant",
    "Zoo",
    "average",
    "ensemble",
    "interpolate",
    "list_zoos",
    "load",
    "permute",
    "probe",
    "prune",
]

# Imported when used: `import phasezoo` loads neither torch nor Arrow.
_LAZY = {
    "Checkpoint": "checkpoint",
    "Model": "model",
    "PhaseZooError": "errors",
    "Variant": "state",
    "Zoo": "zoo",
    "average": "averaging",
    "ensemble": "ensembles",
    "interpolate": "averaging",
    "permute": "state",
    "probe": "probing",
    "prune": "pruning",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'phasezoo' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"phasezoo.{_LAZY[name]}"), name)


def __dir__() -> list[str]:
    return sorted(["__version__", *__all__])
