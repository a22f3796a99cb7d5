"""Trace, diagonal, extreme eigenvalues and spectral density of a Hessian.

Values are raw, with sign, and come with how well they are known. Every function takes an operator of one network,
whose results are scalars, or of M networks, whose results are ``[M]``.
"""

from __future__ import annotations

from phasezoo.training.landscape.hessian.density import Density, spectral_density
from phasezoo.training.landscape.hessian.eigenvalues import Eigen, top_eigenvalues
from phasezoo.training.landscape.hessian.estimate import Estimate, Method, diagonal, natural_log, trace
from phasezoo.training.landscape.hessian.operator import Operator

__all__ = [
    "Density",
    "Eigen",
    "Estimate",
    "Method",
    "Operator",
    "diagonal",
    "natural_log",
    "spectral_density",
    "top_eigenvalues",
    "trace",
]
