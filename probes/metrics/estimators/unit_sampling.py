"""Compute CKA debiased over units as well as over samples: the CKA of all units, of which a layer's dims are a draw.

Few units out of many bias CKA as few samples do. The inner product of two Grams is linear in each, so that its mean
over draws of units is right. A Gram's own norm is not: each unit meets itself in it. Without these terms the norm is
right too (Chun et al., arXiv 2502.15104). They change every score of a layer by one factor.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ...workers.shared_parts import Part, in_parts
from .. import tables
from ..cka import CKA, NOTHING
from ..metric import MEMORY, Array, Metric, centred

LARGE = 2.0  # a factor that could lift the rounding of float32 scores to 1e-6


class Scaled(NamedTuple):
    """Hold a layer's table times its factor.

    Attributes
    ----------
    features : Tensor
        The layer as it was given (sample, dim).
    table : Tensor
        The U-centred Gram (sample, sample), of norm `factor`.
    """

    features: Tensor
    table: Tensor


def factor(x: Tensor) -> float:
    """Return by how much a layer's CKA grows when no unit meets itself in the layer's own HSIC.

    Parameters
    ----------
    x : Tensor
        Features (sample, dim), computed in float64.

    Returns
    -------
    float
        The factor; NaN where no two units are alike, so that what remains of the layer's own HSIC is not positive.
    """
    x = centred(x.double())
    n, units = x.shape
    squares = x.square()
    lengths, sizes = squares.sum(1), squares.sum(0)  # of samples, of units
    own = _alone(x)
    if units <= n:
        product = x.T @ x
        product.fill_diagonal_(0)
        total = sizes.sum().square() - sizes.square().sum()
        rest = _debiased(n, product.square().sum(), (lengths.square() - squares.square().sum(1)).sum(), total)
    else:
        rest = _debiased(n, (x @ x.T).square().sum(), lengths.square().sum(), lengths.sum().square()) - own
    if rest <= NOTHING * float(sizes.sum()) ** 2:
        return float("nan")
    return ((rest + own) / rest * (units - 1) / units) ** 0.5


def alone(x: Tensor) -> float:
    """Return the sum over units of n (n - 3) HSIC_1 of each unit with itself.

    Parameters
    ----------
    x : Tensor
        Features (sample, dim).

    Returns
    -------
    float
        The sum, in the scale of the features.
    """
    x = x.double()
    return _alone(x - x.mean(0))


def _alone(x: Tensor) -> float:
    squares = x.square()
    sizes = squares.sum(0).square().sum()
    return _debiased(len(x), sizes, squares.square().sum(), sizes)


def _debiased(n: int, whole: Tensor, diagonal: Tensor, trace: Tensor) -> float:
    """Return n (n - 3) HSIC_1 from squares of a centred Gram: of its norm, of its diagonal's norm and of its trace."""
    return float(whole - diagonal * n / (n - 2) + trace / ((n - 1) * (n - 2)))


def _prepare(x: Tensor, k: int) -> Scaled | None:
    grown = factor(x)
    table = CKA.prepare(x.double() if grown > LARGE else x, k)
    return None if table is None or np.isnan(grown) else Scaled(x, table * grown)


def _subset(a: Scaled | None, chosen: Array, k: int) -> Scaled | None:
    if a is None:
        return None
    features = a.features[torch.from_numpy(chosen).to(a.features.device)]
    table, grown = CKA.subset(a.table, chosen, k), factor(features)
    return None if table is None or np.isnan(grown) else Scaled(features, table * grown)


def _tables(prepared: Iterable[Scaled | None]) -> Iterator[Tensor | None]:
    return (None if layer is None else layer.table for layer in prepared)


def _compare(a: Sequence[Scaled | None], b: Sequence[Scaled | None], k: int) -> Array:
    return tables.compare([*_tables(a)], [*_tables(b)], k)


def _permuted(a: Sequence[Scaled | None], b: Sequence[Scaled | None], k: int, orders: Array) -> Array:
    return tables.permuted([*_tables(a)], [*_tables(b)], k, orders)


def _turned(a: Iterable[Scaled | None], b: Iterable[Scaled | None], circle: Array) -> Array:
    return tables.turned(_tables(a), _tables(b), circle)


def _scores(xs: Sequence[Tensor], ys: Sequence[Tensor], k: int, memory: float = MEMORY) -> Array:
    layers = [*xs, *ys]

    def factors(numbers: Iterable[int]) -> Iterator[Part]:
        for number in numbers:
            yield (torch.tensor(factor(layers[number]), dtype=torch.float64),)

    grown = np.split(np.array([float(one) for (one,) in in_parts(factors, len(layers))]), [len(xs)])
    scores = CKA.scores(xs, ys, k, memory)
    for i in np.flatnonzero(grown[0] > LARGE).tolist():
        scores[i] = CKA.scores([xs[i].double()], [y.double() for y in ys], k, memory)[0]
    for j in np.flatnonzero(grown[1] > LARGE).tolist():
        scores[:, j] = CKA.scores([x.double() for x in xs], [ys[j].double()], k, memory)[:, 0]
    return scores * grown[0][:, None] * grown[1]


CKA_UNITS = Metric(
    _prepare,
    _compare,
    _subset,
    _permuted,
    _scores,
    least=4,
    about="CKA over units estimates debiased CKA of all units, where a layer's dims are a random draw of them.",
    chance=lambda k, samples: 0.0,
    turned=_turned,
)
