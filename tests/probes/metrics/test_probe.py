"""The linear probes against an independent ridge regression, and on data whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import GroupKFold, KFold

from bridgework.probes.metrics.probe import LINEAR_PROBE, PENALTIES, penalties
from bridgework.probes.similarity.scoring import similarity, similarity_map


def rng(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def score(x, y) -> float:
    return LINEAR_PROBE.scores([torch.as_tensor(x)], [torch.as_tensor(y)], 10)[0, 0]


def related(n: int = 80, dx: int = 12, dy: int = 5, noise: float = 1, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    g = rng(seed)
    x = g.standard_normal((n, dx))
    return x, x @ g.standard_normal((dx, dy)) + noise * g.standard_normal((n, dy))


def plain_probe(x: np.ndarray, y: np.ndarray) -> float:
    """Kernel ridge; the penalty with the least leave-one-out error, by (Y - HY)_i / (1 - H_ii)."""
    x, y, errors, deviations = x.astype(float), y.astype(float), 0.0, 0.0
    for train, test in KFold(5, shuffle=True, random_state=0).split(x):
        mean_x, mean_y = x[train].mean(0), y[train].mean(0)
        a, t = x[train] - mean_x, y[train] - mean_y
        scale = len(train) * a.var(0).mean()
        best, weights = np.inf, np.zeros((x.shape[1], y.shape[1]))
        for penalty in PENALTIES:
            inverse = np.linalg.inv(a @ a.T + penalty * scale * np.eye(len(train)))
            hat = a @ a.T @ inverse + 1 / len(train)
            loss = float((((t - hat @ t) / (1 - np.diag(hat))[:, None]) ** 2).mean())
            if loss < best:
                best, weights = loss, a.T @ inverse @ t
        errors += ((y[test] - mean_y - (x[test] - mean_x) @ weights) ** 2).sum()
        deviations += ((y[test] - mean_y) ** 2).sum()
    return 1 - errors / deviations


def pair(regime: str) -> tuple[np.ndarray, np.ndarray]:
    x, y = related()
    match regime:
        case "fewer samples than dims":
            x, y = related(40, 90, 50)
        case "one dim":
            x, y = x[:, :1], y[:, :1]
    return x.astype("f"), y.astype("f")


@pytest.mark.parametrize(
    "regime",
    [
        "related", "fewer samples than dims",
        "one dim",
    ],
)  # fmt: skip
def test_plain_formula(regime):
    x, y = pair(regime)
    assert score(x, y) == pytest.approx(plain_probe(x, y), abs=1e-6)


def test_known_answers():
    x, y = related(noise=0)
    assert score(x, y) == pytest.approx(1, abs=1e-6)
    assert score(x, x) == pytest.approx(1, abs=1e-6)
    assert -0.1 < score(x, rng(7).standard_normal((80, 5))) < 0.1
    # signal and noise of equal variance
    x, y = related(2000, 3, 400, noise=3**0.5)
    assert score(x, y) == pytest.approx(0.5, abs=0.05)


def test_more_dims_than_samples_do_not_overfit():
    g = rng(0)
    assert score(g.standard_normal((60, 500)), g.standard_normal((60, 20))) > -0.1


def test_probe_reads_from_x_onto_y():
    """y is part of x: x determines y, y does not determine the rest of x."""
    x = rng(0).standard_normal((100, 10))
    assert score(x, x[:, :2]) > 0.99
    assert score(x[:, :2], x) == pytest.approx(0.2, abs=0.1)


def turned(values: np.ndarray) -> np.ndarray:
    return values @ np.linalg.qr(rng(1).standard_normal((values.shape[1], values.shape[1])))[0]


@pytest.mark.parametrize("shape", [(80, 12, 5), (40, 90, 5)])
def test_invariant(shape):
    x, y = related(*shape)
    wanted = score(x, y)
    for name, changed in {
        "x turned": (turned(x), y),
        "y turned": (x, turned(y)),
        "x scaled": (-3e-3 * x, y),
        "y scaled": (x, 50 * y),
        "offset": (x + rng(1).standard_normal(x.shape[1]), y - 5),
    }.items():
        assert score(*changed) == pytest.approx(wanted, abs=1e-8), name


def test_not_invariant():
    x, y = related()
    wanted, order = score(x, y), rng(4).permutation(len(x))
    for name, changed in {
        "x's dims scaled": (x * np.geomspace(0.001, 1, 12), y),
        "y's dims scaled": (x, y * np.geomspace(0.01, 1, 5)),
        "samples of one permuted": (x, y[order]),
        "samples of both permuted": (x[order], y[order]),  # other folds
        "swapped": (y, x),
    }.items():
        assert abs(score(*changed) - wanted) > 1e-5, name


@pytest.mark.parametrize("dtype", ["f", "d"])
def test_constant_layer_is_nan_in_its_row_and_column(dtype):
    x, y = related(30)
    x, y, same = (torch.as_tensor(side.astype(dtype)) for side in (x, y, np.full((30, 4), 0.1)))
    scores = LINEAR_PROBE.scores([x, same], [y, same], 10)
    assert np.isnan(scores).tolist() == [[False, True], [True, True]]
    assert LINEAR_PROBE.subset(None, np.arange(10), 10) is None


@pytest.mark.parametrize("samples", [30, 101])
def test_x_that_is_constant_in_a_training_fold_says_nothing(samples):
    """All its training samples are the same up to the rounding of their mean, which is not to be fitted."""
    g = rng(0)
    x = np.tile(100 * g.standard_normal(7), (samples, 1))
    x[3] += g.standard_normal(7)
    assert score(x, g.standard_normal((samples, 3))) == pytest.approx(0, abs=1e-3)


def test_map_compare_subset_and_permuted_agree_with_features():
    g = rng(2)
    xs = [torch.as_tensor(related(40, dx=dx)[0].astype("f")) for dx in (6, 50)]
    ys = [torch.as_tensor(related(40, dx=6, dy=dy)[1].astype("f")) for dy in (1, 5)]
    a, b = ([LINEAR_PROBE.prepare(one, 10) for one in side] for side in (xs, ys))
    wanted = np.array([[score(x, y) for y in ys] for x in xs])
    assert np.array_equal(LINEAR_PROBE.scores(xs, ys, 10), wanted)
    np.testing.assert_allclose(LINEAR_PROBE.compare(a, b, 10), wanted, atol=1e-12)

    chosen = np.sort(g.permutation(40)[:20])
    left, right = ([LINEAR_PROBE.subset(one, chosen, 10) for one in side] for side in (a, b))
    wanted = [[score(x[chosen], y[chosen]) for y in ys] for x in xs]
    np.testing.assert_allclose(LINEAR_PROBE.compare(left, right, 10), wanted, atol=1e-6)

    orders = np.stack([g.permutation(40) for _ in range(2)])
    moved = LINEAR_PROBE.permuted(a, b, 10, orders)
    for permutation, order in enumerate(orders):
        np.testing.assert_allclose(moved[permutation], [[score(x, y[order]) for y in ys] for x in xs], atol=1e-6)


def test_groups_are_held_out_together():
    """Names of one last word share a target: random folds know it from the others of the group."""
    g = np.random.default_rng(0)
    groups = np.repeat(np.arange(30), 6)
    x = np.repeat(g.standard_normal((30, 12)), 6, axis=0) + 0.3 * g.standard_normal((180, 12))
    y = np.repeat(g.standard_normal((30, 4)), 6, axis=0) + 0.3 * g.standard_normal((180, 4))
    order = g.permutation(180)
    x, y, groups = x[order], y[order], groups[order]
    named = [f"word {group}" for group in groups]
    assert similarity(x, y, "linear_probe") > 0.2  # of unrelated groups
    assert similarity(x, y, "linear_probe", groups=named) < 0.05
    related = y + 0.5 * x[:, :4]
    assert similarity(x, related, "linear_probe", groups=named) > similarity(x, y, "linear_probe", groups=named) + 0.05
    expected, spread = 0.0, 0.0
    for train, test in GroupKFold(5).split(x, groups=[named.index(name) for name in named]):
        probe = RidgeCV(penalties(x[train])).fit(x[train], y[train])
        expected += ((probe.predict(x[test]) - y[test]) ** 2).sum()
        spread += ((y[test] - y[train].mean(0)) ** 2).sum()
    heat = similarity_map(x[None], y[None], "linear_probe", groups=named)
    assert heat.to_numpy().item() == pytest.approx(similarity(x, y, "linear_probe", groups=named))
    assert heat.to_numpy().item() == pytest.approx(1 - expected / spread, abs=0.05)  # other groups share a fold
    single = similarity(x, y, "linear_probe", groups=range(180))
    assert single == pytest.approx(similarity(x, y, "linear_probe"), abs=0.1)
    with pytest.raises(ValueError, match="groups must hold one label for each of 180 samples"):
        similarity(x, y, "linear_probe", groups=named[:-1])
    with pytest.raises(ValueError, match="groups hold 2 groups, fewer than the 5 folds"):
        similarity(x, y, "linear_probe", groups=[number % 2 for number in range(180)])
    with pytest.raises(ValueError, match="captions='apart' is for mutual_knn and linear_probe, got cka"):
        similarity(x, y, "cka", groups=named, captions="apart")
