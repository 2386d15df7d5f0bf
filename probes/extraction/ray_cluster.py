"""Extraction on a cluster, over Ray Data (`pip install bridgework[ray]`): the same shards, made by its workers."""

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
    """`extract` into a store that all workers reach, each of which opens the subject once, by `open_subject`.

    >>> extract_on_ray(lambda: open_expert("dinov2-s"), stimuli, "/shared/dino", workers=8, batch_size=64)

    A worker takes a GPU where the cluster has some. `options` are those of `extract`. Connect before with `ray.init`;
    otherwise Ray starts on this machine. Stopped, the same call goes on where it was.

    Raises as `extract`, and ImportError without Ray.
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
    made = numbers.map(
        _Worker,  # type: ignore[arg-type]  # a class is called once for each worker
        fn_constructor_args=(open_subject, stimuli, folder, options),
        compute=ray.data.ActorPoolStrategy(size=workers),
        num_gpus=1 if ray.cluster_resources().get("GPU") else 0,
    )
    made.materialize()
    write_index(folder, count)
    return Features.load(folder)


class _Worker:
    """Opens the subject in its process, then makes shards by their numbers."""

    def __init__(
        self, open_subject: Callable[[], Subject], stimuli: Stimuli, folder: Path, options: dict[str, Any]
    ) -> None:
        self.work, self.folder = prepare_job(open_subject(), stimuli, **options), folder

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        self.work.write(self.folder, [int(row["shard"])], show=False)
        return row
