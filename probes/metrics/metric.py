"""Define what a metric consists of, and the first steps that several metrics share.

A *prepared layer* is what comparing a layer with any other needs, computed once: a sample-by-sample table, a list of
neighbours, an orthonormal basis. Prepared layers are compared, re-ordered by a permutation of the samples
(`similarity.nulls`) or cut to some of the samples (`similarity.intervals`) without reading the features again.
`similarity.scoring.similarity` says what each metric means, and `similarity.inputs` checks the input. Nothing is
checked here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController
from torch import Tensor

from ..workers.shared_parts import Part, in_parts

Array = NDArray[Any]
MEMORY = 2.0**31  # bytes
FEW = 16  # samples below which float32's rounding does not average out
R = TypeVar("R")
BLAS = ThreadpoolController()


class Metric(NamedTuple):
    """Hold how one metric is computed and what it can see.

    Features are (sample, dim) tensors of float32 or float64. A prepared layer is None where the metric is undefined
    for it.

    Attributes
    ----------
    prepare : callable
        ``prepare(x, k)`` returns the prepared layer of x.
    compare : callable
        ``compare(a, b, k)`` returns the scores (len a, len b) of two lists of prepared layers, NaN where one is None.
    subset : callable
        ``subset(a, chosen, k)`` returns the prepared layer of some samples alone; `chosen` holds increasing indices.
    permuted : callable
        ``permuted(a, b, k, orders)`` returns scores (permutation, len a, len b) in which sample ``order[i]`` of b takes
        the place of sample i.
    scores : callable
        ``scores(xs, ys, k, memory)`` returns the layer map of two lists of features. `memory`, in bytes, is a bound
        for the metrics that keep one.
    least : int
        The number of samples that the metric needs.
    about : str
        What the metric measures, in one sentence.
    chance : callable
        ``chance(k, samples)`` returns the score expected of unrelated features, None where it depends on them.
    neighbours : bool
        Whether k matters.
    same_dims : bool
        Whether x and y must have the same dims.
    is_distance : bool
        Whether a larger score means less alike: such a metric cannot choose bridges.
    sees_pairs : bool
        Whether the score depends on which sample of x belongs to which sample of y. If not, permuting samples leaves
        it unchanged, and a permutation null says nothing.
    least_k : int
        The smallest k.
    bounded : bool
        Whether `scores` keeps to its `memory`.
    turned : callable or None
        ``turned(a, b, circle)`` returns the scores (sample, len a, len b) of all turns of b's samples around a circle,
        where these cost hardly more than one (`tables.turned`). a and b may be iterators of prepared layers.
    high_by_chance : bool
        Whether strangers score high, the higher the fewer samples there are: such scores mean something only beside a
        null, and choose bridges only when scaled by one.
    """

    prepare: Callable[[Tensor, int], Any]
    compare: Callable[[Sequence[Any], Sequence[Any], int], Array]
    subset: Callable[[Any, Array, int], Any]
    permuted: Callable[[Sequence[Any], Sequence[Any], int, Array], Array]
    scores: Callable[..., Array]
    least: int
    about: str
    chance: Callable[[int, int], float | None] = lambda k, samples: None
    neighbours: bool = False
    same_dims: bool = False
    is_distance: bool = False
    sees_pairs: bool = True
    least_k: int = 1
    high_by_chance: bool = False
    bounded: bool = False
    turned: Callable[[Iterable[Any], Iterable[Any], Array], Array] | None = None


def centred(x: Tensor) -> Tensor:
    """Remove the column means and divide by the largest magnitude, which avoids overflow.

    No metric that centres can see the division. Every value is as exact as its dtype allows, relative to the centred
    value itself: a common offset costs no digits.

    Parameters
    ----------
    x : Tensor
        Features (sample, dim), float32 or float64.

    Returns
    -------
    Tensor
        Centred features of the same shape and dtype, at most 1 in magnitude; zeros where x is constant.
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
    """Scale every row to length 1; rows of zeros stay zero.

    Parameters
    ----------
    x : Tensor
        Features (sample, dim).

    Returns
    -------
    Tensor
        Unit rows (sample, dim), float64.
    """
    if x.dtype == torch.float64:
        largest = x.abs().amax(1, keepdim=True)
        x = x / torch.where(largest > 0, largest, 1)  # against overflow
    x = x.double()
    norms = x.norm(dim=1, keepdim=True)
    return x / torch.where(norms > 0, norms, 1)


