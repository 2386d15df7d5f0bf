"""What holds for scores of any features: the invariances of each metric, and no NaN that nobody asked for."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ortho_group

from bridgework.probes import METRICS, similarity, similarity_map
from bridgework.tests.properties.settings import QUICK

ROTATION = {*METRICS} - {"rsa", "pwcca", "cosine", "modality_gap", "cka_units"}  # does not see x turned
SHIFT = {"cka", "cka_biased", "cka_rbf", "cka_units", "svcca", "pwcca", "procrustes", "linear_probe"}  # nor x moved
ORDER = {*METRICS} - {"linear_probe", "mutual_knn", "cknna", "information_imbalance"}  # nor both in another order
SYMMETRIC = {*METRICS} - {"linear_probe", "pwcca", "information_imbalance", "cknna"}  # cknna is nearly so
SAME = {"abs": 2e-6, "rel": 2e-6, "nan_ok": True}  # cka_units of few units is NaN at times, and says so

pytestmark = pytest.mark.filterwarnings("ignore")


def sides(seed: int, samples: int = 24, dims: int = 6) -> tuple[np.ndarray, np.ndarray]:
    """Two sides that have something in common, float64."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((samples, dims))
    return x, x @ rng.standard_normal((dims, dims)) + rng.standard_normal((samples, dims))


def score(x, y, metric: str) -> float:
    return similarity(x, y, metric, k=3)


@pytest.mark.parametrize("metric", METRICS)
@settings(QUICK)
@given(seed=st.integers(0, 2**32), power=st.integers(-120, 120))
def test_no_score_sees_the_scale(metric, seed, power):
    x, y = sides(seed)
    found = score(x, y, metric)
    assert np.isfinite(found) or metric == "cka_units"
    assert score(x * 10.0**power, y, metric) == pytest.approx(found, **SAME)


@pytest.mark.parametrize("metric", sorted(ROTATION))
@settings(QUICK)
@given(seed=st.integers(0, 2**32))
def test_turned_features_score_the_same(metric, seed):
    x, y = sides(seed)
    turned = x @ ortho_group.rvs(x.shape[1], random_state=seed % 2**31)
    assert score(turned, y, metric) == pytest.approx(score(x, y, metric), **SAME)


@pytest.mark.parametrize("metric", sorted(SHIFT))
@settings(QUICK)
@given(seed=st.integers(0, 2**32), shift=st.floats(-100, 100))
def test_moved_features_score_the_same(metric, seed, shift):
    x, y = sides(seed)
    moved = x + shift * np.arange(1, x.shape[1] + 1)
    assert score(moved, y, metric) == pytest.approx(score(x, y, metric), abs=2e-5, nan_ok=True)


@pytest.mark.parametrize("metric", sorted(ORDER))
@settings(QUICK)
@given(seed=st.integers(0, 2**32))
def test_the_order_of_samples_does_not_matter(metric, seed):
    x, y = sides(seed)
    order = np.random.default_rng(seed).permutation(len(x))
    assert score(x[order], y[order], metric) == pytest.approx(score(x, y, metric), **SAME)


@pytest.mark.parametrize("metric", sorted(SYMMETRIC))
@settings(QUICK)
@given(seed=st.integers(0, 2**32))
def test_both_sides_are_alike(metric, seed):
    x, y = sides(seed)
    assert score(y, x, metric) == pytest.approx(score(x, y, metric), **SAME)


@pytest.mark.parametrize("metric", METRICS)
@settings(QUICK)
@given(seed=st.integers(0, 2**32), repeated=st.integers(0, 23), zeros=st.integers(0, 23))
def test_a_score_is_a_number_or_a_side_is_constant(metric, seed, repeated, zeros):
    """Repeated rows and rows of zeros are said, and where a score is NaN, a whole side says nothing."""
    x, y = sides(seed)
    x[:repeated], x[len(x) - zeros :] = x[0], 0.0
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        found = score(x, y, metric)
    varied = len(np.unique(x, axis=0)) > 1
    if not np.isfinite(found):
        # Documented: all samples alike or equally far apart; rsa: a constant sample; cknna: nothing in common.
        assert not varied or said or metric in ("rsa", "cknna", "cka", "cka_units", "cka_rbf")
    if repeated > 2 or zeros > 1:
        assert said


@settings(QUICK)
@given(seed=st.integers(0, 2**32), layers=st.integers(1, 3))
def test_a_map_holds_the_scores_of_its_pairs(seed, layers):
    pairs = [sides(seed + number) for number in range(layers)]
    heat = similarity_map([x for x, _ in pairs], [y for _, y in pairs], "cka")
    for i, (x, _) in enumerate(pairs):
        for j, (_, y) in enumerate(pairs):
            assert heat.iloc[i, j] == pytest.approx(score(x, y, "cka"), **SAME)
