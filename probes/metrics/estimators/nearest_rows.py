"""Find the nearest rows of every row, as exact arithmetic would.

Nearest by cosine is nearest by distance between unit rows, and distances do not change when all rows are shifted. With
v the unit rows less their mean, samples are ranked by v_i . v_j - |v_j|^2 / 2, which keeps its digits in float32 where
all cosines are .99. Rows that float32 cannot decide are ranked again in float64, and rows that float64 cannot decide
are ranked by their distances.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from ..metric import Array

BLOCK = 2**25  # similarities held at once
TIE = 1e-13  # float64 similarities closer than this may be out of order: their sums round differently


def nearest(
    unit: Tensor, count: int, single: bool, ordered: bool = False, block: int | None = None
) -> tuple[Array, Array]:
    """Find the nearest rows of every row, as exact arithmetic would.

    Parameters
    ----------
    unit : Tensor
        Unit rows (sample, dim), float64.
    count : int
        How many neighbours of each.
    single : bool
        Whether float32 is tried first.
    ordered : bool
        Whether the order of the neighbours matters too, not only which they are.
    block : int, optional
        How many similarities are held at once; `BLOCK` if left out.

    Returns
    -------
    near : Array
        Indices (sample, count).
    distances : Array
        1 - cosine (sample, count).
    """
    shifted, zero = unit - unit.mean(0), ~unit.any(1)
    near = np.empty((len(unit), count), np.int32)
    distances = np.empty((len(unit), count))
    rows = torch.arange(len(unit), device=unit.device)
    if single:
        rounded, unsure = shifted.float(), []
        for some, closeness, error in closeness_blocks(rounded, zero, rows, block):
            unsure.append(some[_take(some, closeness, error, rounded, zero, near, distances, ordered)])
        rows = torch.cat(unsure)
    for row, candidates in _undecided(shifted, zero, rows, near, distances, ordered, block):
        near[row], distances[row] = (ranked[:count] for ranked in _by_distance(unit, zero, row, candidates))
    return near, distances


def closeness_blocks(
    shifted: Tensor, zero: Tensor, rows: Tensor, block: int | None = None
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Compute what falls with the distance between samples.

    Parameters
    ----------
    shifted : Tensor
        Unit rows less their mean (sample, dim).
    zero : Tensor
        Which rows were zero (sample,).
    rows : Tensor
        The samples from which distances are taken (row,).
    block : int
        How many entries are held at once; `BLOCK` if left out.

    Yields
    ------
    rows : Tensor
        Some of the rows.
    closeness : Tensor
        What falls with distance (row, sample); -inf for the sample itself.
    error : Tensor
        The rounding error of each row (row,).
    """
    samples, dims = shifted.shape
    squares = shifted.square().sum(1)
    # a row of zeros has cosine 0 with every row, as unit rows have at a squared distance of 2, not 1
    bias = -squares / 2 - zero.to(squares) / 2
    # rounding errors of a product grow like the root of its terms, relative to the lengths (Higham & Mary 2019)
    lengths, rounding = squares.sqrt(), 3 * dims**0.5 * torch.finfo(shifted.dtype).eps
    error = rounding * (lengths * lengths.max() + squares.max())
    step = max(1, (block or BLOCK) // samples)
    for start in range(0, len(rows), step):
        some = rows[start : start + step]
        own = shifted if len(some) == samples else shifted[some]
        near = torch.addmm(bias, own, shifted.T)
        near[torch.arange(len(some), device=some.device), some] = -torch.inf
        yield some, near, error[some]


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
    """Fill in the neighbours of some rows; return (row,) True where near-ties leave them open."""
    count = near.shape[1]
    values, order = closeness.topk(min(count + 1, closeness.shape[1]), dim=1)
    rows = some.cpu().numpy()
    near[rows] = order[:, :count].cpu().numpy()
    far = shifted[some].square().sum(1, keepdim=True).double() / 2 - values[:, :count].double()
    far[zero[some, None] | zero[order[:, :count]]] = 1
    distances[rows] = far.cpu().numpy()
    gaps = values[:, :-1] - values[:, 1:]
    return (gaps if ordered else gaps[:, count - 1 :]).le(2 * error[:, None]).any(1)


def _undecided(
    shifted: Tensor,
    zero: Tensor,
    rows: Tensor,
    near: Array,
    distances: Array,
    ordered: bool,
    block: int | None = None,
) -> Iterator[tuple[int, Tensor]]:
    """Fill in what float64 decides; yield each other row with the samples among which its neighbours are."""
    count = near.shape[1]
    for some, closeness, error in closeness_blocks(shifted, zero, rows, block):
        error = error.clamp(min=TIE)
        unsure = _take(some, closeness, error, shifted, zero, near, distances, ordered)
        for index in unsure.nonzero().ravel().tolist():
            reach = closeness[index].topk(count).values[-1] - 2 * error[index]
            yield int(some[index]), (closeness[index] >= reach).nonzero().ravel()


def _by_distance(unit: Tensor, zero: Tensor, row: int, candidates: Tensor) -> tuple[Array, Array]:
    """Rank candidates by their distance from a row, computed from differences, which cancel no digits."""
    distances = (unit[candidates] - unit[row]).square().sum(1) / 2
    distances[zero[candidates] | zero[row]] = 1
    return rank_by_distance(distances, candidates)


def rank_by_distance(distances: Tensor, samples: Tensor) -> tuple[Array, Array]:
    """Rank samples by distances that are exact but for rounding.

    Parameters
    ----------
    distances : Tensor
        Half of the squared distance of each sample (sample,), float64.
    samples : Tensor
        Their indices (sample,).

    Returns
    -------
    samples : Array
        The indices, nearest first. Distances that are equal up to their own rounding error are ties, which go by index.
    distances : Array
        Their distances.
    """
    far, indices = distances.cpu().numpy(), samples.cpu().numpy()
    order = np.argsort(far, kind="stable")
    ascending = far[order]
    group = np.empty(len(far), np.int64)
    group[order] = np.cumsum(np.diff(ascending, prepend=ascending[0]) > 1e-14 * np.sqrt(ascending))
    ranked = np.lexsort((indices, group))
    return indices[ranked], far[ranked]
