"""Score mutual kNN over some query rows, each against all samples: unbiased for the score of all, whatever they are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ..metric import Array, unit_rows

CHUNK = 8192  # samples of the gallery that are read at once
SPARE = 16  # candidates beside the k nearest, which float64 ranks again: near-ties are among them
ENTRIES = 2**25  # similarities held at once


def nearest_of(gallery: Tensor, queries: Array, k: int) -> Array:
    """Find the k nearest samples of some samples by cosine, without holding more than a part of the gallery.

    Parameters
    ----------
    gallery : Tensor
        Features of all samples (sample, dim), which may lie on disk.
    queries : Array
        Indices of the samples whose neighbours are wanted (query,).
    k : int
        How many neighbours.

    Returns
    -------
    Array
        Indices (query, k), nearest first. Equal distances go by index, as far as `SPARE` candidates reach.
    """
    asked = torch.from_numpy(queries).to(gallery.device)
    unit = unit_rows(gallery[asked])
    shift = unit.mean(0)
    own, spare = (unit - shift).to(gallery.dtype), min(k + SPARE, len(gallery) - 1)
    values = torch.full((len(asked), 0), 0.0, dtype=gallery.dtype, device=gallery.device)
    found = torch.zeros(len(asked), 0, dtype=torch.int64, device=gallery.device)
    for start in range(0, len(gallery), CHUNK):
        part = unit_rows(gallery[start : start + CHUNK])
        zero = ~part.any(1)
        part = (part - shift).to(gallery.dtype)
        bias = -part.square().sum(1) / 2 - zero.to(part) / 2  # zeros are as far as rows at a right angle
        step, values_then, found_then = ENTRIES // len(part), [], []
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
    candidates = found.cpu().numpy()
    for row in (~unit.any(1)).nonzero().ravel().tolist():  # zeros are equally far from all
        candidates[row] = np.delete(np.arange(spare + 1), queries[row] if queries[row] <= spare else spare)
    return _ranked(gallery, unit, candidates)[:, :k]


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
    return (a[:, :, None] == b[:, None, :]).any(2).mean(1)


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
