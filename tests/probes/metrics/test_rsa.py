"""RSA is the Spearman correlation of the two sides' correlation distances, ties and all."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from bridgework.probes.metrics.rsa import RSA


def rng(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def score(x: np.ndarray, y: np.ndarray) -> float:
    return RSA.scores([torch.from_numpy(x)], [torch.from_numpy(y)], 0)[0, 0]


def naive(x: np.ndarray, y: np.ndarray) -> float:
    above = np.triu_indices(len(x), 1)
    # twelve digits: what agrees up to rounding is a tie
    return spearmanr(*(np.round(1 - np.corrcoef(side.astype(float)), 12)[above] for side in (x, y))).statistic


def related(name: str) -> tuple[np.ndarray, np.ndarray]:
    x, y = rng(0).standard_normal((60, 12)), rng(1).standard_normal((60, 9))
    y += x[:, :9]
    if name == "common offset":
        x += 30
    if name == "massive dimension":
        x[:, 2] *= 1000
    if name == "tiny":
        x, y = x * 1e-4, y * 1e-30
    if name == "ties":
        x, y = np.round(x[rng(2).integers(0, 20, 60)]), (y > 0.5).astype(float)
        y[:, 0], y[:, 1] = 0, 1
    return x.astype("f"), y.astype("f")


@pytest.mark.parametrize("name", ["plain", "common offset", "massive dimension", "tiny", "ties"])
def test_rsa_is_spearman_of_correlation_distances(name):
    x, y = related(name)
    assert score(x, y) == pytest.approx(naive(x, y), abs=1e-6)
    assert score(x.astype(float), y.astype(float)) == pytest.approx(naive(x, y), abs=1e-12)
    tables = [RSA.prepare(torch.from_numpy(side), 0) for side in (x, y)]
    assert RSA.compare(tables[:1], tables[1:], 0)[0, 0] == pytest.approx(naive(x, y), abs=1e-6)


@pytest.mark.parametrize("dtype", ["f", "d"])
def test_a_pattern_that_all_samples_share_costs_no_digits(dtype):
    g = rng(7)
    own, pattern, y = g.standard_normal((120, 12)), g.standard_normal(12), g.standard_normal((120, 6))
    y[:, :6] += own[:, :6]
    for size, precise in ((10, "f"), (3e4, "d")):
        if dtype == precise or dtype == "d":
            x = (own + size * pattern).astype(dtype)
            long = x.astype(np.longdouble)
            unit = long - long.mean(1, keepdims=True)
            unit /= np.sqrt((unit**2).sum(1, keepdims=True))
            distances = ((unit[:, None] - unit[None]) ** 2).sum(2)[np.triu_indices(120, 1)]
            wanted = spearmanr(distances.astype(float), 1 - np.corrcoef(y)[np.triu_indices(120, 1)]).statistic
            assert score(x, y.astype(dtype)) == pytest.approx(wanted, abs=1e-5)


@pytest.mark.parametrize("dtype", ["f", "d"])
def test_equal_samples_are_nan(dtype):
    x, y = related("plain")
    same = np.repeat(x[:1], 60, 0).astype(dtype)
    assert np.isnan(score(same, y.astype(dtype)))


def test_invariances_and_what_is_none():
    x, y = (side.astype(float) for side in related("plain"))
    value, order = score(x, y), rng(3).permutation(60)
    assert score(x, x) == pytest.approx(1)
    assert score(y, x) == pytest.approx(value, abs=1e-12)
    assert score(x[order], y[order]) == pytest.approx(value, abs=1e-12)
    lengths, offsets = rng(4).uniform(1, 9, (60, 1)), rng(5).standard_normal((60, 1))
    assert score(x * lengths + offsets, y) == pytest.approx(value, abs=1e-12)  # of each sample by itself
    turn = np.linalg.qr(rng(2).standard_normal((12, 12)))[0]
    assert abs(score(x @ turn, y) - value) > 1e-3  # the mean over dims is not kept by rotations
    assert abs(score(x[order], y) - value) > 0.05
    assert score(x, y) == value  # the same bits


def test_subsets_are_ranked_again():
    x, y = related("plain")
    chosen = np.sort(rng(2).permutation(60)[:25])
    parts = [RSA.subset(RSA.prepare(torch.from_numpy(side), 0), chosen, 0) for side in (x, y)]
    assert RSA.compare(parts[:1], parts[1:], 0)[0, 0] == pytest.approx(naive(x[chosen], y[chosen]), abs=1e-6)
    assert RSA.subset(None, chosen, 0) is None


def test_a_sample_without_variance_and_equal_distances_are_nan():
    x, y = related("plain")
    flat = x.copy()
    flat[3] = 0.1
    assert np.isnan(score(flat, y))
    assert np.isnan(score(x, np.eye(60, dtype="f")))
    both = RSA.scores([torch.from_numpy(side) for side in (flat, x)], [torch.from_numpy(x)], 0)
    assert np.isnan(both).ravel().tolist() == [True, False]
    assert both[1, 0] == pytest.approx(1)
