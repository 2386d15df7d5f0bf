"""Centred kernel alignment: debiased (the default), biased, and with a Gaussian kernel.

Every table of samples by samples is made from centred features in tiles (`tables`); where samples far outnumber dims
the linear kinds need no table at all (`covariances`). Float32 features stay float32 in the matrix products wherever the
result is known to keep its digits, and are taken again in float64 where it is not: `WEAK` is the test.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from . import covariances, tables
from .metric import FEW, MEMORY, Array, Metric, centred

WEAK = 1e-3  # of the norm a table could have: below, float32 scores were seen to be off by more than 3e-6
NOTHING = 1e-12  # WEAK in float64: what is less is rounding
MEDIAN_SAMPLES = 4096  # samples whose distances decide the bandwidth


class Shifted(NamedTuple):
    """Centred features (sample, dim) that are made when they are asked for, row by row: features on disk stay there."""

    x: Tensor
    near: covariances.Near
    dtype: torch.dtype

    def rows(self, rows: slice) -> Tensor:
        return (self.x[rows].to(self.dtype) - self.near.mean - self.near.rest) / self.near.scale


class Held(NamedTuple):
    """Centred features (sample, dim) in memory."""

    x: Tensor

    def rows(self, rows: slice) -> Tensor:
        return self.x[rows]


class Product(NamedTuple):
    """A table of which entry (i, j) is x_i . x_j + shift_i + shift_j; x (sample, dim), shift (sample,)."""

    x: Held | Shifted
    shift: Tensor | None
    hollow: bool  # whether its diagonal is zero
    limit: float  # the norm it could have

    def tile(self, rows: slice, columns: slice) -> Tensor:
        if self.shift is None:
            return self.x.rows(rows) @ self.x.rows(columns).T
        made = torch.addmm(self.shift[columns], self.x.rows(rows), self.x.rows(columns).T)
        made += self.shift[rows, None]
        if self.hollow and rows == columns:
            made.fill_diagonal_(0)
        return made


class Gaussian(NamedTuple):
    """A table exp(-|x_i - x_j|^2 / 2 s), less a constant and up to a factor, which centring and norm take out."""

    exponent: Product  # 1/2 - |x_i - x_j|^2 / 2 s

    def tile(self, rows: slice, columns: slice) -> Tensor:
        return torch.expm1_(self.exponent.tile(rows, columns))


def u_centred(x: Tensor, exact: bool = False, held: bool = True) -> Product:
    """The U-centred Gram of x: <U(x), U(y)> = n (n - 3) HSIC_1(x, y) (Szekely & Rizzo 2014, prop. 1).

    Without its diagonal the Gram of centred features has row sums -|x_i|^2, so U-centring adds known numbers. In
    float64 if `exact`; centred features are `held` in memory, or made again for every tile.
    """
    rows, squares = _lengths(x, exact, held)
    n, whole = len(x), squares.sum()
    shift = squares / (n - 2) - whole / (2 * (n - 1) * (n - 2))
    return Product(rows, shift if exact else shift.to(x), True, float(whole))


def double_centred(x: Tensor, exact: bool = False, held: bool = True) -> Product:
    """The Gram of centred x, H x x' H; exact and held as in `u_centred`."""
    rows, squares = _lengths(x, exact, held)
    return Product(rows, None, False, float(squares.sum()))


def _lengths(x: Tensor, exact: bool, held: bool) -> tuple[Held | Shifted, Tensor]:
    """Centred features and their squared lengths (sample,) in float64."""
    parts = [slice(start, start + covariances.ROWS) for start in range(0, len(x), covariances.ROWS)]
    dtype = torch.float64 if exact else x.dtype
    near = None if held else covariances.about(x, parts)
    made = Held(centred(x.to(dtype))) if near is None else Shifted(x, near, dtype)
    return made, torch.cat([torch.linalg.vecdot(rows, rows).double() for rows in map(made.rows, parts)])


def gaussian(x: Tensor) -> Gaussian | None:
    """The Gaussian kernel whose bandwidth is the median squared distance; None where that is 0.

    In float64: all entries have much in common, which centring takes out again.
    """
    x = centred(x.double())
    squares = x.square().sum(1)
    scale = median_distance(x)
    if scale <= NOTHING * float(squares.max()):
        return None
    return Gaussian(Product(Held(x / scale**0.5), 0.25 - squares / (2 * scale), False, 0))


