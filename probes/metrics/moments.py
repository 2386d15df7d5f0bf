"""Compute the exact moments of debiased CKA over all permutations of the samples, without permuting.

U-centred tables have zero diagonals and zero row sums. A permuted score is a sum over pairs of samples, and its powers
are sums over graphs of two or three such pairs (Mantel 1967 counts those of the second power). Zero row sums reduce
every graph that has a loose end to smaller ones. For unit tables a and b of n samples this leaves:

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
from .cka import NOTHING, WEAK, CentredInMemory, Product, u_centred
from .metric import FEW, Array

LARGE = 1e3  # where tr(a^3) of a unit table is a difference of numbers this large, float32 is not enough

# Graphs of three edges: how many ways of the third power give the graph, its vertices, and the sum over its labellings
# as multiples of sum a^3 and tr(a^3)
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
    """Return scores of debiased CKA with their standard deviation and skewness under permutation.

    Parameters
    ----------
    xs, ys : sequence of Tensor
        Layers (sample, dim) of one dtype.

    Returns
    -------
    scores : Array
        Debiased CKA (x layer, y layer), NaN for a constant layer.
    deviation : float
        The standard deviation, the same for all pairs.
    skewness : Array
        The skewness (x layer, y layer).
    """
    n, width, exact = len(xs[0]), len(xs), xs[0].dtype == torch.float64
    if n < FEW and not exact:
        return permutation_moments([x.double() for x in xs], [y.double() for y in ys])
    products = [u_centred(layer, exact) for layer in (*xs, *ys)]
    cubes = np.zeros(len(products))
    squares = torch.zeros(len(products), n, dtype=torch.float64, device=xs[0].device)  # sum_j a_ij^2

    def visit(index: int, tile: Tensor, rows: slice, columns: slice, times: int) -> None:
        squared = tile * tile
        squares[index, rows] += squared.sum(1)
        if times == 2:
            squares[index, columns] += squared.sum(0)
        cubes[index] += times * float(torch.linalg.vecdot(squared, tile).sum(dtype=torch.float64))

    inner = tables.band_products(products, n, visit=visit).cpu().numpy()
    limits = np.array([product.limit for product in products])
    norms = np.sqrt(np.maximum(np.diag(inner), 0))
    if not exact and (norms <= WEAK * limits).any():
        return permutation_moments([x.double() for x in xs], [y.double() for y in ys])
    norms[norms <= NOTHING * limits] = np.nan
    traces, wholes = np.array([_trace_of_cube(product, own) for product, own in zip(products, squares)]).T
    if not exact and (np.abs(wholes) > LARGE * norms**3).any():  # one sample is far from all others
        return permutation_moments([x.double() for x in xs], [y.double() for y in ys])
    scores = (inner / norms[:, None] / norms)[:width, width:]
    return scores, (2 / (n * (n - 3))) ** 0.5, _skewness(cubes / norms**3, traces / norms**3, width, n)


def _trace_of_cube(product: Product, squares: Tensor) -> tuple[float, float]:
    """Return tr(a^3) and the larger number from which it is computed; squares (sample,) is sum_j a_ij^2.

    The smaller of the spaces of samples and of dims is used. With its diagonal p the table is u m u', u = [x, shift, 1]
    and m the identity but for the last two dims, which m exchanges: tr((p - diag p)^3) needs no more of the table than
    tr((m u'u)^3) and sum_j a_ij^2.
    """
    x, n = product.x.rows(slice(None)), len(squares)
    if n <= x.shape[1]:
        table = tables.full_table(product, n)
        whole = float(torch.linalg.vecdot(table @ table, table).sum(dtype=torch.float64))
        return whole, whole
    assert product.shift is not None  # u_centred sets it
    shift = product.shift[:, None]
    u = torch.cat([x, shift, torch.ones_like(shift)], 1)
    gram = tables.full_table(Product(CentredInMemory(u.T.contiguous()), None, False, 0), u.shape[1])
    gram = gram[[*range(x.shape[1]), x.shape[1] + 1, x.shape[1]]]
    diagonal = x.double().square().sum(1) + 2 * product.shift.double()
    whole = torch.linalg.vecdot(gram @ gram, gram.T).sum(dtype=torch.float64)
    return float(whole - 3 * diagonal @ squares - diagonal.pow(3).sum()), float(whole)


def _skewness(cubes: Array, traces: Array, width: int, n: int) -> Array:
    """Return the skewness (x layer, y layer); cubes and traces (layer,) of unit tables, x's `width` layers first."""
    third = np.zeros((width, len(cubes) - width))
    falling = {v: float(np.prod([n - i for i in range(v)])) for v in range(2, 7)}
    for ways, vertices, of_cubes, of_traces in GRAPHS:
        sums = of_cubes * cubes + of_traces * traces
        if falling[vertices]:
            third += ways * np.outer(sums[:width], sums[width:]) / falling[vertices]
    return third / (2 / (n * (n - 3))) ** 1.5
