"""Linear CKA in feature space: from x'y, (dim, dim), which grows while samples pass by and needs no table of samples.

HSIC of centred features is the squared norm of x'y; HSIC_1 takes the diagonal of the Grams out again, for which sums
over the samples' squared lengths are enough. All of it is summed in float64 over batches, about a shift near the mean,
and moved to the exact mean at the end: one reading of the features is enough.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from .metric import Array

ROWS = 4096  # samples whose product is taken in the features' own dtype
LOST = {torch.float32: 1e-2, torch.float64: 1e-6}  # share of HSIC below which its diagonal hides what is left

Batch = tuple[Sequence[Tensor], Sequence[Tensor]]  # layers (sample, dim) of x and of y


class Covariances:
    """What CKA needs of x and y, summed over batches of samples; `own_y` says whether y's own HSIC is wanted too."""

    def __init__(self, shifts: Batch, scales: tuple[Sequence[float], Sequence[float]], own_y: bool = True) -> None:
        self.shifts = [*shifts[0], *shifts[1]]
        self.scales = [*scales[0], *scales[1]]
        self.wide, layers = len(shifts[0]), len(self.shifts)
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
            ((layer - shift) / scale).contiguous()
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

    def drift(self) -> float:
        """The largest squared distance from shift to mean, over the variance: the digits that the shift has cost."""
        ratios = [
            float(n * (drift @ drift) / max(float(length - n * (drift @ drift)), 1e-300))
            for n, drift, length in ((self.samples, s / self.samples, a) for s, a in zip(self.sums, self.lengths))
        ]
        return max(ratios)


def cheaper(xs: Sequence[Tensor], ys: Sequence[Tensor]) -> bool:
    """Whether products of dims cost less than tables of samples: a count of multiplications.

    Tables are made half; comparing them reads long rows for short products, which runs at a third of the rate.
    """
    samples, dims_x, dims_y = len(xs[0]), [x.shape[1] for x in xs], [y.shape[1] for y in ys]
    by_tables = 0.6 * samples**2 * sum(dims_x + dims_y) + 1.5 * samples**2 * (len(xs) + len(ys)) ** 2
    by_dims = samples * sum(dx * dy for dx in dims_x for dy in dims_y) + samples * sum(d * d for d in dims_x + dims_y)
    return by_dims < by_tables


def scores(xs: Sequence[Tensor], ys: Sequence[Tensor], debiased: bool, memory: float) -> Array | None:
    """The layer map of CKA, for groups of x's layers whose products fit in memory; None where digits are lost."""
    lost, n = LOST[xs[0].dtype], len(xs[0])
    rows = [slice(start, start + ROWS) for start in range(0, n, ROWS)]
    about_x, about_y = [[about(layer, rows) for layer in side] for side in (xs, ys)]
    found, own_y = [], None
    for group in groups([x.shape[1] for x in xs], [y.shape[1] for y in ys], memory):
        shifts = [shift for shift, _ in about_x[group]], [shift for shift, _ in about_y]
        scales = [scale for _, scale in about_x[group]], [scale for _, scale in about_y]
        sums = Covariances(shifts, scales, own_y is None)
        for part in rows:
            sums.add([x[part] for x in xs[group]], [y[part] for y in ys])
        inner, whole = sums.hsic(debiased)
        own, all_of_it, wide = np.diag(inner), np.diag(whole), len(shifts[0])
        if (own <= lost * all_of_it).any():
            return None
        own_y = own[wide:] if own_y is None else own_y
        found.append(inner[:wide, wide:] / np.sqrt(own[:wide])[:, None] / np.sqrt(own_y))
    return np.concatenate(found)


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
    """The layer map of CKA over batches that are read once.

    Raises:
        ValueError: no batches; products that do not fit in memory; a first batch that does not stand for the others.
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
            near = [[about(layer, [slice(None)]) for layer in side] for side in (xs, ys)]
            shifts, scales = zip(*[([s for s, _ in side], [c for _, c in side]) for side in near])
            sums = Covariances(shifts, scales)
        for start in range(0, len(xs[0]), ROWS):
            sums.add([x[start : start + ROWS] for x in xs], [y[start : start + ROWS] for y in ys])
    if sums is None:
        raise ValueError("no batches: expected pairs of (layer, sample, dim) features")
    if xs[0].dtype == torch.float32 and sums.drift() > 1e3:
        raise ValueError("the first batch is far from the mean of all: shuffle the samples, or give float64 features")
    inner, whole = sums.hsic(debiased)
    own, wide = np.diag(inner), sums.wide
    lost = LOST[xs[0].dtype]
    if (own <= lost * np.diag(whole)).any() and lost > 1e-6:
        raise ValueError(
            "too few digits are left in float32 (fewer samples than dims, or nearly constant layers): give float64 "
            "batches"
        )
    own = np.where(own <= 1e-9 * np.diag(whole), np.nan, own)
    return inner[:wide, wide:] / np.sqrt(own[:wide])[:, None] / np.sqrt(own[wide:])


def about(layer: Tensor, rows: Sequence[slice]) -> tuple[Tensor, float]:
    """A layer's mean, in its own dtype, and its largest distance from it."""
    mean = torch.stack([layer[part].sum(0, dtype=torch.float64) for part in rows]).sum(0) / len(layer)
    mean = mean.to(layer.dtype)
    largest = max(float((layer[part] - mean).abs().max()) for part in rows)
    return mean, largest or 1.0
