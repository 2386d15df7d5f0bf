"""Compute permutation nulls: scores that unrelated features would have, by permuting samples or in closed form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from ..metrics import METRICS
from ..metrics.metric import Array
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
    """Hold scores under permutation of the samples beside the observed scores.

    The trailing axes are (layer,) for a curve and (x layer, y layer) for a map. One permutation serves all of them, so
    `peaks`, the maximum of each permutation, is the null of the observed maximum, however many layers were compared.

    Attributes
    ----------
    observed : Array
        Scores (...).
    scores : Array
        Scores under permutation (permutation, ...).
    """

    observed: Array
    scores: Array

    @property
    def mean(self) -> Array:
        """The mean of the null, per layer or pair."""
        return self.scores.mean(0)

    @property
    def top95(self) -> Array:
        """The 95 % quantile of the null, per layer or pair: the upper edge of a null band in figures."""
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
        """The 95 % quantile of the largest score, which the maximum of unrelated features exceeds in 5 % of cases."""
        return float(np.quantile(self.peaks, 0.95))

    @property
    def peak_p(self) -> float:
        """The p of the observed maximum among the permutations' maxima."""
        return float(_p(self.peaks, np.asarray(np.fmax.reduce(self.observed.ravel()))))

    @property
    def scaled(self) -> Array:
        """The calibrated score (score - t) / (1 - t), 0 below the threshold t and NaN where t is 1.

        The threshold is the 95 % order statistic of null and observed score together (Algorithm 1 of arXiv 2602.14486).
        """
        return _scaled(self.scores, self.observed)

    @property
    def peak_scaled(self) -> float:
        """The calibrated observed maximum, among the permutations' maxima (Algorithm 2 of arXiv 2602.14486)."""
        return float(_scaled(self.peaks, np.asarray(np.fmax.reduce(self.observed.ravel()))))

    @property
    def adjusted_p(self) -> Array:
        """The p of every score among the permutations' maxima, which is valid for any pair that one picks."""
        return _p(self.peaks.reshape(-1, *[1] * self.observed.ndim), self.observed)


@dataclass(frozen=True, eq=False)
class Moments:
    """Hold a layer map of debiased CKA with its exact moments under permutation; the mean is 0.

    Quantiles and p are those of the Pearson type III distribution with these moments, which is accurate in the upper
    tail. They hold for one pair at a time: for the maximum of a map, and what depends on it, use `map_null`.

    Attributes
    ----------
    observed : Array
        Scores (x layer, y layer).
    deviation : float
        The standard deviation, the same for all pairs.
    skewness : Array
        The skewness (x layer, y layer).
    """

    observed: Array
    deviation: float
    skewness: Array

    @property
    def top95(self) -> Array:
        """The 95 % quantile of the null, per pair."""
        from scipy.stats import pearson3  # takes about as long to import as torch, and `similarity` does not need it

        return pearson3.ppf(0.95, self.skewness, scale=self.deviation)

    @property
    def p(self) -> Array:
        """The probability of the score or more among permutations, per pair; NaN without a score."""
        from scipy.stats import pearson3

        return pearson3.sf(self.observed, self.skewness, scale=self.deviation)


def map_moments(x: Stack, y: Stack) -> Moments:
    """Compute the null of a layer map of debiased CKA in closed form, in about twice the time of the map itself.

    Parameters
    ----------
    x, y : LayerFeatures, Tensor, Array or sequence of layers
        As in `similarity_map`.

    Returns
    -------
    Moments
        The scores and their exact moments under permutation, whatever the features. The deviation is
        sqrt(2 / (n (n - 3))) for n samples.

    Raises
    ------
    ValueError, TypeError
        As `similarity_map`.

    See Also
    --------
    map_null : The null of any metric, and of the maximum of a map, by permuting.
    """
    xs, ys = _open_map(x, y, "cka", 1)
    with full_precision():
        return Moments(*permutation_moments(xs, ys))


def curve_null(
    pairs: Sequence[Pair], metric: str, k: int = 10, permutations: int = 200, seed: int = 0, block: int = 1
) -> Null:
    """Compute the permutation null of a curve: y's samples are permuted, the same way in every pair.

    Parameters
    ----------
    pairs : sequence of pairs
        x (sample, dim) and y (sample, dim') of each point of the curve.
    metric : str
        A name of `METRICS`.
    k : int
        The number of neighbours.
    permutations : int
        How many permutations: 200 resolve p down to .005.
    seed : int
        Seed of the permutations.
    block : int
        How many consecutive samples move together: the patches of an image (`match_patches`) are not exchangeable one
        by one, only images are.

    Returns
    -------
    Null
        Scores (permutation, pair).

    Raises
    ------
    ValueError, TypeError
        As `similarity`; also no permutations, samples that are not whole blocks, or a metric that does not depend on
        which samples belong together.
    """
    opened, formula = open_pairs(pairs, metric, k), METRICS[metric]
    _check_null(metric)
    orders = _orders(len(opened[0][0]), permutations, seed, block)
    observed, scores = np.empty(len(pairs)), np.empty((permutations, len(pairs)))
    for index, (x, y) in enumerate(opened):
        with full_precision():
            a, b = [formula.prepare(x, k)], [formula.prepare(y, k)]
            observed[index] = formula.compare(a, b, k)[0, 0]
            scores[:, index] = formula.permuted(a, b, k, orders)[:, 0, 0]
    return Null(observed, scores)


