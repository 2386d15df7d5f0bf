"""Metrics that compare two sample-by-sample tables by their inner product: CKA, its variants, RSA.

A relation is a *unit table*: symmetric, (sample, sample), of Frobenius norm 1, so that a score is one inner product.
Products are done in the table's dtype and summed in float64 over chunks of at most `CHUNK` terms: one float32 product
over all of a 2,048 x 2,048 table is off by 2e-4, chunks of 65,536 terms are right to 1e-7.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import embedding

from .metric import Array, defined

TILE = {"cpu": 512, "cuda": 2048}  # rows and columns made at once: to stay in a cache, to fill a card
CHUNK = 2**16


class Table(Protocol):
    """A layer's table, made tile by tile."""

    def tile(self, rows: slice, columns: slice) -> Tensor:
        """(len(rows), len(columns)) of the table."""
        ...


def tiles(samples: int, device: torch.device) -> Iterator[tuple[slice, slice, int]]:
    """The tiles on and above the diagonal of a symmetric table, with how often each of them is in it."""
    tile = TILE.get(device.type, TILE["cpu"])
    for row in range(0, samples, tile):
        for column in range(row, samples, tile):
            rows, columns = (slice(start, min(start + tile, samples)) for start in (row, column))
            yield rows, columns, 1 if row == column else 2


def inner_products(tables: Sequence[Table], samples: int, visit: Callable[..., None] | None = None) -> Tensor:
    """All inner products (table, table) of symmetric tables, float64.

    Half of every table is enough, and no more than one tile of each is held; `visit(at, tile, rows, columns, times)`
    may look at each of them.
    """
    first = tables[0].tile(slice(0, 1), slice(0, 1))
    found = torch.zeros(len(tables), len(tables), dtype=torch.float64, device=first.device)
    for rows, columns, times in tiles(samples, found.device):
        made = [table.tile(rows, columns) for table in tables]
        if visit is not None:
            for at, tile in enumerate(made):
                visit(at, tile, rows, columns, times)
        add_products(found, torch.stack([tile.reshape(-1) for tile in made]), None, times)
    return found


def add_products(found: Tensor, left: Tensor, right: Tensor | None = None, times: float = 1) -> None:
    """found (a, b) += times * left (a, term) right (b, term)', in chunks; right is left where it is None."""
    for start in range(0, left.shape[1], CHUNK):
        part = left[:, start : start + CHUNK]
        other = part if right is None else right[:, start : start + CHUNK]
        found += (part @ other.T).double() * times


def whole(table: Table, samples: int) -> Tensor:
    """The table (sample, sample), of which only the half above the diagonal is computed."""
    made = table.tile(slice(0, 1), slice(0, 1)).new_empty(samples, samples)
    for rows, columns, _ in tiles(samples, made.device):
        part = table.tile(rows, columns)
        made[rows, columns] = part
        made[columns, rows] = part.T
    return made


def norm(table: Tensor) -> float:
    """The Frobenius norm, summed in float64."""
    flat = table.reshape(1, -1)
    found = torch.zeros(1, 1, dtype=torch.float64, device=table.device)
    add_products(found, flat)
    return float(found.sqrt())


def cross(left: Sequence[Tensor], right: Sequence[Tensor]) -> Tensor:
    """Inner products (len left, len right), float64, of tensors of one size."""
    dtype = torch.promote_types(left[0].dtype, right[0].dtype)
    sides = [[one.reshape(-1) for one in side] for side in (left, right)]
    found = torch.zeros(len(left), len(right), dtype=torch.float64, device=left[0].device)
    for start in range(0, len(sides[0][0]), CHUNK):
        part = slice(start, start + CHUNK)
        ours, theirs = (torch.stack([one[part].to(dtype) for one in side]) for side in sides)
        add_products(found, ours, theirs)
    return found


def compare(a: Sequence[Tensor | None], b: Sequence[Tensor | None], k: int = 0) -> Array:
    """Inner products (len a, len b) of unit tables, or of vectors of their entries; NaN where one is None."""
    scores = np.full((len(a), len(b)), np.nan)
    ours, theirs = defined(a), defined(b)
    if ours and theirs:
        found = cross([one for _, one in ours], [one for _, one in theirs])
        scores[np.ix_([i for i, _ in ours], [j for j, _ in theirs])] = found.cpu().numpy()
    return scores


def permuted(a: Sequence[Tensor | None], b: Sequence[Tensor | None], k: int, orders: Array) -> Array:
    """Inner products (permutation, len a, len b) with rows and columns of b's tables re-ordered.

    The tables of b are interleaved, (sample, sample, table), so that one look-up fetches all of them; those of a are
    cut into blocks of rows, right of the diagonal only.
    """
    scores = np.full((len(orders), len(a), len(b)), np.nan)
    ours, theirs = defined(a), defined(b)
    if not ours or not theirs:
        return scores
    dtype, device = theirs[0][1].dtype, theirs[0][1].device
    samples, width = len(theirs[0][1]), len(theirs)
    interleaved = torch.stack([one.to(dtype) for _, one in theirs], -1).view(-1, width)
    found = torch.zeros(len(orders), len(ours), width, dtype=torch.float64, device=device)
    moved = torch.from_numpy(np.ascontiguousarray(orders)).to(device)
    step = max(1, CHUNK // samples)
    for start in range(0, samples, step):
        # the diagonal block is taken whole and counts once, what is right of it stands for its mirror image too
        weights = torch.full((min(step, samples - start), samples - start), 2.0, dtype=dtype, device=device)
        weights[:, :step] = 1
        left = torch.stack([(one[start : start + step, start:].to(dtype) * weights).view(-1) for _, one in ours])
        for at, order in enumerate(moved):
            places = (order[start : start + step, None] * samples + order[start:]).view(-1)
            add_products(found[at], left, embedding(places, interleaved).T)
    scores[np.ix_(range(len(orders)), [i for i, _ in ours], [j for j, _ in theirs])] = found.cpu().numpy()
    return scores
