"""Measure how well a linear classifier predicts labels from a layer, on samples that it was not fitted to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from sklearn.linear_model import RidgeClassifierCV
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold
from torch import Tensor

from ..features.plain_arrays import as_tensor, check_finite
from ..metrics.metric import Array, centred
from ..metrics.probe import FOLDS, numbered, penalties


class LabelProbe(NamedTuple):
    """Hold the result of `label_probe`.

    Attributes
    ----------
    score : float
        Accuracy on held-out samples, 0 to 1.
    chance : float
        The share of the most frequent label.
    folds, samples : int
        How many folds and samples there were.
    """

    score: float
    chance: float
    folds: int
    samples: int


def label_probe(
    x: Tensor | Array,
    labels: Tensor | Array | Sequence[str | int | bool],
    groups: Sequence[Any] | Array | None = None,
) -> LabelProbe:
    """Return the accuracy with which a linear classifier predicts labels from a layer.

    The classifier is scikit-learn's RidgeClassifierCV: least squares onto +1 for the class and -1 for the others, which
    unlike logistic regression needs no iterations and no care with separable classes. Its penalty is chosen within the
    training samples. 5 folds have the same mix of labels each (StratifiedKFold, shuffled, seed 0), and accuracy is the
    share of all samples that were right when held out.

    Parameters
    ----------
    x : Tensor or Array
        Features (sample, dim) of one layer.
    labels : Tensor, Array or sequence
        One string, integer or boolean per sample.
    groups : sequence, optional
        A label for each sample, such as its picture: samples of one group are held out together.

    Returns
    -------
    LabelProbe
        Accuracy beside chance: .9 says nothing where 9 labels of 10 agree.

    Raises
    ------
    ValueError
        x is not (sample, dim) or holds NaN or infinity; labels are not one per sample; all labels are the same; a label
        has fewer samples than folds.
    TypeError
        x is not an array of real numbers, or labels are not strings, integers or booleans.

    See Also
    --------
    similarity : Predicts another model's features in place of labels, by the metric linear_probe.
    complementarity_map : Says what a layer adds to another one, where this takes each alone.

    References
    ----------
    Alain and Bengio 2016, Understanding intermediate layers using linear classifier probes, arXiv 1610.01644.

    Examples
    --------
    >>> label_probe(features["image"].layer("5"), ["circle" in text for text in stimuli.texts])
    LabelProbe(score=..., chance=..., folds=5, samples=24)
    """
    values, classes = as_tensor(x, "x"), _classes(labels)
    if values.ndim != 2:
        raise ValueError(f"x must be (sample, dim), got shape {tuple(values.shape)}: pick one layer")
    check_finite([values], ["x"])
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
    features, right = centred(values.double()).cpu().numpy(), 0
    if groups is None:
        folds = StratifiedKFold(FOLDS, shuffle=True, random_state=0).split(features, classes)
    else:
        whole = numbered(groups, len(classes))
        folds = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=0).split(features, classes, whole)
    for train, test in folds:
        probe = RidgeClassifierCV(penalties(features[train])).fit(features[train], classes[train])
        right += int((probe.predict(features[test]) == classes[test]).sum())
    return LabelProbe(right / len(classes), float(counts.max() / len(classes)), FOLDS, len(classes))


def _classes(labels: Tensor | Array | Sequence[str | int | bool]) -> Array:
    if isinstance(labels, str | Mapping) or not isinstance(labels, Iterable) or np.ma.is_masked(labels):
        raise TypeError(f"labels is a {type(labels).__name__}: expected one string, integer or boolean a sample")
    classes = np.asarray(labels.cpu() if isinstance(labels, Tensor) else list(labels))
    if classes.ndim != 1:
        raise ValueError(f"labels must be one per sample, got shape {classes.shape}")
    if classes.dtype.kind not in "USbiu":
        raise TypeError(
            f"labels must be strings, integers or booleans, got {classes.dtype}: for a target of real numbers there is "
            'similarity with metric="linear_probe"'
        )
    return classes
