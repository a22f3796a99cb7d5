"""Landscape metrics against PyHessian, against what one writes without a library, and against `rebasin`; one thread.

    python benchmarks/landscape.py [--small]

Peers that are not installed are skipped, and a line says so. Where PyHessian is missing, a loop that computes what its
dataloader mode computes (gradients with their graph, differentiated again, batch by batch, for every product) stands
in under the name "plain loop". `--small` runs every path on little data, to see that it works.
"""

from __future__ import annotations

import contextlib
import copy
import io
import math
import sys
import warnings
from collections.abc import Callable, Sequence

import numpy as np
import torch
from timing import interleave, report
from torch import nn
from torch.func import functional_call
from torch.nn.functional import batch_norm, conv2d, cross_entropy, linear, relu

from phasezoo.alignment import match_weights
from phasezoo.nets import build
from phasezoo.symmetry import symmetry
from phasezoo.training.data import digits
from phasezoo.training.landscape.cka import cka
from phasezoo.training.landscape.connectivity import fit_bezier
from phasezoo.training.landscape.hessian import spectral_density, top_eigenvalues, trace
from phasezoo.training.landscape.hvp import HessianOperator
from phasezoo.training.landscape.perceptrons import PerceptronHessian
from phasezoo.training.landscape.replay import Batch, micro_batches

SMALL = "--small" in sys.argv
SIZE = 8 if SMALL else 32  # pixels
WIDTHS = (2,) if SMALL else (8, 16)
SAMPLES = 16 if SMALL else 256
MLP = {"in_features": 64, "width": 64, "depth": 2, "out_features": 10}
Layers = tuple[Callable[..., nn.Module], Callable[..., nn.Module], Callable[..., nn.Module]]


class Block(nn.Module):
    def __init__(self, layers: Layers, n_in: int, n_out: int, stride: int) -> None:
        super().__init__()
        conv, norm, _ = layers
        self.conv1, self.bn1 = conv(n_in, n_out, 3, stride, 1, bias=False), norm(n_out)
        self.conv2, self.bn2 = conv(n_out, n_out, 3, 1, 1, bias=False), norm(n_out)
        self.shortcut = nn.Sequential()
        if stride != 1:
            self.shortcut = nn.Sequential(conv(n_in, n_out, 1, stride, 0, bias=False), norm(n_out))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return relu(self.bn2(self.conv2(relu(self.bn1(self.conv1(x))))) + self.shortcut(x))


class ResNet18(nn.Module):
    """ResNet-18 for small images, from any kind of layers."""

    def __init__(self, width: int, layers: Layers = (nn.Conv2d, nn.BatchNorm2d, nn.Linear)) -> None:
        super().__init__()
        conv, norm, dense = layers
        self.conv1, self.bn1 = conv(3, width, 3, 1, 1, bias=False), norm(width)
        blocks, n_in = [], width
        for stage in range(4):
            for stride in (2 if stage else 1, 1):
                blocks.append(Block(layers, n_in, width * 2**stage, stride))
                n_in = width * 2**stage
        self.blocks, self.fc = nn.Sequential(*blocks), dense(n_in, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.blocks(relu(self.bn1(self.conv1(x)))).mean((2, 3)))


def images(n: int, seed: int = 0) -> Batch:
    """Ten classes of noisy patterns."""
    generator = torch.Generator().manual_seed(seed)
    patterns = torch.randn(10, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(99))
    y = torch.randint(10, (n,), generator=generator)
    return patterns[y] + 2 * torch.randn(n, 3, SIZE, SIZE, generator=generator), y


def trained(net: nn.Module, batches: Sequence[Batch], lr: float) -> nn.Module:
    optimizer = torch.optim.SGD(net.parameters(), lr=lr, momentum=0.9)
    for x, y in batches:
        optimizer.zero_grad()
        cross_entropy(net(x), y).backward()
        optimizer.step()
    optimizer.zero_grad()
    return net.eval()


