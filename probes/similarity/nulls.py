"""Is a score more than chance, and how far would other samples have moved it: permutation nulls and intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import pearson3
from torch import Tensor

from ..metrics import METRICS
from ..metrics.metric import Array, Metric
from ..metrics.moments import permutation_moments
from .inputs import (
    Layers,
    Stack,
    check_dims,
    check_same_stimuli,
    check_samples,
    full_precision,
    read_pair,
    read_stack,
    to_common_dtype,
)

Pair = tuple[Tensor | Array, Tensor | Array]  # (sample, dim) and (sample, dim') over the same samples


@dataclass(frozen=True, eq=False)
class Null:
    """Scores under permutation of the samples: `scores` (permutation, ...) beside the `observed` (...).

    The trailing axes are (layer,) for a curve and (x layer, y layer) for a map. One permutation serves all of them, so
    `peaks`, the maximum of each permutation, is the null of the observed maximum, however many layers were looked at.
    """

    observed: Array
    scores: Array

    @property
    def mean(self) -> Array:
        """The null's mean, per layer or pair."""
        return self.scores.mean(0)

    @property
    def top95(self) -> Array:
        """The null's 95 % quantile, per layer or pair: what to draw as a null band."""
        return np.quantile(self.scores, 0.95, axis=0)

    @property
    def p(self) -> Array:
        """(1 + permutations that reach the score) / (1 + permutations), per layer or pair; NaN without a score."""
        return _p(self.scores, self.observed)

    @property
    def peaks(self) -> Array:
        """The largest score of each permutation, (permutation,)."""
        return np.fmax.reduce(self.scores.reshape(len(self.scores), -1), axis=1)

    @property
    def peak95(self) -> float:
        """The 95 % quantile of the largest score: what the maximum of unrelated features stays below."""
        return float(np.quantile(self.peaks, 0.95))

    @property
    def peak_p(self) -> float:
        """The p of the observed maximum among the permutations' maxima."""
        return float(_p(self.peaks, np.asarray(np.fmax.reduce(self.observed.ravel()))))

    @property
    def scaled(self) -> Array:
        """(score - t) / (1 - t), 0 below the threshold t: the 95 % order statistic of null and observed score together.

        What is left of a score after calibration (Algorithm 1 of arXiv 2602.14486); NaN where the threshold is 1.
        """
        return _scaled(self.scores, self.observed)

    @property
    def peak_scaled(self) -> float:
        """The same for the observed maximum among the permutations' maxima (Algorithm 2 of arXiv 2602.14486)."""
        return float(_scaled(self.peaks, np.asarray(np.fmax.reduce(self.observed.ravel()))))

    @property
    def adjusted_p(self) -> Array:
        """The p of every score among the permutations' maxima: holds for whichever pair one picks from all of them."""
        return _p(self.peaks.reshape(-1, *[1] * self.observed.ndim), self.observed)


@dataclass(frozen=True, eq=False)
class Moments:
    """The exact mean (0), standard deviation and skewness of a layer map of debiased CKA under permutation.

    observed, skewness (x layer, y layer); deviation, the same for all pairs. Quantiles and p are those of the Pearson
    type III distribution with these moments, good in the upper tail. One pair at a time: for the maximum of a map, and
    what rests on it, take `map_null`.
    """

    observed: Array
    deviation: float
    skewness: Array

    @property
    def top95(self) -> Array:
        """The null's 95 % quantile, per pair."""
        return pearson3.ppf(0.95, self.skewness, scale=self.deviation)

    @property
    def p(self) -> Array:
        """The probability of the score or more among permutations, per pair; NaN without a score."""
        return pearson3.sf(self.observed, self.skewness, scale=self.deviation)


def map_moments(x: Stack, y: Stack) -> Moments:
    """The null of a layer map of debiased CKA without permuting, in about twice the time of the map itself.

    x and y as in `similarity_map`. The moments are exact (`metrics.moments`), whatever the features: the deviation is
    sqrt(2 / (n (n - 3))) for n samples.

    Raises:
        ValueError, TypeError: as `similarity_map`.
    """
    xs, ys = _open_map(x, y, "cka", 1)
    with full_precision():
        return Moments(*permutation_moments(xs, ys))


