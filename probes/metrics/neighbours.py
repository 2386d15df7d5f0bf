"""Compare neighbourhoods by cosine: mutual k-nearest neighbours and CKNNA."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..workers.shared_parts import Part, in_parts
from .estimators.nearest_rows import BLOCK, nearest
from .metric import FEW, MEMORY, Array, Metric, defined, unit_rows

TABLE = 2**28  # bytes of the table in which common neighbours are looked up, at most
ENTRY = 16  # bytes at most that a similarity takes, with what is ranked of its row


@dataclass(frozen=True, eq=False)
class Neighbours:
    """Hold the k nearest samples of every sample.

    Attributes
    ----------
    near : Array
        Indices of the neighbours (sample, k), without the sample itself.
    distances : Array
        1 - cosine of each neighbour (sample, k), which keeps its digits where cosines are near 1.
    unit : Tensor
        Unit rows (sample, dim), float64.
    """

    near: Array
    distances: Array
    unit: Tensor

    @cached_property
    def ranked(self) -> tuple[Array, Array]:
        """More neighbours than k with their distances, nearest first, ties by index.

        Of so many, k are nearly always left in a subset of the samples.
        """
        samples, k = self.near.shape
        return nearest(self.unit, min(16 * k + 64, samples - 1), single=False, ordered=True)


def prepare(x: Tensor, k: int, memory: float = MEMORY) -> Neighbours | None:
    """Find the k nearest neighbours of every sample by cosine.

    Parameters
    ----------
    x : Tensor
        Features (sample, dim), float32 or float64.
    k : int
        How many neighbours.
    memory : float
        Bytes that similarities may take.

    Returns
    -------
    Neighbours or None
        The prepared layer; None where all samples point the same way.
    """
    unit = unit_rows(x)
    single, block = x.dtype == torch.float32 and len(x) >= FEW, min(BLOCK, int(memory / ENTRY))
    return None if one_way(unit) else Neighbours(*nearest(unit, k, single, block=block), unit)


def rank_neighbours(x: Tensor, count: int) -> Array | None:
    """Rank the nearest samples of every sample by cosine: the first k of each are its neighbours in `mutual_knn`.

    Parameters
    ----------
    x : Tensor
        Features (sample, dim), float32 or float64.
    count : int
        How many are ranked.

    Returns
    -------
    Array or None
        Indices (sample, count), nearest first, ties by index; None where all samples point the same way.
    """
    unit = unit_rows(x)
    return None if one_way(unit) else nearest(unit, count, single=False, ordered=True)[0]


def one_way(unit: Tensor) -> bool:
    """Return whether all unit rows are the same up to rounding.

    Parameters
    ----------
    unit : Tensor
        Unit rows (sample, dim), float64.

    Returns
    -------
    bool
        Whether they point one way.
    """
    return float((unit - unit[0]).square_().sum(1).max()) <= (8 * np.finfo(np.float64).eps) ** 2


def subset(a: Neighbours | None, chosen: Array, k: int) -> Neighbours | None:
    """Find the k nearest among chosen samples, from each chosen sample's ranking of all.

    Parameters
    ----------
    a : Neighbours or None
        The prepared layer.
    chosen : Array
        Increasing indices of the chosen samples.
    k : int
        How many neighbours.

    Returns
    -------
    Neighbours or None
        The prepared layer of the chosen samples; None where they all point the same way.
    """
    if a is None or one_way(a.unit[chosen]):
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


class _Common(NamedTuple):
    """List the neighbours that a layer of a and a permuted layer of b have in common, one entry (common,) each."""

    a: Array  # index of the layer in a
    b: Array
    sample: Array
    neighbour: Array
    slot: Array  # the neighbour's index in b's list of the sample that takes the place of `sample`


def _common(
    a: Sequence[Neighbours], b: Sequence[Neighbours], orders: Array, memory: float = 4.0 * TABLE
) -> Iterator[tuple[int, _Common]]:
    """Yield all common neighbours for every permutation, in one or more parts; a table takes a quarter of the memory.

    Each entry (i, j) of a table has a bit for every layer of a that has j among i's nearest: one look-up serves all
    layers of a.
    """
    samples, k = a[0].near.shape
    theirs = np.stack([layer.near for layer in b])  # (b, sample, k)
    for first in range(0, len(a), 64):
        some = a[first : first + 64]
        word = np.min_scalar_type(2 ** len(some) - 1)
        step = max(1, int(min(TABLE, memory / 4) / (samples * word.itemsize)))
        for start in range(0, samples, step):
            rows = np.arange(start, min(start + step, samples))
            table = np.zeros((len(rows), samples), word)
            for bit, layer in enumerate(some):
                table[np.arange(len(rows))[:, None], layer.near[rows]] |= word.type(1 << bit)
            table, base = table.ravel(), (np.arange(len(rows)) * samples)[:, None]
            for permutation, order in enumerate(orders):
                place = np.empty(samples, np.int32)
                place[order] = np.arange(samples, dtype=np.int32)
                moved = place[theirs[:, order[rows]]]  # (b, row, k): where b's neighbours are now
                masks = table[moved + base].ravel()
                hits = np.flatnonzero(masks)
                bits = masks[hits]
                by_layer = [hits[(bits >> word.type(bit)) & word.type(1) != 0] for bit in range(len(some))]
                hit = np.concatenate(by_layer)
                in_b, rest = np.divmod(hit, len(rows) * k)
                row, slot = np.divmod(rest, k)
                in_a = np.repeat(np.arange(first, first + len(some)), [len(entries) for entries in by_layer])
                yield permutation, _Common(in_a, in_b, rows[row], moved.ravel()[hit], slot)


def over_defined(count: Callable[..., Array]) -> Callable[..., Array]:
    """Build `Metric.permuted` from the scores of prepared layers that are not None; others score NaN.

    Parameters
    ----------
    count : callable
        ``count(a, b, orders)`` returns scores (permutation, len a, len b).

    Returns
    -------
    callable
        ``permuted(a, b, k, orders)``.
    """

    def permuted(a: Sequence[Neighbours | None], b: Sequence[Neighbours | None], k: int, orders: Array) -> Array:
        scores = np.full((len(orders), len(a), len(b)), np.nan)
        ours, theirs = defined(a), defined(b)
        if ours and theirs:
            places = np.ix_(range(len(orders)), [i for i, _ in ours], [j for j, _ in theirs])
            scores[places] = count([layer for _, layer in ours], [layer for _, layer in theirs], orders)
        return scores

    return permuted


def _overlap(a: Sequence[Neighbours], b: Sequence[Neighbours], orders: Array, memory: float = MEMORY) -> Array:
    """Return the mean share of common neighbours (permutation, len a, len b)."""
    counts = np.zeros((len(orders), len(a) * len(b)))
    for permutation, found in _common(a, b, orders, memory):
        counts[permutation] += np.bincount(found.a * len(b) + found.b, minlength=len(a) * len(b))
    return counts.reshape(len(orders), len(a), len(b)) / a[0].near.size


def _local_cka(a: Sequence[Neighbours], b: Sequence[Neighbours], orders: Array, memory: float = MEMORY) -> Array:
    """Divide HSIC_1 of the cosines of common neighbours by the norms that each side has with itself."""
    (samples, _), pairs = a[0].near.shape, len(a) * len(b)
    near, ours = np.stack([layer.near for layer in a]), np.stack([_cosines(layer) for layer in a])  # (a, sample, k)
    theirs = np.stack([_cosines(layer) for layer in b])
    parts: dict[int, list[tuple[Array, ...]]] = {permutation: [] for permutation in range(len(orders))}
    for permutation, found in _common(a, b, orders, memory):
        slot = (near[found.a, found.sample] == found.neighbour[:, None]).argmax(1)
        left = ours[found.a, found.sample, slot]
        right = theirs[found.b, orders[permutation][found.sample], found.slot]
        parts[permutation].append((found.a * len(b) + found.b, found.sample, found.neighbour, left, right))
    local = np.stack(
        [_hsic(pairs, samples, *(np.concatenate(column) for column in zip(*some))) for some in parts.values()]
    )
    with np.errstate(invalid="ignore"):
        norms = [np.sqrt(np.array([_own_hsic(layer) for layer in side])) for side in (a, b)]
    return local.reshape(len(orders), len(a), len(b)) / norms[0][:, None] / norms[1]


def _cosines(layer: Neighbours) -> Array:
    """Return the neighbours' cosines (sample, k), less 1 where all samples are neighbours.

    HSIC_1 does not see the 1 then, and it would cost digits.
    """
    samples, k = layer.near.shape
    return (k < samples - 1) - layer.distances


def _own_hsic(layer: Neighbours) -> float:
    """Return a layer's HSIC_1 with itself; NaN where it is not positive, and the score not defined."""
    samples, k = layer.near.shape
    sample, cosines = np.repeat(np.arange(samples), k), _cosines(layer).ravel()
    own = _hsic(1, samples, np.zeros(samples * k, int), sample, layer.near.ravel(), cosines, cosines)[0]
    return own if own > 0 else np.nan


