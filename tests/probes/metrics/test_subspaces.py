"""SVCCA, PWCCA and Procrustes against plain NumPy and SciPy, and what each of them can and cannot see."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.linalg
import scipy.spatial
import torch
from sklearn.cross_decomposition import CCA

from bridgework.probes.metrics.subspaces import PROCRUSTES, PWCCA, SVCCA

METRICS = {"svcca": SVCCA, "pwcca": PWCCA, "procrustes": PROCRUSTES}


def rng(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def rotation(dim: int, seed: int) -> np.ndarray:
    return np.linalg.qr(rng(seed).standard_normal((dim, dim)))[0]


def score(metric: str, x, y) -> float:
    return METRICS[metric].scores([torch.as_tensor(x)], [torch.as_tensor(y)], 10)[0, 0]


def leading(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Centred x, and the left singular vectors that hold 99 % of its variance."""
    x = x.astype(float) - x.astype(float).mean(0)
    left, sizes, _ = np.linalg.svd(x, full_matrices=False)
    share = np.cumsum(sizes**2) / (sizes**2).sum()
    return x, left[:, : np.argmax(share >= 0.99) + 1]


def plain_svcca(x: np.ndarray, y: np.ndarray) -> float:
    return float(np.linalg.svd(leading(x)[1].T @ leading(y)[1], compute_uv=False).mean())


def plain_pwcca(x: np.ndarray, y: np.ndarray) -> float:
    values, basis = leading(x)
    turns, rho, _ = np.linalg.svd(basis.T @ leading(y)[1], full_matrices=False)
    weights = np.abs((basis @ turns).T @ values).sum(1)
    return float(weights @ rho / weights.sum())


def plain_procrustes(x: np.ndarray, y: np.ndarray) -> float:
    x, y = (side.astype(float) - side.astype(float).mean(0) for side in (x, y))
    return float(np.linalg.svd(x.T @ y, compute_uv=False).sum() / np.linalg.norm(x) / np.linalg.norm(y))


PLAIN = {"svcca": plain_svcca, "pwcca": plain_pwcca, "procrustes": plain_procrustes}


