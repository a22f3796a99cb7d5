"""CKA of all pairs of networks against the original's formula pair by pair, and against `torch_cka`; one thread.

    python benchmarks/cka.py [--small]

Without `torch_cka` its rows are skipped, and a line says so. `--small` runs every path on little data, to see that it
works.
"""

from __future__ import annotations

import contextlib
import copy
import io
import warnings
from collections.abc import Sequence

import numpy as np
import torch
from networks import SMALL, ResNet18, images, mlp, trained
from timing import interleave, report
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, SequentialSampler, TensorDataset

from phasezoo.training.data import digits
from phasezoo.training.landscape.cka import cka, collect_outputs
from phasezoo.training.landscape.replay import micro_batches


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


def loader_of(x: torch.Tensor, y: torch.Tensor, size: int) -> DataLoader:
    sampler = BatchSampler(SequentialSampler(y), size, drop_last=False)
    return DataLoader(TensorDataset(x, y), sampler=sampler, batch_size=None)


def logits(rounds: int) -> None:
    """CKA of the logits of five networks, forward passes and all; the same batches and the same estimator.

    phasezoo runs each of the S networks once over the batches and takes all pairs at once. `torch_cka` compares two
    networks: for each of the S (S - 1) / 2 pairs it runs both over the batches, S (S - 1) runs in all, and for each
    batch forms both Gram matrices and three HSICs. Its loader hands out whole batches, and it runs without autograd,
    which it leaves to the caller; both make it faster.
    """
    try:
        from torch_cka import CKA
    except ImportError:
        print("torch_cka is not installed: its rows are skipped (pip install torch-cka)")
        return
    data, seeds = digits().train, range(2 if SMALL else 5)
    n = 32 if SMALL else 256
    size = 16 if SMALL else 128  # samples a batch, 128 as in the original
    cases = [("MLPs", [mlp(seed) for seed in seeds], (data.x, data.y))]
    # The time does not depend on the weights. A few steps, because outputs of new networks hardly vary.
    steps = [images(32, seed=step) for step in range(20)]
    cases.append(("ResNets-18", [trained(ResNet18(2 if SMALL else 8), steps, 0.05) for _ in seeds], images(n)))
    for what, nets, (x, y) in cases:
        batches = micro_batches(x, y=y, size=size)
        loader = loader_of(x, y, size)

        def ours(nets: Sequence[nn.Module] = nets, batches=batches) -> torch.Tensor:
            return cka(outputs[""] for outputs in collect_outputs(nets, batches=batches)).matrix

        def peer(nets: Sequence[nn.Module] = nets, loader: DataLoader = loader) -> torch.Tensor:
            matrix = torch.eye(len(nets), dtype=torch.float64)
            for i, j in torch.combinations(torch.arange(len(nets))).tolist():
                # Names and a second loader spare it warnings, and the layer "" is the whole network.
                pair = CKA(nets[i], nets[j], "first", "second", model1_layers=[""], model2_layers=[""])
                with torch.no_grad(), contextlib.redirect_stderr(io.StringIO()):  # its progress bar
                    pair.compare(loader, loader)
                matrix[i, j] = matrix[j, i] = pair.export()["CKA"].item()
                for net in (nets[i], nets[j]):  # it leaves its hooks, which would slow down all later runs
                    net._forward_hooks.clear()
            return matrix

        seconds = interleave({"ours": ours, "peer": peer}, rounds=rounds)
        S = len(nets)
        report(f"CKA, {S} {what}, {len(y)} samples", seconds["ours"], seconds["peer"], "torch_cka", "for comparison")
        print(f"{'':44s} {S * (S - 1) // 2} pairs: {S} runs of a network, torch_cka {S * (S - 1)}")
        # In float32 it loses digits where outputs vary little around a large mean: it does not centre its features.
        single = (ours() - peer()).abs().max().item()
        torch.set_default_dtype(torch.float64)  # its ones and sums are of this type
        nets, x = [copy.deepcopy(net).double() for net in nets], x.double()
        exact = (ours(nets, micro_batches(x, y=y, size=size)) - peer(nets, loader_of(x, y, size))).abs().max().item()
        torch.set_default_dtype(torch.float32)
        print(f"{'':44s} largest difference from torch_cka {single:.1e}, in float64 {exact:.1e} (<= 1e-4)")


def main() -> None:
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    similarities(1 if SMALL else 15)
    logits(1 if SMALL else 3)


if __name__ == "__main__":
    main()
