"""Compare sample-by-sample tables by their inner product, as CKA, its variants and RSA do.

The prepared layer of these metrics is a *unit table*: symmetric, (sample, sample), of Frobenius norm 1, so that a score
is one inner product. Products are computed in the table's dtype and summed in float64 over chunks of at most `CHUNK`
terms: one float32 product over all of a 2,048 x 2,048 table is off by 2e-4, chunks of 65,536 terms are right to 1e-7.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import embedding

from ..workers.shared_parts import Part, in_parts
from .metric import Array, defined

TILE = {"cpu": 512, "cuda": 2048}  # rows and columns computed at once: to stay in a cache, to fill a card
SMALLEST = 64  # tile, whatever the memory
CHUNK = 2**16
FREQUENCIES = 64  # of all tables, compared at once


class Table(Protocol):
    """Compute a layer's symmetric table (sample, sample) tile by tile."""

    def tile(self, rows: slice, columns: slice) -> Tensor:
        """Return a block (row, column) of the table."""
        ...


def tiles(
    samples: int, device: torch.device, band: int | None = None, tile: int | None = None
) -> Iterator[tuple[slice, slice, int]]:
    """Yield the tiles on and above the diagonal of a symmetric table.

    Parameters
    ----------
    samples : int
        Rows of the table.
    device : torch.device
        Where the table is computed, which decides the size of a tile.
    band : int, optional
        Only the tiles of this band of rows, as tall as a tile.
    tile : int, optional
        Rows and columns of a tile; those of the device if left out.

    Yields
    ------
    rows, columns : slice
        A tile.
    times : int
        How often the tile is in the table: 1 on the diagonal, 2 above it.
    """
    tile = tile or _tile(device)
    for row in range(0, samples, tile) if band is None else [band * tile]:
        for column in range(row, samples, tile):
            rows, columns = (slice(start, min(start + tile, samples)) for start in (row, column))
            yield rows, columns, 1 if row == column else 2


