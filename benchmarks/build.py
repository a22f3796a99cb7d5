"""Building a zoo from a raw tree against the sum of its parts: torch.load, sha256 and write of the same bytes.

    python benchmarks/build.py [--small]

Prints throughput, the ratio, and the peak memory of a build above the interpreter's, in checkpoints.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from timing import interleave, report

from phasezoo.builders.raytune import build_raytune
from phasezoo.nets import build

SMALL = "--small" in sys.argv
WIDTH, TRIALS, EPOCHS = (4, 2, 2) if SMALL else (64, 3, 3)  # width 64: 45 MB a checkpoint

PEAK = """
import sys
def resident(name):
    return int(open("/proc/self/status").read().split(name + ":")[1].split()[0]) * 1024
from phasezoo.builders.raytune import build_raytune
import torch, pyarrow.parquet, numpy
torch.set_num_threads(1)
from phasezoo.nets import build
open("/proc/self/clear_refs", "w").write("5")  # forget the peak of the imports
base = resident("VmRSS")
build_raytune(sys.argv[1], sys.argv[2])
print(resident("VmHWM") - base)
"""


def raw_tree(root: Path) -> Path:
    for seed in range(TRIALS):
        folder = root / f"train_0ada0_{seed:05d}_{seed}_batchsize=128,seed={seed}_2024-05-21_10-11-12"
        folder.mkdir(parents=True)
        settings = {"model::type": "Resnet18_width", "model::width": WIDTH, "model::o_dim": 10, "seed": seed}
        (folder / "params.json").write_text(json.dumps({**settings, "training::batchsize": 128}))
        lines = [{"training_iteration": epoch, "train_loss": 1.0 + seed + epoch} for epoch in range(EPOCHS)]
        (folder / "result.json").write_text("".join(json.dumps(line) + "\n" for line in lines))
        for epoch in range(EPOCHS):
            torch.manual_seed(10 * seed + epoch)
            (folder / f"checkpoint_{epoch:06d}").mkdir()
            net = build("resnet18", width=WIDTH, num_classes=10)
            torch.save(net.state_dict(), folder / f"checkpoint_{epoch:06d}" / "checkpoints")
    return root


def parts(files: list[Path], to: Path) -> None:
    with open(to, "wb") as out:
        for file in files:
            state_dict = torch.load(file, map_location="cpu", weights_only=True)
            hashed = hashlib.sha256()
            for tensor in state_dict.values():
                data = tensor.reshape(-1).view(torch.uint8).numpy().data
                hashed.update(data)
                out.write(data)


def main() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        tree = raw_tree(base / "raw")
        files = sorted(tree.rglob("checkpoints"))
        nbytes = sum(file.stat().st_size for file in files)

        def ours() -> None:
            shutil.rmtree(base / "zoo", ignore_errors=True)
            build_raytune(tree, base / "zoo")

        def theirs() -> None:
            (base / "out").unlink(missing_ok=True)
            parts(files, base / "out")

        seconds = interleave({"ours": ours, "parts": theirs}, rounds=1 if SMALL else 5)
        what = f"build {nbytes / 1e6:.0f} MB, {nbytes / 1e6 / seconds['ours']:.0f} MB/s"
        report(what, seconds["ours"], seconds["parts"], "load + sha256 + write", ">= 0.7x")
        command = [sys.executable, "-c", PEAK, str(tree), str(base / "again")]
        peak = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        checkpoint = files[0].stat().st_size
        print(
            f"peak memory above the interpreter's: {peak / 1e6:.0f} MB = {peak / checkpoint:.2f} checkpoints   (<= 2)"
        )


if __name__ == "__main__":
    main()
