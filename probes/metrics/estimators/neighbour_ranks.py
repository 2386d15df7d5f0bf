"""Compute information imbalance: how far from a sample in y its nearest neighbours in x are (Glielmo et al. 2022).

Neighbours and ranks are by cosine, as for mutual kNN. Ranks among equally distant samples are their mean.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from ...workers.shared_parts import Part, in_parts
from ..metric import MEMORY, Array, Metric, defined, unit_rows
from ..neighbours import Neighbours, list_nearest, one_way, over_defined, prepare, subset
from .nearest_rows import TIE, closeness_blocks

ROWS = 2**22  # ranks held at once


def ranks(unit: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Rank all samples by their distance from each sample, nearest first, in float64.

    Parameters
    ----------
    unit : Tensor
        Unit rows (sample, dim), float64.

    Yields
    ------
    rows : Tensor
        Indices of some samples (row,).
    ranks : Tensor
        The rank of every sample seen from each of them (row, sample), from 1; the sample itself comes last.
    """
    shifted, zero = unit - unit.mean(0), ~unit.any(1)
    everyone = torch.arange(len(unit), device=unit.device)
    numbers = torch.arange(1.0, len(unit) + 1, dtype=torch.float64, device=unit.device)
    for rows, near, _ in closeness_blocks(shifted, zero, everyone, ROWS):
        values, order = near.sort(dim=1, descending=True)
        places = numbers.expand(len(rows), -1)
        apart = values[:, :-1] - values[:, 1:] > TIE
        if not apart.all():
            first = torch.nn.functional.pad(apart, (1, 0), value=True)
            last = torch.nn.functional.pad(apart, (0, 1), value=True)
            starts = torch.where(first, places, 0).cummax(1).values
            ends = torch.where(last, places, torch.inf).flip(1).cummin(1).values.flip(1)
            places = (starts + ends) / 2
        yield rows, torch.empty_like(near).scatter_(1, order, places)


def _imbalance(a: Sequence[Neighbours], b: Sequence[Neighbours], orders: Array) -> Array:
    """Return the mean rank in b of the neighbours in a, over half of the samples (permutation, len a, len b)."""
    samples = len(a[0].near)
    near = np.stack([layer.near for layer in a])  # (a, sample, k)
    totals = np.zeros((len(orders), len(a), len(b)))
    places = np.argsort(orders, axis=1)
    for index, layer in enumerate(b):
        for rows, table in ranks(layer.unit):
            found, own = table.cpu().numpy(), rows.cpu().numpy()
            for permutation, order in enumerate(orders):
                theirs = order[near[:, places[permutation][own]]]  # (a, row, k): where a's neighbours are in b
                totals[permutation, :, index] += found[np.arange(len(own))[:, None], theirs].sum((1, 2))
    return totals / near[0].size * 2 / samples


_permuted = over_defined(_imbalance)


def _compare(a: Sequence[Neighbours | None], b: Sequence[Neighbours | None], k: int) -> Array:
    samples = [len(layer.near) for _, layer in defined(a)][:1] or [0]
    return _permuted(a, b, k, np.arange(samples[0])[None])[0]


def _scores(xs: Sequence[Tensor], ys: Sequence[Tensor], k: int, memory: float = MEMORY) -> Array:
    """Compute the map column by column; x's layers, then y's, are the parts that workers share."""
    a = list_nearest(xs, k, memory)

    def columns(numbers: Iterable[int]) -> Iterator[Part]:
        for number in numbers:
            unit = unit_rows(ys[number])
            b = None if one_way(unit) else Neighbours(np.empty(0), np.empty(0), unit)  # only its ranks are looked at
            yield (torch.from_numpy(_compare(a, [b], k)[:, 0]),)

    return np.stack([column.numpy() for (column,) in in_parts(columns, len(ys))], 1)


INFORMATION_IMBALANCE = Metric(
    prepare,
    _compare,
    subset,
    _permuted,
    _scores,
    least=3,
    about="Information imbalance is the mean rank in y of each sample's k nearest neighbours in x, 1 for strangers.",
    chance=lambda k, samples: 1.0,
    neighbours=True,
    is_distance=True,
)
