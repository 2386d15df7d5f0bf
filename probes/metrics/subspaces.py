"""Compute SVCCA, PWCCA and Procrustes: how well the subspaces and shapes of two layers match after a rotation.

All three come from the singular values of one small matrix per pair, and these from the eigenvalues of its smaller Gram
in float64, twice as fast as an SVD. Layers and pairs run in threads of one BLAS thread each: the threads of a single
eigendecomposition mostly wait for each other, for seconds where another process uses a core.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..workers.shared_parts import Part, in_parts
from .metric import MEMORY, Array, Metric, by_threads, centred, defined, in_threads, permuted_by_reordering

KEPT = 0.99  # share of the variance that the truncation of SVCCA and PWCCA keeps
ROUNDING = 4e-15  # of an eigenvalue, relative to the largest
FIRST = 8  # leading directions that are looked at alone before a decomposition
LITTLE = 1e-3  # of the sum of squares: if this is left behind the leading directions, they are taken out
STEPS = 12  # of the iteration that finds them: it converges fast wherever so little is left

Matrix = Any  # a NumPy array of a tensor on the CPU, where NumPy's BLAS lets threads run at once; else the tensor


class Subspace(NamedTuple):
    """Hold the directions of a layer that have 99 % of its variance.

    Attributes
    ----------
    features : Tensor
        The layer as it was given (sample, dim).
    basis : Matrix
        Orthonormal directions (sample, rank).
    loadings : Matrix
        The transposed basis times the centred features (rank, dim), float64.
    """

    features: Tensor
    basis: Matrix
    loadings: Matrix


class Cloud(NamedTuple):
    """Hold the centred layer, of Frobenius norm 1, rotated into as few dims as it needs.

    Attributes
    ----------
    features : Tensor
        The layer as it was given (sample, dim).
    points : Matrix
        The rotated layer (sample, min(sample, dim)).
    """

    features: Tensor
    points: Matrix


def _matrix(x: Tensor) -> Matrix:
    return x.numpy() if x.device.type == "cpu" else x


def _linalg(matrix: Matrix) -> Any:
    return torch.linalg if isinstance(matrix, Tensor) else np.linalg


def _double(matrix: Matrix) -> Matrix:
    return matrix.double() if isinstance(matrix, Tensor) else matrix.astype(np.float64)


def _by_pairs(score: Callable[[Any, Any], float]) -> Callable[[Sequence[Any], Sequence[Any], int], Array]:
    """Build `Metric.compare` from the score of one pair of prepared layers."""

    def compare(a: Sequence[Any], b: Sequence[Any], k: int) -> Array:
        scores = np.full((len(a), len(b)), np.nan)
        left, right = defined(a), defined(b)
        if left and right:
            pairs = [(one, other) for _, one in left for _, other in right]
            values = np.array(in_threads(score, pairs, pairs[0][0].features.device))
            scores[np.ix_([i for i, _ in left], [j for j, _ in right])] = values.reshape(len(left), len(right))
        return scores

    return compare


def _subspace(x: Tensor, k: int) -> Subspace | None:
    """Find the fewest leading left singular vectors of centred x that have 99 % of its variance, in float64."""
    values = _matrix(centred(x.double()))
    if not values.any():
        return None
    few_samples = values.shape[0] < values.shape[1]
    variances, vectors = _linalg(values).eigh(values @ values.T if few_samples else values.T @ values)  # ascending
    tail = variances.clip(0).cumsum(0)
    dropped = int((tail <= (1 - KEPT + 1e-10) * tail[-1]).sum())  # equal variances can meet the cut up to rounding
    norms, kept = variances[dropped:] ** 0.5, vectors[:, dropped:]
    if few_samples:
        return Subspace(x, kept, kept.T @ values)
    return Subspace(x, values @ kept / norms, norms[:, None] * kept.T)


def _single_subspace(x: Tensor, k: int) -> Subspace | None:
    """Find the subspace with a basis in x's dtype: float32 is good to 1e-7, and products of two are twice as fast."""
    subspace = _subspace(x, k)
    if subspace is None or x.dtype != torch.float32:
        return subspace
    basis = subspace.basis
    return subspace._replace(basis=basis.float() if isinstance(basis, Tensor) else basis.astype(np.float32))


def _svcca(a: Subspace, b: Subspace) -> float:
    """Return the mean canonical correlation of the two subspaces (Raghu et al. 2017)."""
    product = _smaller(a.basis.T @ b.basis)
    squares = _linalg(product).eigvalsh(product @ product.T)
    return float((squares.clip(0, 1) ** 0.5).mean())


def _smaller(product: Matrix) -> Matrix:
    """Return the product in float64, transposed if needed so that product @ product' is the smaller of its Grams."""
    product = _double(product)
    return product if product.shape[0] <= product.shape[1] else product.T


def _pwcca(a: Subspace, b: Subspace) -> float:
    """Return sum_i a_i rho_i / sum_i a_i with a_i = sum_j |<h_i, x_j>| (Morcos et al. 2018), weighted by a's dims.

    Two ranks that add up to more than the samples share directions, all of correlation 1, and any rotation of these is
    as canonical. Their weight is its mean over all rotations. Otherwise rounding would decide, in the third digit of
    the score.
    """
    product = a.basis.T @ b.basis  # (rank of a, rank of b)
    linalg, count = _linalg(product), min(product.shape)
    squares, turns = linalg.eigh(product @ product.T)
    squares, turns = squares[-count:].clip(0, 1), turns[:, -count:]
    reach = turns.T @ a.loadings  # (count, dim), <h_i, x_j>
    weights = abs(reach).sum(1)
    tied = int((squares > 1 - 1e-12).sum())
    if tied > 1:
        # the mean |<h, v>| over directions h of as many dims, over |v|: 1 for one dim, 2 / pi for two
        share = math.exp(math.lgamma(tied / 2) - math.lgamma((tied + 1) / 2)) / math.pi**0.5
        weights[-tied:] = share * ((reach[-tied:] ** 2).sum(0) ** 0.5).sum()
    return float((weights * squares**0.5).sum() / weights.sum())


