"""Run one function on several workers of a Ray cluster (`pip install bridgework[ray]`), and replace those that die."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from threadpoolctl import threadpool_limits

RESTARTS = 8  # times that a worker is replaced: one that dies more often does so for a reason


def start_ray(what: str, workers: int, num_cpus: int) -> Any:
    """Check the numbers of workers and CPUs, and start Ray on this machine unless `ray.init` has connected it.

    Parameters
    ----------
    what : str
        What is to be computed, for messages.
    workers : int
        How many workers are wanted.
    num_cpus : int
        The CPUs of each.

    Returns
    -------
    module
        Ray.

    Raises
    ------
    ValueError
        `workers` or `num_cpus` is no positive whole number.
    ImportError
        Ray is not installed.
    """
    for name, number in (("workers", workers), ("num_cpus", num_cpus)):
        if isinstance(number, bool) or not isinstance(number, int) or number < 1:
            raise ValueError(f"{name} is {number!r}: expected a whole number from 1 on")
    try:
        import ray
    except ImportError:
        raise ImportError(f"{what} on a cluster needs Ray: pip install 'bridgework[ray]'") from None
    if not ray.is_initialized():
        ray.init()
    if workers * num_cpus > (there := ray.cluster_resources().get("CPU", 0)):
        warnings.warn(
            f"{workers} workers with {num_cpus} CPUs each need {workers * num_cpus}, the cluster has {there:g}: Ray "
            "waits for more, or ask for fewer",
            stacklevel=3,
        )
    return ray


def run_on_workers(
    ray: Any, function: Callable[..., Any], arguments: Sequence[Any], workers: int, num_cpus: int, num_gpus: int = 0
) -> list[Any]:
    """Call ``function(worker, workers, *arguments)`` on every worker, again where a worker died.

    Parameters
    ----------
    ray : module
        As `start_ray` returns it.
    function : callable
        What is called. It must be able to begin again.
    arguments : sequence
        What every worker is given. It is sent once.
    workers : int
        How many workers there are.
    num_cpus : int
        The CPUs of each worker, which computes with as many threads.
    num_gpus : int
        The GPUs of each.

    Returns
    -------
    list
        What the function returned, by worker.

    Raises
    ------
    RuntimeError
        A worker died more often than `RESTARTS` times.
    Exception
        What the function raised, as it raised it. The other workers are stopped then.
    """
    options = {"num_cpus": num_cpus, "num_gpus": num_gpus, "max_restarts": RESTARTS, "max_task_retries": RESTARTS}
    actors = [ray.remote(**options)(_Actor).remote(num_cpus) for _ in range(workers)]
    sent = [ray.put(argument) for argument in arguments]
    calls = [actor.run.remote(function, number, workers, *sent) for number, actor in enumerate(actors)]
    try:
        waiting = list(calls)
        while waiting:  # in the order in which they end: what has failed is heard at once
            ended, waiting = ray.wait(waiting)
            ray.get(ended)
        return ray.get(calls)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None
    except ray.exceptions.RayActorError as error:
        raise RuntimeError(
            f"a worker died {RESTARTS + 1} times, for want of memory as a rule: run the same again, which goes on "
            f"where this ended, with fewer workers on a machine ({str(error).splitlines()[0]})"
        ) from None
    finally:
        for actor in actors:
            ray.kill(actor)


class _Actor:
    """Call functions in a process of the cluster."""

    def __init__(self, threads: int) -> None:
        torch.set_num_threads(threads)  # Ray starts a worker with one
        self.limits = threadpool_limits(threads)

    def run(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return function(*arguments)
