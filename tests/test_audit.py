"""Defects that users of published checkpoint suites keep meeting, planted and found."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pytest
import torch

import phasezoo
from phasezoo.audit import audit
from phasezoo.builders.pack import Run
from phasezoo.builders.tables import write_zoo
from phasezoo.layout import Layout
from tests.conftest import SHAPE, draft, weights

Runs = dict[int, dict[int, dict[str, torch.Tensor]]]  # seed -> epoch -> state dict


def runs() -> Runs:
    """Three seeds that walk away from their initial networks."""
    result: Runs = {}
    for seed in range(3):
        state_dict = weights(4, seed)
        generator = torch.Generator().manual_seed(seed)
        result[seed] = {}
        for epoch in range(5):
            result[seed][epoch] = state_dict
            state_dict = {k: t + 0.02 * torch.randn(t.shape, generator=generator) for k, t in state_dict.items()}
    return result


def suspicions(found: Runs, out: Path) -> set[tuple[str, str, int | None]]:
    configs = [
        {
            "model_id": f"s{seed}",
            "cell_id": "c",
            "load": 4.0,
            "temperature": 0.1,
            "seed": seed,
            "architecture": "mlp",
            "architecture_config": json.dumps({**SHAPE, "width": 4}),
        }
        for seed in found
    ]
    packed = [
        Run(f"s{seed}", "c", Layout.of_state_dict(by_epoch[0]), tuple(by_epoch), by_epoch.__getitem__)
        for seed, by_epoch in found.items()
    ]
    results = pa.table({"model_id": [f"s{seed}" for seed in found], "epoch": [4] * len(found)})
    write_zoo(out, draft(), configs=pa.Table.from_pylist(configs), results=results, runs=packed)
    return {(s.kind, s.model_id, s.epoch) for s in audit(phasezoo.load(out))}


def test_sound_runs_raise_no_suspicion(tmp_path: Path) -> None:
    assert suspicions(runs(), tmp_path / "z") == set()


def test_one_epoch_under_the_name_of_another(tmp_path: Path) -> None:
    found = runs()
    found[1][3] = found[1][2]
    assert suspicions(found, tmp_path / "z") == {("dead-epoch", "s1", 3)}


def test_another_runs_checkpoint_under_this_runs_name(tmp_path: Path) -> None:
    found = runs()
    found[1][2] = {k: t + 1e-4 for k, t in found[0][2].items()}  # not equal byte for byte
    assert ("discontinuous", "s1", 2) in suspicions(found, tmp_path / "z")
    found = runs()
    found[1][2] = found[0][2]
    assert {("duplicate", "s1", 2), ("discontinuous", "s1", 2)} <= suspicions(found, tmp_path / "y")


def test_a_run_that_does_not_descend_from_its_own_initial_network(tmp_path: Path) -> None:
    found = runs()
    found[1][0], found[2][0] = found[2][0], found[1][0]
    assert {("discontinuous", "s1", 1), ("discontinuous", "s2", 1)} <= suspicions(found, tmp_path / "z")


@pytest.mark.parametrize(
    ("value", "kind"), [(float("nan"), "not-finite"), (float("inf"), "not-finite"), (0.0, "constant")]
)
def test_broken_weights(tmp_path: Path, value: float, kind: str) -> None:
    found = runs()
    found[2][4] = {**found[2][4], "layers.0.weight": torch.full((4, 5), value)}
    assert (kind, "s2", 4) in suspicions(found, tmp_path / "z")