def curve_null(
    pairs: Sequence[Pair], metric: str, k: int = 10, permutations: int = 200, seed: int = 0, block: int = 1
) -> Null:
    """The null of a curve of (x, y) pairs: y's samples are permuted, the same way in every pair.

    `block` samples in a row are moved as one: the patches of an image (`tokens.match_patches`) are not exchangeable one
    by one, only images are.

    Raises:
        ValueError: as `similarity`; no permutations; samples that are not whole blocks.
    """
    opened, how = _open(pairs, metric, k)
    _check_null(metric)
    orders = _orders(len(opened[0][0]), permutations, seed, block)
    observed, scores = np.empty(len(pairs)), np.empty((permutations, len(pairs)))
    for at, (x, y) in enumerate(opened):
        with full_precision():
            a, b = [how.prepare(x, k)], [how.prepare(y, k)]
            observed[at] = how.compare(a, b, k)[0, 0]
            scores[:, at] = how.permuted(a, b, k, orders)[:, 0, 0]
    return Null(observed, scores)


def map_null(
    x: Stack, y: Stack, metric: str = "cka", k: int = 10, permutations: int = 200, seed: int = 0, block: int = 1
) -> Null:
    """The null of a layer map, (permutation, x layer, y layer); x, y as in `similarity_map`, block as in `curve_null`.

    Holds what comparing needs of all layers at once: for the metrics of tables (cka and its kin, rsa) 4 bytes a number
    of (sample, sample), 8 for float64 features, twice that for y.

    Raises:
        ValueError, TypeError: as `similarity_map`; no permutations; samples that are not whole blocks.
    """
    xs, ys = _open_map(x, y, metric, k)
    _check_null(metric)
    how, orders = METRICS[metric], _orders(len(xs[0]), permutations, seed, block)
    with full_precision():
        a, b = [how.prepare(one, k) for one in xs], [how.prepare(one, k) for one in ys]
        return Null(how.compare(a, b, k), how.permuted(a, b, k, orders))


def _open_map(x: Stack, y: Stack, metric: str, k: int) -> tuple[Layers, Layers]:
    xs, ys = read_stack(x, "x")[0], read_stack(y, "y")[0]
    check_samples(metric, k, len(xs[0]), len(ys[0]))
    check_dims(metric, xs, ys)
    check_same_stimuli(x, y)
    return to_common_dtype(xs, ys)


def _open(pairs: Sequence[Pair], metric: str, k: int) -> tuple[list[tuple[Tensor, Tensor]], Metric]:
    if not pairs:
        raise ValueError("a curve needs at least one pair of layers")
    opened = []
    for at, (x, y) in enumerate(pairs):
        if len(x) != len(pairs[0][0]):
            raise ValueError(f"pair {at} has {len(x)} samples, pair 0 has {len(pairs[0][0])}: use the same ones")
        opened.append(read_pair(x, y, metric, k))
    return opened, METRICS[metric]


def _check_null(metric: str) -> None:
    if metric == "modality_gap":
        raise ValueError(
            "modality_gap does not see which samples belong together: a null that permutes them says nothing"
        )


def _orders(samples: int, permutations: int, seed: int, block: int = 1) -> Array:
    if permutations < 1:
        raise ValueError(f"permutations must be at least 1, got {permutations}: 200 resolve p down to .005")
    if block < 1 or samples % block:
        raise ValueError(
            f"{samples} samples are not whole blocks of {block}: block is the number of patches of an image"
        )
    rng = np.random.default_rng([seed, 0])
    orders = np.stack([rng.permutation(samples // block) for _ in range(permutations)])
    return (orders[..., None] * block + np.arange(block)).reshape(permutations, samples)


def _scaled(scores: Array, observed: Array) -> Array:
    together = np.sort(np.concatenate([scores, observed[None]]), axis=0)
    threshold = together[int(np.ceil(0.95 * len(together))) - 1]
    return np.maximum(observed - threshold, 0) / np.where(threshold < 1, 1 - threshold, np.nan)


def _p(scores: Array, observed: Array) -> Array:
    # a permutation that gives the very same score may differ by rounding: it counts as reached
    reached = (scores >= observed - 1e-6).sum(0)
    return np.where(np.isnan(observed), np.nan, (1 + reached) / (1 + len(scores)))
