"""Building on a Ray cluster gives the bytes of a build without one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from phasezoo.builders.raytune import build_raytune
from tests import raw_zoo
from tests.test_raytune import hashes

pytest.importorskip("ray", reason="Ray is not installed (phasezoo[ray])")

ON_A_CLUSTER = """
import sys, ray
ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=100 * 2**20)
from phasezoo.builders.raytune import build_raytune
build_raytune(sys.argv[1], sys.argv[2], ray="local")
ray.shutdown()
"""


def test_a_cluster_gives_the_same_bytes(tmp_path: Path) -> None:
    tree = tmp_path / "zoo"
    raw_zoo.write_raw_zoo(tree, tmp_path / "trace")
    build_raytune(tree, tmp_path / "here")
    quiet = {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0", "RAY_DISABLE_MEMORY_MONITOR": "1"}
    command = [sys.executable, "-c", ON_A_CLUSTER, str(tree), str(tmp_path / "there")]
    subprocess.run(command, check=True, env={**os.environ, **quiet}, cwd=tmp_path, timeout=240)
    assert hashes(tmp_path / "there") == hashes(tmp_path / "here")
