"""Nulls are those of the permuted features, p is calibrated, and intervals cover the truth as often as they say."""

from __future__ import annotations

import numpy as np
import pytest

from bridgework.probes.metrics import METRICS
from bridgework.probes.similarity.intervals import curve_draws, interval
from bridgework.probes.similarity.nulls import curve_null, map_moments, map_null
from bridgework.probes.similarity.scoring import similarity, similarity_map


def rng(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def correlated(g: np.random.Generator, samples: int, signal: float, dim: int = 8, shared: int = 4):
    """Two (sample, dim) sets of Gaussians of which some dims are correlated."""
    common = signal**0.5 * g.standard_normal((samples, shared))
    sides = []
    for _ in range(2):
        side = g.standard_normal((samples, dim))
        side[:, :shared] = common + (1 - signal) ** 0.5 * side[:, :shared]
        sides.append(side)
    return sides[0], sides[1]


@pytest.mark.parametrize("metric", [name for name in METRICS if name not in ("linear_probe", "modality_gap")])
def test_null_is_the_score_of_permuted_features(metric):
    x, y = rng(0).standard_normal((2, 24, 6)), rng(1).standard_normal((3, 24, 6))
    null = map_null(x, y, metric, k=4, permutations=6, seed=3)
    np.testing.assert_allclose(null.observed, similarity_map(x, y, metric, 4), atol=1e-12)
    drawn = turns(24, 6, 3) if METRICS[metric].turned else permutations(24, 6, 3)
    for permutation, order in enumerate(map(np.argsort, drawn)):
        # permuting x back is permuting y
        np.testing.assert_allclose(null.scores[permutation], similarity_map(x[:, order], y, metric, 4), atol=1e-12)
    curve = curve_null([(x[0], y[1]), (x[1], y[2])], metric, k=4, permutations=6, seed=3)
    np.testing.assert_allclose(curve.scores, null.scores[:, [0, 1], [1, 2]], atol=1e-12)


def permutations(samples: int, count: int, seed: int) -> list[np.ndarray]:
    g = rng([seed, 0])  # type: ignore[arg-type]
    return [g.permutation(samples) for _ in range(count)]


def turns(samples: int, count: int, seed: int) -> list[np.ndarray]:
    """Turns of one random circle, by as many different numbers of places."""
    g = rng([seed, 0])  # type: ignore[arg-type]
    circle, orders = g.permutation(samples), []
    for places in 1 + g.choice(samples - 1, count, replace=False):
        order = np.empty(samples, int)
        order[circle] = np.roll(circle, -places)
        orders.append(order)
    return orders


@pytest.mark.parametrize("samples", [40, 41])
def test_all_turns_of_a_circle_and_then_permutations_drawn_one_by_one(samples):
    x, y = (rng(s).standard_normal((2, samples, 7)).astype("f") for s in range(2))
    x[0], y[1] = 0.1, y[1] + x[1]
    turned, drawn = (map_null(x, y, "cka", permutations=count, seed=2) for count in (samples - 1, samples))
    for null, orders in ((turned, turns(samples, samples - 1, 2)), (drawn, permutations(samples, samples, 2))):
        assert np.isnan(null.scores[:, 0]).all()
        wanted = [similarity_map(x[1:], y[:, order], "cka").to_numpy()[0] for order in orders]
        np.testing.assert_allclose(null.scores[:, 1], wanted, atol=1e-6)
        assert (null.p[1, 0] > 0.05) and (null.p[1, 1] == 1 / (1 + len(orders)))
    again, others = (map_null(x, y, "cka", permutations=samples - 1, seed=seed).scores for seed in (2, 3))
    assert np.array_equal(turned.scores, again, equal_nan=True)
    assert not np.array_equal(turned.scores[:, 1], others[:, 1])


def test_turns_of_one_circle_reject_as_often_as_they_say():
    # heavy tails make few samples decide, which is where draws that depend on each other would show
    g = rng(5)
    found = []
    for seed in range(400):
        x, y = (g.standard_normal((1, 40, 3)) * g.standard_t(2, (1, 40, 1)) for _ in range(2))
        found.append(map_null(x, y, "cka", permutations=39, seed=seed).p[0, 0])
    # 400 draws of a uniform p: .05 has a standard deviation of .011, .5 one of .025, the mean one of .0144
    assert 0.02 <= np.mean(np.array(found) <= 0.05) <= 0.08
    assert 0.43 <= np.mean(np.array(found) <= 0.5) <= 0.57
    assert 0.46 <= np.mean(found) <= 0.55


def test_p_of_a_distance_counts_what_is_as_small():
    x, y = rng(0).standard_normal((3, 30, 5)), rng(1).standard_normal((4, 30, 5))
    y[2] = x[1] + 0.1 * y[2]
    null = map_null(x, y, "information_imbalance", k=3, permutations=39)
    assert null.p[1, 2] == null.peak_p == null.adjusted_p[1, 2] == pytest.approx(1 / 40)
    np.testing.assert_allclose(null.p, (1 + (null.scores <= null.observed + 1e-6).sum(0)) / 40)
    np.testing.assert_allclose(null.peaks, null.scores.min((1, 2)))
    assert null.peak95 < null.top95.min() < null.mean.min()
    assert null.mean.mean() == pytest.approx(1, abs=0.02)
    assert null.scaled[1, 2] == null.scaled.max() > null.peak_scaled > 0.5
    assert null.left_above(null.observed)[1, 2] == pytest.approx(1 - null.observed[1, 2] / null.top95[1, 2])


def test_p_counts_the_observed_score_and_peaks_serve_all_layers():
    x, y = rng(0).standard_normal((3, 30, 5)), rng(1).standard_normal((4, 30, 5))
    y[2] = x[1] + 0.1 * y[2]
    null = map_null(x, y, "cka", permutations=39)
    assert null.p[1, 2] == pytest.approx(1 / 40)
    assert null.peak_p == pytest.approx(1 / 40)
    np.testing.assert_allclose(null.p, (1 + (null.scores >= null.observed).sum(0)) / 40)
    np.testing.assert_allclose(null.peaks, null.scores.max((1, 2)))
    assert (null.adjusted_p >= null.p).all()
    assert null.peak95 > null.top95.max()
    assert null.mean.shape == (3, 4)


def test_the_maximum_of_unrelated_layers_is_calibrated():
    g = rng(4)
    found, naive = [], []
    for seed in range(80):
        null = map_null(g.standard_normal((4, 16, 6)), g.standard_normal((4, 16, 6)), "cka", permutations=39, seed=seed)
        found.append(null.peak_p)
        naive.append(null.p.min())
    assert np.mean(np.array(found) <= 0.05) <= 0.125
    assert np.mean(np.array(naive) <= 0.05) >= 0.3
    assert 0.4 < np.mean(found) < 0.62


def test_constant_layers_have_no_p():
    x, y = rng(0).standard_normal((2, 20, 4)), rng(1).standard_normal((2, 20, 4))
    x[0] = 1
    for metric in ("cka", "cka_biased", "cka_rbf", "mutual_knn", "cknna", "svcca", "pwcca", "procrustes", "rsa"):
        null = map_null(x, y, metric, k=4, permutations=9)
        assert np.isnan(null.p).tolist() == [[True, True], [False, False]]
        assert np.isfinite(null.peak_p)


def test_a_null_moves_whole_blocks():
    x, y = rng(0).standard_normal((2, 24, 5)), rng(1).standard_normal((2, 24, 6))
    null = map_null(x, y, "cka", permutations=3, seed=5, block=4)
    for permutation, order in enumerate(permutations(6, 3, 5)):
        moved = (order[:, None] * 4 + np.arange(4)).ravel()
        np.testing.assert_allclose(null.scores[permutation], similarity_map(x, y[:, moved], "cka"), atol=1e-12)
    curve = curve_null([(x[0], y[0])], "cka", permutations=3, seed=5, block=4)
    np.testing.assert_allclose(curve.scores[:, 0], null.scores[:, 0, 0], atol=1e-12)


def test_patches_of_one_image_are_not_exchangeable():
    # what the patches of an image have in common is unrelated between x and y, and yet permuting patches finds it
    g = rng(3)
    patchwise, imagewise = [], []
    for seed in range(40):
        x, y = (np.repeat(g.standard_normal((12, 4)), 8, 0) + 0.3 * g.standard_normal((96, 4)) for _ in range(2))
        patchwise.append(map_null(x[None], y[None], "cka", permutations=39, seed=seed).p[0, 0])
        imagewise.append(map_null(x[None], y[None], "cka", permutations=39, seed=seed, block=8).p[0, 0])
    assert np.mean(np.array(patchwise) <= 0.05) > 0.3
    assert np.mean(np.array(imagewise) <= 0.05) <= 0.15


def test_scaled_scores_are_what_is_left_above_the_threshold():
    # Algorithms 1 and 2 of arXiv 2602.14486, as their authors' package computes them
    x, y = rng(0).standard_normal((3, 30, 5)), rng(1).standard_normal((2, 30, 5))
    y[1] = x[1] + 0.1 * y[1]
    null = map_null(x, y, "cka", permutations=39)
    for i in range(3):
        for j in range(2):
            together = np.sort([*null.scores[:, i, j], null.observed[i, j]])
            threshold = together[38 - 1]  # ceil(.95 * 40) = 38
            wanted = max(null.observed[i, j] - threshold, 0) / (1 - threshold)
            assert null.scaled[i, j] == pytest.approx(wanted)
    together = np.sort([*null.scores.max((1, 2)), null.observed.max()])
    assert null.peak_scaled == pytest.approx((null.observed.max() - together[37]) / (1 - together[37]))
    assert null.scaled[1, 1] > 0.8
    assert (np.delete(null.scaled.ravel(), 3) < 0.3).all()


def test_moments_are_a_null_without_permuting():
    x, y = (rng(s).standard_normal((2, 60, 4)) * np.array([3, 1, 1, 1]) for s in range(2))
    y[1] += x[0]
    moments, null = map_moments(x, y), map_null(x, y, "cka", permutations=4000)
    np.testing.assert_allclose(moments.observed, null.observed, atol=1e-12)
    np.testing.assert_allclose(null.scores.std(0), moments.deviation, rtol=0.1)
    assert (moments.skewness > 1).all()
    np.testing.assert_allclose(moments.top95, null.top95, atol=0.15 * moments.deviation)
    assert moments.p[0, 1] < 1e-3
    assert (np.delete(moments.p.ravel(), 1) > 0.3).all()


def test_moments_give_calibrated_p():
    # with three dims the null is as skewed as it gets; a normal null would reject 7 % instead of 5
    g = rng(8)
    found = np.array([map_moments(*g.standard_normal((2, 5, 40, 3))).p for _ in range(120)])
    assert 0.035 <= np.mean(found <= 0.05) <= 0.065
    assert 0.45 <= found.mean() <= 0.55


def test_draws_are_centred_and_paired():
    pairs = [correlated(rng(s), 41, 0.8) for s in range(2)]
    for metric in METRICS.keys() - {"cka_units"}:  # which says nothing of units that have nothing in common
        scores, draws = curve_draws([pairs[0], pairs[0], pairs[1]], metric, k=6, seed=2, splits=6)
        assert draws.shape == (12, 3)
        np.testing.assert_allclose(scores, [similarity(x, y, metric, 6) for x, y in (pairs[0], pairs[0], pairs[1])])
        np.testing.assert_allclose(draws.mean(0), scores, atol=1e-12)
        np.testing.assert_array_equal(draws[:, 0], draws[:, 1])
        np.testing.assert_array_equal(draws[:, 2], curve_draws([pairs[1]], metric, k=6, seed=2, splits=6)[1][:, 0])
        assert not np.array_equal(draws[:, 0], curve_draws(pairs[:1], metric, k=6, seed=3, splits=6)[1][:, 0])
        low, high = interval(scores, draws)
        assert (low < scores).all()
        np.testing.assert_allclose(high - scores, scores - low)


def test_too_few_samples_for_halves_give_no_interval():
    scores, draws = curve_draws([correlated(rng(0), 6, 0.8)], "cka")
    assert np.isfinite(scores).all()
    assert np.isnan(draws).all()
    assert np.isfinite(curve_draws([correlated(rng(0), 8, 0.8)], "cka")[1]).all()
    assert np.isfinite(curve_draws([correlated(rng(0), 5, 0.8)], "mutual_knn", k=4)[1]).all()


@pytest.mark.parametrize(
    ("metric", "signal"),
    [("cka", 0.0), ("cka", 0.6), ("cka", 0.95), ("mutual_knn", 0.0), ("mutual_knn", 0.9), ("rsa", 0.6)],
)
def test_intervals_cover_the_truth(metric, signal):
    # The truth for this number of samples is the mean over many fresh sets. At .95, 200 sets cover it 190 times with a
    # standard deviation of 3, so the bounds leave three of them below and two above. They were tried on intervals that
    # are wrong, with these 20 splits: half the variance fails below in all six cases, the difference var(D) - var(A) of
    # `curve_draws` too, two thirds of the variance in five; twice the variance fails above in five, var(D) in one.
    samples, k, g = 64, 8, rng(7)
    truth = np.mean([similarity(*correlated(g, samples, signal), metric, k) for _ in range(500)])
    covered = 0
    for _ in range(200):
        scores, draws = curve_draws([correlated(g, samples, signal)], metric, k, splits=20)
        low, high = interval(scores, draws)
        covered += bool(low[0] <= truth <= high[0])
    assert 0.9 <= covered / 200 <= 0.98, covered


def test_bad_input_is_named():
    x = rng(0).standard_normal((2, 10, 3))
    with pytest.raises(ValueError, match="permutations is 0: expected a whole number from 1"):
        map_null(x, x, "cka", permutations=0)
    with pytest.raises(ValueError, match="10 samples are not whole blocks of 3"):
        map_null(x, x, "cka", block=3)
    with pytest.raises(ValueError, match="modality_gap does not see which samples belong together"):
        map_null(x, x, "modality_gap")
    with pytest.raises(ValueError, match="cka needs at least 4 samples, got 3"):
        map_moments(x[:, :3], x[:, :3])
    with pytest.raises(ValueError, match="cosine compares x and y dim by dim"):
        curve_draws([(x[0], x[1, :, :2])], "cosine")
    with pytest.raises(ValueError, match="unknown metric 'no'"):
        map_null(x, x, "no")
    hole = x.copy()
    hole[0, 3] = np.nan
    for judge in (curve_null, curve_draws):
        for metric in ("mutual_knn", "rsa", "svcca", "cka"):
            with pytest.raises(ValueError, match="x holds NaN or infinity"):
                judge([(hole[0], x[1])], metric, 3)
        with pytest.raises(ValueError, match=r"x must be \(sample, dim\), got shape \(10,\)"):
            judge([(x[0, :, 0], x[1])], "cka")
        with pytest.raises(ValueError, match="pair 1 has 9 samples, pair 0 has 10"):
            judge([(x[0], x[1]), (x[0, :9], x[1, :9])], "cka")
    with pytest.raises(ValueError, match="unknown metric 'no'"):
        curve_null([(x[0], x[1])], "no")
    with pytest.raises(ValueError, match="x has 10 samples, y has 9"):
        curve_draws([(x[0], x[1, :9])], "cka")
