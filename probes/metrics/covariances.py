"""Linear CKA in feature space: from x'y, (dim, dim), which grows while samples pass by and needs no table of samples.

HSIC of centred features is the squared norm of x'y; HSIC_1 takes the diagonal of the Grams out again, for which sums
over the samples' squared lengths are enough. All of it is summed in float64 over batches, about a shift near the mean,
and moved to the exact mean at the end: one reading of the features is enough.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from .metric import Array

ROWS = 4096  # samples whose product is taken in the features' own dtype
LOST = {torch.float32: 0.25, torch.float64: 1e-6}  # share of HSIC below which its diagonal hides what is left
NOTHING = 1e-12  # of HSIC: what is less is rounding

Batch = tuple[Sequence[Tensor], Sequence[Tensor]]  # layers (sample, dim) of x and of y


class Near(NamedTuple):
    """What is taken off a layer: its mean (dim,), rounded, and what rounding left; and what it is divided by."""

    mean: Tensor
    rest: Tensor
    scale: float
    constant: bool = False


class Covariances:
    """What CKA needs of x and y, summed over batches of samples; `own_y` says whether y's own HSIC is wanted too.

    The features are taken to dtype, less a shift near their mean and divided by a scale.
    """

    def __init__(self, near_x: Sequence[Near], near_y: Sequence[Near], dtype: torch.dtype, own_y: bool = True) -> None:
        self.shifts = [one.mean.to(dtype) for one in (*near_x, *near_y)]
        self.scales = [one.scale for one in (*near_x, *near_y)]
        self.wide, layers = len(near_x), len(self.shifts)
        self.pairs = [(i, j) for i in range(self.wide) for j in range(self.wide, layers)]
        self.pairs += [(i, i) for i in range(layers if own_y else self.wide)]
        self.samples, device = 0, self.shifts[0].device
        options = {"dtype": torch.float64, "device": device}
        dims = [len(shift) for shift in self.shifts]
        self.products = {(i, j): torch.zeros(dims[i], dims[j], **options) for i, j in self.pairs}  # sum of x y'
        self.sums = [torch.zeros(dim, **options) for dim in dims]  # sum of x
        self.lengths = torch.zeros(layers, **options)  # sum of |x|^2
        self.squares = torch.zeros(layers, layers, **options)  # sum of |x|^2 |y|^2
        self.weighted = [torch.zeros(layers, dim, **options) for dim in dims]  # sum of |x|^2 y, (x, dim of y)

    def add(self, xs: Sequence[Tensor], ys: Sequence[Tensor]) -> None:
        """One batch of samples."""
        layers = [
            (layer.to(shift) - shift) / scale
            for layer, shift, scale in zip([*xs, *ys], self.shifts, self.scales, strict=True)
        ]
        self.samples += len(layers[0])
        lengths = torch.stack([layer.double().square().sum(1) for layer in layers])  # (layer, sample)
        self.lengths += lengths.sum(1)
        self.squares += lengths @ lengths.T
        for at, layer in enumerate(layers):
            self.sums[at] += layer.sum(0, dtype=torch.float64)
            self.weighted[at] += lengths.to(layer) @ layer
        for i, j in self.pairs:
            self.products[i, j] += layers[i].T @ layers[j]

    def hsic(self, debiased: bool) -> tuple[Array, Array]:
        """n (n - 3) HSIC_1, or n^2 HSIC, of all pairs (layer, layer), and the whole it was taken from; NaN if unknown.

        With d from shift to mean, |x - d|^2 = |x|^2 - 2 d.x + |d|^2: sums of products of lengths about the mean follow
        from those about the shift.
        """
        n, layers = self.samples, len(self.shifts)
        drifts = [total / n for total in self.sums]
        far = torch.stack([drift @ drift for drift in drifts])
        lengths = self.lengths - n * far
        found, whole = np.full((layers, layers), np.nan), np.full((layers, layers), np.nan)
        for i, j in self.pairs:
            product = self.products[i, j]
            whole[i, j] = (product - n * torch.outer(drifts[i], drifts[j])).square().sum()
            both = self.squares[i, j] + far[j] * self.lengths[i] + far[i] * self.lengths[j] - 3 * n * far[i] * far[j]
            both += 4 * drifts[i] @ product @ drifts[j]
            both -= 2 * self.weighted[j][i] @ drifts[j] + 2 * self.weighted[i][j] @ drifts[i]
            taken = both * n / (n - 2) - lengths[i] * lengths[j] / ((n - 1) * (n - 2))
            found[i, j] = whole[i, j] - (float(taken) if debiased else 0)
        return found, whole

    def spread(self) -> Array:
        """The squared lengths of a layer's samples about the shift, squared: what the sums of HSIC are rounded at."""
        return (self.lengths.cpu().numpy()) ** 2 / max(self.samples, 1)


def cheaper(xs: Sequence[Tensor], ys: Sequence[Tensor]) -> bool:
    """Whether products of dims cost less than tables of samples: a count of multiplications.

    Tables are made half; comparing them reads long rows for short products, which runs at a third of the rate.
    """
    samples, dims_x, dims_y = len(xs[0]), [x.shape[1] for x in xs], [y.shape[1] for y in ys]
    by_tables = 0.6 * samples**2 * sum(dims_x + dims_y) + 1.5 * samples**2 * (len(xs) + len(ys)) ** 2
    by_dims = samples * sum(dx * dy for dx in dims_x for dy in dims_y) + samples * sum(d * d for d in dims_x + dims_y)
    return by_dims < by_tables


