"""Score mutual kNN over some query rows, each against all samples: unbiased for the score of all, whatever they are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from ..metric import Array, unit_rows
from .nearest_rows import TIE, rank_by_distance

CHUNK = 8192  # samples of the gallery that are read at once
SPARE = 16  # candidates beside the k nearest, which float64 ranks again: near-ties are among them
ENTRIES = 2**25  # similarities held at once


def nearest_of(gallery: Tensor, queries: Array, k: int, dtype: torch.dtype) -> Array:
    """Find the k nearest samples of some samples by cosine, without holding more than a part of the gallery.

    Parameters
    ----------
    gallery : Tensor
        Features of all samples (sample, dim), which may lie on disk.
    queries : Array
        Indices of the samples whose neighbours are wanted (query,).
    k : int
        How many neighbours.
    dtype : torch.dtype
        What products are computed in, float32 or float64.

    Returns
    -------
    Array
        Indices (query, k), nearest first. Equal distances go by index. Rows with more near-ties than `SPARE` are
        compared with all samples again in float64.
    """
    asked = torch.from_numpy(queries).to(gallery.device)
    unit = unit_rows(gallery[asked])
    shift = unit.mean(0)
    own, spare = (unit - shift).to(dtype), min(k + SPARE, len(gallery) - 1)
    values = torch.full((len(asked), 0), 0.0, dtype=dtype, device=gallery.device)
    found = torch.zeros(len(asked), 0, dtype=torch.int64, device=gallery.device)
    longest = 0.0
    for start, part, bias in _parts(gallery, shift, dtype):
        longest = max(longest, float(part.square().sum(1).max()) ** 0.5)
        step, values_then, found_then = max(1, ENTRIES // len(part)), [], []
        for first in range(0, len(asked), step):
            some = slice(first, first + step)
            near = torch.addmm(bias, own[some], part.T)
            place = asked[some] - start
            rows = ((place >= 0) & (place < len(part))).nonzero().ravel()
            near[rows, place[rows]] = -torch.inf
            best, order = near.topk(min(spare, len(part)), dim=1)
            best, order = torch.cat([values[some], best], 1), torch.cat([found[some], order + start], 1)
            best, chosen = best.topk(min(spare, best.shape[1]), dim=1)
            values_then.append(best)
            found_then.append(order.gather(1, chosen))
        values, found = torch.cat(values_then), torch.cat(found_then)
    candidates, zero = found.cpu().numpy(), ~unit.any(1)
    for row in zero.nonzero().ravel().tolist():  # zeros are equally far from all
        candidates[row] = np.delete(np.arange(spare + 1), queries[row] if queries[row] <= spare else spare)
    ranked = _ranked(gallery, unit, candidates)[:, :k]
    if spare < len(gallery) - 1:
        unsure = values[:, k - 1] - values[:, -1] <= 2 * _error(own, longest)
        rows = (unsure & ~zero).nonzero().ravel().cpu().numpy()
        ranked[rows] = _among_all(gallery, unit[rows], shift, longest, queries[rows], k)
    return ranked


def _parts(gallery: Tensor, shift: Tensor, dtype: torch.dtype) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Yield parts of the gallery: where each begins, its unit rows less a shift, and what is added to products."""
    for start in range(0, len(gallery), CHUNK):
        part = unit_rows(gallery[start : start + CHUNK])
        zero = ~part.any(1)
        part = (part - shift).to(dtype)
        yield start, part, -part.square().sum(1) / 2 - zero.to(part) / 2  # zeros are as far as rows at a right angle


def _error(own: Tensor, longest: float) -> Tensor:
    """Return the rounding error of each row's products, (query,), as `nearest_rows.closeness_blocks` bounds it."""
    rounding = 3 * own.shape[1] ** 0.5 * torch.finfo(own.dtype).eps
    return (rounding * (own.square().sum(1).sqrt() * longest + longest**2)).clamp(min=TIE)


