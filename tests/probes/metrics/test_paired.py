"""Cosine and modality gap against plain NumPy and cases whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bridgework.probes.metrics.paired import COSINE, MODALITY_GAP

METRICS = {"cosine": COSINE, "modality_gap": MODALITY_GAP}


def rng(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def score(metric: str, x, y) -> float:
    return METRICS[metric].scores([torch.as_tensor(x)], [torch.as_tensor(y)], 10)[0, 0]


def plain_unit(x: np.ndarray) -> np.ndarray:
    norms = np.linalg.norm(x.astype(float), axis=1, keepdims=True)
    return np.divide(x, norms, out=np.zeros(x.shape), where=norms > 0)


def plain_cosine(x: np.ndarray, y: np.ndarray) -> float:
    return float(np.mean([a @ b for a, b in zip(plain_unit(x), plain_unit(y))]))


def plain_gap(x: np.ndarray, y: np.ndarray) -> float:
    return float(np.linalg.norm(plain_unit(x).mean(0) - plain_unit(y).mean(0)))


PLAIN = {"cosine": plain_cosine, "modality_gap": plain_gap}


def pair(regime: str) -> tuple[np.ndarray, np.ndarray]:
    g = rng(0)
    x, y = g.standard_normal((2, 50, 12))
    y = x + 0.5 * y
    match regime:
        case "tiny against huge":
            x, y = 1e-30 * x, 1e30 * y
        case "zero rows":
            x[:10] = 0
            y[5:15] = 0
        case "fewer samples than dims":
            x, y = x[:7], y[:7]
        case "constant":
            x[:], y[:] = x[0], y[0]
    return x.astype("f"), y.astype("f")


@pytest.mark.parametrize(
    "regime",
    [
        "related", "tiny against huge", "zero rows",
        "fewer samples than dims", "constant",
    ],
)  # fmt: skip
@pytest.mark.parametrize("metric", METRICS)
def test_plain_formula(metric, regime):
    x, y = pair(regime)
    assert score(metric, x, y) == pytest.approx(PLAIN[metric](x, y), abs=1e-12)


def test_known_answers():
    x = rng(0).standard_normal((20, 6))
    assert score("cosine", x, x) == pytest.approx(1, abs=1e-12)
    assert score("cosine", x, -3 * x) == pytest.approx(-1, abs=1e-12)
    assert score("cosine", x, np.zeros_like(x)) == 0
    assert score("modality_gap", x, x) == 0
    one = np.tile([0.0, 2.0], (5, 1))
    assert score("modality_gap", one, -one) == pytest.approx(2)
    assert score("modality_gap", one, one[:, ::-1].copy()) == pytest.approx(2**0.5)
    assert score("modality_gap", one, 0 * one) == pytest.approx(1)


def changed(name: str, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    turn, order = np.linalg.qr(rng(1).standard_normal((12, 12)))[0], rng(2).permutation(len(x))
    return {
        "both turned": (x @ turn, y @ turn),
        "one turned": (x, y @ turn),
        "rows scaled": (x * np.linspace(0.1, 2, len(x))[:, None], 50 * y),
        "negated": (x, -y),
        "offset": (x + 3, y + 3),
        "samples of both permuted": (x[order], y[order]),
        "samples of one permuted": (x, y[order]),
        "dims scaled": (x * np.linspace(0.2, 2, 12), y),
        "swapped": (y, x),
    }[name]


INVARIANT = {
    "cosine": "both turned, rows scaled, samples of both permuted, swapped",
    "modality_gap": "both turned, rows scaled, samples of both permuted, samples of one permuted, swapped",
}
SENSITIVE = {
    "cosine": "one turned, negated, offset, samples of one permuted, dims scaled",
    "modality_gap": "one turned, negated, offset, dims scaled",
}


@pytest.mark.parametrize(("metric", "change"), [(m, c) for m in METRICS for c in INVARIANT[m].split(", ")])
def test_invariant(metric, change):
    x, y = (side.astype(float) + shift for side, shift in zip(pair("related"), (0.2, -0.1)))
    assert score(metric, *changed(change, x, y)) == pytest.approx(score(metric, x, y), abs=1e-12)


@pytest.mark.parametrize(("metric", "change"), [(m, c) for m in METRICS for c in SENSITIVE[m].split(", ")])
def test_not_invariant(metric, change):
    x, y = (side.astype(float) + shift for side, shift in zip(pair("related"), (0.2, -0.1)))
    assert abs(score(metric, *changed(change, x, y)) - score(metric, x, y)) > 1e-2


@pytest.mark.parametrize("metric", METRICS)
def test_map_compare_subset_and_permuted_agree_with_features(metric):
    formula, g = METRICS[metric], rng(5)
    xs, ys = (list(torch.as_tensor(g.standard_normal((layers, 40, 9)).astype("f"))) for layers in (2, 3))
    a, b = [formula.prepare(x, 10) for x in xs], [formula.prepare(y, 10) for y in ys]
    wanted = np.array([[PLAIN[metric](x.numpy(), y.numpy()) for y in ys] for x in xs])
    np.testing.assert_allclose(formula.scores(xs, ys, 10), wanted, atol=1e-12)
    np.testing.assert_allclose(formula.compare(a, b, 10), wanted, atol=1e-12)

    chosen = np.sort(g.permutation(40)[:17])
    cut = formula.compare(
        [formula.subset(one, chosen, 10) for one in a], [formula.subset(one, chosen, 10) for one in b], 10
    )
    np.testing.assert_allclose(cut, [[score(metric, x[chosen], y[chosen]) for y in ys] for x in xs], atol=1e-12)

    orders = np.stack([g.permutation(40) for _ in range(4)])
    moved = formula.permuted(a, b, 10, orders)
    wanted = np.array([[[score(metric, x, y[order]) for y in ys] for x in xs] for order in orders])
    np.testing.assert_allclose(moved, wanted, atol=1e-12)
    assert np.array_equal(moved, formula.permuted(a, b, 10, orders))


@pytest.mark.parametrize("metric", METRICS)
def test_both_need_the_same_dims_and_have_no_chance_level(metric):
    assert METRICS[metric].same_dims
    assert METRICS[metric].chance(10, 50) is None