def inner_products(tables: Sequence[Table], samples: int, tile: int | None = None) -> Tensor:
    """Return all inner products of symmetric tables; bands of rows are the parts that workers share.

    Parameters
    ----------
    tables : sequence of Table
        The tables, (sample, sample) each.
    samples : int
        Rows of each table.
    tile : int, optional
        Rows and columns of a tile; those of the device if left out.

    Returns
    -------
    Tensor
        Inner products (table, table), float64.
    """

    def bands(numbers: Iterable[int]) -> Iterator[Part]:
        for number in numbers:
            yield (band_products(tables, samples, number, tile=tile),)

    parts = in_parts(bands, -(-samples // (tile or _tile(_device(tables)))))
    total = next(parts)[0]
    for (products,) in parts:
        total = total + products
    return total


def band_count(tables: Sequence[Table], samples: int) -> int:
    """Return how many bands of rows symmetric tables are cut into."""
    return -(-samples // _tile(_device(tables)))


def band_products(
    tables: Sequence[Table],
    samples: int,
    band: int | None = None,
    visit: Callable[..., None] | None = None,
    tile: int | None = None,
) -> Tensor:
    """Return what one band of rows adds to all inner products of symmetric tables.

    Half of every table is enough, and no more than one tile of each is held.

    Parameters
    ----------
    tables : sequence of Table
        The tables, (sample, sample) each.
    samples : int
        Rows of each table.
    band : int, optional
        The number of the band; all of them if left out.
    visit : callable, optional
        ``visit(index, tile, rows, columns, times)`` is called with every tile of every table.
    tile : int, optional
        Rows and columns of a tile; those of the device if left out.

    Returns
    -------
    Tensor
        Inner products (table, table), float64.
    """
    products = torch.zeros(len(tables), len(tables), dtype=torch.float64, device=_device(tables))
    for rows, columns, times in tiles(samples, products.device, band, tile):
        blocks = [table.tile(rows, columns) for table in tables]
        if visit is not None:
            for index, block in enumerate(blocks):
                visit(index, block, rows, columns, times)
        add_products(products, torch.stack([block.reshape(-1) for block in blocks]), None, times)
    return products


def _tile(device: torch.device) -> int:
    return TILE.get(device.type, TILE["cpu"])


def _device(tables: Sequence[Table]) -> torch.device:
    return tables[0].tile(slice(0, 1), slice(0, 1)).device


def add_products(total: Tensor, left: Tensor, right: Tensor | None = None, times: float = 1) -> None:
    """Add inner products of rows to a total, in chunks.

    Parameters
    ----------
    total : Tensor
        What is added to, (a, b), float64.
    left : Tensor
        Rows (a, term).
    right : Tensor, optional
        Rows (b, term); left where it is None.
    times : float
        A factor.
    """
    for start in range(0, left.shape[1], CHUNK):
        part = left[:, start : start + CHUNK]
        other = part if right is None else right[:, start : start + CHUNK]
        total += (part @ other.T).double() * times


def within_memory(layers: Sequence[Tensor], itemsize: int, memory: float) -> tuple[int, bool]:
    """Return how large tiles may be, and whether copies of all layers fit in memory beside them.

    Parameters
    ----------
    layers : sequence of Tensor
        Features (sample, dim).
    itemsize : int
        Bytes of an entry of a copy.
    memory : float
        Bytes.

    Returns
    -------
    tile : int
        Rows and columns of a tile: those of the device, or a half, a quarter, ... where the memory is small.
    held : bool
        Whether copies fit, beside tiles and what copying a layer takes.
    """
    tile, sizes = _tile(layers[0].device), [layer.numel() for layer in layers]

    def taken() -> int:
        return 2 * itemsize * len(layers) * min(tile, len(layers[0])) ** 2

    while tile > SMALLEST and taken() > 0.75 * memory:
        tile //= 2
    return tile, itemsize * (sum(sizes) + 3 * max(sizes)) + taken() <= memory


def full_table(table: Table, samples: int) -> Tensor:
    """Compute a whole symmetric table from the half on and above its diagonal.

    Parameters
    ----------
    table : Table
        The table.
    samples : int
        Rows of the table.

    Returns
    -------
    Tensor
        The table (sample, sample).
    """
    entries = table.tile(slice(0, 1), slice(0, 1)).new_empty(samples, samples)
    for rows, columns, _ in tiles(samples, entries.device):
        block = table.tile(rows, columns)
        entries[rows, columns] = block
        entries[columns, rows] = block.T
    return entries


def norm(table: Tensor) -> float:
    """Return the Frobenius norm of a table (sample, sample), summed in float64."""
    flat = table.reshape(1, -1)
    total = torch.zeros(1, 1, dtype=torch.float64, device=table.device)
    add_products(total, flat)
    return float(total.sqrt())


def cross(left: Sequence[Tensor], right: Sequence[Tensor]) -> Tensor:
    """Return the inner products of two lists of tensors of one size.

    Parameters
    ----------
    left, right : sequence of Tensor
        Tensors with as many entries each.

    Returns
    -------
    Tensor
        Inner products (len left, len right), float64.
    """
    dtype = torch.promote_types(left[0].dtype, right[0].dtype)
    sides = [[tensor.reshape(-1) for tensor in side] for side in (left, right)]
    total = torch.zeros(len(left), len(right), dtype=torch.float64, device=left[0].device)
    for start in range(0, len(sides[0][0]), CHUNK):
        part = slice(start, start + CHUNK)
        ours, theirs = (torch.stack([tensor[part].to(dtype) for tensor in side]) for side in sides)
        add_products(total, ours, theirs)
    return total


def compare(a: Sequence[Tensor | None], b: Sequence[Tensor | None], k: int = 0) -> Array:
    """Compare unit tables, or vectors of their entries, by inner products.

    Parameters
    ----------
    a, b : sequence of Tensor or None
        The unit tables of two lists of layers.
    k : int
        Ignored; `Metric.compare` has it.

    Returns
    -------
    Array
        Scores (len a, len b), NaN where a table is None.
    """
    scores = np.full((len(a), len(b)), np.nan)
    ours, theirs = defined(a), defined(b)
    if ours and theirs:
        products = cross([table for _, table in ours], [table for _, table in theirs])
        scores[np.ix_([i for i, _ in ours], [j for j, _ in theirs])] = products.cpu().numpy()
    return scores


def permuted(a: Sequence[Tensor | None], b: Sequence[Tensor | None], k: int, orders: Array) -> Array:
    """Compare unit tables after re-ordering rows and columns of b's tables.

    Parameters
    ----------
    a, b : sequence of Tensor or None
        The unit tables of two lists of layers.
    k : int
        Ignored; `Metric.permuted` has it.
    orders : Array
        Permutations (permutation, sample): sample ``order[i]`` of b takes the place of sample i.

    Returns
    -------
    Array
        Scores (permutation, len a, len b), NaN where a table is None.

    Notes
    -----
    The tables of b are interleaved, (sample, sample, table), so that one look-up fetches all of them. Those of a are
    cut into blocks of rows, right of the diagonal only.
    """
    scores = np.full((len(orders), len(a), len(b)), np.nan)
    ours, theirs = defined(a), defined(b)
    if not ours or not theirs:
        return scores
    dtype, device = theirs[0][1].dtype, theirs[0][1].device
    samples, width = len(theirs[0][1]), len(theirs)
    interleaved = torch.stack([table.to(dtype) for _, table in theirs], -1).view(-1, width)
    total = torch.zeros(len(orders), len(ours), width, dtype=torch.float64, device=device)
    moved = torch.from_numpy(np.ascontiguousarray(orders)).to(device)
    step = max(1, CHUNK // samples)
    for start in range(0, samples, step):
        # the diagonal block is complete and counts once; what is right of it stands for its mirror image too
        weights = torch.full((min(step, samples - start), samples - start), 2.0, dtype=dtype, device=device)
        weights[:, :step] = 1
        left = torch.stack([(table[start : start + step, start:].to(dtype) * weights).view(-1) for _, table in ours])
        for permutation, order in enumerate(moved):
            entries = (order[start : start + step, None] * samples + order[start:]).view(-1)
            add_products(total[permutation], left, embedding(entries, interleaved).T)
    scores[np.ix_(range(len(orders)), [i for i, _ in ours], [j for j, _ in theirs])] = total.cpu().numpy()
    return scores


def turned(a: Iterable[Tensor | None], b: Iterable[Tensor | None], circle: Array) -> Array:
    """Compare unit tables after turning the samples of b's tables around a circle, by every number of places.

    Parameters
    ----------
    a, b : iterable of Tensor or None
        The unit tables of two lists of layers, which may be made one by one: a table is no longer needed when the next
        one is.
    circle : Array
        The samples in the order of the circle (sample,).

    Returns
    -------
    Array
        Scores (sample, len a, len b), NaN where a table is None. Of entry s, sample ``circle[(i + s) % samples]`` of b
        takes the place of sample ``circle[i]``. Entry 0 is `compare`.

    Notes
    -----
    A turn moves every diagonal of a table along itself. The scores of all turns are the cross-correlations of the
    diagonals of two tables, summed over the diagonals: one Fourier transform a table, and one small product of tables
    a frequency. Half of the diagonals are enough, because tables are symmetric.
    """
    samples = len(circle)
    sides = [[None if table is None else _spectrum(table, circle) for table in side] for side in (a, b)]
    scores = np.full((samples, len(sides[0]), len(sides[1])), np.nan)
    ours, theirs = (defined(side) for side in sides)
    if not ours or not theirs:
        return scores
    every = [spectrum for _, spectrum in (*ours, *theirs)]
    dtype = torch.complex128 if any(spectrum.dtype == torch.complex128 for spectrum in every) else every[0].dtype
    products = torch.empty(len(every[0]), len(ours), len(theirs), dtype=torch.complex128, device=every[0].device)
    for start in range(0, len(products), FREQUENCIES):
        part = slice(start, start + FREQUENCIES)
        left, right = (torch.stack([spectrum[part].to(dtype) for _, spectrum in side], 1) for side in (ours, theirs))
        products[part] = left.conj() @ right.mT
    found = torch.fft.irfft(products, samples, dim=0)
    scores[np.ix_(range(samples), [i for i, _ in ours], [j for j, _ in theirs])] = found.cpu().numpy()
    return scores


def _spectrum(table: Tensor, circle: Array) -> Tensor:
    """Return the Fourier transforms (frequency, diagonal) of half of the diagonals of a table along a circle.

    They are weighted so that their inner products are those of whole tables.
    """
    samples, half = len(circle), len(circle) // 2 + 1
    rows = torch.from_numpy(circle).to(table.device)
    wrapped = table[rows].index_select(1, torch.cat([rows, rows[: half - 1]]))
    diagonals = wrapped.as_strided((samples, half), (wrapped.stride(0) + 1, 1)) * 2**0.5
    diagonals[:, 0] /= 2**0.5
    if samples % 2 == 0:  # the last diagonal is its own mirror image
        diagonals[:, -1] /= 2**0.5
    return torch.fft.rfft(diagonals, dim=0)
