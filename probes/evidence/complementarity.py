"""Measure what the understanding tower knows of a target that the generation tower lacks, layer by layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from time import perf_counter
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor
from tqdm.auto import tqdm

from ..features.caption_groups import known_groups
from ..features.plain_arrays import as_tensor, check_finite
from ..metrics.metric import Array, centred
from ..metrics.probe import FOLDS, folds, numbered
from ..similarity.inputs import Stack, check_same_stimuli, read_stack
from .ridge import FoldProducts, fit_ridges, fold_products

METRIC = "complementarity"


def complementarity_map(
    understanding: Stack,
    generation: Stack,
    target: Tensor | Array | Sequence[str | float],
    groups: Sequence[Any] | Array | None = None,
) -> pd.DataFrame:
    """Measure how much of a target each understanding layer adds to each generation layer.

    By cross-validated ridge regression::

        C(u, g) = R^2(target | u and g) - R^2(target | g)

    Parameters
    ----------
    understanding, generation : LayerFeatures or stack
        LayerFeatures or other stacks of (sample, dim) layers, as `similarity_map` takes them.
    target : array, tensor or sequence of str
        What a bridge ought to bring: numbers (sample,) or (sample, dim), or labels (sample,), strings, of which each is
        a dim of 0 and 1. It must not be one of the understanding layers, which would win by being itself.
    groups : sequence, optional
        A label for each sample: samples of one group, such as names that share a word, are held out together. By
        default the captions of an image, where features know them.

    Returns
    -------
    DataFrame
        A table like a layer map, (understanding layer, generation layer), for the rule "complementarity". `attrs`,
        plain JSON, are those of `similarity_map` with the metric "complementarity"; alone, R^2(target | g) of every
        generation layer; cost, the seconds that it took.

    Raises
    ------
    ValueError, TypeError
        As `similarity_map` does; also if there are fewer than 10 samples, or if the target has another number of
        samples, is not finite, or is constant.

    See Also
    --------
    choose_bridges : Chooses bridges from the table by the rule "complementarity".

    Notes
    -----
    R^2 is 1 - squared errors / squared deviations from the training mean, both summed over all held-out samples (5
    folds, shuffled, seed 0) and dims of the target. "u and g" is a ridge regression on both layers side by side, each
    centred and scaled to the same mean square, or on one of the two alone: whichever has the least leave-one-out error
    among the training samples, by which the penalties are chosen as well. So C is 0 by chance, exactly where the
    training samples prefer g alone, and slightly below 0 where they were wrong; it is at most 1 - R^2(target | g).

    Time grows with layer pairs and with the cube of samples.

    Examples
    --------
    >>> target = generation["text"].at(0.5).layer("embeddings")
    >>> complementarity_map(understanding["text"], generation["image"].at(0.5), target)
    """
    began, groups = perf_counter(), known_groups(groups, understanding, generation)
    us, u_names, u_depths, u_origin = read_stack(understanding, "understanding")
    gs, g_names, g_depths, g_origin = read_stack(generation, "generation")
    check_same_stimuli(understanding, generation)
    wanted, samples = _target(target), len(us[0])
    for name, count in (("generation", len(gs[0])), ("target", len(wanted))):
        if count != samples:
            raise ValueError(f"understanding has {samples} samples, {name} {count}: they must be of the same stimuli")
    if samples < 2 * FOLDS:
        raise ValueError(f"complementarity needs {2 * FOLDS} samples or more, got {samples}")
    sides = [[centred(layer.double()).cpu().numpy() for layer in side] for side in (us, gs)]

    alone, both, deviations = np.zeros(len(gs)), np.zeros((len(us), len(gs))), 0.0
    parts = folds(samples, None if groups is None else numbered(groups, samples))
    for train, test in tqdm(parts, total=FOLDS, desc="complementarity", leave=False):
        mean = wanted[train].mean(0)
        known, asked = wanted[train] - mean, wanted[test] - mean
        deviations += float((asked**2).sum())
        first, second = ([fold_products(layer, train, test) for layer in side] for side in sides)
        by_u, by_g = ([fit_ridges(layer, [(known, asked)])[0] for layer in side] for side in (first, second))
        alone += [fit.held_out for fit in by_g]
        for i, u in enumerate(first):
            for j, g in enumerate(second):
                joined = FoldProducts(u.train + g.train, u.test + g.test, u.dims + g.dims)
                both[i, j] += min(by_g[j], by_u[i], *fit_ridges(joined, [(known, asked)])).held_out
    heat = pd.DataFrame(
        (alone - both) / deviations,
        index=pd.Index(u_names, name="understanding layer"),
        columns=pd.Index(g_names, name="generation layer"),
    )
    heat.attrs = {"metric": METRIC, "k": None, "samples": samples, "chance": 0.0}
    heat.attrs |= {"x_depths": u_depths, "y_depths": g_depths, "x": u_origin, "y": g_origin}
    heat.attrs |= {"alone": (1 - alone / deviations).tolist(), "cost": {"seconds": round(perf_counter() - began, 1)}}
    return heat


def _target(target: Tensor | Array | Sequence[str | float]) -> Array:
    """Return the target as (sample, dim), centred, float64."""
    if isinstance(target, str | Mapping):
        raise TypeError(
            f"target is a {type(target).__name__}: expected one label or number a sample, or a vector of each"
        )
    listed = isinstance(target, list | tuple) and all(isinstance(label, str) for label in target)
    values: Any = np.asarray(target) if listed else target
    if isinstance(values, np.ndarray) and values.dtype.kind == "U":
        values = (values[:, None] == np.unique(values)).astype(float)
    wanted = as_tensor(values, "target")
    if wanted.ndim not in (1, 2):
        raise ValueError(f"target must be (sample,) or (sample, dim), got shape {tuple(wanted.shape)}")
    if not wanted.numel():
        raise ValueError(f"target is empty, of shape {tuple(wanted.shape)}: expected one label or number a sample")
    wanted = wanted.reshape(len(wanted), -1)
    check_finite([wanted], ["target"])
    values = centred(wanted.double()).cpu().numpy()
    if not values.any():
        raise ValueError("target is the same for all samples: there is nothing to predict")
    return values