def _hsic(pairs: int, n: int, pair: Array, sample: Array, neighbour: Array, left: Array, right: Array) -> Array:
    """Return n (n - 3) HSIC_1 (pair,) of two sparse tables whose entries (sample, neighbour) are left and right."""
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


def list_nearest(layers: Sequence[Tensor], k: int, memory: float = MEMORY) -> list[Neighbours | None]:
    """Find the neighbours of every sample in many layers; layers are the parts that workers share.

    Parameters
    ----------
    layers : sequence of Tensor
        (sample, dim) each.
    k : int
        How many neighbours.
    memory : float
        Bytes that similarities may take.

    Returns
    -------
    list of Neighbours or None
        The prepared layers without their unit rows, as `prepare` returns them.
    """

    def parts(numbers: Iterable[int]) -> Iterator[Part]:
        for number in numbers:
            found = prepare(layers[number], k, memory)
            yield () if found is None else (torch.from_numpy(found.near), torch.from_numpy(found.distances))

    nothing = torch.empty(0)
    return [
        Neighbours(part[0].numpy(), part[1].numpy(), nothing) if part else None for part in in_parts(parts, len(layers))
    ]


def _metric(
    count: Callable[..., Array], least: int, about: str, chance: Callable[[int, int], float | None], least_k: int = 1
) -> Metric:
    """Build a metric from the scores of prepared layers that are not None."""
    permuted = over_defined(count)

    def compare(a: Sequence[Neighbours | None], b: Sequence[Neighbours | None], k: int) -> Array:
        samples = [len(layer.near) for _, layer in defined(a)][:1] or [0]
        return permuted(a, b, k, np.arange(samples[0])[None])[0]

    def scores(xs: Sequence[Tensor], ys: Sequence[Tensor], k: int, memory: float = MEMORY) -> Array:
        found = list_nearest([*xs, *ys], k, memory)
        bounded = over_defined(partial(count, memory=memory))
        return bounded(found[: len(xs)], found[len(xs) :], k, np.arange(len(xs[0]))[None])[0]

    metric = Metric(prepare, compare, subset, permuted, scores, least, about, chance, neighbours=True, least_k=least_k)
    return metric._replace(bounded=True)


MUTUAL_KNN = _metric(
    _overlap,
    2,
    "Mutual kNN is the mean share of each sample's k nearest neighbours that x and y have in common.",
    lambda k, samples: k / (samples - 1),
)
CKNNA = _metric(
    _local_cka,
    4,
    "CKNNA is CKA restricted to the nearest neighbours that x and y have in common.",
    lambda k, samples: None,
    least_k=2,  # as the published code asks: with one neighbour each, hardly a pair is left
)
