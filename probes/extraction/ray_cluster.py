"""Extract on a cluster with Ray Data (`pip install bridgework[ray]`): the workers make the same shards."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..features.features import Features
from ..features.store import write_index
from ..stimuli.stimulus_set import Stimuli
from ..subjects.subject import Subject
from .jobs import prepare_job, shard_count


def extract_on_ray(
    open_subject: Callable[[], Subject],
    stimuli: Stimuli,
    store: str | os.PathLike[str],
    workers: int = 1,
    **options: Any,
) -> Features:
    """Extract features on a Ray cluster, into a store that all workers reach.

    Connect to the cluster with `ray.init` before; otherwise Ray starts on this machine. A worker takes a GPU where the
    cluster has some. If the call is stopped, the same call resumes.

    Parameters
    ----------
    open_subject : callable
        `open_subject()` opens the subject. Each worker calls it once.
    stimuli : Stimuli
        The stimuli.
    store : str or os.PathLike
        The store's folder, which all workers must reach.
    workers : int
        The number of workers.
    **options
        Options of `extract`.

    Returns
    -------
    Features
        The features in the store.

    Raises
    ------
    ImportError
        Ray is not installed.

    See Also
    --------
    extract : Extract on one machine. It raises the same errors.

    Examples
    --------
    >>> extract_on_ray(lambda: open_expert("dinov2-s"), stimuli, "/shared/dino", workers=8, batch_size=64)
    """
    try:
        import ray.data
    except ImportError:
        raise ImportError("extraction on a cluster needs Ray: pip install 'bridgework[ray]'") from None
    if not ray.is_initialized():
        ray.init()
    folder = Path(store).absolute()
    count = shard_count(len(stimuli), options.get("batch_size", 32), options.get("pooling", "mean"))
    numbers = ray.data.from_items([{"shard": number} for number in range(count)], override_num_blocks=count)
    rows = numbers.map(
        _Worker,  # type: ignore[arg-type]  # a class is called once for each worker
        fn_constructor_args=(open_subject, stimuli, folder, options),
        compute=ray.data.ActorPoolStrategy(size=workers),
        num_gpus=1 if ray.cluster_resources().get("GPU") else 0,
    )
    rows.materialize()
    write_index(folder, count)
    return Features.load(folder)


class _Worker:
    """Open the subject in a worker's process, then make shards by their numbers."""

    def __init__(
        self, open_subject: Callable[[], Subject], stimuli: Stimuli, folder: Path, options: dict[str, Any]
    ) -> None:
        self.work, self.folder = prepare_job(open_subject(), stimuli, **options), folder

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        self.work.write(self.folder, [int(row["shard"])], show=False)
        return row
