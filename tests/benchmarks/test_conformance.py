"""Our metrics against the plain references in every regime; the references against goldens and other people's code."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.linalg import subspace_angles
from scipy.spatial import procrustes
from scipy.spatial.distance import pdist
from scipy.stats import spearmanr
from sklearn.decomposition import PCA
from sklearn.linear_model import RidgeCV
from sklearn.metrics.pairwise import paired_cosine_distances, rbf_kernel
from sklearn.model_selection import KFold
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import KernelCenterer, normalize

from bridgework.benchmarks import conformance
from bridgework.benchmarks.support import regimes
from bridgework.benchmarks.support.peers import PEERS, calibrated
from bridgework.benchmarks.support.reference import PENALTIES, REFERENCE, SAME_DIMS, hsic_1
from bridgework.probes.similarity.scoring import similarity

GOLDENS = json.loads((Path(__file__).parents[1] / "data" / "metric_goldens.json").read_text())["cases"]
K = 10


def pair(seed: int = 0, samples: int = 60, dims: tuple[int, int] = (12, 9)) -> tuple[np.ndarray, np.ndarray]:
    x, y = regimes.related(np.random.default_rng(seed), dims, samples)
    return regimes.exact(x), regimes.exact(y)


def golden_pair(name: str) -> tuple[np.ndarray, np.ndarray]:
    if name.startswith("independent"):
        shape = tuple(int(part) for part in name.split()[1].split("x"))
        sides = [np.random.default_rng(seed).standard_normal(shape) for seed in (0, 1)]
    else:
        g, noise, sides = np.random.default_rng(3), float(name.split()[-1]), []
        shared = g.standard_normal((128, 5))
        for dim in (48, 40):
            weight = g.standard_normal((5, dim))
            sides.append(shared @ weight + noise * g.standard_normal((128, dim)))
    x, y = (side / np.linalg.norm(side, axis=1, keepdims=True) for side in sides)
    return x, y


# Ours


@pytest.mark.parametrize("regime", regimes.REGIMES)
@pytest.mark.parametrize("metric", REFERENCE)
def test_ours_is_right(metric, regime):
    x, y = regimes.draw(regime, metric, seed=0)
    reference = REFERENCE[metric](regimes.exact(x), regimes.exact(y), K)
    # where no two units are alike but by chance, that chance decides whether what is left of the norm is positive
    assert not math.isnan(reference) or metric == "cka_units"
    assert similarity(x, y, metric, K) == pytest.approx(reference, abs=conformance.TOLERANCE, rel=0, nan_ok=True)


@pytest.mark.parametrize("metric", REFERENCE)
def test_a_constant_side_says_nothing(metric):
    x, y = (torch.from_numpy(side) for side in pair(dims=(12, 12)))
    x[:] = x[0].clone()
    value, reference = similarity(x, y, metric, K), REFERENCE[metric](x.numpy(), y.numpy(), K)
    assert math.isnan(reference) == (metric not in ("cosine", "modality_gap"))
    assert value == pytest.approx(reference, abs=1e-9, nan_ok=True)


# The references


@pytest.mark.parametrize("case", GOLDENS, ids=lambda case: case["name"])
@pytest.mark.parametrize("metric", ["cka", "cka_biased", "mutual_knn", "cknna"])
def test_reference_gives_the_golden_values(metric, case):
    assert REFERENCE[metric](*golden_pair(case["name"]), K) == pytest.approx(case[metric], abs=2e-6)


def test_hsic_1_is_the_u_statistic():
    """The mean over all ordered quadruples of different samples (Song et al. 2012, eq. 4)."""
    a, b = (side @ side.T for side in pair(samples=7))
    terms = [a[i, j] * (b[i, j] + b[q, r] - 2 * b[i, q]) for i, j, q, r in itertools.permutations(range(7), 4)]
    assert hsic_1(a, b) == pytest.approx(np.mean(terms), rel=1e-10)


def kernel_alignment(kernels: list[np.ndarray]) -> float:
    a, b = (KernelCenterer().fit_transform(kernel) for kernel in kernels)
    return float(np.vdot(a, b) / np.linalg.norm(a) / np.linalg.norm(b))


def truncated(x: np.ndarray) -> np.ndarray:
    return PCA(0.99, svd_solver="full").fit_transform(x)


def distances_cka_rbf(x: np.ndarray, y: np.ndarray) -> float:
    kernels = []
    for side in (x, y):
        squared = ((side[:, None] - side[None]) ** 2).sum(2)
        kernels.append(rbf_kernel(side, gamma=1 / (2 * np.median(squared))))
    return kernel_alignment(kernels)


def sklearn_mutual_knn(x: np.ndarray, y: np.ndarray) -> float:
    near = [NearestNeighbors(n_neighbors=K, metric="cosine").fit(side).kneighbors()[1] for side in (x, y)]
    return float(np.mean([len(set(a) & set(b)) / K for a, b in zip(*near)]))


def scipy_procrustes(x: np.ndarray, y: np.ndarray) -> float:
    y = np.pad(y, ((0, 0), (0, x.shape[1] - y.shape[1])))
    return float(np.sqrt(1 - procrustes(x, y)[2]))


def sklearn_probe(x: np.ndarray, y: np.ndarray) -> float:
    errors = spread = 0.0
    for train, test in KFold(5, shuffle=True, random_state=0).split(x):
        fitted = RidgeCV(alphas=PENALTIES * len(train) * x[train].var(0).mean()).fit(x[train], y[train])
        errors += ((fitted.predict(x[test]) - y[test]) ** 2).sum()
        spread += ((y[test] - y[train].mean(0)) ** 2).sum()
    return float(1 - errors / spread)


OTHERS = {
    "cka_biased": lambda x, y: kernel_alignment([x @ x.T, y @ y.T]),
    "cka_rbf": distances_cka_rbf,
    "mutual_knn": sklearn_mutual_knn,
    "svcca": lambda x, y: np.cos(subspace_angles(truncated(x), truncated(y))).mean(),
    "procrustes": scipy_procrustes,
    "rsa": lambda x, y: spearmanr(pdist(x, "correlation"), pdist(y, "correlation")).statistic,
    "linear_probe": sklearn_probe,
    "cosine": lambda x, y: 1 - paired_cosine_distances(x, y).mean(),
    "modality_gap": lambda x, y: np.linalg.norm(normalize(x).mean(0) - normalize(y).mean(0)),
}


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("metric", OTHERS)
def test_reference_agrees_with_scipy_and_scikit_learn(metric, seed):
    x, y = pair(seed, dims=(12, 12 if metric in SAME_DIMS else 9))
    assert REFERENCE[metric](x, y, K) == pytest.approx(OTHERS[metric](x, y), abs=1e-9)


def test_pwcca_of_a_layer_with_itself_is_1_and_weighs_by_x():
    x, y = pair()
    assert REFERENCE["pwcca"](x, x, K) == pytest.approx(1)
    assert REFERENCE["pwcca"](x, y, K) != pytest.approx(REFERENCE["pwcca"](y, x, K), abs=1e-4)
    assert REFERENCE["pwcca"](x, 3 * y @ np.diag([1, -1] * 4 + [1]) + 5, K) == pytest.approx(
        REFERENCE["pwcca"](x, y, K)
    )


def test_pwcca_weighs_canonical_correlations():
    """By hand: x carries 3 of its 4 units of weight along the direction that y shares with it."""
    normal = np.random.default_rng(0).standard_normal((40, 3))
    directions = np.linalg.qr(normal - normal.mean(0))[0]  # centred, orthonormal
    x, y = directions[:, :2] * [3, 1], directions[:, [0, 2]]
    assert REFERENCE["pwcca"](x, y, K) == pytest.approx(0.75)


def test_pwcca_takes_the_mean_over_rotations_of_what_both_sides_hold():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((9, 7)), rng.standard_normal((9, 6))  # 7 + 6 directions in 8 share 5
    basis = np.linalg.qr(x - x.mean(0))[0]
    x = basis @ rng.standard_normal((7, 30))  # many dims, so that no direction is below 1 %
    y = np.linalg.qr(y - y.mean(0))[0]
    u, rho, _ = np.linalg.svd(basis.T @ y)
    assert np.allclose(rho[:5], 1) and rho[5] < 0.99
    weights = []
    for _ in range(4000):
        turned = u[:, :6].copy()
        turned[:, :5] = turned[:, :5] @ np.linalg.qr(rng.standard_normal((5, 5)))[0]
        weights.append(np.abs((basis @ turned).T @ (x - x.mean(0))).sum(1))
    mean = np.mean(weights, 0)
    assert truncated(x).shape[1] == 7 and truncated(y).shape[1] == 6
    assert REFERENCE["pwcca"](x, y, K) == pytest.approx(mean @ rho / mean.sum(), abs=1e-3)


# The peers, where they are right


@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: f"{peer.metric}, {peer.name}")
def test_agrees_with_public_packages(peer):
    pytest.importorskip(peer.package)
    x, y = regimes.draw("related", peer.metric, seed=0)
    assert similarity(x, y, peer.metric, K) == pytest.approx(peer.score(x, y), abs=conformance.TOLERANCE)


def test_calibrated_similarity_finds_what_is_related():
    pytest.importorskip("calibrated_similarity")
    score, p = calibrated(*([side] for side in regimes.draw("related", "cka", 0)), permutations=19)
    assert score > 0 and p == pytest.approx(1 / 20)


def test_table_tells_right_from_wrong(monkeypatch):
    monkeypatch.setattr(conformance, "contestants", lambda metric: [("half", lambda x, y: 0.5), ("none", broken)])
    table = conformance.table(["mutual_knn"], seeds=1)
    assert list(table["right"]) == [False] * len(table)
    assert set(table.loc[table["who"] == "none", "error"]) == {"ZeroDivisionError: no"}
    assert f"| mutual_knn | half | 0/{len(regimes.REGIMES)} |" in conformance.markdown(table)


def broken(x: torch.Tensor, y: torch.Tensor) -> float:
    raise ZeroDivisionError("no")
