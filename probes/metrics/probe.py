"""Measure by a linear probe how much of y a linear map predicts from x, on samples that it was not fitted to.

The probe is ridge regression on centred features: standardising each feature would make the score depend on the axes.
The penalty is chosen by leave-one-out error from a grid relative to samples times x's mean variance, so the score is
the same for x rotated, shifted or scaled as a whole.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

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


def _prepare(x: Tensor, k: int) -> Array | None:
    values = centred(x.double()).cpu().numpy()
    return values if values.any() else None


def _subset(a: Array | None, chosen: Array, k: int) -> Array | None:
    return None if a is None else _prepare(torch.from_numpy(a[chosen]), k)


def _reorder(a: Array, order: Array) -> Array:
    return a[order]


def _r2(x: Array, y: Array) -> float:
    """Return 1 - squared errors / squared deviations from the training mean, over held-out samples and dims of y."""
    # scikit-learn takes longer to import than torch, and the other metrics do not need it
    from sklearn.linear_model import RidgeCV
    from sklearn.model_selection import KFold

    errors, deviations = 0.0, 0.0
    for train, test in KFold(FOLDS, shuffle=True, random_state=0).split(x):
        probe = RidgeCV(penalties(x[train])).fit(x[train], y[train])
        # with one dim in y, scikit-learn predicts (sample,)
        errors += float(((probe.predict(x[test]).reshape(len(test), -1) - y[test]) ** 2).sum())
        deviations += float(((y[test] - y[train].mean(0)) ** 2).sum())
    return 1 - errors / deviations


def _compare(a: Sequence[Array | None], b: Sequence[Array | None], k: int) -> Array:
    scores = np.full((len(a), len(b)), np.nan)
    for i, x in defined(a):
        for j, y in defined(b):
            scores[i, j] = _r2(x, y)
    return scores


LINEAR_PROBE = Metric(
    _prepare,
    _compare,
    _subset,
    permuted_by_reordering(_reorder, _compare),
    scores_from_all(_prepare, _compare),
    least=2 * FOLDS,
    about="A linear probe predicts y from x by ridge regression, and the score is R^2 on held-out samples.",
)
