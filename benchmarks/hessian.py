"""Hessian products, traces, eigenvalues, densities against PyHessian, curvlinops and plain loops; one thread.

    python benchmarks/hessian.py [--small]

Peers that are not installed are skipped, and a line says so. Where PyHessian is missing, a loop that computes what its
dataloader mode computes (gradients with their graph, differentiated again, batch by batch, for every product) stands
in under the name "plain loop". `--small` runs every path on little data, to see that it works.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from networks import MLP, SMALL, WIDTHS, images, mlp, resnet
from peers import PlainLoop, curvlinops, peer_product, pyhessian
from timing import interleave, report
from torch import nn

from phasezoo.nets import build
from phasezoo.training.data import digits
from phasezoo.training.landscape.hessian import spectral_density, top_eigenvalues, trace
from phasezoo.training.landscape.hvp import HessianOperator
from phasezoo.training.landscape.perceptrons import PerceptronHessian
from phasezoo.training.landscape.replay import Batch, micro_batches

SAMPLES = 16 if SMALL else 256


def probing(operator: Any, probes: int) -> float:
    """Return Hutchinson's trace by curvlinops, all probes in one matrix."""
    from curvlinops import hutchinson_trace

    return hutchinson_trace(operator, num_matvecs=probes).item()


def difference(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    relative = ((ours - theirs).norm() / theirs.norm()).item()
    print(f"{'':44s} relative difference from curvlinops {relative:.1e} (<= 1e-4)")


def products(rounds: int) -> None:
    """One product on a ResNet-18, and what it costs in gradients."""
    for width in WIDTHS:
        net, (x, y) = resnet(width), images(SAMPLES, seed=1)
        batches = micro_batches(x, y=y, size=64)
        op = HessianOperator(net, batches=batches)
        v = torch.randn(op.shape)
        name, peer = peer_product(net, batches)
        uncached = HessianOperator(net, batches=batches, cache_bytes=0)
        sides = {"ours": lambda op=op, v=v: op.matvec(v), "peer": peer, "gradient": op.gradient}
        sides["uncached"] = lambda op=uncached, v=v: op.matvec(v)
        other = curvlinops(net, batches)
        if other is not None:
            sides["curvlinops"] = lambda other=other, v=v: other @ v
        seconds = interleave(sides, rounds=rounds)
        what = f"Hv, ResNet-18 width {width}, {SAMPLES} samples"
        report(what, seconds["ours"], seconds["peer"], name, ">= 1.3x")
        report(what, seconds["ours"], seconds["gradient"], "one gradient", ">= 0.33x: at most 3 gradients")
        report(f"{what}, no cache", seconds["uncached"], seconds["peer"], name, "for comparison")
        if other is not None:
            report(what, seconds["ours"], seconds["curvlinops"], "curvlinops", "for comparison")
            difference(op.matvec(v), other @ v)


def traces(rounds: int) -> None:
    """The exact trace against 100 probes, of which a few are timed.

    curvlinops has its fastest setting of those tried: all probes in one matrix and the samples in one batch on an MLP;
    on a ResNet, where 100 probes at once take too much memory, four at a time, as they are timed.
    """
    probes, samples = (1, 16) if SMALL else (2, 128)
    cases = [(f"trace, ResNet-18 width {w}", resnet(w), images(samples, seed=1), ">= 20x") for w in WIDTHS]
    data = digits().train
    for n in (64, 256, 1000):
        cases.append((f"trace, MLP, {n} samples", mlp(), (data.x[:n], data.y[:n]), ">= 15x"))
    for what, net, (x, y), bar in cases:
        batches = micro_batches(x, y=y, size=64)
        name, peer = peer_product(net, batches)
        timed = probes if "ResNet" in what else 20
        sides = {
            "ours": lambda net=net, batches=batches: trace(HessianOperator(net, batches=batches)),
            "peer": lambda peer=peer, timed=timed: [peer() for _ in range(timed)],
        }
        other = curvlinops(net, batches if "ResNet" in what else [(x, y)])
        columns = 2 * probes if "ResNet" in what else 100
        if other is not None:
            sides["curvlinops"] = lambda other=other, columns=columns: probing(other, columns)
        seconds = interleave(sides, rounds=rounds)
        report(what, seconds["ours"], 100 / timed * seconds["peer"], f"100 x {name}", bar)
        if other is not None:
            report(what, seconds["ours"], 100 / columns * seconds["curvlinops"], "100 x curvlinops", "for comparison")
        found = trace(HessianOperator(net, batches=batches)).value.item()
        exact = trace(HessianOperator(net, batches=batches[:], dtype=torch.float64)).value.item()
        probe = trace(HessianOperator(net, batches=batches), method="hutchinson", products=4 if SMALL else 16)
        spread = probe.stderr.item() * math.sqrt(probe.products / 100)
        print(
            f"{'':44s} {found:.6g}, of float64 {exact:.6g}: error {abs(found / exact - 1):.1e} (<= 1e-4); "
            f"100 probes: {spread / abs(exact):.1e}"
        )


def eigenvalues(rounds: int) -> None:
    """The top eigenvalue at a true error of 1e-3, with the build of the graphs."""
    data, seeds = digits().train, range(1 if SMALL else 3)
    cases = [(f"top eigenvalue, ResNet-18 width {w}", resnet(w), images(SAMPLES, seed=1)) for w in WIDTHS[:1]]
    cases.append(("top eigenvalue, MLP", mlp(), (data.x, data.y)))
    for what, net, (x, y) in cases:
        batches = micro_batches(x, y=y, size=64)
        true = top_eigenvalues(HessianOperator(net, batches=batches), which="LM", rtol=1e-7).values.item()
        loop = PlainLoop(net, batches)

        def ours(net: nn.Module = net, batches: Sequence[Batch] = batches) -> list[tuple[float, int]]:
            found = [top_eigenvalues(HessianOperator(net, batches=batches), which="LM", seed=s) for s in seeds]
            return [(f.values.item(), f.products) for f in found]

        def peer(loop: PlainLoop = loop) -> list[tuple[float, int]]:
            return [loop.eigenvalue(s) for s in seeds]

        seconds = interleave({"ours": ours, "peer": peer}, rounds=rounds)
        report(what, seconds["ours"], seconds["peer"], "plain loop, power", ">= 1.4x")
        errors_of("phasezoo", ours(), true)
        errors_of("power", peer(), true)


def whole(rounds: int) -> None:
    """An MLP with all samples in one batch, which suits curvlinops best: a product, 100 probes, the top eigenvalue.

    The eigenvalue is that of scipy's `eigsh` on its operator. By default that makes 21 products for an error of 1e-6;
    with these settings about as few as it can for the true error of 1e-3 that phasezoo is asked for. On a ResNet the
    ratio of the products says the same, and it would take minutes.
    """
    data, net, seeds = digits().train, mlp(), range(1 if SMALL else 3)
    batches = [(data.x, data.y)]
    peer, op = curvlinops(net, batches), HessianOperator(net, batches=batches)
    if peer is None:
        print("curvlinops is not installed: its rows are skipped (pip install curvlinops-for-pytorch)")
        return
    from scipy.sparse.linalg import LinearOperator, eigsh

    what, v, probes = f"MLP, one batch of {len(data.y)}", torch.randn(op.shape), 4 if SMALL else 100
    seconds = interleave({"ours": lambda: op.matvec(v), "peer": lambda: peer @ v}, rounds=rounds)
    report(f"Hv, {what}", seconds["ours"], seconds["peer"], "curvlinops", "for comparison")
    difference(op.matvec(v), peer @ v)

    # Both sides estimate; the graphs are built anew.
    hutchinson = lambda: trace(HessianOperator(net, batches=batches), method="hutchinson", products=probes)  # noqa: E731
    seconds = interleave({"ours": hutchinson, "peer": lambda: probing(peer, probes)}, rounds=rounds)
    report(f"trace by {probes} probes, {what}", seconds["ours"], seconds["peer"], "curvlinops", "for comparison")
    exact = trace(op).value.item()
    own, other = (abs(value / exact - 1) for value in (hutchinson().value.item(), probing(peer, probes)))
    print(f"{'':44s} errors of these traces: phasezoo {own:.1e}, curvlinops {other:.1e}")

    def ours() -> list[tuple[float, int]]:
        found = [top_eigenvalues(HessianOperator(net, batches=batches), which="LM", seed=s) for s in seeds]
        return [(f.values.item(), f.products) for f in found]

    def theirs() -> list[tuple[float, int]]:
        return [scipy_eigenvalue(s) for s in seeds]

    def scipy_eigenvalue(seed: int) -> tuple[float, int]:
        matrix, products = peer.to_scipy(), 0

        def matvec(vector: np.ndarray) -> np.ndarray:
            nonlocal products
            products += 1
            return matrix @ vector

        counted = LinearOperator(matrix.shape, matvec=matvec, dtype=matrix.dtype)
        v0 = np.random.default_rng(seed).standard_normal(len(v)).astype(matrix.dtype)
        (value,) = eigsh(counted, k=1, which="LM", v0=v0, ncv=5, tol=3e-2, return_eigenvectors=False)
        return float(value), products

    seconds = interleave({"ours": ours, "peer": theirs}, rounds=rounds)
    report(f"top eigenvalue, {what}", seconds["ours"], seconds["peer"], "curvlinops, eigsh", "for comparison")
    true = top_eigenvalues(op, which="LM", rtol=1e-7).values.item()
    errors_of("phasezoo", ours(), true)
    errors_of("eigsh", theirs(), true)


def errors_of(side: str, runs: Sequence[tuple[float, int]], true: float) -> None:
    errors = ", ".join(f"{abs(value / true - 1):.0e} in {n}" for value, n in runs)
    print(f"{'':44s} {side}: error and products by seed: {errors}")


def densities(rounds: int) -> None:
    """Stochastic Lanczos quadrature, 4 probes of 40 steps, on an MLP."""
    data, net = digits().train, mlp()
    batches, steps = [(data.x[:512], data.y[:512])], 5 if SMALL else 40

    def loop() -> None:
        """Lanczos with every vector a list of tensors, orthogonalised one by one against all before."""
        plain = PlainLoop(net, batches)
        inner = lambda a, b: sum((x * y).sum().item() for x, y in zip(a, b, strict=True))  # noqa: E731
        for _ in range(4):
            v = [torch.randint_like(p, 2) * 2 - 1 for p in plain.params]
            basis, alpha, beta = [], [], []
            for _ in range(steps):
                norm = math.sqrt(inner(v, v))
                v = [t / norm for t in v]
                basis.append(v)
                w = plain.product(v)
                alpha.append(inner(v, w))
                beta.append(norm)
                for q in basis:
                    c = inner(q, w)
                    w = [a - c * b for a, b in zip(w, q, strict=True)]
                v = w
            T = torch.diag(torch.tensor(alpha)) + torch.diag(torch.tensor(beta[1:]), 1)
            torch.linalg.eigh(T + T.triu(1).T)

    ours = lambda: spectral_density(HessianOperator(net, batches=batches), probes=4, steps=steps)  # noqa: E731
    seconds = interleave({"ours": ours, "peer": loop}, rounds=rounds)
    report(f"density, MLP, 4 x {steps} steps", seconds["ours"], seconds["peer"], "plain loop", ">= 1.5x")


def populations(rounds: int) -> None:
    """Products for 32 perceptrons at once."""
    nets, data = [build("mlp", **MLP) for _ in range(32)], digits().train
    for n in (64, 256):
        batches = [(data.x[:n], data.y[:n])]
        op, graph = PerceptronHessian(nets, batches=batches), HessianOperator(nets, batches=batches)
        singles = [HessianOperator(net, batches=batches) for net in nets]
        loops = [PlainLoop(net, batches) for net in nets]
        V = torch.randn(op.shape)
        vs = [[*one.named(v).values()] for one, v in zip(singles, V, strict=True)]
        sides = {
            "ours": lambda op=op, V=V: op.matvec(V),
            "graph": lambda graph=graph, V=V: graph.matvec(V),
            "cached": lambda singles=singles, V=V: [one.matvec(v) for one, v in zip(singles, V, strict=True)],
            "plain": lambda loops=loops, vs=vs: [loop.product(v) for loop, v in zip(loops, vs, strict=True)],
        }
        seconds = interleave(sides, rounds=rounds)
        what = f"Hv, 32 MLPs, {n} samples"
        report(what, seconds["ours"], seconds["plain"], "plain loop", ">= 5x" if n == 64 else "for comparison")
        report(what, seconds["ours"], seconds["cached"], "loop, cached graphs", f">= {2.5 if n == 64 else 1.3}x")
        report(f"{what}, by graph", seconds["graph"], seconds["plain"], "plain loop", "for comparison")


def main() -> None:
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    if pyhessian(nn.Linear(1, 1), []) is None:
        print("PyHessian is not installed: a plain loop stands in for its dataloader mode")
    rounds = 1 if SMALL else 3
    for part in (products, traces, eigenvalues):
        part(rounds)
    for quick in (whole, densities, populations):
        quick(rounds if SMALL else 15)


if __name__ == "__main__":
    main()
