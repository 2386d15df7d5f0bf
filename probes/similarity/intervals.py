"""Compute confidence intervals: of scores from random halves of the samples, of means by Student's t."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.stats import t as student

from ..metrics import METRICS
from ..metrics.metric import Array
from ..metrics.named_metrics import count_samples, formula_of
from .inputs import full_precision
from .nulls import Pair, check_block, check_pairs, open_pairs

SPLITS = 100
Z95 = 1.959964


def curve_draws(
    pairs: Sequence[Pair],
    metric: str,
    k: int = 10,
    seed: int = 0,
    splits: int = SPLITS,
    block: int = 1,
    groups: Array | None = None,
) -> tuple[Array, Array]:
    """Return the scores of a curve and draws around them, whose spread is the error of the score.

    The samples are split at random into halves S and S' of m = N // 2, without replacement (duplicated samples would
    be each other's neighbours), and both are scored, k scaled to k m / N. One seed gives the same splits for every pair
    and every call with as many samples, so differences of draws across layers and curves are draws of the difference.

    Parameters
    ----------
    pairs : sequence of pairs
        x (sample, dim) and y (sample, dim') of each point of the curve.
    metric : str
        A name of `METRICS`.
    k : int
        The number of neighbours.
    seed : int
        Seed of the splits.
    splits : int
        How many random splits.
    block : int
        How many consecutive samples stay in one half together, as in `nulls.curve_null`.
    groups : Array, optional
        As in `nulls.curve_null`: images are split into halves, with all their captions.

    Returns
    -------
    scores : Array
        (pair,).
    draws : Array
        (2 * splits, pair); NaN where halves are too small to score (cka: fewer than 4 samples, mutual_knn: fewer than
        2).

    Raises
    ------
    ValueError, TypeError
        As `similarity`.

    Notes
    -----
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
    """
    opened = open_pairs(pairs, metric, k)
    formula = formula_of(metric, groups)
    samples = count_samples(metric, len(opened[0][0]), groups)
    check_block(samples, block)
    check_pairs("an interval", opened, block, groups)
    halves = random_halves(samples, splits, seed, block)
    half = len(halves[0][0])
    near = half_k(metric, k, half, samples)
    scores, draws = np.empty(len(pairs)), np.full((2 * splits, len(pairs)), np.nan)
    for index, (x, y) in enumerate(opened):
        with full_precision():
            a, b = formula.prepare(x, k), formula.prepare(y, k)
            scores[index] = formula.compare([a], [b], k)[0, 0]
            if half < formula.least:
                continue

            def score(chosen: Array, a: Any = a, b: Any = b) -> float:
                return formula.compare([formula.subset(a, chosen, near)], [formula.subset(b, chosen, near)], near)[0, 0]

            split = np.array([[score(chosen) for chosen in both] for both in halves])
        step = half_errors(split, half, samples)
        draws[:, index] = scores[index] + np.concatenate([step, -step])
    return scores, draws


def random_halves(samples: int, splits: int, seed: int = 0, block: int = 1) -> list[tuple[Array, Array]]:
    """Split the samples at random into two halves, many times, without replacement.

    Parameters
    ----------
    samples : int
        The number of samples.
    splits : int
        How many random splits.
    seed : int
        Seed of the splits.
    block : int
        How many consecutive samples stay in one half together.

    Returns
    -------
    list of (Array, Array)
        The increasing indices of the two halves of each split. An odd block is in neither.
    """
    half = samples // block // 2 * block
    rng = np.random.default_rng([seed, 1])
    drawn = [rng.permutation(samples // block) for _ in range(splits)]
    orders = [(order[:, None] * block + np.arange(block)).ravel() for order in drawn]
    return [(np.sort(order[:half]), np.sort(order[half : 2 * half])) for order in orders]


def half_k(metric: str, k: int, half: int, samples: int) -> int:
    """Return the number of neighbours among half of the samples that stands for k among all.

    Parameters
    ----------
    metric : str
        A name of `METRICS`.
    k : int
        The number of neighbours among all samples.
    half, samples : int
        The numbers of samples of a half and in all.

    Returns
    -------
    int
        k scaled to the half, within what the metric takes.
    """
    return min(max(METRICS[metric].least_k, round(k * half / samples)), half - 1)


def half_errors(split: Array, half: int, samples: int) -> Array:
    """Return draws of the error of statistics of all samples, from what they are in both halves of random splits.

    Parameters
    ----------
    split : Array
        The statistics in both halves of each split (split, 2, ...).
    half, samples : int
        The numbers of samples of a half and in all.

    Returns
    -------
    Array
        Draws (split, ...). An error and its negative are equally likely. `curve_draws` explains the formula.
    """
    gap, middle = (split[:, 0] - split[:, 1]) / 2, (split[:, 0] + split[:, 1]) / 2
    spread = (gap**2).mean(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        share = np.where(spread > 0, np.maximum(1 - middle.var(0) / (2 * spread), 0.5), 1)
    return gap * np.sqrt(share * 2 * half / samples)


def interval(estimate: Array | float, draws: Array) -> tuple[Array, Array]:
    """Return the 95 % interval of an estimate: 1.96 standard deviations of its draws on each side.

    Parameters
    ----------
    estimate : Array or float
        The estimate (...), the centre of the interval.
    draws : Array
        Draws (draw, ...).

    Returns
    -------
    low, high : Array
        Bounds (...).
    """
    half = Z95 * np.asarray(draws).std(0)
    return estimate - half, estimate + half


def mean_interval(values: Array) -> tuple[Array, Array, Array]:
    """Return the mean of independent samples and its 95 % interval by Student's t.

    Parameters
    ----------
    values : Array
        (sample, ...).

    Returns
    -------
    mean, low, high : Array
        (...); the bounds are NaN for one sample.
    """
    values = np.asarray(values, float)
    mean, count = values.mean(0), len(values)
    if count < 2:
        return mean, np.full_like(mean, np.nan), np.full_like(mean, np.nan)
    reach = student.ppf(0.975, count - 1) * values.std(0, ddof=1) / np.sqrt(count)
    return mean, mean - reach, mean + reach
