"""Linear probes: how much of y, or of labels, a linear map reads out of x, on samples that it was not fitted to.

Ridge regression with nothing before it but centring: standardising each feature would make the score hang on the axes.
The penalty is chosen by leave-one-out error from a grid relative to samples times x's mean variance, so the score is
the same for x rotated, shifted or scaled as a whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from sklearn.linear_model import RidgeClassifierCV, RidgeCV
from sklearn.model_selection import KFold, StratifiedKFold
from torch import Tensor

from .metric import Array, Metric, centred, known, permuted_by, scores_by

FOLDS = 5
PENALTIES = 10.0 ** np.arange(-5, 4)  # per sample and mean variance: low enough for features with massive dims
NOTHING = 1e-26  # of squares of centred features, at most 1 each: what is less is rounding


class LabelProbe(NamedTuple):
    """What `label_probe` found.

    Attributes:
        score: accuracy on held-out samples, 0 to 1.
        chance: the share of the most frequent label.
        folds, samples: how many of each.
    """

    score: float
    chance: float
    folds: int
    samples: int


def label_probe(x: Tensor | Array, labels: Tensor | Array | Sequence[str | int | bool]) -> LabelProbe:
    """The accuracy with which a linear classifier reads labels, one per sample, out of x (sample, dim).

    scikit-learn's RidgeClassifierCV, least squares onto +1 for the class and -1 for the others, which unlike logistic
    regression needs no iterations and no care with separable classes; its penalty is chosen within the training
    samples. 5 folds with the same mix of labels in each (StratifiedKFold, shuffled, seed 0); accuracy is the share of
    all samples that were right when held out. Compare it with chance: 0.9 says nothing where 9 labels of 10 agree.

    >>> label_probe(features.values[-1], [stimulus.label for stimulus in stimuli])  # doctest: +SKIP
    LabelProbe(score=0.93, chance=0.25, folds=5, samples=200)

    Raises:
        ValueError: x is not (sample, dim) or holds NaN or infinity; labels are not one per sample; all labels are the
            same; a label with fewer samples than folds.
        TypeError: x is not an array of real numbers; labels that are not strings, integers or booleans.
    """
    values, classes = _features(x), _classes(labels)
    if len(values) != len(classes):
        raise ValueError(f"x has {len(values)} samples, but there are {len(classes)} labels: give one label per sample")
    names, counts = np.unique(classes, return_counts=True)
    if len(names) < 2:
        raise ValueError(f"labels must hold at least two classes, got {names.tolist()}: there is nothing to tell apart")
    if counts.min() < FOLDS:
        raise ValueError(
            f"every label needs at least {FOLDS} samples, one per fold, but {names[counts.argmin()]!r} has "
            f"{counts.min()}: leave its samples out, or merge it with another label"
        )
    right = 0
    for train, test in StratifiedKFold(FOLDS, shuffle=True, random_state=0).split(values, classes):
        probe = RidgeClassifierCV(_penalties(values[train])).fit(values[train], classes[train])
        right += int((probe.predict(values[test]) == classes[test]).sum())
    return LabelProbe(right / len(classes), float(counts.max() / len(classes)), FOLDS, len(classes))


def _features(x: Tensor | Array) -> Array:
    values = x.detach().cpu() if isinstance(x, Tensor) else torch.as_tensor(np.asarray(x))
    if values.is_complex():
        raise TypeError(f"x must be an array or tensor of real numbers, got {values.dtype}")
    if values.ndim != 2 or not values.numel():
        raise ValueError(f"x must be (sample, dim), got shape {tuple(values.shape)}: pick one layer")
    bad = ~values.isfinite().all(1)
    if bad.any():
        raise ValueError(
            f"x holds NaN or infinity in {int(bad.sum())} samples, the first is sample {int(bad.nonzero()[0])}: leave "
            "them out, or extract in float32"
        )
    return centred(values.double()).numpy()


def _classes(labels: Tensor | Array | Sequence[str | int | bool]) -> Array:
    classes = np.asarray(labels.cpu() if isinstance(labels, Tensor) else list(labels))
    if classes.ndim != 1:
        raise ValueError(f"labels must be one per sample, got shape {classes.shape}")
    if classes.dtype.kind not in "USbiu":
        raise TypeError(
            f"labels must be strings, integers or booleans, got {classes.dtype}: for a target of real numbers there is "
            'similarity with metric="linear_probe"'
        )
    return classes


def _penalties(train: Array) -> Array:
    """The grid, times the training samples' sum of squares per dim, which is samples times mean variance."""
    scale = float(((train - train.mean(0)) ** 2).sum() / train.shape[1])
    return PENALTIES * (scale if scale > NOTHING else 1.0)


def _relate(x: Tensor, k: int) -> Array | None:
    values = centred(x.double()).cpu().numpy()
    return values if values.any() else None


def _subset(a: Array | None, chosen: Array, k: int) -> Array | None:
    return None if a is None else _relate(torch.from_numpy(a[chosen]), k)


def _reorder(a: Array, order: Array) -> Array:
    return a[order]


def _r2(x: Array, y: Array) -> float:
    """1 - squared errors / squared deviations from the training mean, over all held-out samples and dims of y."""
    errors, deviations = 0.0, 0.0
    for train, test in KFold(FOLDS, shuffle=True, random_state=0).split(x):
        probe = RidgeCV(_penalties(x[train])).fit(x[train], y[train])
        # with one dim in y, scikit-learn predicts (sample,)
        errors += float(((probe.predict(x[test]).reshape(len(test), -1) - y[test]) ** 2).sum())
        deviations += float(((y[test] - y[train].mean(0)) ** 2).sum())
    return 1 - errors / deviations


def _compare(a: Sequence[Array | None], b: Sequence[Array | None], k: int) -> Array:
    scores = np.full((len(a), len(b)), np.nan)
    for i, x in known(a):
        for j, y in known(b):
            scores[i, j] = _r2(x, y)
    return scores


LINEAR_PROBE = Metric(
    _relate,
    _compare,
    _subset,
    permuted_by(_reorder, _compare),
    scores_by(_relate, _compare),
    least=2 * FOLDS,
)