def related(n: int = 150, dx: int = 30, dy: int = 40, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    g = rng(seed)
    x = g.standard_normal((n, dx))
    return x, x @ g.standard_normal((dx, dy)) / 3 + g.standard_normal((n, dy))


def pair(regime: str) -> tuple[np.ndarray, np.ndarray]:
    x, y = related()
    g = rng(7)
    match regime:
        case "massive dims":
            x[:, 3] = 1000 * (x[:, 3] + y[:, 5])
            y[:, 5] *= 1000
        case "fewer samples than dims":
            x, y = related(40, 60, 70)
        case "low rank":
            shared = g.standard_normal((150, 6))
            x, y = shared @ g.standard_normal((6, 30)), shared @ g.standard_normal((6, 40))
        case "low rank, fewer samples than dims":
            shared = g.standard_normal((40, 6))
            x, y = shared @ g.standard_normal((6, 60)), shared @ g.standard_normal((6, 70)) + 1e-3
        case "duplicates":
            x, y = (np.concatenate([side, side[:50], side[:1], side[:1]]) for side in (x, y))
        case "ties":
            x, y = x.round(), y.round()
        case "power law":
            x = g.standard_normal((150, 30)) * (1 + np.arange(30)) ** -0.5 @ rotation(30, 1)
    return x.astype("f"), y.astype("f")


REGIMES = [
    "related", "massive dims", "fewer samples than dims",
    "low rank", "low rank, fewer samples than dims", "duplicates", "ties", "power law",

]  # fmt: skip


# where directions are shared, the plain PWCCA hangs on rounding: test_pwcca_of_shared_directions
CASES = [(m, r) for m in METRICS for r in REGIMES if (m, r) != ("pwcca", "fewer samples than dims")]


@pytest.mark.parametrize(("metric", "regime"), CASES)
def test_plain_formula(metric, regime):
    x, y = pair(regime)
    wanted = PLAIN[metric](x, y)
    assert score(metric, x, y) == pytest.approx(wanted, abs=1e-6)
    assert score(metric, x.astype(float), y.astype(float)) == pytest.approx(wanted, abs=1e-7)


@pytest.mark.parametrize(("dx", "dy"), [(120, 140), (300, 260)])
def test_procrustes_of_low_rank_keeps_its_digits(dx, dy):
    """Hundreds of singular values are 0: the roots of their rounded squares would add up to more than 1e-5."""
    g = rng(3)
    shared = g.standard_normal((200, 5))
    x = (shared @ g.standard_normal((5, dx))).astype("f")
    y = (shared @ g.standard_normal((5, dy))).astype("f")
    assert score("procrustes", x, y) == pytest.approx(plain_procrustes(x, y), abs=5e-7)  # float32's rounding


@pytest.mark.parametrize("strength", [100, 1e3, 1e4])
@pytest.mark.parametrize("where", ["dims", "turned dims", "sample"])
def test_procrustes_keeps_its_digits_beside_what_is_massive(where, strength, monkeypatch):
    x, y = (side.copy() for side in related(400, 80, 90))
    if where == "sample":
        x[7] *= strength
        y[7] *= strength
    else:
        x[:, [3, 8]] *= strength
        y[:, 5] *= strength
    if where == "turned dims":
        x, y = x @ rotation(80, 1), y @ rotation(90, 2)
    x, y = x.astype("f"), y.astype("f")
    monkeypatch.setattr(np.linalg, "svdvals", None)  # taking the massive directions out is enough
    assert score("procrustes", x, y) == pytest.approx(plain_procrustes(x, y), abs=1e-6)


def test_pwcca_of_shared_directions():
    """38 and 36 directions of 39: 35 are shared, with correlation 1, and of any rotation of them none is the right one.

    The plain formula takes the one that rounding left; on average over them it is right.
    """
    x, y = (side.astype(float) for side in pair("fewer samples than dims"))
    values, basis = leading(x)
    turns, rho, _ = np.linalg.svd(basis.T @ leading(y)[1], full_matrices=False)
    shared = int((rho > 1 - 1e-9).sum())
    assert 10 < shared < len(rho)
    draws = []
    for seed in range(400):
        turned = turns.copy()
        turned[:, :shared] = turns[:, :shared] @ rotation(shared, seed)
        weights = np.abs((basis @ turned).T @ values).sum(1)
        draws.append((weights[:shared].sum(), weights[shared:] @ rho[shared:], weights[shared:].sum()))
    ours, theirs, rest = np.mean(draws, 0)
    assert np.std([draw[0] for draw in draws]) > 1e-3 * ours
    assert score("pwcca", x, y) == pytest.approx((ours + theirs) / (ours + rest), abs=3e-5)
    assert score("pwcca", x, y @ rotation(70, 1)) == pytest.approx(score("pwcca", x, y), abs=1e-10)


def test_svcca_is_cca_where_nothing_is_cut():
    # four equal variances: none can go
    x, y = (np.linalg.qr(side - side.mean(0))[0] for side in related(100, 4, 4, seed=2))
    model = CCA(4, scale=False, tol=1e-12, max_iter=5000).fit(x, y)
    left, right = model.transform(x, y)
    rho = [np.corrcoef(left[:, i], right[:, i])[0, 1] for i in range(4)]
    assert score("svcca", x, y) == pytest.approx(np.mean(rho), abs=1e-6)


@pytest.mark.parametrize(("last", "rank"), [(0.0101, 4), (0.01, 3), (0.0099, 3)])
@pytest.mark.parametrize("metric", ["svcca", "pwcca"])
def test_truncation_keeps_the_fewest_directions_with_99_percent(metric, last, rank):
    left = rng(0).standard_normal((50, 4))
    x = np.linalg.qr(left - left.mean(0))[0] * np.sqrt([0.5, 0.3, 0.2 - last, last]) @ rotation(4, 0)
    basis = METRICS[metric].prepare(torch.as_tensor(x), 10).basis
    assert basis.shape == (50, rank)
    np.testing.assert_allclose(basis.T @ basis, np.eye(rank), atol=1e-12)


def test_procrustes_is_scipys():
    x, y = related(60, 12, 12)
    ours = score("procrustes", x, y)
    assert scipy.spatial.procrustes(x, y)[2] == pytest.approx(1 - ours**2, abs=1e-12)
    x, y = ((side - side.mean(0)) / np.linalg.norm(side - side.mean(0)) for side in (x, y))
    turn, scale = scipy.linalg.orthogonal_procrustes(x, y)
    assert ours == pytest.approx(scale, abs=1e-12)
    assert ours == pytest.approx(1 - np.linalg.norm(x @ turn - y) ** 2 / 2, abs=1e-12)


# What a metric cannot see (True) and what it can. A turn of y's axes is not one of x's: PWCCA weighs x's dims.


def changed(name: str, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    order = rng(4).permutation(len(x))
    return {
        "x turned": (x @ rotation(x.shape[1], 1), y),
        "y turned": (x, y @ rotation(y.shape[1], 1)),
        "x scaled": (-3e-3 * x, y),
        "y scaled": (x, 50 * y),
        "offset": (x + rng(1).standard_normal(x.shape[1]), y - 5),
        "samples of both permuted": (x[order], y[order]),
        "samples of one permuted": (x, y[order]),
        "x's dims scaled": (x * np.linspace(0.2, 2, x.shape[1]), y),
        "y's dims scaled": (x, y * np.linspace(0.2, 2, y.shape[1])),
        "swapped": (y, x),
    }[name]


INVARIANT = {
    "svcca": "x turned, y turned, x scaled, y scaled, offset, samples of both permuted, swapped",
    "pwcca": "y turned, x scaled, y scaled, offset, samples of both permuted",
    "procrustes": "x turned, y turned, x scaled, y scaled, offset, samples of both permuted, swapped",
}
SENSITIVE = {
    "svcca": "samples of one permuted, x's dims scaled, y's dims scaled",
    "pwcca": "x turned, swapped, samples of one permuted, x's dims scaled, y's dims scaled",
    "procrustes": "samples of one permuted, x's dims scaled, y's dims scaled",
}


@pytest.mark.parametrize(("metric", "change"), [(m, c) for m in METRICS for c in INVARIANT[m].split(", ")])
@pytest.mark.parametrize("samples", [150, 45])
def test_invariant(metric, change, samples):
    x, y = related(samples)
    assert score(metric, *changed(change, x, y)) == pytest.approx(score(metric, x, y), abs=1e-9)


@pytest.mark.parametrize(("metric", "change"), [(m, c) for m in METRICS for c in SENSITIVE[m].split(", ")])
def test_not_invariant(metric, change):
    x, y = related()
    assert abs(score(metric, *changed(change, x, y)) - score(metric, x, y)) > 1e-4


@pytest.mark.parametrize("metric", ["svcca", "pwcca"])
def test_correlations_do_not_see_an_invertible_map_of_the_kept_directions(metric):
    """It is the cut, not the correlation, that sees the dims of y scaled."""
    x, y = related(150, 5, 4)
    y = np.linalg.qr(y - y.mean(0))[0]
    map_ = rotation(4, 2) * [1, 0.8, 0.6, 0.5] @ rotation(4, 3)
    assert len(METRICS[metric].prepare(torch.as_tensor(y @ map_), 10).basis.T) == 4
    assert score(metric, x, y @ map_) == pytest.approx(score(metric, x, y), abs=1e-9)
    assert abs(score("procrustes", x, y @ map_) - score("procrustes", x, y)) > 1e-3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(150, 30), (40, 70)])