def in_threads(function: Callable[..., R], calls: Sequence[tuple[Any, ...]], device: torch.device) -> list[R]:
    """Run a function on every tuple of arguments; on the CPU in threads with one BLAS thread each.

    Sorting and eigendecompositions take one core anyway, or two of which one mostly waits.

    Parameters
    ----------
    function : callable
        What is called.
    calls : sequence of tuple
        The arguments of each call.
    device : torch.device
        Where the work is done. On any device but the CPU, calls run one after the other.

    Returns
    -------
    list
        The results in the order of the calls.
    """
    threads = min(torch.get_num_threads(), len(calls)) if device.type == "cpu" else 1
    with BLAS.limit(limits=1, user_api="blas"):
        if threads <= 1:
            return [function(*call) for call in calls]
        with ThreadPoolExecutor(threads) as pool:
            return list(pool.map(lambda call: function(*call), calls))


def defined(prepared: Sequence[R | None]) -> list[tuple[int, R]]:
    """Return the prepared layers that are not None, each with its index.

    Parameters
    ----------
    prepared : sequence
        Prepared layers, None where the metric is undefined.

    Returns
    -------
    list of tuple
        (index, prepared layer) pairs in order.
    """
    return [(index, layer) for index, layer in enumerate(prepared) if layer is not None]


def scores_from_all(
    prepare: Callable[[Tensor, int], R | None], compare: Callable[[Sequence[R | None], Sequence[R | None], int], Array]
) -> Callable[..., Array]:
    """Build `Metric.scores` for a metric whose layer map is the comparison of all prepared layers.

    Parameters
    ----------
    prepare, compare : callable
        As in `Metric`.

    Returns
    -------
    callable
        ``scores(xs, ys, k, memory)``; memory is ignored. Rows of the map are the parts that workers share.
    """

    def scores(xs: Sequence[Tensor], ys: Sequence[Tensor], k: int, memory: float = MEMORY) -> Array:
        b = [prepare(y, k) for y in ys]

        def rows(numbers: Iterable[int]) -> Iterator[Part]:
            for number in numbers:
                yield (torch.from_numpy(compare([prepare(xs[number], k)], b, k)[0]),)

        return np.stack([row.numpy() for (row,) in in_parts(rows, len(xs))])

    return scores


def by_threads(numbers: Iterable[int], device: torch.device) -> Iterator[list[int]]:
    """Cut numbers into as many at a time as `in_threads` works on at once.

    Parameters
    ----------
    numbers : iterable of int
        The numbers.
    device : torch.device
        Where the work is done.

    Yields
    ------
    list of int
        Some of the numbers, in order.
    """
    remaining, size = iter(numbers), torch.get_num_threads() if device.type == "cpu" else 1
    while some := list(islice(remaining, size)):
        yield some


def permuted_by_reordering(
    reorder: Callable[[R, Array], R], compare: Callable[[Sequence[R | None], Sequence[R | None], int], Array]
) -> Callable[[Sequence[R | None], Sequence[R | None], int, Array], Array]:
    """Build `Metric.permuted` for a metric that knows no faster way than comparing re-ordered layers.

    Parameters
    ----------
    reorder : callable
        ``reorder(a, order)`` returns the prepared layer with its samples in another order.
    compare : callable
        As in `Metric`.

    Returns
    -------
    callable
        ``permuted(a, b, k, orders)``.
    """

    def permuted(a: Sequence[R | None], b: Sequence[R | None], k: int, orders: Array) -> Array:
        scores = np.empty((len(orders), len(a), len(b)))
        for permutation, order in enumerate(orders):
            scores[permutation] = compare(a, [None if layer is None else reorder(layer, order) for layer in b], k)
        return scores

    return permuted