def _among_all(gallery: Tensor, unit: Tensor, shift: Tensor, longest: float, queries: Array, k: int) -> Array:
    """Find the nearest samples of rows with many near-ties, (query, k), in float64."""
    near, step = np.empty((len(queries), k), np.int64), max(1, ENTRIES // 2 // len(gallery))
    for first in range(0, len(queries), step):
        own = unit[first : first + step] - shift
        asked = torch.from_numpy(queries[first : first + step]).to(gallery.device)
        closeness = torch.cat(
            [torch.addmm(bias, own, part.T) for _, part, bias in _parts(gallery, shift, own.dtype)], 1
        )
        closeness[torch.arange(len(own), device=own.device), asked] = -torch.inf
        reach = closeness.topk(k, dim=1).values[:, -1] - 2 * _error(own, longest)
        for row in range(len(own)):
            among = (closeness[row] >= reach[row]).nonzero().ravel()
            others = [unit_rows(gallery[some]) for some in among.split(CHUNK)]
            far = [(other - unit[first + row]).square().sum(1) / 2 for other in others]
            zero = torch.cat([~other.any(1) for other in others])
            near[first + row] = rank_by_distance(torch.cat(far).masked_fill(zero, 1), among)[0][:k]
    return near


def _ranked(gallery: Tensor, unit: Tensor, candidates: Array) -> Array:
    """Rank candidates (query, candidate) by distances from differences in float64; equal ones go by index."""
    candidates = np.sort(candidates, axis=1)
    step = max(1, ENTRIES // 8 // (candidates.shape[1] * gallery.shape[1]))
    for first in range(0, len(candidates), step):
        some = candidates[first : first + step]
        others = unit_rows(gallery[torch.from_numpy(some.ravel()).to(gallery.device)]).view(*some.shape, -1)
        own = unit[first : first + step, None]
        far = (others - own).square().sum(2) / 2
        far[~others.any(2) | ~own.any(2)] = 1
        distances = far.cpu().numpy()
        order = np.argsort(distances, axis=1, kind="stable")
        ascending = np.take_along_axis(distances, order, 1)
        group = np.cumsum(np.diff(ascending, prepend=ascending[:, :1]) > 1e-14 * np.sqrt(ascending), axis=1)
        # candidates were sorted by index, so that their place breaks ties
        order = np.take_along_axis(order, np.lexsort((order, group), axis=1), 1)
        candidates[first : first + step] = np.take_along_axis(some, order, 1)
    return candidates


def shares(a: Array, b: Array) -> Array:
    """Return the share of neighbours that two lists of neighbours (query, k) have in common, (query,)."""
    both = np.sort(np.concatenate([a, b], 1), axis=1)  # a list holds no sample twice
    return (both[:, 1:] == both[:, :-1]).sum(1) / a.shape[1]


def permuted_shares(
    a: Sequence[Array], b: Sequence[Array], pairs: Sequence[tuple[int, int]], queries: Array, orders: Array
) -> Array:
    """Return mean shares of common neighbours under permutations that map queries to queries.

    Parameters
    ----------
    a, b : sequence of Array
        Lists of neighbours (query, k) of each layer.
    pairs : sequence of (int, int)
        The layers that are compared.
    queries : Array
        The samples whose neighbours are listed (query,).
    orders : Array
        Permutations (permutation, sample): sample ``order[i]`` of b takes the place of sample i.

    Returns
    -------
    Array
        Scores (permutation, pair).
    """
    scores = np.empty((len(orders), len(pairs)))
    row = np.empty(orders.shape[1], np.int64)
    row[queries] = np.arange(len(queries))
    for permutation, order in enumerate(orders):
        moved = [np.argsort(order)[near[row[order[queries]]]] for near in b]
        scores[permutation] = [shares(a[i], moved[j]).mean() for i, j in pairs]
    return scores
