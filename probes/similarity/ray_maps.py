"""Compute a layer map with the workers of a Ray cluster: bit for bit the map of one process."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..arguments import checked
from ..features.caption_groups import image_by_image
from ..features.layer_features import LayerFeatures
from ..folder_locks import writing
from ..metrics import DEFAULT_METRIC
from ..metrics.metric import Array
from ..workers.ray_actors import run_on_workers, start_ray
from ..workers.shared_parts import as_worker, is_complete, remove_parts
from .inputs import Stack, check_metric, check_same_stimuli, check_samples, swept_times
from .scoring import similarity_map

if TYPE_CHECKING:
    import pandas as pd


def similarity_map_on_ray(
    x: Stack,
    y: Stack,
    store: str | os.PathLike[str],
    metric: str = DEFAULT_METRIC,
    k: int = 10,
    *,
    workers: int = 1,
    num_cpus: int = 1,
    **options: Any,
) -> pd.DataFrame:
    """Compute a layer map as `similarity_map` does, with workers of a Ray cluster that share its parts.

    Connect before with `ray.init`; otherwise Ray starts on this machine. A worker that dies is replaced, and stopped,
    the same call resumes.

    Parameters
    ----------
    x, y : LayerFeatures, Tensor, Array or sequence of layers
        As in `similarity_map`. Features that `Features.load` opened, and arrays mapped from disk, are read by each
        worker, once a layer, and must lie where all workers reach them. What is in memory is sent to the workers.
    store : path
        The folder in which workers leave their parts, which all of them reach. The map stays there.
    metric, k
        As in `similarity_map`.
    workers : int, optional
        How many workers share the map. Each holds all features, and with ``device="cuda"`` takes a GPU.
    num_cpus : int, optional
        The CPUs of each worker, which computes with as many threads. Ray waits until the cluster has them all, with a
        warning where it has fewer.
    **options
        The other options of `similarity_map`: device (the CPU if left out), memory, groups and captions.

    Returns
    -------
    DataFrame
        As of `similarity_map`. The scores are those of one process with `num_cpus` threads, bit for bit.

    Raises
    ------
    ImportError
        Ray is not installed.
    ValueError
        `workers` or `num_cpus` is no positive whole number.
    ValueError, TypeError, OSError
        As `similarity_map` does, with a store.
    RuntimeError
        A worker died again and again.

    See Also
    --------
    similarity_map : Computes the map in one process, or under torchrun in several.
    extract_on_ray : Makes the features in the same way.

    Examples
    --------
    >>> seen, made = Features.load("/shared/vlm"), Features.load("/shared/dit")
    >>> similarity_map_on_ray(seen["text"], made["image"], "/shared/map", "mutual_knn", workers=8, num_cpus=4)
    """
    if unknown := options.keys() - {"device", "memory", "groups", "captions"}:
        raise ValueError(
            f"{min(unknown)} is no option of a map on a cluster: expected device, memory, groups or captions"
        )
    if swept_times(x, y):
        raise ValueError("a map on a cluster is of one timestep, but x or y holds a sweep: select one with .at(t)")
    check_metric(metric)
    checked("store", store, str | os.PathLike)
    one, other = image_by_image(x, y).pairs[0]
    check_samples(metric, k, _samples(one), _samples(other))
    check_same_stimuli(one, other)
    ray = start_ray("a layer map", workers, num_cpus)
    folder = Path(store).absolute()
    call = partial(_work, store=folder, metric=metric, k=k, **options)
    gpus = int(torch.device(options.get("device") or "cpu").type == "cuda")
    with writing(folder, is_complete(folder)):
        heat, warned = run_on_workers(ray, call, [_sent(x), _sent(y)], workers, num_cpus, gpus)[0]
        remove_parts(folder)
    for category, message in warned:
        warnings.warn(message, category, stacklevel=2)
    return heat


class _Mapped(NamedTuple):
    """Say where an array lies that is mapped from disk."""

    path: str
    dtype: str
    offset: int
    shape: tuple[int, ...]
    fortran: bool

    def open(self) -> Array:
        order = "F" if self.fortran else "C"
        return np.memmap(self.path, np.dtype(self.dtype), "r", self.offset, self.shape, order)


def _sent(stack: Stack) -> Any:
    """Return what is sent of a stack: where it lies, if it lies on disk, else its values."""
    if isinstance(stack, LayerFeatures):
        reader = stack.__dict__.get("_reader")
        if reader is None:
            return stack
        here = tuple(shard.absolute() if isinstance(shard, Path) else shard for shard in reader.shards)
        return replace(stack, values=replace(reader, shards=here), cleaned=None)
    if isinstance(stack, list | tuple):
        return [_sent(layer) for layer in stack]  # type: ignore[arg-type]
    if isinstance(stack, np.memmap) and stack.filename and stack.base is not None and not hasattr(stack.base, "base"):
        fortran = stack.flags.f_contiguous and not stack.flags.c_contiguous
        return _Mapped(str(Path(stack.filename).absolute()), stack.dtype.str, stack.offset, stack.shape, fortran)
    return stack.detach().cpu() if isinstance(stack, Tensor) else stack


def _opened(sent: Any) -> Any:
    if isinstance(sent, list):
        return [_opened(layer) for layer in sent]
    return sent.open() if isinstance(sent, _Mapped) else sent


def _samples(stack: Stack) -> int:
    """Return the number of samples without reading a value."""
    if isinstance(stack, LayerFeatures):
        return len(stack.samples)
    if isinstance(stack, Sequence):
        return len(stack[0]) if len(stack) else 0
    if not isinstance(stack, Tensor | np.ndarray):
        raise TypeError(f"a map on a cluster takes two stacks of layers, got {type(stack).__name__}")
    return stack.shape[1] if stack.ndim > 1 else 0


def _work(worker: int, workers: int, x: Any, y: Any, **options: Any) -> tuple[pd.DataFrame, list[tuple[Any, str]]]:
    """Compute one worker's share, and return the map with the warnings that one process would have given."""
    with warnings.catch_warnings(record=True) as caught, as_worker(worker, workers):
        warnings.simplefilter("always")
        heat = similarity_map(_opened(x), _opened(y), **options)
    return heat, [(warning.category, str(warning.message)) for warning in caught]
