"""Train on a Ray cluster, with Ray Tune: resources per trial, retries, and progress in its dashboard.

The journals are the checkpoints. Ray's own are not used: a trial finds its newest epoch itself, whether its worker
died, its node, or the whole driver, and a driver that starts anew asks for what is missing only.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from phasezoo.errors import DependencyError, TrainError
from phasezoo.training.recipe import Resources, Trial

Group = tuple[Trial, ...]
RETRIES = 5


def run_on_ray(
    job: Callable[[Group], Iterator[int]],
    groups: Sequence[Group],
    *,
    address: str,
    resources: Resources,
    storage: Path,
) -> Iterator[Group]:
    """Train groups as trials of Ray Tune, and yield them when all have ended.

    Args:
        job: trains a group, yielding its epochs; must pickle.
        groups: what to train.
        address: of the cluster; ``"auto"``, or ``"local"`` to start one here.
        resources: what a trial occupies; capped by what the largest node has.
        storage: where Tune keeps its files; all nodes must see it.

    Raises:
        DependencyError: Ray is not installed.
        TrainError: trials that failed more than five times; the others are complete.
    """
    try:
        import ray as ray_module
        from ray import tune
    except ImportError:
        raise DependencyError("training on a cluster needs Ray: pip install 'phasezoo[ray]'.") from None
    if not groups:
        return
    ray: Any = ray_module
    ray.init(address=address, ignore_reinit_error=True)
    by_name = {group[0].model_id: group for group in groups}

    def trainable(config: dict[str, Any]) -> None:
        group = by_name[config["model_id"]]
        epochs = iter(job(group))
        for epoch in epochs:
            tune.report({"epoch": epoch, "models": len(group)})

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    most = {kind: max(node.get(kind, 0) for node in nodes) for kind in ("CPU", "GPU")}
    attempt = sum(1 for _ in storage.glob("attempt-*")) if storage.is_dir() else 0
    occupied = {"cpu": min(resources.cpus, most["CPU"]), "gpu": min(resources.gpus, most["GPU"])}
    tuner = tune.Tuner(
        tune.with_resources(trainable, occupied),
        param_space={"model_id": tune.grid_search(list(by_name))},
        tune_config=tune.TuneConfig(
            trial_dirname_creator=lambda trial: str(trial.config["model_id"]),
            reuse_actors=True,  # a process starts in seconds; everything random is seeded by the trial
        ),
        run_config=tune.RunConfig(
            name=f"attempt-{attempt}",
            storage_path=os.fspath(storage),
            failure_config=tune.FailureConfig(max_failures=RETRIES),
            verbose=0,
        ),
    )
    results: Any = tuner.fit()
    # A trial that was retried comes last: results are matched by their configuration, never by place.
    failed = {result.config["model_id"]: result.error for result in results if result.error and result.config}
    yield from (group for name, group in by_name.items() if name not in failed)
    if failed:
        name, error = next(iter(failed.items()))
        raise TrainError(
            f"{len(failed)} of {len(groups)} trials failed {RETRIES + 1} times, such as {name}: "
            f"{str(error).strip().splitlines()[-1]} The same command goes on from what is there."
        )
