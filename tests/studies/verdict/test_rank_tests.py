"""Correlations of maps by ranks: against other ways to compute them, by hand, and under the null."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import kstest, rankdata, spearmanr

from bridgework.studies.verdict.rank_tests import (
    CURVED,
    LINEAR,
    bootstrap_correlations,
    depth_maps,
    holm,
    noise_ceiling,
    permutation_p,
    rank_correlations,
)


def test_correlations_are_spearmans_also_with_ties():
    rng = np.random.default_rng(0)
    maps, truth = rng.integers(0, 6, size=(3, 6, 5)).astype(float), rng.normal(size=(6, 5))
    assert rank_correlations(maps, truth) == pytest.approx([spearmanr(m.ravel(), truth.ravel())[0] for m in maps])


def test_partial_correlations_are_those_of_the_inverse_matrix_of_correlations():
    rng = np.random.default_rng(1)
    one, truth = rng.normal(size=(2, 6, 5))
    ranks = [rankdata(each) for each in (one, truth, *depth_maps(6, 5).values())]
    inverse = np.linalg.inv(np.corrcoef(ranks))
    by_matrix = -inverse[0, 1] / np.sqrt(inverse[0, 0] * inverse[1, 1])
    assert rank_correlations(one[None], truth, LINEAR)[0] == pytest.approx(by_matrix)


def test_partial_correlation_by_hand():
    """Of 2 x 2 cells, depth leaves one contrast: both diagonals, here against each other."""
    truth = np.array([[4.0, 1.0], [2.0, 3.0]])  # diagonal 7, other 3
    with_it, against_it = np.array([[9.0, 2.0], [1.0, 5.0]]), np.array([[1.0, 8.0], [9.0, 2.0]])
    # the ranks of u + g tie the other diagonal, which leaves the contrast (1, -1, -1, 1) / 2 as it is
    assert rank_correlations(np.stack([with_it, against_it]), truth, LINEAR) == pytest.approx([1, -1])


def test_depth_alone_has_a_rank_correlation_and_no_partial_one():
    u, g = np.meshgrid(np.arange(6.0), np.arange(5.0), indexing="ij")
    truth = np.exp(-u / 2) * np.exp(-g / 3)
    every = np.stack(list(depth_maps(6, 5).values()))
    assert rank_correlations(every, truth)[2] > 0.9
    assert rank_correlations(every, truth, LINEAR).tolist() == [0, 0, 0]
    hump = -((u - 3) ** 2) - (g - 2) ** 2
    noisy = hump + np.random.default_rng(0).normal(size=(6, 5))
    assert rank_correlations(hump[None], noisy, LINEAR)[0] > 0.8
    assert abs(rank_correlations(hump[None], noisy, CURVED)[0]) < 0.4


def test_a_constant_map_predicts_nothing():
    assert rank_correlations(np.ones((1, 6, 5)), np.arange(30.0).reshape(6, 5)).tolist() == [0]


@pytest.mark.parametrize("powers", [0, LINEAR])
def test_p_is_uniform_where_maps_and_truths_are_unrelated(powers):
    rng = np.random.default_rng(2)
    draws = [(rng.normal(size=(4, 20, 6, 5)), rng.normal(size=(4, 6, 5))) for _ in range(20)]
    p = [permutation_p(list(maps), list(truths), powers, 199, seed) for seed, (maps, truths) in enumerate(draws)]
    p = np.concatenate(p)
    assert kstest(p, "uniform").pvalue > 0.01
    assert np.mean(p <= 0.05) < 0.09


def test_neighbours_stay_neighbours_so_one_pair_has_120_permutations():
    truth = np.random.default_rng(3).normal(size=(6, 5))
    p = permutation_p([np.stack([truth, -truth])], [truth])
    assert p == pytest.approx([1 / 120, 1], abs=0.004)
    four = permutation_p([truth[None]] * 4, [truth] * 4)
    assert four[0] <= 2e-4  # all four at once


def test_smooth_maps_that_are_unrelated_are_seldom_significant():
    """Unrelated maps that drift over the blocks: shifts keep their neighbours, so the error stays near its level."""
    rng = np.random.default_rng(4)
    walks = rng.normal(size=(20, 4, 6, 6, 5)).cumsum(-2).cumsum(-1)
    p = np.array([permutation_p(list(each[:, :5]), list(each[:, 5]), LINEAR, 199, 0) for each in walks])
    assert np.mean(p <= 0.05) < 0.25


def test_bootstrap_is_over_pairs_and_seeds():
    truth = np.random.default_rng(5).normal(size=(1, 6, 5))
    sure = bootstrap_correlations([truth, truth], [truth, truth], draws=50)
    assert sure == pytest.approx(np.ones((50, 1)))
    split = bootstrap_correlations([truth, -truth], [truth, truth], draws=400)
    assert set(np.round(split[:, 0], 6)) == {-1, 0, 1}
    assert split.mean() == pytest.approx(0, abs=0.15)
    seeds = np.concatenate([truth, -truth])
    assert bootstrap_correlations([truth], [seeds], draws=400).std() > 0.5


def test_noise_ceiling_is_spearman_browns():
    truth = np.random.default_rng(6).normal(size=(6, 5))
    seeds = np.stack([truth, truth + np.random.default_rng(7).normal(size=(6, 5))])
    one = spearmanr(seeds[0].ravel(), seeds[1].ravel())[0]
    assert noise_ceiling(seeds) == pytest.approx((one, 2 * one / (1 + one), np.sqrt(2 * one / (1 + one))))
    assert noise_ceiling(np.stack([truth, -truth])) == pytest.approx((-1, 0, 0))


def test_holm_by_hand():
    # sorted .005 .01 .03 .04: times 4, 3, 2, 1 is .02 .03 .06 .04, and none is below the one before it
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]).tolist() == [1, 1]
