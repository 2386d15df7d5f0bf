"""Exact permutation moments of debiased CKA: what permuting the samples would give on average, without permuting.

U-centred tables have zero diagonals and zero row sums. A permuted score is a sum over pairs of samples, and its powers
are sums over graphs of two or three such pairs (Mantel 1967 counts those of the second power); zero row sums fold every
graph that has a loose end into smaller ones. What is left of unit tables a and b, of n samples each:

    mean      0
    variance  2 / (n (n - 3)), whatever the features
    skewness  from two numbers per layer, sum_ij a_ij^3 and tr(a^3)
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from . import tables
from .cka import NOTHING, WEAK, Held, Product, u_centred
from .metric import FEW, Array

LARGE = 1e3  # where tr(a^3) of a unit table is a difference of numbers this large, float32 is not enough

# Graphs of three edges: in how many ways the third power makes them, its vertices, and the sum over its labellings as
# multiples of sum a^3 and tr(a^3)
GRAPHS = (
    (4, 2, 1, 0),  # one edge three times
    (24, 3, -1, 0),  # one edge twice, another at its end
    (8, 3, 0, 1),  # triangle
    (24, 4, 1, -1),  # path
    (8, 4, 2, 0),  # star
    (6, 4, 2, 0),  # one edge twice, another apart
    (12, 5, -4, 2),  # path of two, an edge apart
    (1, 6, 16, -8),  # three edges apart
)


def permutation_moments(xs: Sequence[Tensor], ys: Sequence[Tensor]) -> tuple[Array, float, Array]:
    """Scores (x layer, y layer), and their standard deviation and skewness (x layer, y layer) under permutation."""
    n, wide, exact = len(xs[0]), len(xs), xs[0].dtype == torch.float64
    if n < FEW and not exact:
        return permutation_moments([x.double() for x in xs], [y.double() for y in ys])
    products = [u_centred(layer, exact) for layer in (*xs, *ys)]
    cubes = np.zeros(len(products))
    squares = torch.zeros(len(products), n, dtype=torch.float64, device=xs[0].device)  # sum_j a_ij^2

    def visit(at: int, tile: Tensor, rows: slice, columns: slice, times: int) -> None:
        squared = tile * tile
        squares[at, rows] += squared.sum(1)
        if times == 2:
            squares[at, columns] += squared.sum(0)
        cubes[at] += times * float(torch.linalg.vecdot(squared, tile).sum(dtype=torch.float64))

    inner = tables.inner_products(products, n, visit).cpu().numpy()
    limits = np.array([product.limit for product in products])
    norms = np.sqrt(np.maximum(np.diag(inner), 0))
    if not exact and (norms <= WEAK * limits).any():
        return permutation_moments([x.double() for x in xs], [y.double() for y in ys])
    norms[norms <= NOTHING * limits] = np.nan
    traces, wholes = np.array([_trace_of_cube(product, own) for product, own in zip(products, squares)]).T
    if not exact and (np.abs(wholes) > LARGE * norms**3).any():  # one sample is far from all others
        return permutation_moments([x.double() for x in xs], [y.double() for y in ys])
    scores = (inner / norms[:, None] / norms)[:wide, wide:]
    return scores, (2 / (n * (n - 3))) ** 0.5, _skewness(cubes / norms**3, traces / norms**3, wide, n)


def _trace_of_cube(product: Product, squares: Tensor) -> tuple[float, float]:
    """tr(a^3), and the number that it is a difference from; squares (sample,) is sum_j a_ij^2.

    In the smaller of the spaces of samples and of dims: with its diagonal p the table is u m u', u = [x, shift, 1] and
    m the identity but for the last two dims, which m exchanges; tr((p - diag p)^3) needs no more of the table than
    tr((m u'u)^3) and sum_j a_ij^2.
    """
    x, n = product.x.rows(slice(None)), len(squares)
    if n <= x.shape[1]:
        table = tables.whole(product, n)
        whole = float(torch.linalg.vecdot(table @ table, table).sum(dtype=torch.float64))
        return whole, whole
    assert product.shift is not None  # as u_centred makes it
    shift = product.shift[:, None]
    u = torch.cat([x, shift, torch.ones_like(shift)], 1)
    gram = tables.whole(Product(Held(u.T.contiguous()), None, False, 0), u.shape[1])
    gram = gram[[*range(x.shape[1]), x.shape[1] + 1, x.shape[1]]]
    diagonal = x.double().square().sum(1) + 2 * product.shift.double()
    whole = torch.linalg.vecdot(gram @ gram, gram.T).sum(dtype=torch.float64)
    return float(whole - 3 * diagonal @ squares - diagonal.pow(3).sum()), float(whole)


def _skewness(cubes: Array, traces: Array, wide: int, n: int) -> Array:
    third = np.zeros((wide, len(cubes) - wide))
    falling = {v: float(np.prod([n - i for i in range(v)])) for v in range(2, 7)}
    for ways, vertices, of_cubes, of_traces in GRAPHS:
        sums = of_cubes * cubes + of_traces * traces
        if falling[vertices]:
            third += ways * np.outer(sums[:wide], sums[wide:]) / falling[vertices]
    return third / (2 / (n * (n - 3))) ** 1.5
