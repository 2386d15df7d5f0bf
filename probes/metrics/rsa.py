"""Compute representational similarity analysis (Kriegeskorte et al. 2008): are the same pairs of samples far apart?"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from ..workers.shared_parts import Part, in_parts
from . import tables
from .metric import MEMORY, Array, Metric, by_threads, in_threads

# Relative to the largest distance:
TIE = 1e-13  # float64 distances closer than this are equal: their sums round differently
SINGLE = 2e-6  # float32's rounding, and some
CROWD = 1000  # a thousandth of all pairs within float32's rounding may be ties; fewer move a score by less than 1e-6


def ranks(x: Tensor) -> Tensor | None:
    """Return centred unit ranks of the correlations between samples over dims.

    Correlations are sorted on the CPU. They are computed in float64 where many pairs are so close that they may be
    ties, which float32's rounding would put in some order.

    Parameters
    ----------
    x : Tensor
        Features (sample, dim).

    Returns
    -------
    Tensor or None
        Ranks (samples * (samples - 1) / 2,) of the pairs above the diagonal in x's dtype; None where there is no order.
    """
    values = _closeness(x.cpu().numpy())
    if values is None:
        return None
    order = np.argsort(values)
    if values.dtype == np.float32:
        ascending, crowd = values[order], max(len(values) // CROWD, 1)
        if (ascending[crowd:] - ascending[:-crowd] <= SINGLE).any():
            exact = ranks(x.double())
            return None if exact is None else exact.to(x)
    ranked = unit_ranks(values, order)
    return None if ranked is None else torch.from_numpy(ranked).to(x)


def _closeness(rows: Array) -> Array | None:
    """Return Pearson's r of all pairs of rows (row, dim) above the diagonal, less 1, over its range.

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
    closeness = np.concatenate([table[row, row + 1 :] for row in range(len(table))])
    furthest = -closeness.min()
    return closeness / furthest if furthest > np.finfo(closeness.dtype).eps ** 2 else None


def unit_ranks(values: Array, order: Array) -> Array | None:
    """Return average ranks of values whose order is known, less their mean, over their norm.

    Parameters
    ----------
    values : Array
        Values (value,).
    order : Array
        The indices that sort them (value,).

    Returns
    -------
    Array or None
        Ranks (value,) with mean 0 and norm 1; None where all values are the same.
    """
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
    ranked = np.empty_like(values)
    ranked[order] = places / size
    return ranked


def _scores(xs: Sequence[Tensor], ys: Sequence[Tensor], k: int, memory: float = MEMORY) -> Array:
    layers, cpu = [*xs, *ys], torch.device("cpu")

    def parts(numbers: Iterable[int]) -> Iterator[Part]:
        for some in by_threads(numbers, cpu):
            for ranked in in_threads(ranks, [(layers[number],) for number in some], cpu):
                yield () if ranked is None else (ranked,)

    ranked = [part[0].to(xs[0].device) if part else None for part in in_parts(parts, len(layers))]
    return tables.compare(ranked[: len(xs)], ranked[len(xs) :])


def _table(ranked: Tensor | None, samples: int) -> Tensor | None:
    """Return the unit table (sample, sample) of ranks, in which every rank stands twice."""
    if ranked is None:
        return None
    table = ranked.new_zeros(samples, samples)
    rows, columns = torch.triu_indices(samples, samples, 1, device=ranked.device)
    table[rows, columns] = table[columns, rows] = ranked / 2**0.5
    return table


def _prepare(x: Tensor, k: int) -> Tensor | None:
    return _table(ranks(x), len(x))


def _subset(a: Tensor | None, chosen: Array, k: int) -> Tensor | None:
    """Rank the chosen samples' ranks again."""
    if a is None:
        return None
    rows = torch.from_numpy(chosen).to(a.device)
    part = a[rows][:, rows].cpu().double().numpy()
    # in a unit table ranks of n^2 / 2 pairs are about n^-3 apart: times n they are further apart than TIE
    values = np.concatenate([part[row, row + 1 :] for row in range(len(part))]) * len(a)
    ranked = unit_ranks(values, np.argsort(values))
    return None if ranked is None else _table(torch.from_numpy(ranked).to(a), len(part))


RSA = Metric(
    _prepare,
    tables.compare,
    _subset,
    tables.permuted,
    _scores,
    least=3,
    about="RSA is the rank correlation of the distances between samples in x with those in y.",
    chance=lambda k, samples: 0.0,
    turned=tables.turned,
)
