"""Compare two modalities in one space: mean cosine of paired samples, and modality gap."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .metric import Array, Metric, permuted_by_reordering, scores_from_all, unit_rows


def _unit(x: Tensor, k: int) -> Tensor:
    """Prepare a layer for both metrics; unlike for other metrics, the result is never None."""
    return unit_rows(x)


def _subset(a: Tensor, chosen: Array, k: int) -> Tensor:
    return a[chosen]


def _cosine(a: Sequence[Any], b: Sequence[Any], k: int) -> Array:
    """Return mean_i <x_i, y_i> / (|x_i| |y_i|); a row of zeros has cosine 0."""
    return np.array([[float(torch.dot(x.flatten(), y.flatten())) / len(x) for y in b] for x in a])


def _gap(a: Sequence[Any], b: Sequence[Any], k: int) -> Array:
    """Return |mean_i x_i / |x_i| - mean_i y_i / |y_i|| (Liang et al. 2022): 0 to 2, a distance."""
    left, right = ([unit.mean(0) for unit in side] for side in (a, b))
    return np.array([[float((x - y).norm()) for y in right] for x in left])


def _gap_permuted(a: Sequence[Any], b: Sequence[Any], k: int, orders: Array) -> Array:
    """Repeat the score for every permutation: a mean does not depend on the order of its samples."""
    return np.repeat(_gap(a, b, k)[None], len(orders), axis=0)


COSINE = Metric(
    _unit,
    _cosine,
    _subset,
    permuted_by_reordering(lambda a, order: a[order], _cosine),
    scores_from_all(_unit, _cosine),
    least=1,
    about="Cosine is the mean cosine between x and y of the same sample, in a space that both share.",
    same_dims=True,
)
MODALITY_GAP = Metric(
    _unit,
    _gap,
    _subset,
    _gap_permuted,
    scores_from_all(_unit, _gap),
    least=1,
    about="Modality gap is the distance between the means of unit x and unit y, in a space that both share.",
    same_dims=True,
    is_distance=True,
    sees_pairs=False,
)
