"""Neighbours are those of exact arithmetic, ties go by index, and scores are the plain counts."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch

from bridgework.probes.metrics import METRICS, neighbours
from bridgework.probes.metrics.estimators import nearest_rows
from bridgework.probes.metrics.metric import unit_rows
from bridgework.probes.metrics.neighbours import nearest, prepare, subset


def rng(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def score(metric: str, x: np.ndarray, y: np.ndarray, k: int = 10) -> float:
    return METRICS[metric].scores([torch.from_numpy(x)], [torch.from_numpy(y)], k)[0, 0]


def ranking(x: np.ndarray, count: int | None = None) -> np.ndarray:
    """Neighbours in order, from float32 features if they are."""
    unit = unit_rows(torch.from_numpy(x))
    return nearest(unit, count or len(x) - 1, single=x.dtype == np.float32, ordered=True)[0]


def plain_neighbours(x: np.ndarray, k: int) -> list[set[int]]:
    unit = x.astype(float) / np.linalg.norm(x.astype(float), axis=1, keepdims=True)
    cosines = unit @ unit.T
    np.fill_diagonal(cosines, -np.inf)
    return [set(row[:k]) for row in np.argsort(-cosines, axis=1, kind="stable").tolist()]


@pytest.mark.parametrize("k", [1, 4, 10, 29])
def test_mutual_knn_is_the_plain_count(k):
    x, y = rng(0).standard_normal((30, 5)), rng(1).standard_normal((30, 8))
    y[:, :5] += x
    both = zip(plain_neighbours(x, k), plain_neighbours(y, k))
    assert score("mutual_knn", x, y, k) == pytest.approx(np.mean([len(a & b) / k for a, b in both]))
    if k == 29:
        assert score("mutual_knn", x, y, k) == 1


def test_mutual_knn_is_cosine_and_uncentred():
    x, y = rng(0).standard_normal((50, 5)), rng(1).standard_normal((50, 5))
    lengths = rng(2).uniform(0.1, 10, (50, 1))
    assert score("mutual_knn", x * lengths, y) == score("mutual_knn", x, y)
    assert score("mutual_knn", x + 2, x) < 0.9


def test_mutual_knn_keeps_exact_neighbours_under_a_large_common_mean():
    # the cosines differ in their last digits only; angles in exact arithmetic are the reference
    g = rng(0)
    offset = 2.0**20
    x = (offset + np.round(g.standard_normal((24, 3)) * 64) / 64).astype("f")
    rows = [[Fraction(float(v)) for v in row] for row in x]

    def squared_cosine(a, b):
        return sum(p * q for p, q in zip(a, b)) ** 2 / (sum(p * p for p in a) * sum(q * q for q in b))

    ranked = ranking(x)
    for i, row in enumerate(rows):
        others = [j for j in range(len(rows)) if j != i]
        wanted = sorted(others, key=lambda j: (-squared_cosine(row, rows[j]), j))
        assert ranked[i].tolist() == wanted


def test_ties_go_to_the_lower_index():
    # bags of words: most cosines are equal, but their sums round differently
    words = (rng(0).random((60, 200)) < 0.04).astype("f")
    words[:, 0] = 1
    counts = (words @ words.T).astype(int)
    ranked = ranking(words)
    for i in range(60):
        others = [j for j in range(60) if j != i]
        wanted = sorted(others, key=lambda j: (-Fraction(int(counts[i, j]) ** 2, int(counts[j, j])), j))
        assert ranked[i].tolist() == wanted
    twins = np.repeat(rng(1).standard_normal((1, 6)), 5, 0) * np.array([[1], [3], [0.7], [1], [11]])
    twins = np.vstack([twins, rng(2).standard_normal((4, 6))])
    ranked = ranking(twins)
    assert ranked[2, :4].tolist() == [0, 1, 3, 4]


def test_zero_rows_have_cosine_zero():
    x = np.array([[1.0, 0], [0, 0], [-1, 0.1], [1, 0.1], [0, 0]])
    ranked = ranking(x)
    assert ranked.tolist() == [[3, 1, 4, 2], [0, 2, 3, 4], [1, 4, 3, 0], [0, 1, 4, 2], [0, 1, 2, 3]]


def naive_cknna(x: np.ndarray, y: np.ndarray, k: int) -> float:
    """The code published with Huh et al. 2024, without its epsilon."""
    grams, masks = [], []
    for side in (x.astype(float), y.astype(float)):
        unit = np.nan_to_num(side / np.linalg.norm(side, axis=1, keepdims=True))
        gram = np.round(unit @ unit.T, 12)
        np.fill_diagonal(gram, -np.inf)
        mask = np.zeros_like(gram)
        np.put_along_axis(mask, np.argsort(-gram, axis=1, kind="stable")[:, :k], 1, axis=1)
        np.fill_diagonal(gram, 0)
        grams.append(gram)
        masks.append(mask)

    def hsic(i, j):
        a, b = masks[i] * masks[j] * grams[i], masks[i] * masks[j] * grams[j]
        n = len(a)
        return (a * b.T).sum() + a.sum() * b.sum() / ((n - 1) * (n - 2)) - 2 * (a @ b).sum() / (n - 2)

    return hsic(0, 1) / np.sqrt(hsic(0, 0) * hsic(1, 1))


@pytest.mark.parametrize("k", [11, 10, 3])
@pytest.mark.parametrize("dtype", ["f", "d"])
def test_cknna_of_zero_rows(k, dtype):
    x, y = rng(0).standard_normal((12, 4)).astype(dtype), rng(1).standard_normal((12, 4)).astype(dtype)
    x[[3, 7]] = 0
    y += x
    with np.errstate(invalid="ignore"):
        wanted = naive_cknna(x, y, k)
    assert score("cknna", x, y, k) == pytest.approx(wanted, abs=1e-5)


@pytest.mark.parametrize("dtype", ["f", "d"])
@pytest.mark.parametrize("samples", [6, 40])
def test_cknna_of_all_neighbours_under_an_offset_keeps_its_digits(samples, dtype):
    x, y = (rng(s).standard_normal((samples, 8)).astype(dtype) + 300 for s in range(2))
    y = y + x
    unit = [side.astype(np.longdouble) for side in (x, y)]
    unit = [side / np.sqrt((side**2).sum(1, keepdims=True)) for side in unit]
    x_long, y_long = (1 - ((side[:, None] - side) ** 2).sum(2) / 2 for side in unit)

    def hsic(a, b):  # all but the diagonal are neighbours
        a, b = (side - np.diag(np.diag(side)) for side in (a - 1, b - 1))
        total = a.sum() * b.sum() / ((samples - 1) * (samples - 2))
        return (a * b.T).sum() + total - 2 * (a.sum(0) * b.sum(1)).sum() / (samples - 2)

    wanted = hsic(x_long, y_long) / np.sqrt(hsic(x_long, x_long) * hsic(y_long, y_long))
    assert score("cknna", x, y, samples - 1) == pytest.approx(float(wanted), abs=1e-5)


def test_a_subset_of_one_direction_is_none():
    x = rng(0).standard_normal((20, 3))
    x[:8] = 0
    assert subset(prepare(torch.from_numpy(x), 3), np.arange(8), 2) is None
    assert subset(prepare(torch.from_numpy(x), 3), np.arange(10), 2) is not None


@pytest.mark.parametrize("k", [1, 2, 5, 20, 59])
@pytest.mark.parametrize("noise", [0.3, 3.0])
def test_cknna_is_the_published_code(k, noise):
    x, y = rng(0).standard_normal((60, 5)), noise * rng(1).standard_normal((60, 8))
    y[:, :5] += x
    assert score("cknna", x, y, k) == pytest.approx(naive_cknna(x, y, k), abs=1e-12)
    x, y = x.astype("f"), y.astype("f")
    assert score("cknna", x, y, k) == pytest.approx(naive_cknna(x, y, k), abs=1e-5)


@pytest.mark.parametrize("metric", ["mutual_knn", "cknna"])
def test_invariances_and_what_is_none(metric):
    x, y = rng(0).standard_normal((50, 7)), rng(1).standard_normal((50, 9))
    y[:, :7] += x
    turn, order = np.linalg.qr(rng(2).standard_normal((7, 7)))[0], rng(3).permutation(50)
    value = score(metric, x, y, 5)
    assert score(metric, x, x, 5) == pytest.approx(1)
    # CKNNA's published code multiplies a table that is not symmetric, so swapping x and y moves it a little
    assert score(metric, y, x, 5) == pytest.approx(value, abs=1e-12 if metric == "mutual_knn" else 2e-3)
    assert metric == "mutual_knn" or score(metric, y, x, 5) != pytest.approx(value, abs=1e-6)
    assert score(metric, 7 * x @ turn, y, 5) == pytest.approx(value, abs=1e-12)
    assert score(metric, x[order], y[order], 5) == pytest.approx(value, abs=1e-12)
    assert abs(score(metric, x[order], y, 5) - value) > 0.05
    assert abs(score(metric, x + 1, y, 5) - value) > 1e-3  # not of an offset
    assert score(metric, x, y, 5) == value  # the same bits


def close_calls(name: str) -> np.ndarray:
    g = rng(6)
    x = g.standard_normal((300, 24)).astype("f")
    if name == "common offset":
        x += 30
    if name == "massive dimension":
        x[:, 3] *= 1000
    if name == "duplicates":
        x = np.round(x[g.integers(0, 100, 300)] * 2)
    if name == "nearly equal":
        x = (x[g.integers(0, 100, 300)] + 1e-6 * x).astype("f")
    if name == "half":
        x = x.astype(np.float16).astype("f")
    return x


@pytest.mark.parametrize("name", ["plain", "common offset", "massive dimension", "duplicates", "nearly equal", "half"])
def test_neighbour_sets_of_float32_are_those_of_float64(name):
    x = close_calls(name)
    exact = ranking(x.astype(float), 10)
    found = prepare(torch.from_numpy(x), 10)
    assert found is not None
    assert [set(row) for row in found.near.tolist()] == [set(row) for row in exact.tolist()]
    np.testing.assert_array_equal(ranking(x, 10), exact)
    unit = x / np.linalg.norm(x.astype(float), axis=1, keepdims=True)
    wanted = np.take_along_axis(unit @ unit.T, found.near.astype(int), 1)
    np.testing.assert_allclose(1 - found.distances, wanted, rtol=0, atol=1e-6)


def test_blocks_give_the_same_neighbours(monkeypatch):
    x = close_calls("plain")
    whole = ranking(x, 7)
    monkeypatch.setattr(nearest_rows, "BLOCK", 300 * 13)
    np.testing.assert_array_equal(ranking(x, 7), whole)


@pytest.mark.parametrize("metric", ["mutual_knn", "cknna"])
def test_tables_in_parts_and_more_layers_than_bits_give_the_same_scores(metric, monkeypatch):
    xs = [torch.from_numpy(rng(i).standard_normal((40, 3))) for i in range(67)]
    ys = [xs[3] + 0.1 * xs[4], xs[66]]
    found = METRICS[metric].scores(xs, ys, 4)
    assert found[3, 0] > 0.3
    assert found[66, 1] == pytest.approx(1)
    for i, j in ((0, 1), (63, 0), (64, 1), (66, 1)):
        assert METRICS[metric].scores([xs[i]], [ys[j]], 4)[0, 0] == pytest.approx(found[i, j], abs=1e-12)
    monkeypatch.setattr(neighbours, "TABLE", 8 * 40 * 7)
    np.testing.assert_allclose(METRICS[metric].scores(xs, ys, 4), found, rtol=0, atol=1e-12)


@pytest.mark.parametrize("metric", ["mutual_knn", "cknna"])
@pytest.mark.parametrize("share", [0.1, 0.5])
def test_subsets_are_scored_by_themselves(metric, share):
    x, y = rng(0).standard_normal((300, 4)), rng(1).standard_normal((300, 6))
    y[:, :4] += x
    chosen = np.sort(rng(2).permutation(300)[: int(300 * share)])
    parts = [subset(prepare(torch.from_numpy(side), 5), chosen, 5) for side in (x, y)]
    found = METRICS[metric].compare(parts[:1], parts[1:], 5)[0, 0]
    assert found == pytest.approx(score(metric, x[chosen], y[chosen], 5), abs=1e-12)
    assert subset(None, chosen, 5) is None


@pytest.mark.parametrize("metric", ["mutual_knn", "cknna"])
def test_one_direction_is_nan(metric):
    line = rng(1).uniform(1, 2, (8, 1)) * rng(2).standard_normal(3)
    assert np.isnan(score(metric, line, np.eye(8), 3))
    assert np.isnan(METRICS[metric].scores([torch.from_numpy(line)] * 2, [torch.eye(8).double()], 3)).all()