@pytest.mark.parametrize("metric", METRICS)
def test_self_similarity_is_one(metric, shape, dtype):
    x = torch.as_tensor(rng(0).standard_normal(shape)).to(dtype)
    ours = METRICS[metric].scores([x], [x], 10)[0, 0]
    assert ours == pytest.approx(1, abs=1e-6)
    assert ours <= 1 + 1e-12


@pytest.mark.parametrize("metric", METRICS)
def test_of_unrelated_features_is_not_near_zero(metric):
    """Why there is no chance level: it falls with samples per dim."""
    few, many = (score(metric, rng(0).standard_normal((n, 30)), rng(1).standard_normal((n, 30))) for n in (60, 2000))
    assert many < 0.2 < 0.4 < few
    assert METRICS[metric].chance(10, 60) is None


@pytest.mark.parametrize("constant", [np.zeros((20, 5)), np.full((20, 5), 0.1), np.tile(rng(0).random(5), (20, 1))])
@pytest.mark.parametrize("dtype", ["f", "d"])
@pytest.mark.parametrize("metric", METRICS)
def test_constant_layer_is_nan_in_its_row_and_column(metric, dtype, constant):
    x, y = (torch.as_tensor(side.astype(dtype)) for side in (rng(1).standard_normal((20, 6)), constant.astype(dtype)))
    scores = METRICS[metric].scores([x, y], [y, x, x], 10)
    assert np.isnan(scores).tolist() == [[True, False, False], [True, True, True]]
    assert np.isnan(METRICS[metric].scores([y], [y], 10)).all()
    assert METRICS[metric].subset(None, np.arange(10), 10) is None


