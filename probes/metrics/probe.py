"""Measure by a linear probe how much of y a linear map predicts from x, on samples that it was not fitted to.

The probe is ridge regression on centred features: standardising each feature would make the score depend on the axes.
The penalty is chosen by leave-one-out error from a grid relative to samples times x's mean variance, so the score is
the same for x rotated, shifted or scaled as a whole.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..comparison_options import group_labels
from .metric import Array, Metric, centred, defined, permuted_by_reordering, scores_from_all

FOLDS = 5
PENALTIES = 10.0 ** np.arange(-5, 4)  # per sample and mean variance: low enough for features with massive dims
NOTHING = 1e-26  # of squares of centred features, at most 1 each: what is less is rounding


def penalties(train: Array) -> Array:
    """Return the grid of penalties for some training samples.

    Parameters
    ----------
    train : Array
        Training features (sample, dim).

    Returns
    -------
    Array
        `PENALTIES` times the samples' sum of squares per dim, which is samples times mean variance.
    """
    scale = float(((train - train.mean(0)) ** 2).sum() / train.shape[1])
    return PENALTIES * (scale if scale > NOTHING else 1.0)


class Rows(NamedTuple):
    """A layer as the probe reads it.

    Attributes
    ----------
    values : Array
        Centred features (sample, dim).
    groups : Array or None
        The group of each sample: samples of one group are in one fold. None where each is its own.
    """

    values: Array
    groups: Array | None = None


def folds(samples: int, groups: Array | None = None) -> Iterator[tuple[Array, Array]]:
    """Yield the training and the held-out samples of each fold: single samples are shuffled, by seed 0.

    Parameters
    ----------
    samples : int
        The number of samples.
    groups : Array, optional
        (sample,); samples of one group are held out together.

    Yields
    ------
    train, test : Array
        Indices.
    """
    # scikit-learn takes longer to import than torch, and the other metrics do not need it
    from sklearn.model_selection import GroupKFold, KFold

    if groups is None:
        yield from KFold(FOLDS, shuffle=True, random_state=0).split(np.zeros((samples, 1)))
    else:
        yield from GroupKFold(FOLDS).split(np.zeros((samples, 1)), groups=groups)


def numbered(groups: Sequence[Any] | Array, samples: int) -> Array:
    """Return a number for each sample's group, and check that there are enough groups.

    Parameters
    ----------
    groups : sequence
        One string, number or other label a sample.
    samples : int
        The number of samples.

    Returns
    -------
    Array
        (sample,), integers.

    Raises
    ------
    ValueError
        Not one label a sample, or fewer groups than folds.
    """
    names: dict[Any, int] = {}
    numbers = np.array([names.setdefault(name, len(names)) for name in group_labels(groups)])
    if numbers.shape != (samples,):
        raise ValueError(f"groups must hold one label for each of {samples} samples, got shape {numbers.shape}")
    if len(names) < FOLDS:
        raise ValueError(f"groups hold {len(names)} groups, fewer than the {FOLDS} folds: use smaller groups")
    return numbers


def _subset(a: Rows | None, chosen: Array, k: int) -> Rows | None:
    if a is None:
        return None
    values = centred(torch.from_numpy(a.values[chosen])).numpy()
    return Rows(values, None if a.groups is None else a.groups[chosen]) if values.any() else None


def _reorder(a: Rows, order: Array) -> Rows:
    return a._replace(values=a.values[order])


def _r2(x: Rows, y: Rows) -> float:
    """Return 1 - squared errors / squared deviations from the training mean, over held-out samples and dims of y."""
    from sklearn.linear_model import RidgeCV

    errors, deviations = 0.0, 0.0
    for train, test in folds(len(x.values), x.groups):
        probe = RidgeCV(penalties(x.values[train])).fit(x.values[train], y.values[train])
        # with one dim in y, scikit-learn predicts (sample,)
        predicted = probe.predict(x.values[test]).reshape(len(test), -1)
        errors += float(((predicted - y.values[test]) ** 2).sum())
        deviations += float(((y.values[test] - y.values[train].mean(0)) ** 2).sum())
    return 1 - errors / deviations


def _compare(a: Sequence[Rows | None], b: Sequence[Rows | None], k: int) -> Array:
    scores = np.full((len(a), len(b)), np.nan)
    for i, x in defined(a):
        for j, y in defined(b):
            scores[i, j] = _r2(x, y)
    return scores


def linear_probe(groups: Array | None = None) -> Metric:
    """Build the metric, with samples of one group in one fold.

    Parameters
    ----------
    groups : Array, optional
        (sample,), numbers of groups.

    Returns
    -------
    Metric
        The linear probe.
    """

    def prepare(x: Tensor, k: int) -> Rows | None:
        values = centred(x.double()).cpu().numpy()
        return Rows(values, groups) if values.any() else None

    return Metric(
        prepare,
        _compare,
        _subset,
        permuted_by_reordering(_reorder, _compare),
        scores_from_all(prepare, _compare),
        least=2 * FOLDS,
        about="A linear probe predicts y from x by ridge regression, and the score is R^2 on held-out samples.",
    )


LINEAR_PROBE = linear_probe()
