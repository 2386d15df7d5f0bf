"""Compute every metric for one pair of layers in plain NumPy, float64, as the papers write it.

Nothing is shared with the package: the metrics are tested against these functions, and the benchmarks compare with
them. x and y are (sample, dim) arrays over the same samples. A side whose samples are all the same gives NaN, except in
`cosine` and `modality_gap`. Where ties matter, cosines and dissimilarities are rounded to 12 decimals first.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist
from scipy.special import gammaln
from scipy.stats import rankdata
from sklearn.model_selection import KFold

Array = NDArray[Any]

DECIMALS = 12  # float64 cosines and correlations of equal rows agree to about 15
VARIANCE = 0.99  # kept by svcca and pwcca (Raghu et al. 2017)
MEDIAN_OF = 4096  # samples whose median distance is the bandwidth of cka_rbf
FOLDS = 5
PENALTIES = 10.0 ** np.arange(-5, 4)  # of the linear probe, per sample and mean variance


def constant(x: Array) -> bool:
    """Return whether all samples are the same."""
    return bool((x == x[0]).all())


def centred(x: Array) -> Array:
    """Remove column means."""
    return x - x.mean(0)


# Gram matrices


def hsic_1(a: Array, b: Array) -> float:
    """Return the unbiased estimator of HSIC (Song et al. 2012, eq. 5) of two (sample, sample) Gram matrices."""
    n = len(a)
    a, b = a.copy(), b.copy()
    np.fill_diagonal(a, 0)
    np.fill_diagonal(b, 0)
    trace = np.sum(a * b)  # tr(AB) of symmetric matrices
    middle = a.sum() * b.sum() / ((n - 1) * (n - 2))
    return float((trace + middle - 2 / (n - 2) * (a.sum(0) @ b.sum(0))) / (n * (n - 3)))


def hsic_0(a: Array, b: Array) -> float:
    """Return tr(AHBH), H the centring matrix, of two (sample, sample) kernel matrices (Kornblith et al. 2019)."""
    return float(np.sum((a - a.mean(0) - a.mean(1, keepdims=True) + a.mean()) * b))


def normalised(hsic: Callable[[Array, Array], float], a: Array, b: Array) -> float:
    """Return HSIC(a, b) / sqrt(HSIC(a, a) HSIC(b, b)); NaN where a side's own HSIC is not positive."""
    own = hsic(a, a), hsic(b, b)
    return hsic(a, b) / float(np.sqrt(own[0]) * np.sqrt(own[1])) if min(own) > 0 else float("nan")


def cka(x: Array, y: Array, k: int = 10) -> float:
    """Return debiased linear CKA (Nguyen et al. 2021, eq. 2 and 3); centring changes only its rounding."""
    if constant(x) or constant(y):
        return float("nan")
    x, y = centred(x), centred(y)
    return normalised(hsic_1, x @ x.T, y @ y.T)


def cka_units(x: Array, y: Array, k: int = 10) -> float:
    """Return CKA debiased over samples and units (Chun et al., arXiv 2502.15104), unit by unit.

    HSIC is a mean over pairs of units, one of each side. A side's own HSIC is the mean over pairs of different units.
    """
    if constant(x) or constant(y):
        return float("nan")
    x, y = centred(x), centred(y)

    def own(side: Array) -> float:
        alone = sum(hsic_1(np.outer(unit, unit), np.outer(unit, unit)) for unit in side.T)
        units = side.shape[1]
        return (hsic_1(side @ side.T, side @ side.T) - alone) / (units * (units - 1))

    norms = own(x), own(y)
    if min(norms) <= 0:
        return float("nan")
    return hsic_1(x @ x.T, y @ y.T) / (x.shape[1] * y.shape[1]) / float(np.sqrt(norms[0]) * np.sqrt(norms[1]))


def cka_biased(x: Array, y: Array, k: int = 10) -> float:
    """Return linear CKA (Kornblith et al. 2019)."""
    if constant(x) or constant(y):
        return float("nan")
    x, y = centred(x), centred(y)
    return normalised(hsic_0, x @ x.T, y @ y.T)


def rbf(x: Array) -> Array:
    """Return exp(-squared distance / (2 median)), (sample, sample); the median includes the diagonal."""
    some = x[np.linspace(0, len(x) - 1, MEDIAN_OF).round().astype(int)] if len(x) > MEDIAN_OF else x
    squared = cdist(x, x, "sqeuclidean")
    median = np.median(squared if some is x else cdist(some, some, "sqeuclidean"))
    return np.exp(-squared / (2 * median)) if median > 0 else np.full_like(squared, np.nan)