@pytest.mark.parametrize("samples", [60, 30])
@pytest.mark.parametrize("metric", METRICS)
def test_map_compare_subset_and_permuted_agree_with_features(metric, samples):
    formula, g = METRICS[metric], rng(0)
    xs = [torch.as_tensor(side.astype("f")) for side in (related(samples, seed=1)[0], related(samples, seed=2)[1])]
    ys = [torch.as_tensor(related(samples, dy=dy, seed=1)[1].astype("f")) for dy in (20, 35, 45)]
    a, b = [formula.prepare(x, 10) for x in xs], [formula.prepare(y, 10) for y in ys]
    wanted = np.array([[score(metric, x, y) for y in ys] for x in xs])
    np.testing.assert_allclose(formula.scores(xs, ys, 10), wanted, atol=1e-12)
    np.testing.assert_allclose(formula.compare(a, b, 10), wanted, atol=1e-12)

    chosen = np.sort(g.permutation(samples)[: samples // 2])
    cut = formula.compare(
        [formula.subset(one, chosen, 10) for one in a], [formula.subset(one, chosen, 10) for one in b], 10
    )
    np.testing.assert_allclose(cut, [[score(metric, x[chosen], y[chosen]) for y in ys] for x in xs], atol=1e-6)

    orders = np.stack([g.permutation(samples) for _ in range(3)])
    moved = formula.permuted(a, [b[0], None, b[2]], 10, orders)
    assert moved.shape == (3, 2, 3)
    assert np.isnan(moved[:, :, 1]).all()
    for permutation, order in enumerate(orders):
        for i, x in enumerate(xs):
            for j in (0, 2):
                assert moved[permutation, i, j] == pytest.approx(score(metric, x, ys[j][order]), abs=2e-6)


@pytest.mark.parametrize("metric", METRICS)
def test_same_bits_twice(metric):
    xs = [torch.as_tensor(related(seed=seed)[0].astype("f")) for seed in range(3)]
    ys = [torch.as_tensor(related(seed=seed)[1].astype("f")) for seed in range(3)]
    first = METRICS[metric].scores(xs, ys, 10)
    assert np.array_equal(first, METRICS[metric].scores(xs, ys, 10))
    assert first[1, 2] == METRICS[metric].scores(xs[1:2], ys[2:], 10)[0, 0]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("metric", METRICS)
def test_exactly_orthogonal_layers_score_zero(metric):
    x, y = np.array([[1.0, 1, -1, -1]]).T, np.array([[1.0, -1, 1, -1], [2, -2, 2, -2]]).T
    assert score(metric, x, y) == pytest.approx(0, abs=1e-15)


@pytest.mark.parametrize("metric", METRICS)
def test_two_samples_are_one_direction(metric):
    x, y = rng(0).standard_normal((2, 3)), rng(1).standard_normal((2, 5))
    assert METRICS[metric].least == 2
    assert score(metric, x, y) == pytest.approx(1, abs=1e-9)
    assert math.isnan(score(metric, x, y[:1].repeat(2, 0)))