def _cloud(x: Tensor, k: int) -> Cloud | None:
    """Divide centred x by its Frobenius norm; with fewer samples than dims, use the transposed R of the QR of x'."""
    values = centred(x)
    if not values.any():
        return None
    values = values.double()
    if values.shape[0] < values.shape[1]:
        values = torch.linalg.qr(values.T, mode="r").R.T
    return Cloud(x, _matrix((values / values.norm()).to(x.dtype)))


def _procrustes(a: Cloud, b: Cloud) -> float:
    """Return |x'y|_* / (|x|_F |y|_F), 1 - d^2 / 2 with the orthogonal Procrustes distance d (Williams et al. 2021).

    The product is taken in the dtype of the features, in float64 where that loses digits, and an SVD is used where
    eigenvalues lose them too.
    """
    total = _nuclear_norm(a.points.T @ b.points)
    if total is None:
        product = _smaller(_double(a.points).T @ _double(b.points))
        total = _nuclear_norm(product)
        total = float(_linalg(product).svdvals(product).sum()) if total is None else total
    return min(total, 1.0)


def _nuclear_norm(product: Matrix) -> float | None:
    """Return the sum of the singular values of a product, None where rounding could change it by more than 1e-7.

    Small eigenvalues are lost in the rounding of large ones. A few massive directions are therefore taken out first.
    """
    rounding = float(np.finfo(str(product.dtype).removeprefix("torch.")).eps)
    product, total = _smaller(product), 0.0
    gram = product @ product.T
    noise = rounding * (float(gram.trace()) / len(gram)) ** 0.5  # singular values that rounding makes, in float32
    first = _leading(gram)
    if first is not None:
        part = first.T @ product
        total = float((_linalg(part).eigvalsh(part @ part.T).clip(0) ** 0.5).sum())
        product = product - first @ part
        gram = product @ product.T
    squares = _linalg(gram).eigvalsh(gram).clip(0)
    values, error = squares**0.5, ROUNDING * squares[-1] + 1e-30  # the product can be zero
    lost = values[values <= noise].sum() + noise**2 / 8 * (1 / values[values > noise]).sum()
    if lost + (error / (2 * values + error**0.5)).sum() > 1e-7:
        return None
    return total + float(values.sum())


def _leading(gram: Matrix) -> Matrix | None:
    """Return leading directions (dim, `FIRST` at most) of a Gram that tower above the rest, None where none do."""
    trace = gram.trace()
    # as many directions of equal size have this sum of squares: it is larger where fewer hold nearly all
    if len(gram) <= 4 * FIRST or not (gram * gram).sum() > (1 - LITTLE) ** 2 / FIRST * trace**2:
        return None
    linalg, turns = _linalg(gram), gram[:, [int(i) for i in gram.diagonal().argsort()[-FIRST:]]]
    for step in range(STEPS):
        turns = gram @ linalg.qr(turns)[0]
        if step == 1 and ((turns**2).sum(0) ** 0.5).sum() < (1 - 10 * LITTLE) * trace:
            return None
    turns = linalg.qr(turns)[0]
    sizes, mixed = linalg.eigh(turns.T @ gram @ turns)
    rest = trace - sizes.sum()
    found = sizes > 10 * abs(rest)  # these have converged to double precision in so many steps
    return turns @ mixed[:, found] if rest < LITTLE * trace and found.any() else None


def _metric(
    prepare: Callable[[Tensor, int], Any], score: Callable[[Any, Any], float], field: str, about: str
) -> Metric:
    """Build a metric; `field` names the field of the prepared layer whose rows are the samples."""
    compare = _by_pairs(score)

    def prepare_alone(x: Tensor, k: int) -> Any:
        return in_threads(prepare, [(x, k)], x.device)[0]

    def subset(a: Any, chosen: Array, k: int) -> Any:
        return None if a is None else prepare_alone(a.features[chosen], k)

    def reorder(a: Any, order: Array) -> Any:
        return a._replace(**{field: getattr(a, field)[order]})

    def scores(xs: Sequence[Tensor], ys: Sequence[Tensor], k: int, memory: float = MEMORY) -> Array:
        device = xs[0].device
        b = in_threads(prepare, [(y, k) for y in ys], device)

        def rows(numbers: Iterable[int]) -> Iterator[Part]:
            for some in by_threads(numbers, device):
                a = in_threads(prepare, [(xs[number], k) for number in some], device)
                for row in compare(a, b, k):
                    yield (torch.from_numpy(row),)

        return np.stack([row.numpy() for (row,) in in_parts(rows, len(xs))])

    permuted = permuted_by_reordering(reorder, compare)
    return Metric(prepare_alone, compare, subset, permuted, scores, least=2, about=about, high_by_chance=True)


SVCCA = _metric(
    _single_subspace,
    _svcca,
    "basis",
    "SVCCA is the mean canonical correlation of leading directions, and is high by chance unless samples are many.",
)
PWCCA = _metric(
    _subspace,
    _pwcca,
    "basis",
    "PWCCA weights canonical correlations by their share of x, and is high by chance unless samples are many.",
)
PROCRUSTES = _metric(
    _cloud,
    _procrustes,
    "points",
    "Procrustes measures how well x fits y after the best rotation, and is high by chance unless samples are many.",
)