def cka_rbf(x: Array, y: Array, k: int = 10) -> float:
    """Return CKA with Gaussian kernels as wide as the median distance (Kornblith et al. 2019)."""
    if constant(x) or constant(y):
        return float("nan")
    return normalised(hsic_0, rbf(x), rbf(y))


def dissimilarities(x: Array) -> Array:
    """Return 1 - Pearson correlation of every two samples over the dims: the upper triangle of the RDM."""
    rdm = np.round(1 - np.corrcoef(x), DECIMALS)
    return rdm[np.triu_indices(len(x), 1)]


def rsa(x: Array, y: Array, k: int = 10) -> float:
    """Return the Spearman correlation of two RDMs (Kriegeskorte et al. 2008); NaN where a sample is constant."""
    if any((side == side[:, :1]).all(1).any() for side in (x, y)):
        return float("nan")
    ranks = [rankdata(dissimilarities(side)) for side in (x, y)]
    if any(constant(side) for side in ranks):
        return float("nan")
    return float(np.corrcoef(*ranks)[0, 1])


# Neighbours


def cosines(x: Array) -> Array:
    """Return rounded, uncentred cosines (sample, sample); 0 for rows of zeros."""
    unit = unit_rows(x)
    return np.round(unit @ unit.T, DECIMALS)


def unit_rows(x: Array) -> Array:
    """Scale rows to length 1; rows of zeros stay."""
    norms = np.linalg.norm(x, axis=1, keepdims=True)
    return x / np.where(norms > 0, norms, 1)


def neighbours(similarity: Array, k: int) -> Array:
    """Return (sample, sample) 1 where the second is among the first's k nearest others, ties to the lower index."""
    others = similarity.copy()
    np.fill_diagonal(others, -np.inf)
    nearest = np.argsort(-others, axis=1, kind="stable")[:, :k]
    members = np.zeros_like(similarity)
    np.put_along_axis(members, nearest, 1, axis=1)
    return members


def mutual_knn(x: Array, y: Array, k: int = 10) -> float:
    """Return the mean share of common members among the k nearest neighbours (Huh et al. 2024)."""
    if constant(x) or constant(y):
        return float("nan")
    return float((neighbours(cosines(x), k) * neighbours(cosines(y), k)).sum() / (len(x) * k))


def cknna(x: Array, y: Array, k: int = 10) -> float:
    """Return CKA over common nearest neighbours, by the code of Huh et al. 2024 without its epsilon."""
    if constant(x) or constant(y):
        return float("nan")
    n = len(x)
    gram_x, gram_y = cosines(x), cosines(y)
    near_x, near_y = neighbours(gram_x, k), neighbours(gram_y, k)  # nobody is their own neighbour

    def hsic(a: Array, b: Array) -> float:
        middle = a.sum() * b.sum() / ((n - 1) * (n - 2))
        # sum(A @ B) is the column sums of A times the row sums of B
        return float((np.sum(a * b.T) + middle - 2 / (n - 2) * (a.sum(0) @ b.sum(1))) / (n * (n - 3)))

    own = hsic(near_x * gram_x, near_x * gram_x), hsic(near_y * gram_y, near_y * gram_y)
    if min(own) <= 0:
        return float("nan")
    common = near_x * near_y
    return hsic(common * gram_x, common * gram_y) / float(np.sqrt(own[0]) * np.sqrt(own[1]))


def information_imbalance(x: Array, y: Array, k: int = 10) -> float:
    """Return 2 / N times the mean rank in y of the k nearest neighbours in x (Glielmo et al. 2022), by cosine."""
    if constant(x) or constant(y):
        return float("nan")
    near, others = neighbours(cosines(x), k).astype(bool), cosines(y)
    np.fill_diagonal(others, -np.inf)
    return float(2 / len(x) * rankdata(-others, axis=1)[near].mean())


# Subspaces


def kept_directions(x: Array) -> Array:
    """Return the fewest left singular vectors (sample, r) of centred x that have 99 % of the variance."""
    u, s, _ = np.linalg.svd(centred(x), full_matrices=False)
    share = np.cumsum(s**2) / np.sum(s**2)
    return u[:, : int(np.argmax(share >= VARIANCE)) + 1]


