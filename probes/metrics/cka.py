"""Compute centred kernel alignment: debiased (the default), biased, and with a Gaussian kernel.

Every table of samples by samples is computed from centred features in tiles (`tables`). Where samples far outnumber
dims, the linear kinds need no table at all (`covariances`). Float32 features stay float32 in the matrix products
wherever the result is known to keep its digits. Elsewhere (`WEAK` is the test) they are computed again in float64.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..workers.shared_parts import Part, in_parts
from . import covariances, tables
from .metric import FEW, MEMORY, Array, Metric, centred

WEAK = 1e-3  # share of the norm that a table could have: below it, float32 scores were seen to be off by more than 3e-6
NOTHING = 1e-12  # WEAK in float64: what is less is rounding
MEDIAN_SAMPLES = 4096  # samples whose distances decide the bandwidth


class CentredLater(NamedTuple):
    """Centre features (sample, dim) block by block, when a tile needs them: features on disk stay there."""

    x: Tensor
    centring: covariances.Centring
    dtype: torch.dtype

    def rows(self, rows: slice) -> Tensor:
        """Return the centred features of some samples."""
        return (self.x[rows].to(self.dtype) - self.centring.mean - self.centring.rest) / self.centring.scale


class CentredInMemory(NamedTuple):
    """Hold centred features (sample, dim) in memory."""

    x: Tensor

    def rows(self, rows: slice) -> Tensor:
        """Return the centred features of some samples."""
        return self.x[rows]


class Product(NamedTuple):
    """Hold a table whose entry (i, j) is x_i . x_j + shift_i + shift_j.

    Attributes
    ----------
    x : CentredInMemory or CentredLater
        Centred features (sample, dim).
    shift : Tensor or None
        What is added to each row and column (sample,).
    hollow : bool
        Whether the diagonal is zero.
    limit : float
        The Frobenius norm that the table could have.
    """

    x: CentredInMemory | CentredLater
    shift: Tensor | None
    hollow: bool
    limit: float

    def tile(self, rows: slice, columns: slice) -> Tensor:
        """Return a block of the table."""
        if self.shift is None:
            return self.x.rows(rows) @ self.x.rows(columns).T
        block = torch.addmm(self.shift[columns], self.x.rows(rows), self.x.rows(columns).T)
        block += self.shift[rows, None]
        if self.hollow and rows == columns:
            block.fill_diagonal_(0)
        return block


class Gaussian(NamedTuple):
    """Hold a table exp(-|x_i - x_j|^2 / 2 s), less a constant and up to a factor, which centring and norm remove.

    Attributes
    ----------
    exponent : Product
        The table 1/2 - |x_i - x_j|^2 / 2 s.
    """

    exponent: Product

    def tile(self, rows: slice, columns: slice) -> Tensor:
        """Return a block of the table."""
        return torch.expm1_(self.exponent.tile(rows, columns))


def u_centred(x: Tensor, exact: bool = False, held: bool = True) -> Product:
    """Return the U-centred Gram of x, for which <U(x), U(y)> = n (n - 3) HSIC_1(x, y).

    Without its diagonal the Gram of centred features has row sums -|x_i|^2, so U-centring adds known numbers.

    Parameters
    ----------
    x : Tensor
        Features (sample, dim).
    exact : bool
        Whether to compute in float64.
    held : bool
        Whether the centred features are held in memory. If not, every tile centres its own.

    Returns
    -------
    Product
        The table (sample, sample).

    References
    ----------
    Szekely and Rizzo 2014, proposition 1.
    """
    rows, squares = _lengths(x, exact, held)
    n, total = len(x), squares.sum()
    shift = squares / (n - 2) - total / (2 * (n - 1) * (n - 2))
    return Product(rows, shift if exact else shift.to(x), True, float(total))


def divisor(product: Product, x: Tensor) -> float:
    """Return what the centred features of a product of `u_centred`, held in memory, were divided by; 0 for a constant.

    It is read off the largest value of the longest row, where rounding costs least.

    Parameters
    ----------
    product : Product
        Of the features.
    x : Tensor
        Features (sample, dim).

    Returns
    -------
    float
        The divisor.
    """
    if not product.limit or product.shift is None:
        return 0.0
    row = int(product.shift.argmax())
    values = product.x.rows(slice(row, row + 1))[0]
    column = int(values.abs().argmax())
    deviation = x[row, column].double() - x[:, column].double().mean()
    return abs(float(deviation / values[column]))


def double_centred(x: Tensor, exact: bool = False, held: bool = True) -> Product:
    """Return the Gram of centred x, H x x' H.

    Parameters
    ----------
    x, exact, held
        As in `u_centred`.

    Returns
    -------
    Product
        The table (sample, sample).
    """
    rows, squares = _lengths(x, exact, held)
    return Product(rows, None, False, float(squares.sum()))


def _lengths(x: Tensor, exact: bool, held: bool) -> tuple[CentredInMemory | CentredLater, Tensor]:
    """Return centred features and their squared lengths (sample,) in float64."""
    parts = [slice(start, start + covariances.ROWS) for start in range(0, len(x), covariances.ROWS)]
    dtype = torch.float64 if exact else x.dtype
    features = (
        CentredInMemory(centred(x.to(dtype))) if held else CentredLater(x, covariances.centring_of(x, parts), dtype)
    )
    return features, torch.cat([torch.linalg.vecdot(rows, rows).double() for rows in map(features.rows, parts)])


def gaussian(x: Tensor) -> Gaussian | None:
    """Return the Gaussian kernel of x whose bandwidth is the median squared distance.

    The kernel is computed in float64: all entries have much in common, which centring removes again.

    Parameters
    ----------
    x : Tensor
        Features (sample, dim).

    Returns
    -------
    Gaussian or None
        The table (sample, sample); None where the median distance is 0.
    """
    x = centred(x.double())
    squares = x.square().sum(1)
    scale = median_distance(x)
    if scale <= NOTHING * float(squares.max()):
        return None
    return Gaussian(Product(CentredInMemory(x / scale**0.5), 0.25 - squares / (2 * scale), False, 0))


def median_distance(x: Tensor) -> float:
    """Return NumPy's median of all n^2 squared distances, including the n zeros of the diagonal.

    Kornblith et al. (2019) take it like this. Of more than 4,096 samples, 4,096 evenly spaced ones are used.

    Parameters
    ----------
    x : Tensor
        Features (sample, dim).

    Returns
    -------
    float
        The median squared distance.
    """
    x = x.double()
    if len(x) > MEDIAN_SAMPLES:
        x = x[torch.linspace(0, len(x) - 1, MEDIAN_SAMPLES).round().long()]
    n, rows = len(x), x.cpu().numpy()
    squares = np.einsum("nd,nd->n", rows, rows)
    table = rows @ rows.T
    distances = np.concatenate([squares[i] + squares[i + 1 :] - 2 * table[i, i + 1 :] for i in range(n)])
    # every distance stands twice in the table, after the zeros of the diagonal
    ranks = [(rank - n) // 2 for rank in ((n * n - 1) // 2, n * n // 2)]
    ordered = np.partition(distances, [max(rank, 0) for rank in ranks])
    return float(np.mean([max(ordered[rank], 0) if rank >= 0 else 0 for rank in ranks]))


def _linear(make: Callable[..., Product], debiased: bool, about: str) -> Metric:
    """Build linear CKA from the function that makes a layer's table."""

    def prepare(x: Tensor, k: int) -> Tensor | None:
        exact = _exact(x)
        product = make(x, exact)
        table = tables.full_table(product, len(x))
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
        by_dims = covariances.scores(xs, ys, debiased, memory) if covariances.cheaper(xs, ys) else None
        if by_dims is not None:
            return by_dims
        return by_tables(make, xs, ys, _exact(xs[0]), memory)

    least = 4 if debiased else 2
    chance = (lambda k, samples: 0.0) if debiased else (lambda k, samples: None)
    metric = Metric(prepare, tables.compare, subset, tables.permuted, scores, least, about, chance)
    return metric._replace(high_by_chance=not debiased, turned=tables.turned, bounded=True)


