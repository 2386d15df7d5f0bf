"""Extract on a cluster, over Ray Data (`pip install bridgework[ray]`): its workers make the same shards."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch

from ..arguments import check_names, checked
from ..extraction_options import ExtractionOptions
from ..features.features import Features
from ..features.shards import read_metadata
from ..features.store import is_complete, read_ending, shard_path, write_index
from ..folder_locks import writing
from ..stimuli.stimulus_set import Stimuli
from ..subjects.sink_tokens import NORMS, join_norms, warn_of_sinks
from ..subjects.subject import Subject
from ..workers.ray_actors import start_ray
from .jobs import prepare_job, shard_count, warn_of_cuts
from .pooling import pooling_of


def extract_on_ray(
    open_subject: Callable[[], Subject],
    stimuli: Stimuli,
    store: str | os.PathLike[str],
    workers: int = 1,
    num_cpus: int = 1,
    **options: Any,
) -> Features:
    """Extract as `extract` does, into a store that all workers of a Ray cluster reach.

    Connect before with `ray.init`; otherwise Ray starts on this machine. Stopped, the same call resumes.

    Parameters
    ----------
    open_subject : callable
        Opens the subject; each worker calls it once.
    stimuli : Stimuli
        What the subject is shown.
    store : path
        The folder to write, which all workers reach.
    workers : int, optional
        How many workers make shards. A worker takes a GPU where the cluster has some.
    num_cpus : int, optional
        The CPUs of each worker, which computes with as many threads. Ray waits until the cluster has them all, with a
        warning where it has fewer.
    **options
        The options of `extract`, without `store`.

    Returns
    -------
    Features
        As of `extract`.

    Raises
    ------
    TypeError
        An argument is of another kind.
    ImportError
        Ray is not installed.
    ValueError
        `workers` or `num_cpus` is no positive whole number.
    ValueError, RuntimeError, FloatingPointError, MemoryError, OSError
        As `extract` does.

    See Also
    --------
    extract : Shares the shards among torchrun's processes, where there is no Ray cluster.
    similarity_map_on_ray : Compares what was extracted with the same kind of workers.

    Examples
    --------
    >>> extract_on_ray(lambda: open_expert("dinov2-s"), stimuli, "/shared/dino", workers=8, num_cpus=4, batch_size=64)
    """
    checked("open_subject", open_subject, Callable, remedy="it takes nothing and returns the subject")
    checked("stimuli", stimuli, Stimuli, remedy="pass what load_stimuli returns")
    checked("store", store, str | os.PathLike)
    check_names("option of extract", options, [each.name for each in fields(ExtractionOptions) if each.name != "store"])
    start_ray("extraction", workers, num_cpus)
    import ray.data  # not part of a bare Ray

    folder = Path(store).absolute()
    asked = ExtractionOptions(store=folder, **options)
    count = shard_count(len(stimuli), asked.batch_size, asked.pooling)
    numbers = ray.data.from_items([{"shard": number} for number in range(count)], override_num_blocks=count)
    rows = numbers.map(
        _Worker,  # type: ignore[arg-type]  # a class is called once for each worker
        fn_constructor_args=(open_subject, stimuli, folder, asked, num_cpus),
        compute=ray.data.ActorPoolStrategy(size=workers),
        num_cpus=num_cpus,
        num_gpus=1 if ray.cluster_resources().get("GPU") else 0,
    )
    with writing(folder, is_complete(folder)):
        rows.materialize()
        write_index(folder, count)
    _warn(folder, count, stimuli, asked)
    features = Features.load(folder)
    warn_of_cuts(features)
    return features


def _warn(folder: Path, count: int, stimuli: Stimuli, options: ExtractionOptions) -> None:
    """Warn of sinks; no subject is open here, so the norms are compared with those of this store."""
    shards = [read_metadata(shard_path(folder, number)) for number in range(count)]
    layers = [layer for part in shards[0]["parts"].values() for layer in part["layers"]]
    places = [place for shard in shards for place in shard["places"]]
    norms = join_norms(read_ending(folder, count, NORMS), places, layers)
    warn_of_sinks("the subject", stimuli, norms, {}, pooling_of("text", options.pooling))


class _Worker:
    """Open the subject in this process, then make shards by their numbers."""

    def __init__(
        self,
        open_subject: Callable[[], Subject],
        stimuli: Stimuli,
        folder: Path,
        options: ExtractionOptions,
        threads: int,
    ) -> None:
        torch.set_num_threads(threads)  # Ray starts a worker with one
        self.job, self.folder = prepare_job(open_subject(), stimuli, options), folder

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        self.job.write(self.folder, [int(row["shard"])], show=False)
        return row
