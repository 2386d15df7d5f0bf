"""Compute the layer maps of many subsets of the samples, preparing each layer once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from tqdm.auto import tqdm

from ..features.caption_groups import image_by_image
from ..metrics import METRICS
from ..metrics.metric import Array
from .inputs import Stack, check_dims, check_same_stimuli, check_samples, full_precision, read_stack, to_common_dtype


def subsampled_maps(
    x: Stack, y: Stack, metric: str, k: int, subsets: Sequence[Array], near: int | None = None
) -> Array:
    """Compute the layer map of each of many subsets of the samples.

    Grams, neighbour lists and ranks of all samples are made once, and cut to every subset.

    Parameters
    ----------
    x, y : LayerFeatures, Tensor, Array or sequence of layers
        As in `similarity_map`.
    metric : str
        A name of `METRICS`.
    k : int
        The number of neighbours among all samples.
    subsets : sequence of Array
        The increasing indices of the samples of each subset; of images, where features have captions of them.
    near : int, optional
        The number of neighbours in a subset; k if left out.

    Returns
    -------
    Array
        Scores (subset, x layer, y layer), those of `similarity_map` of the subset alone. The bandwidth of cka_rbf stays
        that of all samples.

    Raises
    ------
    ValueError, TypeError
        As `similarity_map`; also a subset that has too few samples for the metric.

    See Also
    --------
    similarity_map : The map of all samples, labelled.

    Notes
    -----
    The prepared layers of both sides are held in memory at once, as by `map_null`.
    """
    near = k if near is None else near
    x, y = image_by_image(x, y).pairs[0]
    xs, ys = read_stack(x, "x")[0], read_stack(y, "y")[0]
    check_samples(metric, k, len(xs[0]), len(ys[0]))
    for size in {len(chosen) for chosen in subsets}:
        check_samples(metric, near, size, size)
    check_dims(metric, xs, ys)
    check_same_stimuli(x, y)
    xs, ys = to_common_dtype(xs, ys)
    formula, maps = METRICS[metric], np.empty((len(subsets), len(xs), len(ys)))
    with full_precision():
        a, b = ([formula.prepare(layer, k) for layer in side] for side in (xs, ys))
        for index, chosen in enumerate(tqdm(subsets, desc=f"subsets by {metric}", leave=False)):
            one, other = ([formula.subset(layer, chosen, near) for layer in side] for side in (a, b))
            maps[index] = formula.compare(one, other, near)
    return maps