def svcca(x: Array, y: Array, k: int = 10) -> float:
    """Return the mean canonical correlation of the directions with 99 % of each side's variance (Raghu et al. 2017)."""
    if constant(x) or constant(y):
        return float("nan")
    return float(np.linalg.svd(kept_directions(x).T @ kept_directions(y), compute_uv=False).mean())


def pwcca(x: Array, y: Array, k: int = 10) -> float:
    """Return canonical correlations weighted by how much of x each canonical variate has (Morcos et al. 2018).

    Directions that both sides share completely all have correlation 1, and any rotation of them is as canonical: their
    weight is its mean over all rotations.
    """
    if constant(x) or constant(y):
        return float("nan")
    q_x, q_y = kept_directions(x), kept_directions(y)
    u, rho, _ = np.linalg.svd(q_x.T @ q_y, full_matrices=False)
    carried = (q_x @ u).T @ centred(x)  # (min(r_x, r_y), dim): <h_i, x_j>
    weights = np.abs(carried).sum(1)
    shared = rho > 1 - 1e-12
    if shared.any():
        weights[shared] = mean_component(shared.sum()) * np.linalg.norm(carried[shared], axis=0).sum()
    return float(weights @ rho / weights.sum())


def mean_component(dims: int) -> float:
    """Return the mean magnitude of one coordinate of a random unit vector: 1 in one dim, 2 / pi in two."""
    return float(np.exp(gammaln(dims / 2) - gammaln((dims + 1) / 2)) / np.sqrt(np.pi))


def procrustes(x: Array, y: Array, k: int = 10) -> float:
    """Return 1 - d^2 / 2 with the orthogonal Procrustes distance d of centred sides of norm 1 (Ding et al. 2021)."""
    if constant(x) or constant(y):
        return float("nan")
    x, y = (centred(side) / np.linalg.norm(centred(side)) for side in (x, y))
    return float(np.linalg.svd(x.T @ y, compute_uv=False).sum())


# Probes and towers that share their dims


def linear_probe(x: Array, y: Array, k: int = 10) -> float:
    """Return five-fold R2 of ridge regression from x onto y; leave-one-out error chooses the penalty in each fold."""
    if constant(x) or constant(y):
        return float("nan")
    errors = spread = 0.0
    for train, test in KFold(FOLDS, shuffle=True, random_state=0).split(x):
        mean_x, mean_y = x[train].mean(0), y[train].mean(0)
        known, wanted = x[train] - mean_x, y[train] - mean_y
        best, chosen = np.inf, wanted
        for alpha in PENALTIES * np.sum(known**2) / x.shape[1]:
            inverse = np.linalg.inv(known @ known.T + alpha * np.eye(len(train)))
            dual = inverse @ wanted  # the residuals are alpha times this
            # residuals as if each sample had been left out: the intercept takes 1 / n of what it keeps to itself
            left_out = alpha * dual / (alpha * np.diag(inverse) - 1 / len(train))[:, None]
            if np.mean(left_out**2) < best:
                best, chosen = np.mean(left_out**2), dual
        errors += np.sum((y[test] - mean_y - (x[test] - mean_x) @ known.T @ chosen) ** 2)
        spread += np.sum((y[test] - mean_y) ** 2)
    return float(1 - errors / spread)


def cosine(x: Array, y: Array, k: int = 10) -> float:
    """Return the mean over samples of the cosine between x_i and y_i."""
    return float((unit_rows(x) * unit_rows(y)).sum(1).mean())


def modality_gap(x: Array, y: Array, k: int = 10) -> float:
    """Return the distance between the means of the unit rows (Liang et al. 2022)."""
    return float(np.linalg.norm(unit_rows(x).mean(0) - unit_rows(y).mean(0)))


REFERENCE: dict[str, Callable[[Array, Array, int], float]] = {
    "cka": cka,
    "cka_biased": cka_biased,
    "cka_rbf": cka_rbf,
    "cka_units": cka_units,
    "mutual_knn": mutual_knn,
    "cknna": cknna,
    "information_imbalance": information_imbalance,
    "svcca": svcca,
    "pwcca": pwcca,
    "procrustes": procrustes,
    "rsa": rsa,
    "linear_probe": linear_probe,
    "cosine": cosine,
    "modality_gap": modality_gap,
}
SAME_DIMS = ("cosine", "modality_gap")
