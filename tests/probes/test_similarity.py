"""The metrics against golden values and exact references, on the data that break float32, and bad input."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from bridgework.probes.features import LayerFeatures
from bridgework.probes.metrics import METRICS, _cka_by_dims, _cka_by_grams
from bridgework.probes.similarity import similarity, similarity_map

GOLDENS = json.loads((Path(__file__).parents[1] / "data" / "metric_goldens.json").read_text())["cases"]


def rng(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def golden_pair(name: str) -> list[np.ndarray]:
    if name.startswith("independent"):
        n, d = (int(part) for part in name.split()[1].split("x"))
        pair = [rng(0).standard_normal((n, d)), rng(1).standard_normal((n, d))]
    else:
        g, noise = rng(3), float(name.split()[-1])
        shared = g.standard_normal((128, 5))
        pair = []
        for dim in (48, 40):
            weight = g.standard_normal((5, dim))
            pair.append(shared @ weight + noise * g.standard_normal((128, dim)))
    return [x / np.linalg.norm(x, axis=1, keepdims=True) for x in pair]


def stack_of(shape: tuple[int, ...], seed: int, **changes) -> LayerFeatures:
    layers, samples = shape[-3], shape[-2]
    given = {
        "values": torch.from_numpy(rng(seed).standard_normal(shape).astype("f")),
        "layers": ("embeddings", *map(str, range(layers - 1))),
        "depths": tuple(i / (layers - 1) for i in range(layers)),
        "modality": "image",
        "subject": "expert",
        "task": "generation",
        "pass_": "separate",
        "pooling": "mean",
        "timesteps": (0.2, 0.8)[: shape[0]] if len(shape) == 4 else (),
        "samples": tuple(f"s{i}" for i in range(samples)),
    }
    return LayerFeatures(**(given | changes))


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


def plain_neighbours(x: np.ndarray, k: int) -> list[set[int]]:
    unit = x.astype(float) / np.linalg.norm(x.astype(float), axis=1, keepdims=True)
    cosines = unit @ unit.T
    np.fill_diagonal(cosines, -np.inf)
    return [set(row[:k]) for row in np.argsort(-cosines, axis=1, kind="stable").tolist()]


@pytest.mark.parametrize("case", GOLDENS, ids=[case["name"] for case in GOLDENS])
@pytest.mark.parametrize("metric", list(METRICS))
def test_goldens(case, metric):
    x, y = golden_pair(case["name"])
    assert similarity(x, y, metric) == pytest.approx(case[metric], abs=6e-7)


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
def test_cka_is_exact_where_float32_fails(name):
    x, y = trap(name)
    wanted = exact_cka(x, y)
    assert similarity(x, y) == pytest.approx(wanted, abs=1e-9)
    assert _cka_by_grams([x], [y])[0, 0] == pytest.approx(wanted, abs=1e-9)
    by_dims = _cka_by_dims([x], [y])
    assert by_dims is None or by_dims[0, 0] == pytest.approx(wanted, abs=1e-9)


def test_cka_by_dims_by_grams_and_in_blocks_agree(monkeypatch):
    xs, ys = rng(0).standard_normal((2, 200, 6)), rng(1).standard_normal((3, 200, 5))
    ys[0] += xs[1][:, :5]
    by_dims = _cka_by_dims(list(xs), list(ys))
    assert by_dims is not None
    np.testing.assert_allclose(by_dims, _cka_by_grams(list(xs), list(ys)), atol=1e-13)
    monkeypatch.setattr("bridgework.probes.metrics.BLOCK", 5 * 200 * 7)
    np.testing.assert_allclose(by_dims, _cka_by_grams(list(xs), list(ys)), atol=1e-13)
    np.testing.assert_allclose(similarity_map(xs, ys).to_numpy(), by_dims, atol=1e-13)


def test_cka_invariances_and_bias():
    x, y = rng(0).standard_normal((40, 7)), rng(1).standard_normal((40, 9))
    turn = np.linalg.qr(rng(2).standard_normal((7, 7)))[0]
    assert similarity(x, x) == pytest.approx(1)
    assert similarity(7 * x @ turn + 3, y) == pytest.approx(similarity(x, y), abs=1e-12)
    wide = [similarity(rng(s).standard_normal((64, 2048)), rng(99 - s).standard_normal((64, 2048))) for s in range(8)]
    assert abs(np.mean(wide)) < 0.02


@pytest.mark.parametrize("k", [1, 4, 10, 29])
def test_mutual_knn_is_the_plain_count(k):
    x, y = rng(0).standard_normal((30, 5)), rng(1).standard_normal((30, 8))
    y[:, :5] += x
    both = zip(plain_neighbours(x, k), plain_neighbours(y, k))
    assert similarity(x, y, "mutual_knn", k) == pytest.approx(np.mean([len(a & b) / k for a, b in both]))
    if k == 29:
        assert similarity(x, y, "mutual_knn", k) == 1


def test_mutual_knn_is_cosine_and_uncentred():
    x, y = rng(0).standard_normal((50, 5)), rng(1).standard_normal((50, 5))
    lengths = rng(2).uniform(0.1, 10, (50, 1))
    assert similarity(x * lengths, y, "mutual_knn") == similarity(x, y, "mutual_knn")
    assert similarity(x + 2, x, "mutual_knn") < 0.9


def test_mutual_knn_keeps_exact_neighbours_under_a_large_common_mean():
    # the cosines differ in their last digits only; angles in exact arithmetic are the reference
    g = rng(0)
    offset = 2.0**20
    x = (offset + np.round(g.standard_normal((24, 3)) * 64) / 64).astype("f")
    rows = [[Fraction(float(v)) for v in row] for row in x]

    def squared_cosine(a, b):
        return sum(p * q for p, q in zip(a, b)) ** 2 / (sum(p * p for p in a) * sum(q * q for q in b))

    for i, row in enumerate(rows):
        others = [j for j in range(len(rows)) if j != i]
        wanted = sorted(others, key=lambda j: (-squared_cosine(row, rows[j]), j))
        ranked = METRICS["mutual_knn"].relate(x)
        assert ranked is not None
        assert ranked[i].tolist() == wanted


def test_ties_go_to_the_lower_index():
    # bags of words: most cosines are equal, but their sums round differently
    words = (rng(0).random((60, 200)) < 0.04).astype("f")
    words[:, 0] = 1
    counts = (words @ words.T).astype(int)
    ranked = METRICS["mutual_knn"].relate(words)
    assert ranked is not None
    for i in range(60):
        others = [j for j in range(60) if j != i]
        wanted = sorted(others, key=lambda j: (-Fraction(int(counts[i, j]) ** 2, int(counts[j, j])), j))
        assert ranked[i].tolist() == wanted
    twins = np.repeat(rng(1).standard_normal((1, 6)), 5, 0) * np.array([[1], [3], [0.7], [1], [11]])
    twins = np.vstack([twins, rng(2).standard_normal((4, 6))])
    ranked = METRICS["mutual_knn"].relate(twins)
    assert ranked is not None
    assert ranked[2, :4].tolist() == [0, 1, 3, 4]


def test_zero_rows_have_cosine_zero():
    x = np.array([[1.0, 0], [0, 0], [-1, 0.1], [1, 0.1], [0, 0]])
    ranked = METRICS["mutual_knn"].relate(x)
    assert ranked is not None
    assert ranked.tolist() == [[3, 1, 4, 2], [0, 2, 3, 4], [1, 4, 3, 0], [0, 1, 4, 2], [0, 1, 2, 3]]


@pytest.mark.parametrize("metric", list(METRICS))
def test_map_is_every_pair_and_labelled(metric):
    x, y = stack_of((3, 20, 6), 0, modality="text"), stack_of((4, 20, 5), 1, subject="other").values
    made = stack_of((4, 20, 5), 1, subject="other")
    heat = similarity_map(x, made, metric, k=5)
    assert heat.index.tolist() == ["embeddings", "0", "1"]
    assert heat.columns.tolist() == ["embeddings", "0", "1", "2"]
    assert (heat.index.name, heat.columns.name) == ("understanding layer", "generation layer")
    for i in range(3):
        for j in range(4):
            assert heat.iloc[i, j] == pytest.approx(similarity(x.values[i], y[j], metric, 5), abs=1e-12)
    told = json.loads(json.dumps(heat.attrs))
    assert told["metric"] == metric
    assert told["samples"] == 20
    assert (told["k"], told["chance"]) == ((None, 0.0) if metric == "cka" else (5, 5 / 19))
    assert told["x_depths"] == [0, 0.5, 1]
    assert told["x"]["modality"] == "text"
    assert told["y"]["subject"] == "other"


def test_map_of_plain_stacks():
    x, y = torch.randn(2, 12, 4, generator=torch.manual_seed(0)), rng(0).standard_normal((3, 12, 4))
    heat = similarity_map(x.bfloat16().requires_grad_(), y)
    assert heat.index.tolist() == [0, 1]
    assert heat.attrs["y_depths"] == pytest.approx([1 / 3, 2 / 3, 1])
    assert np.isfinite(heat.to_numpy()).all()


@pytest.mark.parametrize("metric", list(METRICS))
def test_a_layer_that_says_nothing_is_nan(metric):
    x, y = rng(0).standard_normal((2, 20, 6)).astype("f"), rng(1).standard_normal((2, 20, 6))
    x[1] = rng(2).standard_normal(6)
    heat = similarity_map(x, y, metric)
    assert np.isnan(heat.to_numpy()).tolist() == [[False, False], [True, True]]
    long = np.full((900, 3), 0.1, "f")
    assert np.isnan(similarity(long, rng(0).standard_normal((900, 3)), metric))


def test_equidistant_samples_and_one_direction_are_nan():
    assert np.isnan(similarity(np.eye(8), rng(0).standard_normal((8, 3))))
    assert np.isnan(similarity(rng(1).uniform(1, 2, (8, 1)) * rng(2).standard_normal(3), np.eye(8), "mutual_knn", 3))


def test_bad_input_is_told():
    x = rng(0).standard_normal((20, 4))
    for bad, told in [
        (lambda: similarity(x, x, "ckaa"), "unknown metric 'ckaa': expected one of cka, mutual_knn"),
        (lambda: similarity(x, x[:9]), "x has 20 samples, y has 9"),
        (lambda: similarity(x[:3], x[:3]), "cka needs at least 4 samples, got 3"),
        (lambda: similarity(x[:1], x[:1], "mutual_knn"), "mutual_knn needs at least 2 samples, got 1"),
        (lambda: similarity(x, x, "mutual_knn", 20), "k must be an integer from 1 to samples - 1 = 19, got 20"),
        (lambda: similarity(x, x, "mutual_knn", 0), "got 0"),
        (lambda: similarity(x, x, "mutual_knn", 2.5), "got 2.5"),
        (lambda: similarity(x[None], x), r"x must be \(sample, dim\), got shape \(1, 20, 4\)"),
        (lambda: similarity(x[:, :0], x), "nothing to measure"),
        (lambda: similarity_map(x, x), r"x must be \(layer, sample, dim\)"),
        (lambda: similarity_map(stack_of((2, 3, 20, 4), 0), x[None]), r"timesteps 0.2, 0.8: select one with .at"),
    ]:
        with pytest.raises(ValueError, match=told):
            bad()
    with pytest.raises(TypeError, match="array or tensor of real numbers"):
        similarity(np.array([["a", "b"]]), x)


def test_what_is_not_finite_is_named():
    for bad in (np.nan, np.inf):
        x = stack_of((3, 10, 4), 0)
        x.values[1, 7, 2] = bad
        with pytest.raises(ValueError, match=r"layer '0' of image features of 'expert' holds NaN .* sample 7"):
            similarity_map(x, stack_of((3, 10, 4), 1))
        with pytest.raises(ValueError, match="layer 1 of y holds NaN or infinity"):
            similarity_map(np.zeros((1, 10, 4)), x.values)
        with pytest.raises(ValueError, match="x holds NaN"):
            similarity(x.values[1], x.values[0])


def test_different_stimuli_are_told():
    ids = tuple(f"s{i}" for i in (0, 2, 1, *range(3, 10)))
    with pytest.raises(ValueError, match=r"sample 1 is 's1' in 'expert' but 's2' in 'other'"):
        similarity_map(stack_of((2, 10, 4), 0), stack_of((2, 10, 4), 1, samples=ids, subject="other"))
