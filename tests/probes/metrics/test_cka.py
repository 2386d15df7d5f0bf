"""CKA and its kin against exact arithmetic and naive formulas, on the data that break float32, in all ways at once."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch

from bridgework.probes.metrics import METRICS, cka, covariances, tables
from bridgework.probes.metrics.metric import MEMORY

LINEAR = {"cka": cka.CKA, "cka_biased": cka.CKA_BIASED}


def rng(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def layers(*arrays: np.ndarray) -> list[torch.Tensor]:
    return [torch.from_numpy(array) for array in arrays]


def score(metric: str, x: np.ndarray, y: np.ndarray) -> float:
    return METRICS[metric].scores(layers(x), layers(y), 5)[0, 0]


def exact_cka(x: np.ndarray, y: np.ndarray) -> float:
    """Song 2012, eq. 5, term by term, in rational arithmetic."""

    def gram(a):
        rows = [[Fraction(float(v)) for v in row] for row in a]
        return [
            [sum(p * q for p, q in zip(r, s)) if i != j else 0 for j, s in enumerate(rows)] for i, r in enumerate(rows)
        ]

    def hsic(k, l_):
        n = len(k)
        trace = sum(k[i][j] * l_[j][i] for i in range(n) for j in range(n))
        sums_k, sums_l = [sum(row) for row in k], [sum(row) for row in l_]
        middle = sum(p * q for p, q in zip(sums_k, sums_l))
        return (trace + Fraction(sum(sums_k) * sum(sums_l), (n - 1) * (n - 2)) - 2 * middle / (n - 2)) / (n * (n - 3))

    k, l_ = gram(x), gram(y)
    return float(hsic(k, l_)) / (float(hsic(k, k)) ** 0.5 * float(hsic(l_, l_)) ** 0.5)


def trap(name: str) -> tuple[np.ndarray, np.ndarray]:
    g = rng(5)
    x = g.standard_normal((12, 6))
    y = x[:, :4] + 0.5 * g.standard_normal((12, 4))
    if name == "common mean":
        x = x + 1e4
    if name == "massive dimension":
        x[:, 2] = 3e4 + 50 * x[:, 2]
    if name == "massive sample":
        x[0] *= 1e4
    if name == "tiny":
        x, y = x * 1e-30, y * 1e-18
    if name == "huge":
        x = x * 1e35
    return x.astype("f"), y.astype("f")


@pytest.mark.parametrize("name", ["plain", "common mean", "massive dimension", "massive sample", "tiny", "huge"])
def test_debiased_cka_is_exact_where_float32_fails(name):
    x, y = trap(name)
    wanted = exact_cka(x, y)
    for make, tolerance in ((np.asarray, 1e-6), (np.float64, 1e-9)):
        a, b = make(x), make(y)
        assert score("cka", a, b) == pytest.approx(wanted, abs=tolerance)
        prepared = [cka.CKA.prepare(side, 0) for side in layers(a, b)]
        assert cka.CKA.compare(prepared[:1], prepared[1:], 0)[0, 0] == pytest.approx(wanted, abs=tolerance)
        by_dims = covariances.scores(layers(a), layers(b), True, MEMORY)
        assert by_dims is None or by_dims[0, 0] == pytest.approx(wanted, abs=tolerance)


@pytest.mark.parametrize("metric", LINEAR)
def test_tables_covariances_tiles_and_groups_agree(metric, monkeypatch):
    xs, ys = layers(*rng(0).standard_normal((3, 200, 6))), layers(*rng(1).standard_normal((2, 200, 5)))
    ys[0] += xs[1][:, :5]
    assert covariances.cheaper(xs, ys)
    assert not covariances.cheaper([x[:4] for x in xs], [y[:4] for y in ys])
    debiased = metric == "cka"
    by_dims = covariances.scores(xs, ys, debiased, MEMORY)
    assert by_dims is not None
    assert covariances.scores(xs, ys, debiased, 1) == pytest.approx(by_dims, abs=1e-14)
    monkeypatch.setattr(covariances, "ROWS", 17)
    assert covariances.scores(xs, ys, debiased, MEMORY) == pytest.approx(by_dims, abs=1e-13)
    monkeypatch.setattr(covariances, "cheaper", lambda xs, ys: False)
    by_tables = LINEAR[metric].scores(xs, ys, 0)
    np.testing.assert_allclose(by_tables, by_dims, rtol=0, atol=1e-13)
    monkeypatch.setitem(tables.TILE, "cpu", 32)
    monkeypatch.setattr(tables, "CHUNK", 100)
    np.testing.assert_allclose(LINEAR[metric].scores(xs, ys, 0), by_tables, rtol=0, atol=1e-13)


@pytest.mark.parametrize(
    ("samples", "dims", "layers", "by_dims"),
    [
        (1024, 256, 2, True), (4096, 128, 2, True), (2048, 128, 12, True), (2048, 256, 6, True), (4096, 512, 2, True),
        (512, 512, 2, False), (1024, 256, 6, False), (1024, 512, 2, False), (2048, 512, 6, False),
        (2048, 1024, 2, False), (512, 1024, 6, False), (100_000, 1024, 24, True), (10_000, 8192, 6, False),
    ],
)  # fmt: skip
def test_the_way_that_was_measured_to_be_faster_is_taken(samples, dims, layers, by_dims):
    stack = [torch.empty(1, 1).expand(samples, dims)] * layers  # its shape is enough
    assert covariances.cheaper(stack, stack) is by_dims


def test_covariances_do_not_depend_on_the_shift():
    x, y = rng(0).standard_normal((2, 50, 4)) + np.array([5.0, 1, 0, -3])
    x[:, 1] += y[:, 2]
    wanted = score("cka", x, y)
    for shift in (0.0, 2.0, -30.0):
        mean = torch.full((4,), shift, dtype=torch.float64)
        near = [[covariances.Centring(mean, 0 * mean, scale)] for scale in (1.0, 2.0)]
        sums = covariances.Covariances(near[0], near[1], torch.float64)
        sums.add(*([side[:30]] for side in layers(x, y)))
        sums.add(*([side[30:]] for side in layers(x, y)))
        inner, _ = sums.hsic(debiased=True)
        assert inner[0, 1] / (inner[0, 0] * inner[1, 1]) ** 0.5 == pytest.approx(wanted, abs=1e-9)


@pytest.mark.parametrize("metric", LINEAR)
@pytest.mark.parametrize("massive", [1, 10, 30, 100, 1000])
def test_float32_covariances_keep_their_digits_beside_one_massive_sample(metric, massive):
    x, y = (rng(s).standard_normal((2000, 8)).astype("f") for s in range(2))
    x[0] *= massive
    y[0] *= massive
    wanted = LINEAR[metric].scores(layers(x.astype(float)), layers(y.astype(float)), 0)
    by_dims = covariances.scores(layers(x), layers(y), metric == "cka", MEMORY)
    assert by_dims is not None
    assert by_dims == pytest.approx(wanted, abs=3e-6)


@pytest.mark.parametrize("dtype", ["f", "d"])
def test_a_dead_layer_does_not_send_the_others_another_way(dtype, monkeypatch):
    xs, ys = layers(*rng(0).standard_normal((3, 300, 4)).astype(dtype)), layers(rng(1).standard_normal((300, 5)))
    ys = [ys[0].to(xs[0])]
    whole = cka.CKA.scores(xs, ys, 0)
    xs[1][:] = 0.1
    monkeypatch.setattr(tables, "inner_products", None)  # not needed
    found = cka.CKA.scores(xs, ys, 0)
    assert np.isnan(found).ravel().tolist() == [False, True, False]
    np.testing.assert_allclose(found[[0, 2]], whole[[0, 2]], rtol=0, atol=1e-6)


@pytest.mark.parametrize("metric", LINEAR)
@pytest.mark.parametrize("offset", [30, 1e4, 1e6])
def test_rows_made_for_every_tile_are_those_held(metric, offset):
    x, y = ((rng(s).standard_normal((40, 64)) + offset).astype("f") for s in range(2))
    bounded = LINEAR[metric].scores(layers(x), layers(y), 0, 1)
    exact = LINEAR[metric].scores(layers(x.astype(float)), layers(y.astype(float)), 0)
    assert bounded == pytest.approx(exact, abs=3e-6)


def test_few_samples_of_many_dims_are_taken_in_float64():
    for samples in (5, 8, 15):
        x, y = (rng(s).standard_normal((samples, 60_000)).astype("f") for s in range(2))
        assert score("cka", x, y) == pytest.approx(score("cka", x.astype(float), y.astype(float)), abs=1e-12)


@pytest.mark.parametrize("metric", ["cka", "cka_biased", "procrustes", "rsa", "mutual_knn"])
def test_values_near_the_largest_there_are(metric):
    x, y = rng(0).uniform(-1, 1, (30, 6)), rng(1).standard_normal((30, 6))
    y += x
    for dtype in ("f", "d"):
        largest = 0.99 * np.finfo(dtype).max
        wanted = score(metric, x.astype(dtype), y.astype(dtype))
        assert score(metric, x.astype(dtype) * largest, y.astype(dtype)) == pytest.approx(wanted, abs=1e-5)


def test_a_group_holds_what_memory_allows():
    assert covariances.groups([10] * 4, [20], 1e9) == [slice(0, 4)]
    assert covariances.groups([10] * 4, [20], 2 * 8 * (400 + 2 * 300)) == [slice(0, 2), slice(2, 4)]
    assert covariances.groups([10] * 3, [20], 0) == [slice(0, 1), slice(1, 2), slice(2, 3)]


def naive_rbf(x: np.ndarray, y: np.ndarray) -> float:
    """As published with Kornblith et al. 2019."""
    tables = []
    for side in (x.astype(float), y.astype(float)):
        squares = ((side[:, None] - side[None]) ** 2).sum(2)
        table = np.exp(-squares / (2 * np.median(squares)))
        tables.append(table - table.mean(0) - table.mean(1)[:, None] + table.mean())
    return (tables[0] * tables[1]).sum() / np.linalg.norm(tables[0]) / np.linalg.norm(tables[1])


@pytest.mark.parametrize("samples", [2, 5, 40, 41])
@pytest.mark.parametrize("offset", [0, 30])
def test_rbf_is_the_published_formula(samples, offset):
    x = (rng(0).standard_normal((samples, 6)) + offset).astype("f")
    y = (rng(1).standard_normal((samples, 9))).astype("f")
    y[:, :6] += x
    if samples > 2:
        y[-1] = y[0]
    for make, tolerance in ((np.asarray, 2e-6), (np.float64, 1e-12)):
        assert score("cka_rbf", make(x), make(y)) == pytest.approx(naive_rbf(x, y), abs=tolerance)
    prepared = [cka.CKA_RBF.prepare(side, 0) for side in layers(x, y)]
    assert cka.CKA_RBF.compare(prepared[:1], prepared[1:], 0)[0, 0] == pytest.approx(naive_rbf(x, y), abs=2e-6)


def test_bandwidth_of_many_samples_is_that_of_evenly_spaced_ones(monkeypatch):
    x = torch.from_numpy(rng(0).standard_normal((30, 3)))
    monkeypatch.setattr(cka, "MEDIAN_SAMPLES", 10)
    some = np.linspace(0, 29, 10).round().astype(int)
    assert cka.median_distance(x) == pytest.approx(
        float(np.median(((x[some, None] - x[some]) ** 2).sum(2).numpy())), rel=1e-12
    )


@pytest.mark.parametrize("metric", ["cka", "cka_biased", "cka_rbf"])
def test_invariances_and_what_is_none(metric):
    x, y = rng(0).standard_normal((40, 7)), rng(1).standard_normal((40, 9))
    y[:, :7] += x
    turn, order = np.linalg.qr(rng(2).standard_normal((7, 7)))[0], rng(3).permutation(40)
    value = score(metric, x, y)
    assert score(metric, x, x) == pytest.approx(1)
    assert score(metric, y, x) == pytest.approx(value, abs=1e-12)
    assert score(metric, 7 * x @ turn + 3, y) == pytest.approx(value, abs=1e-12)
    assert score(metric, x[order], y[order]) == pytest.approx(value, abs=1e-12)
    assert abs(score(metric, x[order], y) - value) > 0.05
    assert abs(score(metric, x * np.arange(1, 8), y) - value) > 1e-3  # not of single dims
    assert score(metric, x, y) == value  # the same bits


def test_only_the_debiased_is_centred_on_zero():
    pairs = [(rng(s).standard_normal((64, 2048)), rng(99 - s).standard_normal((64, 2048))) for s in range(8)]
    assert abs(np.mean([score("cka", x, y) for x, y in pairs])) < 0.02
    assert np.mean([score("cka_biased", x, y) for x, y in pairs]) > 0.9
    assert np.mean([score("cka_rbf", x, y) for x, y in pairs]) > 0.9


@pytest.mark.parametrize("metric", ["cka", "cka_biased", "cka_rbf"])
@pytest.mark.parametrize("dtype", ["f", "d"])
def test_constant_and_equidistant_layers_are_nan(metric, dtype):
    x, y = rng(0).standard_normal((30, 3)).astype(dtype), np.full((30, 2), 0.1, dtype)
    assert np.isnan(score(metric, x, y))
    assert np.isnan(METRICS[metric].scores(layers(y, x), layers(x), 0))[:, 0].tolist() == [True, False]
    assert METRICS[metric].prepare(torch.from_numpy(y), 0) is None
    if metric == "cka":
        assert np.isnan(score(metric, np.eye(8, dtype=dtype), rng(0).standard_normal((8, 3)).astype(dtype)))


@pytest.mark.parametrize("metric", ["cka", "cka_biased", "cka_rbf"])
def test_subsets_are_scored_by_themselves(metric):
    x, y = rng(0).standard_normal((50, 4)), rng(1).standard_normal((50, 6))
    y[:, :4] += x
    chosen = np.sort(rng(2).permutation(50)[:20])
    formula = METRICS[metric]
    parts = [formula.subset(formula.prepare(side, 0), chosen, 0) for side in layers(x, y)]
    found = formula.compare(parts[:1], parts[1:], 0)[0, 0]
    if metric == "cka_rbf":  # the bandwidth stays that of all samples
        assert found == pytest.approx(score(metric, x[chosen], y[chosen]), abs=0.02)
    else:
        assert found == pytest.approx(score(metric, x[chosen], y[chosen]), abs=1e-12)
    assert formula.subset(None, chosen, 0) is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_centred_features_were_divided_by_is_their_largest_deviation(dtype):
    x = (torch.randn(64, 9, generator=torch.Generator().manual_seed(3), dtype=torch.float64) * 7 + 1e3).to(dtype)
    exact = x.double()
    largest = float((exact - exact.mean(0)).abs().max())
    assert cka.divisor(cka.u_centred(x, dtype == torch.float64), x) == pytest.approx(largest, rel=1e-6)
    constant = torch.full((64, 9), 0.1, dtype=dtype)
    assert cka.divisor(cka.u_centred(constant), constant) == 0