def _exact(x: Tensor) -> bool:
    """Return whether products are computed in float64 from the start."""
    return x.dtype == torch.float64 or len(x) < FEW


def by_tables(
    make: Callable[..., Product], xs: Sequence[Tensor], ys: Sequence[Tensor], exact: bool, memory: float
) -> Array:
    """Return the layer map by tables of samples; layers whose table is too small for float32 go through float64.

    Parameters
    ----------
    make : callable
        `u_centred` or `double_centred`.
    xs, ys : sequence of Tensor
        Layers (sample, dim).
    exact : bool
        Whether to compute in float64.
    memory : float
        Bytes that centred features and tiles may take; beyond it, every tile centres its own.

    Returns
    -------
    Array
        Scores (x layer, y layer), NaN for a constant layer.
    """
    tile, held = tables.within_memory([*xs, *ys], 8 if exact else 4, memory)
    products = [make(layer, exact, held) for layer in (*xs, *ys)]
    inner = tables.inner_products(products, len(xs[0]), tile).cpu().numpy()
    limits, width = np.array([product.limit for product in products]), len(xs)
    norms = np.sqrt(np.maximum(np.diag(inner), 0))
    lost = norms <= (NOTHING if exact else WEAK) * limits
    with np.errstate(invalid="ignore", divide="ignore"):
        scores = inner[:width, width:] / norms[:width, None] / norms[width:]
    weak_x, weak_y = np.flatnonzero(lost[:width]), np.flatnonzero(lost[width:])
    if exact:
        scores[weak_x] = scores[:, weak_y] = np.nan
        return scores
    if len(weak_x):
        scores[weak_x] = by_tables(make, [xs[int(i)] for i in weak_x], ys, True, memory)
    if len(weak_y):
        scores[:, weak_y] = by_tables(make, xs, [ys[int(j)] for j in weak_y], True, memory)
    return scores


