"""Representational similarity analysis (Kriegeskorte et al. 2008): do two layers find the same samples unlike?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from . import tables
from .metric import MEMORY, Array, Metric, in_threads

# Relative to the largest distance:
TIE = 1e-13  # float64 distances closer than this are equal: their sums round differently
SINGLE = 2e-6  # float32's rounding, and some
CROWD = 1000  # a thousandth of all pairs within float32's rounding may be ties; fewer move a score by less than 1e-6


def ranks(x: Tensor) -> Tensor | None:
    """Centred unit ranks of the correlations of samples over dims, above the diagonal; None where there is no order.

    (sample * (sample - 1) / 2,), x's dtype. Sorted on the CPU; in float64 where many pairs are so close that they may
    be ties, which in float32 rounding would put in some order.
    """
    values = _closeness(x.cpu().numpy())
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


def _closeness(rows: Array) -> Array | None:
    """Pearson's r of all pairs of rows (row, dim) above the diagonal, less 1, over its range.

    r - 1 is half a squared distance between unit rows, which is the same for unit rows less their mean: a pattern that
    all samples share costs no digits. None where a row is constant, or all rows are the same.
    """
    rows = rows / np.abs(rows).max(1, keepdims=True).clip(np.finfo(rows.dtype).tiny)  # against overflow
    rows -= rows[:, :1]  # exact for a constant row
    rows -= rows.mean(1, keepdims=True, dtype=np.float64).astype(rows.dtype)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    if not norms.all():
        return None
    rows /= norms
    rows -= rows.mean(0, dtype=np.float64).astype(rows.dtype)
    halves = np.einsum("nd,nd->n", rows, rows) / 2
    table = rows @ rows.T
    table -= halves
    table -= halves[:, None]
    found = np.concatenate([table[at, at + 1 :] for at in range(len(table))])
    furthest = -found.min()
    return found / furthest if furthest > np.finfo(found.dtype).eps ** 2 else None


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
    found = in_threads(ranks, [(layer,) for layer in (*xs, *ys)], torch.device("cpu"))
    return tables.compare(found[: len(xs)], found[len(xs) :])


def _table(found: Tensor | None, samples: int) -> Tensor | None:
    """The unit table (sample, sample) of ranks: every rank stands in it twice."""
    if found is None:
        return None
    table = found.new_zeros(samples, samples)
    rows, columns = torch.triu_indices(samples, samples, 1, device=found.device)
    table[rows, columns] = table[columns, rows] = found / 2**0.5
    return table


def _prepare(x: Tensor, k: int) -> Tensor | None:
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


RSA = Metric(_prepare, tables.compare, _subset, tables.permuted, _scores, least=3, chance=lambda k, samples: 0.0)
