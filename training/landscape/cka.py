"""Similarity of what networks compute: linear CKA between all pairs, from one forward pass each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from phasezoo.errors import MeasureError, TensorNotFoundError, nearest
from phasezoo.training.landscape.replay import Batch, require_replayable

Estimator = Literal["unbiased", "biased"]


@dataclass(frozen=True)
class Similarity:
    """CKA of all pairs of S networks.

    Attributes:
        matrix: ``[S, S]``, float64, symmetric; NaN in the rows and columns of networks with constant outputs.
        reasons: network -> why its entries are NaN.

    >>> outputs = torch.randn(3, 50, 4, generator=torch.Generator().manual_seed(0))
    >>> outputs[1], outputs[2] = outputs[0] + 1, 0
    >>> found = cka(outputs)
    >>> round(found.matrix[0, 1].item(), 3), found.reasons, found.mean()
    (1.0, {2: 'constant outputs over 50 samples'}, nan)
    """

    matrix: torch.Tensor
    reasons: dict[int, str]

    def mean(self) -> float:
        """Return the mean over pairs of different networks; NaN if one of them is."""
        S = len(self.matrix)
        first, second = torch.triu_indices(S, S, 1)
        return self.matrix[first, second].mean().item()


def cka(outputs: torch.Tensor | Iterable[torch.Tensor], *, estimator: Estimator = "unbiased") -> Similarity:
    """Compute linear CKA between all pairs of networks.

        CKA(X, Y) = HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L)),      K = XX', L = YY'      (Kornblith et al. 2019)

    ``"unbiased"`` takes the U-statistic for HSIC (Song et al. 2012), whose mean for independent outputs is zero, and
    which may be negative; over batches, HSIC is averaged before the ratio is taken (Nguyen et al. 2021).
    ``"biased"`` takes tr(KHLH), which is far from zero for few samples: with 128 samples and 100 outputs independent
    networks score 0.44. Published values of the zoos are biased, averaged over batches after the ratio; so is this.

    Args:
        outputs: outputs of S networks on the same n samples, ``[S, n, ...]``, or an iterable of such batches.
        estimator: ``"unbiased"`` or ``"biased"``.

    Raises:
        MeasureError: too few samples, or no batch.

    >>> X = torch.randn(1, 50, 3, generator=torch.Generator().manual_seed(0))
    >>> matrix = cka(torch.cat([X, 2 * X + 1])).matrix
    >>> torch.allclose(matrix, torch.ones(2, 2, dtype=torch.float64), atol=1e-5)
    True
    """
    batches = [outputs] if isinstance(outputs, torch.Tensor) else list(outputs)
    least = 4 if estimator == "unbiased" else 2
    if not batches or any(X.dim() < 3 or X.shape[1] < least for X in batches):
        raise MeasureError(
            f"{estimator} CKA takes outputs [networks, samples, features] with at least {least} samples a batch; "
            f"got {[list(X.shape) for X in batches[:3]] or 'no batch'}. Use larger batches."
        )
    unbiased = estimator == "unbiased"
    hsics, constants = zip(*(_hsic(X.flatten(2), unbiased=unbiased) for X in batches), strict=True)
    hsic, constant = torch.stack(hsics), torch.stack(constants)
    matrix = _ratio(hsic.mean(0)) if unbiased else _ratio(hsic).mean(0)
    constant = constant.all(0) if unbiased else constant.any(0)
    matrix[constant], matrix[:, constant] = torch.nan, torch.nan
    n = sum(X.shape[1] for X in batches)
    return Similarity(matrix, {i: f"constant outputs over {n} samples" for i in constant.nonzero()[:, 0].tolist()})


def _ratio(hsic: torch.Tensor) -> torch.Tensor:
    own = hsic.diagonal(dim1=-2, dim2=-1).clamp(min=0).sqrt()
    return hsic / (own.unsqueeze(-1) * own.unsqueeze(-2))


def _hsic(X: torch.Tensor, *, unbiased: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Return HSIC between all pairs ``[S, S]``, float64, and which networks are constant ``[S]``."""
    S, n, d = X.shape
    A = X.transpose(0, 1).reshape(n, S * d)
    mean = A.mean(0)
    A = A - mean
    # <K, L> = ||X'Y||^2: over features, or over samples where there are fewer of them.
    by_features = d * d * S <= n * (d + n * S)
    inner = _by_features(A, S) if by_features else _by_samples(A, S)
    # Outputs that vary less than they are rounded; the sum is a cheap sign that it may be so.
    size = n * mean.view(S, d).square().sum(1)
    suspect = inner.diagonal().sqrt() <= torch.finfo(X.dtype).eps * size
    constant = torch.zeros(S, dtype=torch.bool, device=X.device)
    for i in suspect.nonzero()[:, 0].tolist():
        constant[i] = (X[i] - X[i, :1]).abs().max() <= 4 * torch.finfo(X.dtype).eps * X[i].abs().max()
    if not unbiased:
        return inner, constant
    # K~ is K without its diagonal; Song et al. (2012), eq. 5:
    # <K~, L~> + 1'K~1 1'L~1 / ((n - 1)(n - 2)) - 2 1'K~L~1 / (n - 2)
    diagonal = A.square().view(n, S, d).sum(2).double().T
    rows = -diagonal  # K~ 1 = K 1 - diag K, and K 1 = 0 for centred features
    total = rows.sum(1)
    inner = inner - diagonal @ diagonal.T
    corrected = inner + torch.outer(total, total) / ((n - 1) * (n - 2)) - 2 * rows @ rows.T / (n - 2)
    return corrected / (n * (n - 3)), constant