def _centred_table(table: Tensor) -> Tensor:
    """Remove row and column means: H table H."""
    means = table.mean(1)
    return table - means[:, None] - (means - means.mean())


def _rbf_prepare(x: Tensor, k: int) -> Tensor | None:
    kernel = gaussian(x)
    return None if kernel is None else _rbf_unit(tables.full_table(kernel, len(x)))


def _rbf_unit(table: Tensor) -> Tensor | None:
    raw = float(table.norm())
    table = _centred_table(table)
    size = float(table.norm())
    return table / size if size > NOTHING * raw else None


def _rbf_subset(a: Tensor | None, chosen: Array, k: int) -> Tensor | None:
    """Cut a kernel to some samples; its bandwidth stays that of all samples."""
    if a is None:
        return None
    rows = torch.from_numpy(chosen).to(a.device)
    return _rbf_unit(a[rows][:, rows])


def _rbf_scores(xs: Sequence[Tensor], ys: Sequence[Tensor], k: int, memory: float = MEMORY) -> Array:
    n, scores = len(xs[0]), np.full((len(xs), len(ys)), np.nan)
    kernels = [[(index, kernel) for index, x in enumerate(side) if (kernel := gaussian(x))] for side in (xs, ys)]
    if not all(kernels):
        return scores
    every = [kernel for side in kernels for _, kernel in side]

    def bands(numbers: Iterable[int]) -> Iterator[Part]:
        for number in numbers:
            own = torch.zeros(len(every), n, dtype=torch.float64, device=xs[0].device)

            def visit(index: int, tile: Tensor, rows: slice, columns: slice, times: int, own: Tensor = own) -> None:
                own[index, rows] += tile.sum(1)
                if times == 2:
                    own[index, columns] += tile.sum(0)

            yield tables.band_products(every, n, number, visit), own

    parts = in_parts(bands, tables.band_count(every, n))
    raw, sums = next(parts)
    for products, own in parts:
        raw, sums = raw + products, sums + own
    totals = sums.sum(1)
    # <HKH, HLH> from the uncentred tables
    inner = raw - 2 / n * sums @ sums.T + totals[:, None] * totals / n**2
    own = inner.diagonal().where(inner.diagonal() > NOTHING**2 * raw.diagonal(), torch.nan)
    every_score, width = inner / own.sqrt()[:, None] / own.sqrt(), len(kernels[0])
    places = np.ix_([i for i, _ in kernels[0]], [j for j, _ in kernels[1]])
    scores[places] = every_score[:width, width:].cpu().numpy()
    return scores


CKA = _linear(
    u_centred,
    debiased=True,
    about="Debiased linear CKA compares which samples are alike in x and in y, and is 0 on average by chance.",
)
CKA_BIASED = _linear(
    double_centred,
    debiased=False,
    about="Biased linear CKA tends to 1 for unrelated features as dims outnumber samples.",
)
CKA_RBF = Metric(
    _rbf_prepare,
    tables.compare,
    _rbf_subset,
    tables.permuted,
    _rbf_scores,
    least=2,
    about="CKA with a Gaussian kernel weighs near samples more than far ones, and is biased too.",
    high_by_chance=True,
    turned=tables.turned,
)