def scores(xs: Sequence[Tensor], ys: Sequence[Tensor], debiased: bool, memory: float) -> Array | None:
    """The layer map of CKA; where float32 would lose digits in float64, and None where that would lose them too."""
    for dtype in dict.fromkeys((xs[0].dtype, torch.float64)):
        found = _scores(xs, ys, debiased, memory, dtype)
        if found is not None:
            return found
    return None


def _scores(
    xs: Sequence[Tensor], ys: Sequence[Tensor], debiased: bool, memory: float, dtype: torch.dtype
) -> Array | None:
    """The layer map in one dtype, for groups of x's layers whose products fit in memory; None where digits are lost."""
    rows = [slice(start, start + ROWS) for start in range(0, len(xs[0]), ROWS)]
    near_x, near_y = [[about(layer, rows) for layer in side] for side in (xs, ys)]
    if not all(math.isfinite(one.scale) or one.constant for one in (*near_x, *near_y)):
        return None  # differences overflow: `centred` knows a way
    found, own_y = [], None
    for group in groups([x.shape[1] for x in xs], [y.shape[1] for y in ys], memory):
        sums = Covariances(near_x[group], near_y, dtype, own_y is None)
        for part in rows:
            sums.add([x[part] for x in xs[group]], [y[part] for y in ys])
        inner, whole = sums.hsic(debiased)
        own = _own(np.diag(inner), np.diag(whole), LOST[dtype])
        if own is None:
            return None
        wide = sums.wide
        own_y = own[wide:] if own_y is None else own_y
        found.append(inner[:wide, wide:] / np.sqrt(own[:wide])[:, None] / np.sqrt(own_y))
    return np.concatenate(found)


def _own(own: Array, whole: Array, lost: float) -> Array | None:
    """Each layer's own HSIC, NaN where it is constant; None where too little of it is left to be exact."""
    known = whole > 0  # NaN, where it was not asked for, is neither
    if (own[known] <= lost * whole[known]).any():
        return None
    return np.where(known, own, np.nan)


def groups(dims_x: Sequence[int], dims_y: Sequence[int], memory: float) -> list[slice]:
    """Runs of x's layers whose products with all of y's fit in memory: half of it, the rest is for a batch."""
    made, start, used = [], 0, 0.0
    own_y = 8 * sum(d * d for d in dims_y)
    for at, dim in enumerate(dims_x):
        size = 8 * dim * (sum(dims_y) + dim)
        if at > start and used + size + own_y > memory / 2:
            made.append(slice(start, at))
            start, used = at, 0.0
        used += size
    return [*made, slice(start, len(dims_x))]


def of_batches(batches: Iterable[Batch], debiased: bool, memory: float) -> Array:
    """The layer map of CKA over batches that are read once, and so in float64 from the start.

    Raises:
        ValueError: no batches; products that do not fit in memory.
    """
    sums = None
    for xs, ys in batches:
        if sums is None:
            dims_x, dims_y = [x.shape[1] for x in xs], [y.shape[1] for y in ys]
            if len(groups(dims_x, dims_y, memory)) > 1:
                needed = 16 * (sum(dims_x) * sum(dims_y) + sum(d * d for d in dims_x + dims_y))
                raise ValueError(
                    f"all layers at once need memory={needed:.1e} bytes, allowed are {memory:.1e}: allow more, pass "
                    "fewer layers of x at a time, or give the features whole (an array mapped from disk will do)"
                )
            near_x, near_y = [[about(layer.double(), [slice(None)]) for layer in side] for side in (xs, ys)]
            for side in (near_x, near_y):  # a layer that is constant so far need not stay so
                side[:] = [one._replace(scale=1.0) if one.constant else one for one in side]
            sums = Covariances(near_x, near_y, torch.float64)
        for start in range(0, len(xs[0]), ROWS):
            sums.add([x[start : start + ROWS] for x in xs], [y[start : start + ROWS] for y in ys])
    if sums is None:
        raise ValueError("no batches: expected pairs of (layer, sample, dim) features")
    inner, whole = sums.hsic(debiased)
    own, wide = np.diag(inner), sums.wide
    own = np.where(own > NOTHING * np.maximum(np.diag(whole), sums.spread()), own, np.nan)
    return inner[:wide, wide:] / np.sqrt(own[:wide])[:, None] / np.sqrt(own[wide:])


def about(layer: Tensor, rows: Sequence[slice]) -> Near:
    """A layer's mean and scale, from slices of its samples."""
    mean = torch.stack([layer[part].sum(0, dtype=torch.float64) for part in rows]).sum(0) / len(layer)
    mean = mean.to(layer.dtype)
    rest = torch.stack([(layer[part] - mean).sum(0, dtype=torch.float64) for part in rows]).sum(0) / len(layer)
    largest = max(float((layer[part] - mean).abs().max()) for part in rows)
    # the mean of equal float64 values may be off by rounding; that of float32 values, summed in float64, is not
    rounding = 8 * torch.finfo(layer.dtype).eps * float(mean.abs().max()) if layer.dtype == torch.float64 else 0.0
    if largest <= rounding:
        return Near(mean, 0 * mean, math.inf, True)
    return Near(mean, rest.to(layer.dtype), largest)
