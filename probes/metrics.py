"""The metrics: debiased CKA and mutual k-nearest neighbours, as fast and exact over a whole layer map as over one pair.

Every metric works on one *relation* per layer: a sample-by-sample table, computed once and then compared, re-indexed by
a permutation or cut to a subset of samples (`significance`) without touching the features again. What the metrics mean,
and what they demand of their input, is said and checked in `similarity`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

BLOCK = 2**25  # float64 numbers held at once while Grams are compared: 256 MiB
TIE = 1e-13  # cosines closer than this may be out of order: their BLAS sums round differently


class Metric(NamedTuple):
    """How one metric is computed; `x`, `y` are (sample, dim), a relation is None where the metric is undefined.

    relate(x): the layer's relation. compare(a, b, k): the score of two relations, NaN where one is None.
    subset(a, chosen, k): the relation over the chosen samples, an increasing index.
    permuted(a, b, k, orders): scores (permutation, a, b) of lists of relations, with b's samples re-ordered.
    scores(xs, ys, k): the layer map of two lists of features.
    """

    relate: Callable[[Array], Array | None]
    compare: Callable[[Array | None, Array | None, int], float]
    subset: Callable[[Array | None, Array, int], Array | None]
    permuted: Callable[[Sequence[Array | None], Sequence[Array | None], int, Array], Array]
    scores: Callable[[Sequence[Array], Sequence[Array], int], Array]
    neighbours: bool  # whether k matters
    least: int  # samples needed


def _centred(x: Array) -> Array:
    """Float64, column means removed; scaled to a largest magnitude of 1, which CKA does not see, against overflow."""
    x = x.astype(np.float64)
    x = x - x[0]  # exact for a constant layer, and a common offset is gone before anything is summed
    x -= x.mean(0)
    largest = np.abs(x).max()
    return x / largest if largest else x


def _u_centred_rows(x: Array, rows: slice) -> Array:
    """Rows of the U-centred Gram of centred x: <U(x), U(y)> = n (n - 3) HSIC_1(x, y) (Szekely & Rizzo 2014, prop. 1).

    Without its diagonal the Gram of centred features has row sums -|x_i|^2, so nothing but the products is summed.
    """
    n, squares = len(x), np.einsum("nd,nd->n", x, x)
    gram = x[rows] @ x.T
    gram += squares[rows, None] / (n - 2)
    gram += squares / (n - 2) - squares.sum() / ((n - 1) * (n - 2))
    gram[np.arange(len(gram)), np.arange(n)[rows]] = 0
    return gram


def _unit(gram: Array, scale: float) -> Array | None:
    """The U-centred Gram over its Frobenius norm; None where nothing but rounding error is left."""
    norm = float(np.linalg.norm(gram))
    return gram / norm if norm > 1e-12 * scale else None


def _cka_relate(x: Array) -> Array | None:
    x = _centred(x)
    return _unit(_u_centred_rows(x, slice(None)), float((x * x).sum()))


def _cka_compare(a: Array | None, b: Array | None, k: int) -> float:
    return float("nan") if a is None or b is None else float(np.vdot(a, b))


def _cka_subset(a: Array | None, chosen: Array, k: int) -> Array | None:
    if a is None:
        return None
    # U-centring wipes out every a_i + a_j, so the full Gram's own U-centring does no harm here
    gram = a[np.ix_(chosen, chosen)]
    n, sums = len(chosen), gram.sum(1)
    gram -= sums[:, None] / (n - 2)
    gram -= sums / (n - 2) - sums.sum() / ((n - 1) * (n - 2))
    np.fill_diagonal(gram, 0)
    return _unit(gram, 1.0)


def _cka_permuted(a: Sequence[Array | None], b: Sequence[Array | None], k: int, orders: Array) -> Array:
    scores = np.full((len(orders), len(a), len(b)), np.nan)
    known_a, known_b = ([i for i, one in enumerate(side) if one is not None] for side in (a, b))
    if not known_a or not known_b:
        return scores
    n = orders.shape[1]
    upper, right = np.triu_indices(n, 1)  # the Grams are symmetric: half of each is enough
    left = np.stack([a[i][upper, right] for i in known_a])  # type: ignore[index]
    table = np.stack([b[j].ravel() for j in known_b], 1)  # type: ignore[union-attr]
    for at, order in enumerate(orders):
        moved = np.take(table, order[upper] * n + order[right], axis=0)
        scores[at][np.ix_(known_a, known_b)] = 2 * left @ moved
    return scores


def _cka_scores(xs: Sequence[Array], ys: Sequence[Array], k: int) -> Array:
    """The layer map of debiased CKA, in feature space where samples far outnumber dims, else from Grams."""
    n, dims_x, dims_y = len(xs[0]), [x.shape[1] for x in xs], [y.shape[1] for y in ys]
    by_grams = n * n * (sum(dims_x) + sum(dims_y) + len(xs) * len(ys))
    by_dims = n * sum(dx * dy for dx in dims_x for dy in dims_y) + n * sum(d * d for d in dims_x + dims_y)
    if by_dims < by_grams:
        scores = _cka_by_dims(xs, ys)
        if scores is not None:
            return scores
    return _cka_by_grams(xs, ys)


def _cka_by_grams(xs: Sequence[Array], ys: Sequence[Array]) -> Array:
    n = len(xs[0])
    cross, own_x, own_y = np.zeros((len(xs), len(ys))), np.zeros(len(xs)), np.zeros(len(ys))
    step = max(1, BLOCK // (n * (len(xs) + len(ys))))
    for start in range(0, n, step):
        rows = slice(start, start + step)
        left, right = (np.stack([_u_centred_rows(_centred(x), rows).ravel() for x in side]) for side in (xs, ys))
        cross += left @ right.T
        own_x += np.einsum("ln,ln->l", left, left)
        own_y += np.einsum("ln,ln->l", right, right)
    for own, side in ((own_x, xs), (own_y, ys)):
        for at, x in enumerate(side):
            if own[at] <= (1e-12 * (_centred(x) ** 2).sum()) ** 2:
                own[at] = np.nan
    return cross / np.sqrt(own_x)[:, None] / np.sqrt(own_y)


def _cka_by_dims(xs: Sequence[Array], ys: Sequence[Array]) -> Array | None:
    """Song's eq. 5 with tr(KL) = |x'y|^2; None where taking out the diagonal would cancel digits."""
    centred = [[_centred(x) for x in side] for side in (xs, ys)]
    owns = [[_hsic(x, x) for x in side] for side in centred]
    if any(own <= 1e-6 * whole for side in owns for own, whole in side):
        return None
    cross = np.array([[_hsic(x, y)[0] for y in centred[1]] for x in centred[0]])
    own_x, own_y = (np.array([own for own, _ in side]) for side in owns)
    return cross / np.sqrt(own_x)[:, None] / np.sqrt(own_y)


def _hsic(x: Array, y: Array) -> tuple[float, float]:
    """n (n - 3) HSIC_1 of centred features, and the |x'y|^2 it starts from."""
    n, in_x, in_y = len(x), np.einsum("nd,nd->n", x, x), np.einsum("nd,nd->n", y, y)
    whole = float(((x.T @ y) ** 2).sum())
    return whole - float(in_x @ in_y) * n / (n - 2) + float(in_x.sum() * in_y.sum()) / ((n - 1) * (n - 2)), whole