def median_distance(x: Tensor) -> float:
    """NumPy's median of all n^2 squared distances, the n zeros of the diagonal included, as Kornblith et al. take it.

    Of more than 4,096 samples, 4,096 evenly spaced ones are used.
    """
    x = x.double()
    if len(x) > MEDIAN_SAMPLES:
        x = x[torch.linspace(0, len(x) - 1, MEDIAN_SAMPLES).round().long()]
    n, rows = len(x), x.cpu().numpy()
    squares = np.einsum("nd,nd->n", rows, rows)
    table = rows @ rows.T
    distances = np.concatenate([squares[i] + squares[i + 1 :] - 2 * table[i, i + 1 :] for i in range(n)])
    # every distance stands twice in the table, after the zeros of the diagonal
    places = [(p - n) // 2 for p in ((n * n - 1) // 2, n * n // 2)]
    ordered = np.partition(distances, [max(p, 0) for p in places])
    return float(np.mean([max(ordered[p], 0) if p >= 0 else 0 for p in places]))


def _linear(make: Callable[..., Product], debiased: bool) -> Metric:
    def prepare(x: Tensor, k: int) -> Tensor | None:
        exact = _exact(x)
        product = make(x, exact)
        table = tables.whole(product, len(x))
        size = tables.norm(table)
        if size < WEAK * product.limit and not exact:
            return prepare(x.double(), k)
        return table / size if size > NOTHING * product.limit else None

    def subset(a: Tensor | None, chosen: Array, k: int) -> Tensor | None:
        if a is None:
            return None
        rows = torch.from_numpy(chosen).to(a.device)
        a = a[rows][:, rows].double()
        n, sums = len(a), a.sum(1)
        if debiased:  # U-centring wipes out every a_i + a_j, so the whole table's own U-centring does no harm here
            a = a - sums[:, None] / (n - 2) - (sums / (n - 2) - sums.sum() / ((n - 1) * (n - 2)))
            a.fill_diagonal_(0)
        else:
            a = _centred_table(a)
        size = float(a.norm())
        return a / size if size > NOTHING else None

    def scores(xs: Sequence[Tensor], ys: Sequence[Tensor], k: int, memory: float = MEMORY) -> Array:
        found = covariances.scores(xs, ys, debiased, memory) if covariances.cheaper(xs, ys) else None
        if found is not None:
            return found
        return _by_tables(make, xs, ys, _exact(xs[0]), memory)

    least = 4 if debiased else 2
    chance = (lambda k, samples: 0.0) if debiased else (lambda k, samples: None)
    return Metric(prepare, tables.compare, subset, tables.permuted, scores, least, chance)


def _exact(x: Tensor) -> bool:
    """Whether products are to be of float64 from the start."""
    return x.dtype == torch.float64 or len(x) < FEW


def _by_tables(
    make: Callable[..., Product], xs: Sequence[Tensor], ys: Sequence[Tensor], exact: bool, memory: float
) -> Array:
    """The layer map by tables of samples; layers whose table is too small for float32 go through float64."""
    held = sum(layer.numel() for layer in (*xs, *ys)) * (8 if exact else 4) <= memory
    products = [make(layer, exact, held) for layer in (*xs, *ys)]
    inner = tables.inner_products(products, len(xs[0])).cpu().numpy()
    limits, wide = np.array([product.limit for product in products]), len(xs)
    norms = np.sqrt(np.maximum(np.diag(inner), 0))
    lost = norms <= (NOTHING if exact else WEAK) * limits
    with np.errstate(invalid="ignore", divide="ignore"):
        found = inner[:wide, wide:] / norms[:wide, None] / norms[wide:]
    weak_x, weak_y = np.flatnonzero(lost[:wide]), np.flatnonzero(lost[wide:])
    if exact:
        found[weak_x] = found[:, weak_y] = np.nan
        return found
    if len(weak_x):
        found[weak_x] = _by_tables(make, [xs[int(i)] for i in weak_x], ys, True, memory)
    if len(weak_y):
        found[:, weak_y] = _by_tables(make, xs, [ys[int(j)] for j in weak_y], True, memory)
    return found


def _centred_table(table: Tensor) -> Tensor:
    """H table H: row and column means removed."""
    means = table.mean(1)
    return table - means[:, None] - (means - means.mean())


def _rbf_prepare(x: Tensor, k: int) -> Tensor | None:
    kernel = gaussian(x)
    return None if kernel is None else _rbf_unit(tables.whole(kernel, len(x)))


def _rbf_unit(table: Tensor) -> Tensor | None:
    raw = float(table.norm())
    table = _centred_table(table)
    size = float(table.norm())
    return table / size if size > NOTHING * raw else None


def _rbf_subset(a: Tensor | None, chosen: Array, k: int) -> Tensor | None:
    """The bandwidth stays that of all samples."""
    if a is None:
        return None
    rows = torch.from_numpy(chosen).to(a.device)
    return _rbf_unit(a[rows][:, rows])


def _rbf_scores(xs: Sequence[Tensor], ys: Sequence[Tensor], k: int, memory: float = MEMORY) -> Array:
    n, scores = len(xs[0]), np.full((len(xs), len(ys)), np.nan)
    kernels = [[(at, kernel) for at, x in enumerate(side) if (kernel := gaussian(x))] for side in (xs, ys)]
    if not all(kernels):
        return scores
    every = [kernel for side in kernels for _, kernel in side]
    sums = torch.zeros(len(every), n, dtype=torch.float64, device=xs[0].device)

    def visit(at: int, tile: Tensor, rows: slice, columns: slice, times: int) -> None:
        sums[at, rows] += tile.sum(1)
        if times == 2:
            sums[at, columns] += tile.sum(0)

    raw = tables.inner_products(every, n, visit)
    totals = sums.sum(1)
    # <HKH, HLH> from the uncentred tables
    inner = raw - 2 / n * sums @ sums.T + totals[:, None] * totals / n**2
    own = inner.diagonal().where(inner.diagonal() > NOTHING**2 * raw.diagonal(), torch.nan)
    found, wide = inner / own.sqrt()[:, None] / own.sqrt(), len(kernels[0])
    places = np.ix_([i for i, _ in kernels[0]], [j for j, _ in kernels[1]])
    scores[places] = found[:wide, wide:].cpu().numpy()
    return scores


CKA = _linear(u_centred, debiased=True)
CKA_BIASED = _linear(double_centred, debiased=False)
CKA_RBF = Metric(_rbf_prepare, tables.compare, _rbf_subset, tables.permuted, _rbf_scores, least=2)
