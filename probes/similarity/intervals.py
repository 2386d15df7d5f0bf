"""Compute intervals of scores from random halves of the samples."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.stats import t as student

from ..metrics.metric import Array
from .inputs import full_precision
from .nulls import Pair, _open

SPLITS = 100
Z95 = 1.959964


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
    opened, how = _open(pairs, metric, k)
    samples = len(opened[0][0])
    half = samples // 2
    near = min(max(1, round(k * half / samples)), half - 1)
    rng = np.random.default_rng([seed, 1])
    orders = [rng.permutation(samples) for _ in range(splits)]
    halves = [[np.sort(order[:half]), np.sort(order[half : 2 * half])] for order in orders]
    scores, draws = np.empty(len(pairs)), np.full((2 * splits, len(pairs)), np.nan)
    for at, (x, y) in enumerate(opened):
        with full_precision():
            a, b = how.prepare(x, k), how.prepare(y, k)
            scores[at] = how.compare([a], [b], k)[0, 0]
            if half < how.least:
                continue
            split = np.array(
                [
                    [how.compare([how.subset(a, one, near)], [how.subset(b, one, near)], near)[0, 0] for one in both]
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


def mean_interval(values: Array) -> tuple[Array, Array, Array]:
    """Mean and 95 % interval (Student's t) over independent samples, (sample, ...); NaN bounds for one sample."""
    values = np.asarray(values, float)
    mean, count = values.mean(0), len(values)
    if count < 2:
        return mean, np.full_like(mean, np.nan), np.full_like(mean, np.nan)
    reach = student.ppf(0.975, count - 1) * values.std(0, ddof=1) / np.sqrt(count)
    return mean, mean - reach, mean + reach