def _knn_relate(x: Array) -> Array | None:
    """For each sample all others, (sample, samples - 1), nearest first by cosine, ties by index; None if all agree."""
    return _ranked(x, len(x) - 1)


def _ranked(x: Array, count: int) -> Array | None:
    unit = x.astype(np.float64)
    largest = np.abs(unit).max(1, keepdims=True)
    unit /= np.where(largest, largest, 1)  # against overflow
    norms = np.linalg.norm(unit, axis=1, keepdims=True)
    unit /= np.where(norms, norms, 1)
    if np.abs(unit - unit[0]).max() <= 4 * np.finfo(np.float64).eps:
        return None
    n, step = len(unit), max(1, BLOCK // len(unit))
    ranked = np.empty((n, count), np.int32)
    for start in range(0, n, step):
        cosines = unit[start : start + step] @ unit.T
        own = np.arange(len(cosines))
        cosines[own, own + start] = -np.inf  # the sample itself comes last, and is cut off
        order = np.argsort(-cosines, axis=1, kind="stable")
        values = np.take_along_axis(cosines, order[:, :-1], 1)
        for row in np.flatnonzero((values[:, :-1] - values[:, 1:] <= TIE).any(1)):
            order[row] = _rerank(unit, start + int(row))
        ranked[start : start + step] = order[:, :count]
    return ranked


def _rerank(unit: Array, row: int) -> Array:
    """All samples by distance from one, itself last: chords keep the digits that cosines near 1 have lost.

    Chords equal up to their own rounding error are ties, which go by index.
    """
    chords = ((unit - unit[row]) ** 2).sum(1)
    zero = ~unit.any(1)
    chords[zero] = 2  # cosine 0
    if not unit[row].any():
        chords[:] = 2
    order = np.argsort(chords, kind="stable")
    ascending = chords[order]
    group = np.empty(len(chords), np.int64)
    group[order] = np.cumsum(np.diff(ascending, prepend=ascending[0]) > 1e-14 * np.sqrt(ascending))
    group[row] = len(chords)
    return np.lexsort((np.arange(len(chords)), group))


def _knn_compare(a: Array | None, b: Array | None, k: int) -> float:
    if a is None or b is None:
        return float("nan")
    return float(_members(a, k)[np.arange(len(b))[:, None], b[:, :k]].mean())


def _members(ranked: Array, k: int) -> Array:
    """(sample, sample) True where the second is among the first's k nearest."""
    members = np.zeros((len(ranked), len(ranked)), bool)
    members[np.arange(len(ranked))[:, None], ranked[:, :k]] = True
    return members


def _knn_subset(a: Array | None, chosen: Array, k: int) -> Array | None:
    """The k nearest among the chosen: those of each chosen sample's own ranking that are chosen too, in order."""
    if a is None:
        return None
    place = np.full(len(a), -1, np.int32)
    place[chosen] = np.arange(len(chosen))
    # a prefix nearly always holds k of them, and reading all of a ranking is what costs
    for width in (16 * k + 64, len(a) - 1):
        near = place[a[chosen, :width]]
        inside = near >= 0
        if (inside.sum(1) >= k).all():
            break
    return near[inside & (inside.cumsum(1) <= k)].reshape(len(chosen), k)


def _knn_permuted(a: Sequence[Array | None], b: Sequence[Array | None], k: int, orders: Array) -> Array:
    scores = np.full((len(orders), len(a), len(b)), np.nan)
    known = [i for i, one in enumerate(a) if one is not None]
    if not known:
        return scores
    n = orders.shape[1]
    table = np.stack([_members(a[i], k).ravel() for i in known], 1)  # type: ignore[arg-type]
    rows = np.arange(n)[:, None] * n
    for j, ranked in enumerate(b):
        if ranked is None:
            continue
        for at, order in enumerate(orders):
            # sample i of the permuted b is sample order[i]: its neighbours are found under their new places
            place = np.argsort(order)
            pairs = (rows + place[ranked[order, :k]]).ravel()
            scores[at, known, j] = table[pairs].mean(0)
    return scores


def _knn_scores(xs: Sequence[Array], ys: Sequence[Array], k: int) -> Array:
    near_y = [_ranked(y, k) for y in ys]
    return np.array([[_knn_compare(a, b, k) for b in near_y] for a in (_ranked(x, k) for x in xs)])


METRICS = {
    "cka": Metric(_cka_relate, _cka_compare, _cka_subset, _cka_permuted, _cka_scores, neighbours=False, least=4),
    "mutual_knn": Metric(_knn_relate, _knn_compare, _knn_subset, _knn_permuted, _knn_scores, neighbours=True, least=2),
}
