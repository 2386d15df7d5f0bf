"""Metrics of neighbourhoods: mutual k-nearest neighbours and CKNNA, by cosine.

Nearest by cosine is nearest by distance between unit rows, and distances do not change when all rows are shifted: with
v the unit rows less their mean, samples are ranked by v_i . v_j - |v_j|^2 / 2, which keeps its digits in float32 where
all cosines are .99. Rows that float32 cannot decide are ranked again in float64, and those that float64 cannot decide
by their distances.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from .metric import FEW, Array, Metric, defined, scores_from_all, unit_rows

BLOCK = 2**25  # similarities held at once
TIE = 1e-13  # float64 similarities closer than this may be out of order: their sums round differently
TABLE = 2**28  # bytes of the table in which common neighbours are looked up


@dataclass(frozen=True, eq=False)
class Neighbours:
    """The k nearest samples of every sample.

    near: (sample, k), the sample itself left out. distances: (sample, k), theirs, 1 - cosine, which keeps its digits
    where cosines are near 1. unit: (sample, dim) unit rows, float64.
    """

    near: Array
    distances: Array
    unit: Tensor

    @cached_property
    def ranked(self) -> tuple[Array, Array]:
        """More of them than k, nearest first, ties by index: near any subset of samples k are nearly always left."""
        samples, k = self.near.shape
        return nearest(self.unit, min(16 * k + 64, samples - 1), single=False, ordered=True)


def prepare(x: Tensor, k: int) -> Neighbours | None:
    """The k nearest neighbours by cosine; None where all samples point the same way."""
    unit = unit_rows(x)
    single = x.dtype == torch.float32 and len(x) >= FEW
    return None if _one_way(unit) else Neighbours(*nearest(unit, k, single), unit)


def _one_way(unit: Tensor) -> bool:
    """Whether all unit rows are the same up to rounding."""
    return float((unit - unit[0]).square_().sum(1).max()) <= (8 * np.finfo(np.float64).eps) ** 2


def nearest(unit: Tensor, count: int, single: bool, ordered: bool = False) -> tuple[Array, Array]:
    """The nearest rows (sample, count), their distances; the sets, and where asked the order, of exact arithmetic."""
    shifted, zero = unit - unit.mean(0), ~unit.any(1)
    near = np.empty((len(unit), count), np.int32)
    distances = np.empty((len(unit), count))
    rows = torch.arange(len(unit), device=unit.device)
    if single:
        rounded, unsure = shifted.float(), []
        for some, closeness, error in _closeness(rounded, zero, rows):
            unsure.append(some[_take(some, closeness, error, rounded, zero, near, distances, ordered)])
        rows = torch.cat(unsure)
    for row, candidates in _undecided(shifted, zero, rows, near, distances, ordered):
        near[row], distances[row] = (one[:count] for one in by_distance(unit, zero, row, candidates))
    return near, distances


def _closeness(shifted: Tensor, zero: Tensor, rows: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Blocks of (rows, closeness (row, sample) which falls with distance, error (row,) that rounding may have made)."""
    samples, dims = shifted.shape
    squares = shifted.square().sum(1)
    # a row of zeros has cosine 0 with every row, which is that of unit rows at a squared distance of 2, not 1
    bias = -squares / 2 - zero.to(squares) / 2
    # rounding errors of a product grow like the root of its terms, relative to the lengths (Higham & Mary 2019)
    lengths, rounding = squares.sqrt(), 3 * dims**0.5 * torch.finfo(shifted.dtype).eps
    error = rounding * (lengths * lengths.max() + squares.max())
    step = max(1, BLOCK // samples)
    for start in range(0, len(rows), step):
        some = rows[start : start + step]
        own = shifted if len(some) == samples else shifted[some]
        closeness = torch.addmm(bias, own, shifted.T)
        closeness[torch.arange(len(some), device=some.device), some] = -torch.inf
        yield some, closeness, error[some]


def _take(
    some: Tensor,
    closeness: Tensor,
    error: Tensor,
    shifted: Tensor,
    zero: Tensor,
    near: Array,
    distances: Array,
    ordered: bool,
) -> Tensor:
    """Fill in the neighbours of some rows; (row,) True where near-ties leave them open."""
    count = near.shape[1]
    values, order = closeness.topk(min(count + 1, closeness.shape[1]), dim=1)
    at = some.cpu().numpy()
    near[at] = order[:, :count].cpu().numpy()
    found = shifted[some].square().sum(1, keepdim=True).double() / 2 - values[:, :count].double()
    found[zero[some, None] | zero[order[:, :count]]] = 1
    distances[at] = found.cpu().numpy()
    gaps = values[:, :-1] - values[:, 1:]
    return (gaps if ordered else gaps[:, count - 1 :]).le(2 * error[:, None]).any(1)


def _undecided(
    shifted: Tensor, zero: Tensor, rows: Tensor, near: Array, distances: Array, ordered: bool
) -> Iterator[tuple[int, Tensor]]:
    """Fill in what float64 decides; for each other row, the samples among which its neighbours are."""
    count = near.shape[1]
    for some, closeness, error in _closeness(shifted, zero, rows):
        error = error.clamp(min=TIE)
        for at in _take(some, closeness, error, shifted, zero, near, distances, ordered).nonzero().ravel().tolist():
            reach = closeness[at].topk(count).values[-1] - 2 * error[at]
            yield int(some[at]), (closeness[at] >= reach).nonzero().ravel()


def by_distance(unit: Tensor, zero: Tensor, row: int, candidates: Tensor) -> tuple[Array, Array]:
    """Candidates by distance from a row, and their distances, from differences, which cancel no digits.

    Distances equal up to their own rounding error are ties, which go by index.
    """
    distances = (unit[candidates] - unit[row]).square().sum(1) / 2
    distances[zero[candidates] | zero[row]] = 1
    far, samples = distances.cpu().numpy(), candidates.cpu().numpy()
    order = np.argsort(far, kind="stable")
    ascending = far[order]
    group = np.empty(len(far), np.int64)
    group[order] = np.cumsum(np.diff(ascending, prepend=ascending[0]) > 1e-14 * np.sqrt(ascending))
    found = np.lexsort((samples, group))
    return samples[found], far[found]


def subset(a: Neighbours | None, chosen: Array, k: int) -> Neighbours | None:
    """The k nearest among the chosen: those of each chosen sample's own ranking that are chosen too."""
    if a is None or _one_way(a.unit[chosen]):
        return None
    place = np.full(len(a.near), -1, np.int32)
    place[chosen] = np.arange(len(chosen))
    near, distances = a.ranked
    inside = place[near[chosen]] >= 0
    if (inside.sum(1) < k).any():  # too few of the nearest were chosen
        near, distances = nearest(a.unit, len(a.near) - 1, single=False, ordered=True)
        inside = place[near[chosen]] >= 0
    first = inside & (inside.cumsum(1) <= k)
    shape = len(chosen), k
    return Neighbours(
        place[near[chosen][first]].reshape(shape), distances[chosen][first].reshape(shape), a.unit[chosen]
    )


class Common(NamedTuple):
    """Neighbours that a layer of a and a permuted layer of b have in common, one entry each."""

    a: Array  # place of the layer in a
    b: Array
    sample: Array
    neighbour: Array
    slot: Array  # the neighbour's place in b's list of the sample that stands there now


def common(a: Sequence[Neighbours], b: Sequence[Neighbours], orders: Array) -> Iterator[tuple[int, Common]]:
    """For every permutation, in one or more parts, all common neighbours; sample i of b is sample order[i].

    Which layers of a have j among i's nearest is a bit each of entry (i, j) of a table: all of a is looked up at once.
    """
    samples, k = a[0].near.shape
    theirs = np.stack([one.near for one in b])  # (b, sample, k)
    for first in range(0, len(a), 64):
        some = a[first : first + 64]
        word = np.min_scalar_type(2 ** len(some) - 1)
        step = max(1, TABLE // (samples * word.itemsize))
        for start in range(0, samples, step):
            rows = np.arange(start, min(start + step, samples))
            table = np.zeros((len(rows), samples), word)
            for bit, one in enumerate(some):
                table[np.arange(len(rows))[:, None], one.near[rows]] |= word.type(1 << bit)
            table, base = table.ravel(), (np.arange(len(rows)) * samples)[:, None]
            for at, order in enumerate(orders):
                place = np.empty(samples, np.int32)
                place[order] = np.arange(samples, dtype=np.int32)
                looked = place[theirs[:, order[rows]]]  # (b, row, k): where b's neighbours are now
                masks = table[looked + base].ravel()
                hits = np.flatnonzero(masks)
                found = masks[hits]
                each = [hits[(found >> word.type(bit)) & word.type(1) != 0] for bit in range(len(some))]
                hit = np.concatenate(each)
                layer, rest = np.divmod(hit, len(rows) * k)
                row, slot = np.divmod(rest, k)
                which = np.repeat(np.arange(first, first + len(some)), [len(one) for one in each])
                yield at, Common(which, layer, rows[row], looked.ravel()[hit], slot)


def _over_known(count: Callable[..., Array]) -> Callable[..., Array]:
    """Scores (permutation, len a, len b) of the relations that are not None, NaN elsewhere."""

    def permuted(a: Sequence[Neighbours | None], b: Sequence[Neighbours | None], k: int, orders: Array) -> Array:
        scores = np.full((len(orders), len(a), len(b)), np.nan)
        ours, theirs = defined(a), defined(b)
        if ours and theirs:
            places = np.ix_(range(len(orders)), [i for i, _ in ours], [j for j, _ in theirs])
            scores[places] = count([one for _, one in ours], [one for _, one in theirs], orders)
        return scores

    return permuted


def _overlap(a: Sequence[Neighbours], b: Sequence[Neighbours], orders: Array) -> Array:
    counts = np.zeros((len(orders), len(a) * len(b)))
    for at, found in common(a, b, orders):
        counts[at] += np.bincount(found.a * len(b) + found.b, minlength=len(a) * len(b))
    return counts.reshape(len(orders), len(a), len(b)) / a[0].near.size


def _local_cka(a: Sequence[Neighbours], b: Sequence[Neighbours], orders: Array) -> Array:
    """HSIC_1 of the cosines of common neighbours, over that of each side's own neighbours."""
    (samples, _), pairs = a[0].near.shape, len(a) * len(b)
    near, ours = np.stack([one.near for one in a]), np.stack([_cosines(one) for one in a])  # (a, sample, k)
    theirs = np.stack([_cosines(one) for one in b])
    parts: dict[int, list[tuple[Array, ...]]] = {at: [] for at in range(len(orders))}
    for at, found in common(a, b, orders):
        slot = (near[found.a, found.sample] == found.neighbour[:, None]).argmax(1)
        left, right = ours[found.a, found.sample, slot], theirs[found.b, orders[at][found.sample], found.slot]
        parts[at].append((found.a * len(b) + found.b, found.sample, found.neighbour, left, right))
    local = np.stack(
        [_hsic(pairs, samples, *(np.concatenate(column) for column in zip(*some))) for some in parts.values()]
    )
    with np.errstate(invalid="ignore"):
        norms = [np.sqrt(np.array([_own_hsic(one) for one in side])) for side in (a, b)]
    return local.reshape(len(orders), len(a), len(b)) / norms[0][:, None] / norms[1]


def _cosines(one: Neighbours) -> Array:
    """(sample, k); less 1 where all samples are neighbours: HSIC_1 does not see it then, and it would cost digits."""
    samples, k = one.near.shape
    return (k < samples - 1) - one.distances


def _own_hsic(one: Neighbours) -> float:
    """NaN where it is not positive: the score is not defined then."""
    samples, k = one.near.shape
    sample, cosines = np.repeat(np.arange(samples), k), _cosines(one).ravel()
    found = _hsic(1, samples, np.zeros(samples * k, int), sample, one.near.ravel(), cosines, cosines)[0]
    return found if found > 0 else np.nan


def _hsic(pairs: int, n: int, pair: Array, sample: Array, neighbour: Array, left: Array, right: Array) -> Array:
    """n (n - 3) HSIC_1 per pair (pair,) of two sparse tables whose entries (sample, neighbour) are left and right."""
    flat = pair * n
    left_into = np.bincount(flat + neighbour, left, pairs * n).reshape(pairs, n)
    right_from = np.bincount(flat + sample, right, pairs * n).reshape(pairs, n)
    # tr(left right): entries whose mirror image is an entry too
    keys, mirrored = (flat + sample) * n + neighbour, (flat + neighbour) * n + sample
    order = np.argsort(keys, kind="stable")
    place = np.minimum(np.searchsorted(keys, mirrored, sorter=order), max(len(keys) - 1, 0))
    both = keys[order[place]] == mirrored if len(keys) else np.zeros(0, bool)
    trace = np.bincount(pair[both], left[both] * right[order[place]][both], pairs)
    totals = left_into.sum(1) * right_from.sum(1)
    return trace + totals / ((n - 1) * (n - 2)) - 2 / (n - 2) * np.einsum("pn,pn->p", left_into, right_from)


def _metric(count: Callable[..., Array], least: int, chance: Callable[[int, int], float | None]) -> Metric:
    permuted = _over_known(count)

    def compare(a: Sequence[Neighbours | None], b: Sequence[Neighbours | None], k: int) -> Array:
        samples = [len(one.near) for _, one in defined(a)][:1] or [0]
        return permuted(a, b, k, np.arange(samples[0])[None])[0]

    return Metric(prepare, compare, subset, permuted, scores_from_all(prepare, compare), least, chance, neighbours=True)


MUTUAL_KNN = _metric(_overlap, 2, lambda k, samples: k / (samples - 1))
CKNNA = _metric(_local_cka, 4, lambda k, samples: None)
