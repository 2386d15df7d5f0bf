"""Is a score more than chance, and how far would other samples have moved it: permutation nulls and intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .metrics import METRICS, Array, Metric
from .similarity import Stack, check_same_stimuli, check_samples, open_stack

Pair = tuple[Array, Array]  # two (sample, dim) arrays over the same samples
SPLITS = 100
Z95 = 1.959964


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
    def adjusted_p(self) -> Array:
        """The p of every score among the permutations' maxima: holds for whichever pair one picks from all of them."""
        return _p(self.peaks.reshape(-1, *[1] * self.observed.ndim), self.observed)


def curve_null(pairs: Sequence[Pair], metric: str, k: int = 10, permutations: int = 200, seed: int = 0) -> Null:
    """The null of a curve of (x, y) pairs: y's samples are permuted, the same way in every pair.

    Raises:
        ValueError: as `similarity`; no permutations.
    """
    known = _check(pairs, metric, k)
    orders = _orders(len(pairs[0][0]), permutations, seed)
    observed, scores = np.empty(len(pairs)), np.empty((permutations, len(pairs)))
    for at, (x, y) in enumerate(pairs):
        a, b = known.relate(x), known.relate(y)
        observed[at] = known.compare(a, b, k)
        scores[:, at] = known.permuted([a], [b], k, orders)[:, 0, 0]
    return Null(observed, scores)


def map_null(x: Stack, y: Stack, metric: str = "cka", k: int = 10, permutations: int = 200, seed: int = 0) -> Null:
    """The null of a layer map, shapes (permutation, x layer, y layer); x and y as in `similarity_map`.

    Holds the (sample, sample) relations of all layers at once, 8 bytes a number for cka.

    Raises:
        ValueError, TypeError: as `similarity_map`; no permutations.
    """
    xs, ys = open_stack(x, "x")[0], open_stack(y, "y")[0]
    check_samples(metric, k, xs.shape[1], ys.shape[1])
    check_same_stimuli(x, y)
    known = METRICS[metric]
    a, b = [known.relate(one) for one in xs], [known.relate(one) for one in ys]
    observed = np.array([[known.compare(one, other, k) for other in b] for one in a])
    return Null(observed, known.permuted(a, b, k, _orders(xs.shape[1], permutations, seed)))


def curve_draws(
    pairs: Sequence[Pair], metric: str, k: int = 10, seed: int = 0, splits: int = SPLITS
) -> tuple[Array, Array]:
    """The scores of a curve of (x, y) pairs, (pair,), and draws around them as wide as its error, (2 splits, pair).

    The samples are split at random into halves S and S' of m = N // 2, without replacement (duplicated samples would
    be each other's neighbours), and both are scored, k scaled to k m / N. One seed gives the same splits for every pair
    and every call with as many samples, so differences of draws across layers and curves are draws of the difference.

    A draw is score + s D or score - s D, with D = (score_S - score_S') / 2, A = (score_S + score_S') / 2 and s the
    correction for the half size. For a U-statistic with linear variance a / N and quadratic variance b / N^2, which CKA
    and mutual-kNN at a fixed k / N are close to, the variances over the splits are (Hoeffding's decomposition, N = 2 m)
        var(D) = a / N + 2 b / N^2    and    var(A) = b / N^2,
    so the variance wanted, a / N + b / N^2, is var(D) - var(A) = -cov(score_S, score_S'), between var(D) / 2 (no
    signal) and var(D) (strong signal). Neither is good enough alone: on correlated Gaussians with N = 64 to 256 the
    95 % interval of var(D), the half-sample jackknife sqrt(m / (N - m)) sd(score_S), covers the truth up to .995 of the
    time, that of the difference, itself an estimate, as little as .905. Their mean is taken,
        s^2 = 1 - var(A) / (2 var(D)), at least 1/2,
    which covers .915 to .975 (200 to 400 repetitions each, lowest at N = 64). An odd N adds the factor 2 m / N.
    Where halves are too small to score (cka: fewer than 4 samples, mutual_knn: fewer than 2), draws are NaN.

    Raises:
        ValueError: as `similarity`.
    """
    known, samples = _check(pairs, metric, k), len(pairs[0][0])
    half = samples // 2
    near = min(max(1, round(k * half / samples)), half - 1)
    rng = np.random.default_rng([seed, 1])
    orders = [rng.permutation(samples) for _ in range(splits)]
    halves = [[np.sort(order[:half]), np.sort(order[half : 2 * half])] for order in orders]
    scores, draws = np.empty(len(pairs)), np.full((2 * splits, len(pairs)), np.nan)
    for at, (x, y) in enumerate(pairs):
        a, b = known.relate(x), known.relate(y)
        scores[at] = known.compare(a, b, k)
        if half < known.least:
            continue
        split = np.array(
            [
                [known.compare(known.subset(a, one, near), known.subset(b, one, near), near) for one in both]
                for both in halves
            ]
        )
        gap, middle = (split[:, 0] - split[:, 1]) / 2, (split[:, 0] + split[:, 1]) / 2
        wide = float((gap**2).mean())
        share = max(1 - middle.var() / (2 * wide), 0.5) if wide > 0 else 1
        step = gap * np.sqrt(share * 2 * half / samples)
        draws[:, at] = scores[at] + np.concatenate([step, -step])
    return scores, draws


def interval(estimate: Array | float, draws: Array) -> tuple[Array, Array]:
    """The 95 % interval, centred on the estimate (...): 1.96 standard deviations of draws (draw, ...) on each side."""
    half = Z95 * np.asarray(draws).std(0)
    return estimate - half, estimate + half


def _check(pairs: Sequence[Pair], metric: str, k: int) -> Metric:
    if not pairs:
        raise ValueError("a curve needs at least one pair of layers")
    for x, y in pairs:
        check_samples(metric, k, len(x), len(y))
        check_samples(metric, k, len(pairs[0][0]), len(x))
    return METRICS[metric]


def _orders(samples: int, permutations: int, seed: int) -> Array:
    if permutations < 1:
        raise ValueError(f"permutations must be at least 1, got {permutations}: 200 resolve p down to .005")
    rng = np.random.default_rng([seed, 0])
    return np.stack([rng.permutation(samples) for _ in range(permutations)])


def _p(scores: Array, observed: Array) -> Array:
    # a permutation that gives the very same score may differ in the last bit: it counts as reached
    reached = (scores >= observed - 1e-12).sum(0)
    return np.where(np.isnan(observed), np.nan, (1 + reached) / (1 + len(scores)))