def map_null(
    x: Stack, y: Stack, metric: str = "cka", k: int = 10, permutations: int = 200, seed: int = 0, block: int = 1
) -> Null:
    """Compute the permutation null of a layer map: y's samples are permuted, the same way in every layer.

    Parameters
    ----------
    x, y : LayerFeatures, Tensor, Array or sequence of layers
        As in `similarity_map`.
    metric : str
        A name of `METRICS`.
    k : int
        The number of neighbours.
    permutations : int
        How many permutations: 200 resolve p down to .005.
    seed : int
        Seed of the permutations.
    block : int
        How many consecutive samples move together: the patches of an image (`match_patches`) are not exchangeable one
        by one, only images are.

    Returns
    -------
    Null
        Scores (permutation, x layer, y layer).

    Raises
    ------
    ValueError, TypeError
        As `similarity_map`; also no permutations, samples that are not whole blocks, or a metric that does not depend
        on which samples belong together.

    Notes
    -----
    The prepared layers of both sides are held in memory at once. For the metrics of tables (cka, its variants and rsa)
    a layer of x takes 4 bytes for each entry of (sample, sample), 8 for float64 features, and a layer of y twice that.
    """
    xs, ys = _open_map(x, y, metric, k)
    _check_null(metric)
    formula, orders = METRICS[metric], _orders(len(xs[0]), permutations, seed, block)
    with full_precision():
        a, b = [formula.prepare(layer, k) for layer in xs], [formula.prepare(layer, k) for layer in ys]
        return Null(formula.compare(a, b, k), formula.permuted(a, b, k, orders))


def _open_map(x: Stack, y: Stack, metric: str, k: int) -> tuple[Layers, Layers]:
    """Read and check the layers of both sides of a map."""
    xs, ys = read_stack(x, "x")[0], read_stack(y, "y")[0]
    check_samples(metric, k, len(xs[0]), len(ys[0]))
    check_dims(metric, xs, ys)
    check_same_stimuli(x, y)
    return to_common_dtype(xs, ys)


def open_pairs(pairs: Sequence[Pair], metric: str, k: int) -> list[tuple[Tensor, Tensor]]:
    """Convert the pairs of a curve to tensors, and check them.

    Parameters
    ----------
    pairs : sequence of pairs
        x (sample, dim) and y (sample, dim') of each point of the curve.
    metric : str
        A name of `METRICS`.
    k : int
        The number of neighbours.

    Returns
    -------
    list of pairs of Tensor
        x and y of each point.

    Raises
    ------
    ValueError, TypeError
        As `similarity`; also no pairs, or pairs of different samples.
    """
    if not pairs:
        raise ValueError("a curve needs at least one pair of layers")
    opened = []
    for index, (x, y) in enumerate(pairs):
        if len(x) != len(pairs[0][0]):
            raise ValueError(f"pair {index} has {len(x)} samples, pair 0 has {len(pairs[0][0])}: use the same ones")
        opened.append(read_pair(x, y, metric, k))
    return opened


def _check_null(metric: str) -> None:
    """Raise ValueError for a metric that does not change when samples are permuted."""
    if not METRICS[metric].sees_pairs:
        raise ValueError(f"{metric} does not see which samples belong together: a null that permutes them says nothing")


def _orders(samples: int, permutations: int, seed: int, block: int = 1) -> Array:
    """Draw permutations (permutation, sample) of whole blocks."""
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
    """Calibrate observed scores (...) by scores (permutation, ...)."""
    together = np.sort(np.concatenate([scores, observed[None]]), axis=0)
    threshold = together[int(np.ceil(0.95 * len(together))) - 1]
    return np.maximum(observed - threshold, 0) / np.where(threshold < 1, 1 - threshold, np.nan)


def _p(scores: Array, observed: Array) -> Array:
    """Return the p of observed scores (...) among scores (permutation, ...)."""
    # a permutation that gives the very same score may differ by rounding: it counts as reached
    reached = (scores >= observed - 1e-6).sum(0)
    return np.where(np.isnan(observed), np.nan, (1 + reached) / (1 + len(scores)))
