"""The maps of subsets are those that each subset has by itself."""

from __future__ import annotations

import numpy as np
import pytest

from bridgework.probes.metrics import METRICS
from bridgework.probes.similarity.intervals import half_k, random_halves
from bridgework.probes.similarity.scoring import similarity_map
from bridgework.probes.similarity.subsampled_maps import subsampled_maps


def stacks(dtype: type):
    g = np.random.default_rng(0)
    x = g.standard_normal((3, 64, 8)) + g.standard_normal((3, 64, 1))
    y = x[:2] + g.standard_normal((2, 64, 8))
    return x.astype(dtype), y.astype(dtype)


@pytest.mark.parametrize("metric", sorted(METRICS.keys() - {"cka_rbf"}))
def test_a_subset_scores_as_if_it_were_alone(metric):
    subsets = [chosen for pair in random_halves(64, 2, block=4) for chosen in pair]
    near = half_k(metric, 9, 32, 64)
    for dtype, error in ((np.float64, 1e-12), (np.float32, 1e-6)):
        x, y = stacks(dtype)
        maps = subsampled_maps(x, y, metric, 9, subsets, near)
        for scores, chosen in zip(maps, subsets, strict=True):
            alone = similarity_map(x[:, chosen], y[:, chosen], metric, near)
            np.testing.assert_allclose(scores, alone, rtol=0, atol=error)


def test_halves_are_whole_blocks_and_share_nothing():
    for one, other in random_halves(26, 5, seed=3, block=2):
        assert len(one) == len(other) == 12 and not set(one) & set(other)
        for half in (one, other):
            assert (np.diff(half) > 0).all()
            assert set(half // 2 * 2) | set(half // 2 * 2 + 1) == set(half)
    assert half_k("mutual_knn", 10, 32, 64) == 5
    assert (half_k("cknna", 2, 32, 64), half_k("mutual_knn", 50, 26, 52)) == (2, 25)


def test_a_subset_that_is_too_small_is_named():
    x, y = stacks(np.float64)
    with pytest.raises(ValueError, match="k must be an integer from 1 to samples - 1 = 8, got 9"):
        subsampled_maps(x, y, "mutual_knn", 9, [np.arange(9)])
