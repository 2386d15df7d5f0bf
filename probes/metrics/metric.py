"""What a metric is made of, and the first steps that several metrics share.

A layer's *relation* is what comparing it with any other layer needs, computed once: a sample-by-sample table, a list of
neighbours, an orthonormal basis. Relations are compared, re-ordered by a permutation of the samples or cut to some of
the samples (`significance`) without touching the features again. What the metrics mean and what they demand of their
input is said and checked in `similarity`; nothing is checked here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController
from torch import Tensor

Array = NDArray[Any]
MEMORY = 2.0**31  # bytes
FEW = 16  # samples below which float32's rounding does not average out
R = TypeVar("R")
BLAS = ThreadpoolController()


class Metric(NamedTuple):
    """How one metric is computed; x is (sample, dim), float32 or float64, and a relation None where it is undefined.

    prepare(x, k): the layer's relation.
    compare(a, b, k): the scores (len a, len b) of two lists of relations, NaN where one is None.
    subset(a, chosen, k): the relation of the chosen samples, an increasing index, by themselves.
    permuted(a, b, k, orders): scores (permutation, len a, len b), sample i of b being replaced by sample order[i].
    scores(xs, ys, k, memory): the layer map of two lists of features; memory, in bytes, is a bound where one is kept.
    least: samples needed. chance: the score expected of unrelated features, None where that depends on them.
    """

    prepare: Callable[[Tensor, int], Any]
    compare: Callable[[Sequence[Any], Sequence[Any], int], Array]
    subset: Callable[[Any, Array, int], Any]
    permuted: Callable[[Sequence[Any], Sequence[Any], int, Array], Array]
    scores: Callable[..., Array]
    least: int
    chance: Callable[[int, int], float | None] = lambda k, samples: None
    neighbours: bool = False  # whether k matters
    same_dims: bool = False  # whether x and y must have the same dims


def centred(x: Tensor) -> Tensor:
    """Column means removed; divided by the largest magnitude, which no metric that centres can see, against overflow.

    Every value is as exact as its dtype allows, relative to the centred value itself: a common offset costs no digits.
    """
    given = x
    if x.dtype == torch.float32:
        x = x - x.mean(0, dtype=torch.float64).float()
        x -= x.mean(0, dtype=torch.float64).float()
    else:
        x = x - x[0]  # exact for a constant layer
        x -= x.mean(0)
    low, high = x.aminmax()
    largest = torch.maximum(-low, high)
    if not largest.isfinite():  # the values are, but not their differences
        return centred(given / 8)
    return x.div_(largest) if largest > 0 else x


def unit_rows(x: Tensor) -> Tensor:
    """Rows of length 1, float64; rows of zeros stay zero."""
    if x.dtype == torch.float64:
        largest = x.abs().amax(1, keepdim=True)
        x = x / torch.where(largest > 0, largest, 1)  # against overflow
    x = x.double()
    norms = x.norm(dim=1, keepdim=True)
    return x / torch.where(norms > 0, norms, 1)


def in_threads(function: Callable[..., R], calls: Sequence[tuple[Any, ...]], device: torch.device) -> list[R]:
    """The function of every call, on the CPU one to a thread with one BLAS thread each.

    Sorting and eigendecompositions take one core anyway, or two of which one mostly waits.
    """
    threads = min(torch.get_num_threads(), len(calls)) if device.type == "cpu" else 1
    with BLAS.limit(limits=1, user_api="blas"):
        if threads <= 1:
            return [function(*call) for call in calls]
        with ThreadPoolExecutor(threads) as pool:
            return list(pool.map(lambda call: function(*call), calls))


def defined(relations: Sequence[R | None]) -> list[tuple[int, R]]:
    """The relations that are not None, with their places."""
    return [(at, relation) for at, relation in enumerate(relations) if relation is not None]


def scores_from_all(
    prepare: Callable[[Tensor, int], R | None], compare: Callable[[Sequence[R | None], Sequence[R | None], int], Array]
) -> Callable[..., Array]:
    """A layer map for metrics whose map is the comparison of all relations."""
    return lambda xs, ys, k, memory=MEMORY: compare([prepare(x, k) for x in xs], [prepare(y, k) for y in ys], k)


def permuted_by_reordering(
    reorder: Callable[[R, Array], R], compare: Callable[[Sequence[R | None], Sequence[R | None], int], Array]
) -> Callable[[Sequence[R | None], Sequence[R | None], int, Array], Array]:
    """Permutation scores for metrics that know no faster way than comparing the re-ordered relations."""

    def permuted(a: Sequence[R | None], b: Sequence[R | None], k: int, orders: Array) -> Array:
        scores = np.empty((len(orders), len(a), len(b)))
        for at, order in enumerate(orders):
            scores[at] = compare(a, [None if one is None else reorder(one, order) for one in b], k)
        return scores

    return permuted
