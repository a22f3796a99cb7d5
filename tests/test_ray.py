"""Building and training on a Ray cluster give the bytes of doing so without one, whoever dies."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import phasezoo
from phasezoo.builders.raytune import build_raytune
from phasezoo.training.grid import train_grid
from tests import raw_zoo
from tests.test_grid import small
from tests.test_raytune import hashes

pytest.importorskip("ray", reason="Ray is not installed (phasezoo[ray])")

ON_A_CLUSTER = """
import sys, ray
ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=100 * 2**20)
from phasezoo.builders.raytune import build_raytune
build_raytune(sys.argv[1], sys.argv[2], ray="local")
ray.shutdown()
"""

QUIET = {
    "RAY_AUTH_MODE": "disabled",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DISABLE_MEMORY_MONITOR": "1",
    "OMP_NUM_THREADS": "1",
}


def test_a_cluster_gives_the_same_bytes(tmp_path: Path) -> None:
    tree = tmp_path / "zoo"
    raw_zoo.write_raw_zoo(tree, tmp_path / "trace")
    build_raytune(tree, tmp_path / "here")
    command = [sys.executable, "-c", ON_A_CLUSTER, str(tree), str(tmp_path / "there")]
    subprocess.run(command, check=True, env={**os.environ, **QUIET}, cwd=tmp_path, timeout=240)
    assert hashes(tmp_path / "there") == hashes(tmp_path / "here")


# Trains on a cluster of its own. A trial writes a line for each epoch that it finished; after the first epoch of the
# models that are given, it kills, once, the process it runs in, or the driver.
TRAIN = """
import json, os, signal, sys
from pathlib import Path
import ray
from phasezoo.training import grid
from tests.test_ray import four
out, log, victims = Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3])
driver, run = os.getpid(), grid.run

def fatal(group, **options):
    for epoch in run(group, **options):
        name = group[0].model_id
        with open(log, "a") as file:
            file.write(f"{name} {epoch} {os.getpid()}\\n")
        yield epoch
        marker = Path(f"{log}.{name}")
        if epoch == 1 and name in victims and not marker.exists():
            marker.touch()
            os.kill({"worker": os.getpid(), "driver": driver}[victims[name]], signal.SIGKILL)
            while True:
                signal.pause()

grid.run = fatal
ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=100 * 2**20)
grid.train_grid(four(), out, ray="local")
ray.shutdown()
"""


def four():
    """Four trials of four epochs."""
    return small(
        epochs=3,
        checkpoint_epochs=(0, 1, 3),
        load=small().load.model_copy(update={"values": (4.0,)}),
    )


def trained_on_ray(out: Path, victims: dict[str, str]) -> tuple[int, list[tuple[str, int]]]:
    """Return the exit status, and each epoch that a trial finished, in order."""
    log = out.with_name("log")
    done = subprocess.run(
        [sys.executable, "-c", TRAIN, str(out), str(log), json.dumps(victims)],
        env={**os.environ, **QUIET},
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )
    lines = [line.split() for line in log.read_text().splitlines()]
    assert done.returncode in (0, -signal.SIGKILL), done.stderr[-2000:]
    return done.returncode, [(name, int(epoch)) for name, epoch, _ in lines]


@pytest.mark.slow
def test_a_worker_that_is_killed_is_replaced_and_loses_no_epoch(tmp_path: Path) -> None:
    first = four().trials()[0].model_id
    code, finished = trained_on_ray(tmp_path / "zoo", {first: "worker"})
    assert code == 0
    assert Path(f"{tmp_path}/log.{first}").exists(), "nothing was killed"
    assert sorted(finished) == sorted((t.model_id, e) for t in four().trials() for e in range(4)), (
        "none lost, none twice"
    )
    train_grid(four(), tmp_path / "here")
    assert hashes(tmp_path / "zoo") == hashes(tmp_path / "here")


@pytest.mark.slow
def test_a_driver_that_is_killed_goes_on_and_loses_no_epoch(tmp_path: Path) -> None:
    second = four().trials()[1].model_id
    code, before = trained_on_ray(tmp_path / "zoo", {second: "driver"})
    assert code == -signal.SIGKILL
    assert not (tmp_path / "zoo").exists()
    assert (second, 1) in before
    code, finished = trained_on_ray(tmp_path / "zoo", {})
    assert code == 0
    assert finished[: len(before)] == before
    assert len(finished) == len(set(finished)), "no epoch that was finished is trained again"
    for model in phasezoo.load(tmp_path / "zoo"):
        assert model.results["epoch"].to_pylist() == [0, 1, 2, 3]
    train_grid(four(), tmp_path / "here")
    assert hashes(tmp_path / "zoo") == hashes(tmp_path / "here")
