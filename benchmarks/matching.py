"""Matching the units of two networks against `rebasin`, and whether the function survives; one thread.

    python benchmarks/matching.py [--small]

Without the peer its side is skipped, and a line says so. `--small` runs every path on little data, to see that it
works.
"""

from __future__ import annotations

import contextlib
import copy
import io
import warnings

import torch
from networks import SMALL, WIDTHS, images, resnet
from timing import interleave, report
from torch import nn
from torch.func import functional_call

from phasezoo.alignment import match_weights
from phasezoo.symmetry import symmetry


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
    alignments(1 if SMALL else 3)


if __name__ == "__main__":
    main()