def _by_features(A: torch.Tensor, S: int) -> torch.Tensor:
    """Return ||X'Y||^2 for all pairs from ``[n, S d]``; blocks below the diagonal follow by symmetry."""
    d, step = A.shape[1] // S, max(10, -(-S // 5))
    inner = torch.zeros(S, S, dtype=torch.float64, device=A.device)
    for i in range(0, S, step):
        block = A[:, i * d : (i + step) * d].T @ A[:, i * d :]
        inner[i : i + step, i:] = block.square_().view(-1, d, S - i, d).sum(3).sum(1)
    return inner.triu() + inner.triu(1).T


def _by_samples(A: torch.Tensor, S: int) -> torch.Tensor:
    """Return <XX', YY'> for all pairs from ``[n, S d]``."""
    n = len(A)
    X = A.view(n, S, -1).transpose(0, 1)
    K = (X @ X.mT).view(S, n * n)
    return (K @ K.T).double()


def collect_outputs(
    models: Sequence[nn.Module], *, batches: Iterable[Batch], layers: Sequence[str] = ()
) -> Iterator[dict[str, torch.Tensor]]:
    """Run each network once over the batches and yield its outputs, ``{name: [S, n, ...]}`` for each batch.

    Args:
        models: networks of one architecture, in eval mode.
        batches: (inputs, labels) pairs.
        layers: names of modules whose outputs are wanted too; the name of the networks' own output is ``""``.

    Raises:
        MeasureError: a network is not a function of weights and input alone.
        TensorNotFoundError: no module of a name.

    >>> nets = [nn.Sequential(nn.Linear(2, 3), nn.ReLU()) for _ in range(4)]
    >>> found = collect_outputs(nets, batches=[(torch.zeros(5, 2), torch.zeros(5))], layers=["0"])
    >>> {name: tuple(output.shape) for name, output in next(found).items()}
    {'0': (4, 5, 3), '': (4, 5, 3)}
    """
    for model in models:
        require_replayable(model)
        names = dict(model.named_modules())
        for layer in layers:
            if layer not in names:
                raise TensorNotFoundError(f"no layer {layer!r}. {nearest(layer, filter(None, names))}")
    for x, _ in batches:
        found: list[dict[str, torch.Tensor]] = []
        for model in models:
            with _listening(model, layers) as heard, torch.no_grad():
                heard[""] = model(x)
            found.append(heard)
        yield {name: torch.stack([heard[name] for heard in found]) for name in found[0]}


@contextmanager
def _listening(model: nn.Module, layers: Sequence[str]) -> Iterator[dict[str, torch.Tensor]]:
    heard: dict[str, torch.Tensor] = {}

    def listen(name: str) -> torch.utils.hooks.RemovableHandle:
        def hook(module: nn.Module, args: object, out: torch.Tensor) -> None:
            heard[name] = out.clone()  # the network may go on in place

        return model.get_submodule(name).register_forward_hook(hook)

    handles = [listen(name) for name in layers]
    try:
        yield heard
    finally:
        for handle in handles:
            handle.remove()