def resnet(width: int, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return trained(ResNet18(width), [images(64, seed=s) for s in range(2 if SMALL else 60)], 0.02)


def mlp(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    train = digits().train
    orders = [torch.randperm(1000)[:64] for _ in range(20 if SMALL else 300)]
    return trained(build("mlp", **MLP), [(train.x[i], train.y[i]) for i in orders], 0.05)


class PlainLoop:
    """What the dataloader mode of PyHessian computes, and power iteration and Hutchinson's trace with its rules."""

    def __init__(self, net: nn.Module, batches: Sequence[Batch]) -> None:
        self.params, self.net, self.batches = list(net.parameters()), net, batches

    def product(self, v: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        total = [torch.zeros_like(p) for p in self.params]
        samples = sum(len(y) for _, y in self.batches)
        for x, y in self.batches:
            grads = torch.autograd.grad(cross_entropy(self.net(x), y), self.params, create_graph=True)
            for t, h in zip(total, torch.autograd.grad(grads, self.params, v), strict=True):
                t.add_(h, alpha=len(y) / samples)
        return total

    def eigenvalue(self, seed: int) -> tuple[float, int]:
        """Return the Rayleigh quotient before it moves by less than 1e-3, and the products."""
        torch.manual_seed(seed)
        v, old = [torch.randn_like(p) for p in self.params], math.inf
        for n in range(100):
            norm = math.sqrt(sum(t.square().sum().item() for t in v))
            v = [t / norm for t in v]
            w = self.product(v)
            new = sum((a * b).sum().item() for a, b in zip(v, w, strict=True))
            if n and abs(new - old) / (abs(old) + 1e-6) < 1e-3:
                return old, n + 1
            v, old = w, new
        return old, 100


def pyhessian(net: nn.Module, batches: Sequence[Batch]) -> object | None:
    """Return PyHessian in dataloader mode, if it is installed."""
    try:
        from pyhessian import hessian
    except ImportError:
        return None
    return hessian(net, cross_entropy, dataloader=list(batches), cuda=False)


def peer_product(net: nn.Module, batches: Sequence[Batch]) -> tuple[str, Callable[[], object]]:
    peer = pyhessian(net, batches)
    v = [torch.randn_like(p) for p in net.parameters()]
    if peer is None:
        return "plain loop", lambda: PlainLoop(net, batches).product(v)
    return "PyHessian dataloader", lambda: peer.dataloader_hv_product(v)


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
        seconds = interleave(sides, rounds=rounds)
        what = f"Hv, ResNet-18 width {width}, {SAMPLES} samples"
        report(what, seconds["ours"], seconds["peer"], name, ">= 1.3x")
        report(what, seconds["ours"], seconds["gradient"], "one gradient", ">= 0.33x: at most 3 gradients")
        report(f"{what}, no cache", seconds["uncached"], seconds["peer"], name, "for comparison")


def traces(rounds: int) -> None:
    """The exact trace against 100 probes, of which a few are timed."""
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
        seconds = interleave(sides, rounds=rounds)
        report(what, seconds["ours"], 100 / timed * seconds["peer"], f"100 x {name}", bar)
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
        for side, runs in (("phasezoo", ours()), ("power", peer())):
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


def similarities(rounds: int) -> None:
    """CKA of all pairs of seeds; the original runs its formula in features pair by pair."""

    def pair(X: np.ndarray, Y: np.ndarray) -> float:
        X, Y = X - X.mean(0, keepdims=True), Y - Y.mean(0, keepdims=True)
        top = np.linalg.norm(X.T @ Y) ** 2
        return float(top / (np.linalg.norm(X.T @ X) * np.linalg.norm(Y.T @ Y)))

    for seeds, bar in ((5, ">= 2x"), (50, ">= 10x")):
        X = torch.randn(seeds, 1024, 10)
        arrays = X.numpy()
        ours = lambda X=X: cka(X, estimator="biased")  # noqa: E731
        unbiased = lambda X=X: cka(X)  # noqa: E731
        peer = lambda a=arrays, s=seeds: [pair(a[i], a[j]) for i in range(s) for j in range(i)]  # noqa: E731
        seconds = interleave({"ours": ours, "unbiased": unbiased, "peer": peer}, rounds=rounds)
        report(f"CKA, {seeds} seeds, 1024 x 10", seconds["ours"], seconds["peer"], "original, by features", bar)
        report(f"CKA, {seeds} seeds, unbiased", seconds["unbiased"], seconds["peer"], "original, biased", bar)
    print(f"{'':44s} and S forward passes of networks for S (S - 1) of the original")


class CurveLayer(nn.Module):
    """A layer of a hand-written curve network: three copies of each parameter, mixed at every call."""

    t = 0.5

    def mixed(self, name: str) -> torch.Tensor:
        t = CurveLayer.t
        first, bend, last = (getattr(self, f"{name}{k}") for k in range(3))
        return first * (1 - t) ** 2 + bend * (2 * t * (1 - t)) + last * t**2

    def triple(self, name: str, like: torch.Tensor) -> None:
        for k in range(3):
            self.register_parameter(f"{name}{k}", nn.Parameter(like.detach().clone(), requires_grad=k == 1))


class CurveConv(CurveLayer):
    def __init__(self, n_in: int, n_out: int, kernel: int, stride: int, padding: int, bias: bool) -> None:
        super().__init__()
        self.stride, self.padding = stride, padding
        self.triple("weight", nn.Conv2d(n_in, n_out, kernel, bias=bias).weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return conv2d(x, self.mixed("weight"), None, self.stride, self.padding)


class CurveNorm(CurveLayer):
    def __init__(self, n: int) -> None:
        super().__init__()
        self.triple("weight", torch.ones(n))
        self.triple("bias", torch.zeros(n))
        self.register_buffer("mean", torch.zeros(n))
        self.register_buffer("var", torch.ones(n))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return batch_norm(x, self.mean, self.var, self.mixed("weight"), self.mixed("bias"), self.training)


class CurveLinear(CurveLayer):
    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.triple("weight", nn.Linear(n_in, n_out).weight)
        self.triple("bias", torch.zeros(n_out))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return linear(x, self.mixed("weight"), self.mixed("bias"))


def curves(rounds: int) -> None:
    """A step of curve training against a curve network written out by hand for the architecture."""
    for batch in (16, 128):
        steps, width = (1, 2) if SMALL else (4, 8)
        x, y = images(batch * steps)
        net = ResNet18(width)
        ends = (net.state_dict(), ResNet18(width).state_dict())
        hand = ResNet18(width, (CurveConv, CurveNorm, CurveLinear)).train()
        bends = [p for p in hand.parameters() if p.requires_grad]
        optimizer = torch.optim.SGD(bends, lr=0.01, momentum=0.9)

        def ours(net: nn.Module = net, ends: tuple = ends, x=x, y=y, batch: int = batch) -> None:
            fit_bezier(net, ends=ends, data=(x, y), epochs=1, batch_size=batch, lr=[0.01])

        def peer(hand: nn.Module = hand, optimizer=optimizer, x=x, y=y, batch: int = batch) -> None:
            layers = [module for module in hand.modules() if isinstance(module, CurveLayer)]
            for part in torch.randperm(len(y)).split(batch):
                CurveLayer.t = torch.rand(()).item()
                optimizer.zero_grad()
                size = sum(
                    layer.mixed(name[:-1]).square().sum()
                    for layer in layers
                    for name, _ in layer.named_parameters()
                    if name.endswith("1")
                )
                (cross_entropy(hand(x[part]), y[part]) + 2.5e-4 * size).backward()
                optimizer.step()

        seconds = interleave({"ours": ours, "peer": peer}, rounds=rounds)
        bar = ">= 1.0x" if batch == 128 else "for comparison"
        report(
            f"Bezier step, ResNet-18, batch {batch}", seconds["ours"], seconds["peer"], "hand-written curve net", bar
        )


def alignments(rounds: int) -> None:
    """Matching two networks, one of them a permuted copy; and whether the function survives."""
    try:
        from rebasin import PermutationCoordinateDescent
    except ImportError:
        PermutationCoordinateDescent = None
        print("rebasin is not installed: its rows are skipped (pip install rebasin torchview graphviz)")
    x, _ = images(8)
    for width in WIDTHS:
        net, other = resnet(width, seed=0), resnet(width, seed=1)
        with torch.no_grad():
            expected = other(x)

        def ours(net: nn.Module = net, other: nn.Module = other) -> dict[str, torch.Tensor]:
            spec = symmetry(net)
            found = match_weights(net.state_dict(), source=other.state_dict(), spec=spec)
            return spec.apply(other.state_dict(), found.permutations)

        def peer(net: nn.Module = net, other: nn.Module = other) -> dict[str, torch.Tensor]:
            moved = copy.deepcopy(other)  # it permutes in place; the copy is 1 to 2 % of its time
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                PermutationCoordinateDescent(net, moved, x).rebasin()
            return moved.state_dict()

        sides = {"rebasin": peer} if PermutationCoordinateDescent else {"itself": ours}
        seconds = interleave({"ours": ours, **sides}, rounds=rounds)
        name = next(iter(sides))
        report(f"weight matching, ResNet-18 width {width}", seconds["ours"], seconds[name], name, ">= 10x")
        for side, call in {"phasezoo": ours, **sides}.items():
            with torch.no_grad():
                change = ((functional_call(other, call(), (x,)) - expected).norm() / expected.norm()).item()
            bar = " (<= 1e-5)" if side == "phasezoo" else ""  # the peer matches by another rule
            print(f"{'':44s} {side}: relative change of the outputs {change:.1e}{bar}")


def main() -> None:
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    if pyhessian(nn.Linear(1, 1), []) is None:
        print("PyHessian is not installed: a plain loop stands in for its dataloader mode")
    rounds = 1 if SMALL else 3
    for part in (products, traces, eigenvalues, curves, alignments):
        part(rounds)
    for quick in (densities, populations, similarities):
        quick(rounds if SMALL else 15)


if __name__ == "__main__":
    main()
