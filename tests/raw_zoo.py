"""Write a raw zoo as Ray Tune leaves it, small, with every trap that the published ones hold."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from phasezoo.nets import build

WIDTHS, BATCHES, SEEDS, EPOCHS = (2, 4), (1024, 8), (0, 1, 2), (0, 1, 2, 3)
CHECKPOINTS = (0, 2, 3)
SECRETS = ("gpu-node-17", "10.1.2.3", "/ds2/", "31337")  # must not enter a zoo


class Hostile:
    """Unpickling it would leave a file."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self.trace), "w")


def state_dict(width: int, batch: int, seed: int, epoch: int) -> dict[str, torch.Tensor]:
    torch.manual_seed(1000 * width + 100 * batch + 10 * seed + epoch)
    net = build("resnet18", width=width, num_classes=10)
    for name, buffer in net.named_buffers():
        if "running" in name:
            buffer.uniform_(0.5, 1.5)
        else:
            buffer.fill_(7 * epoch)
    return net.state_dict()


def saved(content: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def on_cuda(data: bytes) -> bytes:
    """Pretend that the tensors were saved from a GPU."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as source, zipfile.ZipFile(buffer, "w") as target:
        for entry in source.infolist():
            content = source.read(entry)
            if entry.filename.endswith("data.pkl"):
                content = content.replace(b"X\x03\x00\x00\x00cpu", b"X\x06\x00\x00\x00cuda:0")
                assert b"cuda:0" in content
            target.writestr(entry.filename, content)
    return buffer.getvalue()


def config(width: int, batch: int, seed: int) -> dict[str, Any]:
    return {
        "cuda": True,
        "dataset::dump": "/ds2/model_zoos/taxonomy/cifar_10/dataset_preprocessed.pt",
        "model::channels_in": 3,
        "model::init_type": "kaiming_uniform",
        "model::o_dim": 10,
        "model::type": "Resnet18_width",
        "model::width": width,
        "optim::lr": 0.1,
        "optim::momentum": 0.9,
        "optim::optimizer": "sgd",
        "optim::scheduler": "OneCycleLR",
        "optim::wd": 0.0005,
        "resources": {"cpu": 12, "gpu": 1},
        "seed": seed,
        "training::batchsize": batch,
        "training::data_path": "/ds2/data",
        "training::epochs_train": 3,
    }


def metrics(width: int, batch: int, seed: int, epoch: int) -> dict[str, float]:
    # Accuracies are multiples of 1 / 10,000, losses are not.
    accuracy = (1000 * epoch + 7 * seed**2 + width + batch) % 10_000
    return {
        "train_loss": 2.3 / (epoch + 1) + 0.01 * seed + 1 / (3 * width + batch),
        "train_acc": round(accuracy * 0.9) / 10_000,
        "test_loss": 2.4 / (epoch + 1) + 0.013 * seed,
        "test_acc": accuracy / 10_000,
    }


def trial_name(number: int, width: int, batch: int, seed: int, *, remade: bool = False) -> str:
    identity = f"{0x05F91CFA + number:08x}_0" if remade else f"0ada0_{number:05d}_{number}"
    swept = f"model_width={width},optim_lr=0.1000,optim_wd=0.0005,seed={seed},training_batchsize={batch}"
    return f"NN_tune_trainable_{identity}_{swept}_2024-05-{21 + remade}_10-11-12"


def line(settings: dict[str, Any], epoch: int, values: dict[str, Any]) -> str:
    row = {
        **values,
        "training_iteration": epoch,
        "iterations_since_restore": epoch + 1,
        "time_this_iter_s": 1.5,
        "date": "2024-05-21_10-11-12",
        "pid": 31337,
        "hostname": "gpu-node-17",
        "node_ip": "10.1.2.3",
        "config": settings,
        "done": epoch == EPOCHS[-1],
    }
    return json.dumps(row)


def write_raw_zoo(root: Path, trace: Path) -> set[str]:
    """Write the raw zoo under `root`.

    Args:
        root: the zoo's folder.
        trace: file that appears if anything hostile in it ever runs.

    Returns:
        The kinds of finding that a build must report.
    """
    root.mkdir(parents=True)
    (root / "config.json").write_text(json.dumps({"model::width": {"grid_search": list(WIDTHS)}}))
    (root / "readme.md").touch()
    (root / "experiment_state-2024-05-21_10-11-12.json").write_text("{}")
    number = 0
    for batch in BATCHES:
        for seed in SEEDS:
            for width in WIDTHS:
                _write_trial(root / trial_name(number, width, batch, seed), width, batch, seed, trace)
                number += 1
    return _plant_traps(root, trace)


def _write_trial(
    folder: Path, width: int, batch: int, seed: int, trace: Path, *, epochs: tuple[int, ...] = EPOCHS
) -> None:
    folder.mkdir()
    settings = config(width, batch, seed)
    (folder / "params.json").write_text(json.dumps(settings, indent=2, sort_keys=True))
    (folder / "params.pkl").write_bytes(pickle.dumps(Hostile(trace)))
    rows = [line({**settings, "scheduler::steps_per_epoch": 49}, e, metrics(width, batch, seed, e)) for e in epochs]
    (folder / "result.json").write_text("".join(row + "\n" for row in rows))
    (folder / "result.json.bak").write_text("old")
    (folder / "progress.csv").write_text("train_loss\n")
    for epoch in CHECKPOINTS:
        if epoch in epochs:
            checkpoint = folder / f"checkpoint_{epoch:06d}"
            checkpoint.mkdir()
            (checkpoint / "checkpoints").write_bytes(saved(state_dict(width, batch, seed, epoch)))
            (checkpoint / "optimizer").write_bytes(saved({"state": {0: {"momentum_buffer": torch.randn(10_000)}}}))
            (checkpoint / ".is_checkpoint").touch()
            (checkpoint / ".tune_metadata").write_bytes(pickle.dumps(Hostile(trace)))


def find(root: Path, width: int, batch: int, seed: int) -> Path:
    (folder,) = root.glob(f"*_model_width={width},*seed={seed},training_batchsize={batch}_2024-05-21*")
    return folder


def _edit_lines(folder: Path, change: Callable[[list[dict[str, Any]]], Any]) -> None:
    rows = [json.loads(text) for text in (folder / "result.json").read_text().splitlines()]
    change(rows)
    (folder / "result.json").write_text("".join(json.dumps(row) + "\n" for row in rows))


def _plant_traps(root: Path, trace: Path) -> set[str]:
    # Checkpoint folders with other zero padding.
    folder = find(root, 2, 1024, 0)
    (folder / "checkpoint_000002").rename(folder / "checkpoint_0002")
    (folder / "checkpoint_000003").rename(folder / "checkpoint_3")
    # config.json instead of params.json.
    folder = find(root, 2, 1024, 1)
    (folder / "params.json").rename(folder / "config.json")
    # A trial that failed and was made again under an 8-digit id: both folders stay.
    failed = find(root, 2, 1024, 2)
    _edit_lines(failed, lambda rows: rows.__delitem__(slice(2, None)))
    (failed / "error.txt").write_text("CUDA out of memory on gpu-node-17")
    _write_trial(root / trial_name(0, 2, 1024, 2, remade=True), 2, 1024, 2, trace)
    # A folder that holds an error and nothing else, and one whose parameters are broken.
    (root / trial_name(90, 64, 1024, 0)).mkdir()
    (root / trial_name(90, 64, 1024, 0) / "error.txt").write_text("failed at once")
    (root / trial_name(90, 64, 1024, 0) / "result.json").touch()
    (root / trial_name(91, 64, 1024, 1)).mkdir()
    (root / trial_name(91, 64, 1024, 1) / "params.json").write_text("{")
    (root / trial_name(91, 64, 1024, 1) / "result.json").touch()
    # Gradient accumulation: result lines repeat the micro-batch and a divided training loss.
    for seed in SEEDS:
        folder = find(root, 4, 1024, seed)

        def accumulate(rows: list[dict[str, Any]]) -> None:
            for row in rows:
                row["config"].update({"training::batchsize": 128, "training::accumulate_gradients_steps": 8.0})
                row["train_loss"] /= 8 if row["training_iteration"] else 1

        _edit_lines(folder, accumulate)
    # Landscape metrics of the cell in the last line of each seed, with means over the seeds in two columns.
    for width, batch in ((2, 8), (4, 8)):
        folders = [find(root, width, batch, seed) for seed in SEEDS]
        last = [metrics(width, batch, seed, EPOCHS[-1]) for seed in SEEDS]
        means = {key: sum(row[key] for row in last) / 3 for key in ("train_loss", "test_acc")}
        landscape = {
            "representation_similarity": 0.8,
            "representation_similarity_pairs": [0.7, 0.8, 0.9],
            "log_hessian_trace_train": 4.5 if width == 4 else float("nan"),
            "curve_mc_train_error": -3.25,
        }
        for folder in folders:
            _edit_lines(folder, lambda rows, new={**landscape, **means}: rows[-1].update(new))
    # Lines: one twice, one missing, the last one cut.
    folder = find(root, 2, 8, 0)
    lines = (folder / "result.json").read_text().splitlines()
    (folder / "result.json").write_text("\n".join([lines[0], lines[0], lines[2], lines[3], lines[3][:50]]))
    # A leading "module." from DataParallel, and tensors from a GPU.
    path = find(root, 2, 8, 1) / "checkpoint_000000" / "checkpoints"
    path.write_bytes(saved({f"module.{k}": v for k, v in state_dict(2, 8, 1, 0).items()}))
    path = find(root, 2, 8, 1) / "checkpoint_000002" / "checkpoints"
    path.write_bytes(on_cuda(path.read_bytes()))
    # Checkpoints that are hostile, cut short, of another shape or type, tiny bombs, or something else.
    folder = find(root, 4, 8, 0)
    (folder / "checkpoint_000000" / "checkpoints").write_bytes(saved({"conv1.weight": Hostile(trace)}))
    path = folder / "checkpoint_000002" / "checkpoints"
    path.write_bytes(path.read_bytes()[:-2000])
    folder = find(root, 4, 8, 1)
    (folder / "checkpoint_000000" / "checkpoints").write_bytes(saved(state_dict(2, 8, 1, 0)))
    halves = {k: v.half() if v.is_floating_point() else v for k, v in state_dict(4, 8, 1, 2).items()}
    (folder / "checkpoint_000002" / "checkpoints").write_bytes(saved(halves))
    folder = find(root, 4, 8, 2)
    (folder / "checkpoint_000000" / "checkpoints").write_bytes(saved({"w": torch.zeros(1).expand(10**9)}))
    (folder / "checkpoint_000002" / "checkpoints").unlink()
    (folder / "checkpoint_000003" / "checkpoints").write_bytes(saved([1, 2, 3]))
    # A link that leads out.
    (root / "elsewhere").symlink_to("/etc")
    return {
        *("duplicate-trial", "failed-trial", "broken-params", "accumulation", "metric-missing", "cell-mean"),
        *("epoch-twice", "epoch-missing", "cut-line", "module-prefix", "hostile-pickle", "unreadable", "layout"),
        *("bomb", "no-weights", "no-state-dict", "link"),
    }
