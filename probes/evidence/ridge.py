"""Fit ridge regressions on a layer in folds, from inner products alone: any number of dims costs the same."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from ..metrics.metric import Array
from ..metrics.probe import NOTHING, PENALTIES


class FoldProducts(NamedTuple):
    """Inner products of a layer's samples in one fold, scaled to mean square 1 about the training mean.

    Attributes
    ----------
    train : array
        (training sample, training sample).
    test : array
        (held-out sample, training sample).
    dims : int
        The dims of the layer.
    """

    train: Array
    test: Array
    dims: int


class Fit(NamedTuple):
    """The squared errors of a ridge regression, summed over samples and dims.

    Attributes
    ----------
    left_out : float
        Of the training samples, each left out once.
    held_out : float
        Of the held-out samples.
    """

    left_out: float
    held_out: float


def fold_products(layer: Array, train: Array, test: Array) -> FoldProducts:
    """Return the inner products of a layer's samples in one fold.

    Parameters
    ----------
    layer : array
        (sample, dim), float64.
    train, test : array
        Indices of the training and of the held-out samples.

    Returns
    -------
    FoldProducts
    """
    mean = layer[train].mean(0)
    rows, others = layer[train] - mean, layer[test] - mean
    square = float((rows**2).sum()) / len(train)
    scale = square if square > NOTHING else 1.0
    return FoldProducts(rows @ rows.T / scale, others @ rows.T / scale, layer.shape[1])


def fit_ridges(layer: FoldProducts, targets: Iterable[tuple[Array, Array]]) -> list[Fit]:
    """Regress one target after another on a layer, each with the penalty of the least leave-one-out error.

    Parameters
    ----------
    layer : FoldProducts
        The layer. The grid of penalties is that of `metrics.probe.penalties`.
    targets : iterable of (array, array)
        (training sample, dim) and (held-out sample, dim) of each target, both less the training mean.

    Returns
    -------
    list of Fit
        One for each target.
    """
    values, vectors = np.linalg.eigh(layer.train)
    values = values.clip(min=0)
    grid = PENALTIES * (float(values.sum()) / layer.dims or 1.0)
    fits = []
    for known, asked in targets:
        turned = vectors.T @ known
        best: tuple[float, float] = (np.inf, 1.0)
        for penalty in grid:
            kept = penalty / (values + penalty)
            # 1 less a sample's weight in its own prediction, of which the mean, fitted too, has 1 / samples
            others = vectors**2 @ kept - 1 / len(values)
            errors = (vectors @ (kept[:, None] * turned)) / others[:, None]
            best = min(best, (float((errors**2).sum()), float(penalty)))
        weights = vectors @ (turned / (values + best[1])[:, None])
        fits.append(Fit(best[0], float(((asked - layer.test @ weights) ** 2).sum())))
    return fits
