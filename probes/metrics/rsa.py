"""Representational similarity analysis (Kriegeskorte et al. 2008): do two layers find the same samples unlike?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from . import tables
from .metric import MEMORY, Array, Metric, in_threads, known

TIE = 1e-13  # float64 correlations closer than this are equal: their sums round differently
CROWD = 1000  # a thousandth of all pairs within float32's rounding may be ties; fewer move a score by less than 1e-6
SINGLE = 2e-6  # float32's rounding of a correlation, and some


def ranks(x: Tensor) -> Tensor | None:
    """Centred unit ranks of the correlations of samples over dims, above the diagonal; None where there is no order.

    (sample * (sample - 1) / 2,), x's dtype. Sorted on the CPU; in float64 where many pairs are so close that they may
    be ties, which in float32 rounding would put in some order.
    """
    values = _correlations(x.cpu().numpy())
    if values is None:
        return None
    order = np.argsort(values)
    if values.dtype == np.float32:
        ascending, crowd = values[order], max(len(values) // CROWD, 1)
        if (ascending[crowd:] - ascending[:-crowd] <= SINGLE).any():
            found = ranks(x.double())
            return None if found is None else found.to(x)
    found = unit_ranks(values, order)
    return None if found is None else torch.from_numpy(found).to(x)


def _correlations(rows: Array) -> Array | None:
    """Pearson's r of all pairs of rows (row, dim), above the diagonal; None where a row is constant."""
    rows = rows - rows[:, :1]  # exact for a constant row
    rows -= rows.mean(1, keepdims=True, dtype=np.float64).astype(rows.dtype)
    rows /= np.abs(rows).max(1, keepdims=True).clip(np.finfo(rows.dtype).tiny)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    if not norms.all():
        return None
    rows /= norms
    table = rows @ rows.T
    return np.concatenate([table[at, at + 1 :] for at in range(len(table))])


def unit_ranks(values: Array, order: Array) -> Array | None:
    """Average ranks of values whose order is known, less their mean, over their norm; None where all are the same."""
    places = np.arange(len(values)) - (len(values) - 1) / 2
    if values.dtype == np.float64:
        new = np.diff(values[order], prepend=-np.inf) > TIE
        if not new.all():
            starts = np.flatnonzero(new)
            ends = np.append(starts[1:], len(values)) - 1
            places = np.repeat((places[starts] + places[ends]) / 2, ends - starts + 1)
    size = np.linalg.norm(places)
    if size == 0:
        return None
    found = np.empty_like(values)
    found[order] = places / size
    return found


def _scores(xs: Sequence[Tensor], ys: Sequence[Tensor], k: int, memory: float = MEMORY) -> Array:
    scores = np.full((len(xs), len(ys)), np.nan)
    every = in_threads(ranks, [(layer,) for layer in (*xs, *ys)], torch.device("cpu"))
    ours, theirs = known(every[: len(xs)]), known(every[len(xs) :])
    if ours and theirs:
        found = torch.zeros(len(ours), len(theirs), dtype=torch.float64, device=xs[0].device)
        for start in range(0, len(ours[0][1]), tables.CHUNK):
            left, right = (
                torch.stack([one[start : start + tables.CHUNK] for _, one in side]) for side in (ours, theirs)
            )
            tables.add_products(found, left, right)
        scores[np.ix_([i for i, _ in ours], [j for j, _ in theirs])] = found.cpu().numpy()
    return scores


def _table(found: Tensor | None, samples: int) -> Tensor | None:
    """The unit table (sample, sample) of ranks: every rank stands in it twice."""
    if found is None:
        return None
    table = found.new_zeros(samples, samples)
    rows, columns = torch.triu_indices(samples, samples, 1, device=found.device)
    table[rows, columns] = table[columns, rows] = found / 2**0.5
    return table


def _relate(x: Tensor, k: int) -> Tensor | None:
    return _table(ranks(x), len(x))


def _subset(a: Tensor | None, chosen: Array, k: int) -> Tensor | None:
    """The chosen samples' ranks are ranked again; in a unit table ranks of n^2 / 2 pairs are about n^-3 apart."""
    if a is None:
        return None
    rows = torch.from_numpy(chosen).to(a.device)
    part = a[rows][:, rows].cpu().double().numpy()
    values = np.concatenate([part[at, at + 1 :] for at in range(len(part))]) * len(a)
    found = unit_ranks(values, np.argsort(values))
    return None if found is None else _table(torch.from_numpy(found).to(a), len(part))


RSA = Metric(_relate, tables.compare, _subset, tables.permuted, _scores, least=3, chance=lambda k, samples: 0.0)
