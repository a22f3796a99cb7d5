"""Run one function on many items: here, on processes, or on a Ray cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from phasezoo.errors import DependencyError

Item = TypeVar("Item")
Result = TypeVar("Result")


def run_all(
    job: Callable[[Item], Result], items: Iterable[Item], *, workers: int = 1, ray: str | None = None
) -> Iterator[Result]:
    """Yield the results as they are finished, in any order.

    Args:
        job: the function; it and what it is bound to must pickle.
        items: what to call it with.
        workers: processes; 1 runs everything here.
        ray: address of a Ray cluster that runs the jobs instead.

    Raises:
        DependencyError: a cluster is asked for and Ray is not installed.

    >>> sorted(run_all(abs, [-2, 1]))
    [1, 2]
    """
    if ray is not None:
        try:
            import ray as cluster
        except ImportError:
            raise DependencyError("running on a cluster needs Ray: pip install 'phasezoo[ray]'.") from None
        cluster.init(address=ray, ignore_reinit_error=True)
        task: Any = cluster.remote(lambda item: job(item))
        pending = [task.remote(item) for item in items]
        while pending:
            done, pending = cluster.wait(pending)
            yield from cluster.get(done)
    elif workers == 1:
        yield from map(job, items)
    else:
        from concurrent.futures import ProcessPoolExecutor, as_completed
        from multiprocessing import get_context

        # Not fork: torch's threads do not survive it.
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            for future in as_completed([pool.submit(job, item) for item in items]):
                yield future.result()
