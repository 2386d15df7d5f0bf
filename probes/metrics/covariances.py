"""Compute linear CKA in feature space, from x'y (dim, dim), which is summed over samples and needs no table of samples.

HSIC of centred features is the squared norm of x'y. HSIC_1 removes the diagonal of the Grams, for which sums over the
samples' squared lengths are enough. All sums are taken in float64 over batches, about a shift near the mean, and moved
to the exact mean at the end: one reading of the features is enough.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..workers.shared_parts import Part, in_parts, is_shared
from .metric import Array

ROWS = 4096  # samples whose product is taken in the features' own dtype, at most
FEWEST = 64  # of them, whatever the memory
LOST = {torch.float32: 0.25, torch.float64: 1e-6}  # share of HSIC below which its diagonal hides what is left
BEGUN = 4  # layers that a worker is at at once: what it loses where it dies
NOTHING = 1e-12  # of HSIC: what is less is rounding

Batch = tuple[Sequence[Tensor], Sequence[Tensor]]  # layers (sample, dim) of x and of y


class Centring(NamedTuple):
    """Hold what is subtracted from a layer and what the rest is divided by.

    Attributes
    ----------
    mean : Tensor
        The mean (dim,), rounded to the dtype of the layer.
    rest : Tensor
        What rounding left of the mean (dim,).
    scale : float
        The largest magnitude of the centred layer.
    constant : bool
        Whether the layer is constant; its scale is infinite then.
    """

    mean: Tensor
    rest: Tensor
    scale: float
    constant: bool = False


class Covariances:
    """Sum what CKA needs of x and y over batches of samples.

    The features are converted to a dtype, shifted near their mean and divided by a scale.

    Parameters
    ----------
    centring_x, centring_y : sequence of Centring
        The shift and scale of each layer of x and of y.
    dtype : torch.dtype
        The dtype of the products of one batch.
    own_y : bool
        Whether y's own HSIC is wanted too.
    """

    def __init__(
        self, centring_x: Sequence[Centring], centring_y: Sequence[Centring], dtype: torch.dtype, own_y: bool = True
    ) -> None:
        self.shifts = [centring.mean.to(dtype) for centring in (*centring_x, *centring_y)]
        self.scales = [centring.scale for centring in (*centring_x, *centring_y)]
        self.width, layers = len(centring_x), len(self.shifts)
        self.pairs = [(i, j) for i in range(self.width) for j in range(self.width, layers)]
        self.pairs += [(i, i) for i in range(layers if own_y else self.width)]
        self.samples, device = 0, self.shifts[0].device
        options = {"dtype": torch.float64, "device": device}
        dims = [len(shift) for shift in self.shifts]
        self.products = {(i, j): torch.zeros(dims[i], dims[j], **options) for i, j in self.pairs}  # sum of x y'
        self.sums = [torch.zeros(dim, **options) for dim in dims]  # sum of x
        self.lengths = torch.zeros(layers, **options)  # sum of |x|^2
        self.squares = torch.zeros(layers, layers, **options)  # sum of |x|^2 |y|^2
        self.weighted = [torch.zeros(layers, dim, **options) for dim in dims]  # sum of |x|^2 y, (x, dim of y)

    def add(self, xs: Sequence[Tensor], ys: Sequence[Tensor]) -> None:
        """Add one batch of samples.

        No number of a pair depends on which other layers of x there are: y's own layers are all there, and everything
        else is computed pair by pair.

        Parameters
        ----------
        xs, ys : sequence of Tensor
            The layers (sample, dim) of x and of y.
        """
        layers = [
            (layer.to(shift) - shift) / scale
            for layer, shift, scale in zip([*xs, *ys], self.shifts, self.scales, strict=True)
        ]
        self.samples += len(layers[0])
        lengths = [layer.double().square().sum(1) for layer in layers]  # (sample,) each
        short = [length.to(layers[0]) for length in lengths]
        for index, layer in enumerate(layers):
            self.lengths[index] += lengths[index].sum()
            self.sums[index] += layer.sum(0, dtype=torch.float64)
        if len(layers) > self.width:
            short_y = torch.stack(short[self.width :])
            for index in range(self.width):
                self.weighted[index][self.width :] += short_y @ layers[index]
        for i, j in self.pairs:
            self.products[i, j] += layers[i].T @ layers[j]
            self.squares[i, j] += torch.dot(lengths[i], lengths[j])
            self.weighted[j][i] += short[i] @ layers[j]

    def hsic(self, debiased: bool) -> tuple[Array, Array]:
        """Return n (n - 3) HSIC_1, or n^2 HSIC, of all pairs of layers.

        With d from shift to mean, |x - d|^2 = |x|^2 - 2 d.x + |d|^2: sums of products of lengths about the mean follow
        from those about the shift.

        Parameters
        ----------
        debiased : bool
            Whether HSIC_1 is returned.

        Returns
        -------
        inner : Array
            The values (layer, layer), layers of x before layers of y; NaN for pairs that were not summed.
        whole : Array
            n^2 HSIC (layer, layer), from which HSIC_1 subtracts the diagonal.
        """
        n, layers = self.samples, len(self.shifts)
        drifts = [total / n for total in self.sums]
        far = torch.stack([drift @ drift for drift in drifts])
        lengths = self.lengths - n * far
        inner, whole = np.full((layers, layers), np.nan), np.full((layers, layers), np.nan)
        for i, j in self.pairs:
            product = self.products[i, j]
            whole[i, j] = (product - n * torch.outer(drifts[i], drifts[j])).square().sum()
            both = self.squares[i, j] + far[j] * self.lengths[i] + far[i] * self.lengths[j] - 3 * n * far[i] * far[j]
            both += 4 * drifts[i] @ product @ drifts[j]
            both -= 2 * self.weighted[j][i] @ drifts[j] + 2 * self.weighted[i][j] @ drifts[i]
            diagonal = both * n / (n - 2) - lengths[i] * lengths[j] / ((n - 1) * (n - 2))
            inner[i, j] = whole[i, j] - (float(diagonal) if debiased else 0)
        return inner, whole

    def spread(self) -> Array:
        """Return the magnitude at which the sums of HSIC are rounded.

        Returns
        -------
        Array
            The squared sum of squared lengths about the shift over the samples (layer,).
        """
        return (self.lengths.cpu().numpy()) ** 2 / max(self.samples, 1)


def cheaper(xs: Sequence[Tensor], ys: Sequence[Tensor]) -> bool:
    """Return whether products of dims cost less than tables of samples, by rates that were measured.

    The rates are picoseconds of one core, fitted to both ways over 512 to 8,192 samples, 128 to 1,536 dims and 4 to 24
    layers in float32, and kept here so that the same input takes the same way on every run. Half of every table is
    computed. A multiplication is not all there is: entries of tables are shifted and copied, and compared in short
    products, which read more than they compute; products of dims are squared in float64 once.
    `python -m bridgework.benchmarks.similarity --cases forms` times both.

    Parameters
    ----------
    xs, ys : sequence of Tensor
        Layers (sample, dim).

    Returns
    -------
    bool
        Whether `scores` is the cheaper way.
    """
    samples, dims_x, dims_y = len(xs[0]), [x.shape[1] for x in xs], [y.shape[1] for y in ys]
    dims, layers = sum(dims_x + dims_y), len(dims_x + dims_y)
    by_tables = samples**2 / 2 * (20 * dims + 1100 * layers + 100 * layers**2) + 12_000 * samples * dims
    areas = sum(dims_x) * sum(dims_y) + sum(d * d for d in dims_x + dims_y)
    by_dims = (26 * samples + 8_200) * areas + (3_900 + 47 * layers) * samples * dims
    return by_dims < by_tables


def scores(xs: Sequence[Tensor], ys: Sequence[Tensor], debiased: bool, memory: float) -> Array | None:
    """Return the layer map of CKA, computed in float64 where float32 would lose digits.

    Parameters
    ----------
    xs, ys : sequence of Tensor
        Layers (sample, dim).
    debiased : bool
        Whether HSIC_1 is used.
    memory : float
        Bytes that the products may take.

    Returns
    -------
    Array or None
        Scores (x layer, y layer); None where float64 would lose digits too.
    """
    for dtype in dict.fromkeys((xs[0].dtype, torch.float64)):
        layer_map = _scores(xs, ys, debiased, memory, dtype)
        if layer_map is not None:
            return layer_map
    return None


def _scores(
    xs: Sequence[Tensor], ys: Sequence[Tensor], debiased: bool, memory: float, dtype: torch.dtype
) -> Array | None:
    """Return the layer map in one dtype, by groups of layers that fit in memory; None where digits are lost.

    What workers share are y's layers with themselves, and then the rows of the map.
    """
    rows = _row_slices([x.shape[1] for x in xs], [y.shape[1] for y in ys], len(xs[0]), memory, dtype.itemsize)
    centring_x, centring_y = [[centring_of(layer, rows) for layer in side] for side in (xs, ys)]
    if not all(math.isfinite(centring.scale) or centring.constant for centring in (*centring_x, *centring_y)):
        return None  # differences overflow: `centred` knows a way
    most = BEGUN if is_shared() else len(xs) + len(ys)

    def own_of_y(numbers: Iterable[int]) -> Iterator[Part]:
        for some in _begun(numbers, most, [y.shape[1] for y in ys], [], memory):
            sums = Covariances([centring_y[j] for j in some], [], dtype)
            for part in rows:
                sums.add([ys[j][part] for j in some], [])
            yield from ((own,) for own in _own_values(sums.hsic(debiased)))

    def map_rows(numbers: Iterable[int]) -> Iterator[Part]:
        for some in _begun(numbers, most, [x.shape[1] for x in xs], [y.shape[1] for y in ys], memory):
            sums = Covariances([centring_x[i] for i in some], centring_y, dtype, own_y=False)
            for part in rows:
                sums.add([xs[i][part] for i in some], [y[part] for y in ys])
            inner, whole = sums.hsic(debiased)
            for row, own in enumerate(_own_values((inner, whole))[: sums.width]):
                yield torch.from_numpy(inner[row, sums.width :].copy()), own

    of_y = torch.stack([own for (own,) in in_parts(own_of_y, len(ys))])  # (y layer, 2)
    scores = []
    for inner, own in in_parts(map_rows, len(xs)):
        with_itself = torch.cat([own[None], of_y]).numpy()  # (layer, 2)
        kept = _own(with_itself[:, 0], with_itself[:, 1], LOST[dtype])
        if kept is None:
            return None
        scores.append(inner.numpy() / np.sqrt(kept[0]) / np.sqrt(kept[1:]))
    return np.stack(scores)


def _begun(
    numbers: Iterable[int], most: int, dims: Sequence[int], dims_y: Sequence[int], memory: float
) -> Iterator[list[int]]:
    """Yield the numbers of layers whose products are summed together: `most`, or as many as fit in memory."""
    remaining = iter(numbers)
    while begun := list(islice(remaining, most)):
        for group in groups([dims[number] for number in begun], dims_y, memory):
            yield begun[group]


def _own_values(tables: tuple[Array, Array]) -> Tensor:
    """Return HSIC_1 and HSIC of each layer with itself (layer, 2)."""
    return torch.from_numpy(np.stack([np.diag(table) for table in tables], 1))


def _row_slices(
    dims_x: Sequence[int], dims_y: Sequence[int], samples: int, memory: float, itemsize: int
) -> list[slice]:
    """Cut samples into batches that take a quarter of the memory: each layer centred, and one of them in float64."""
    first = groups(dims_x, dims_y, memory)[0]
    row = itemsize * (sum(dims_x[first]) + sum(dims_y)) + 3 * 8 * max(*dims_x, *dims_y)
    step = int(min(ROWS, max(FEWEST, memory / 4 / row)))
    return [slice(start, start + step) for start in range(0, samples, step)]


def _own(own: Array, whole: Array, lost: float) -> Array | None:
    """Return each layer's own HSIC, NaN where it is constant; None where too little of it is left to be exact."""
    varied = whole > 0  # NaN, where it was not asked for, is neither
    if (own[varied] <= lost * whole[varied]).any():
        return None
    return np.where(varied, own, np.nan)


def groups(dims_x: Sequence[int], dims_y: Sequence[int], memory: float) -> list[slice]:
    """Split x's layers into runs whose products with all layers of y fit in half of the memory.

    The other half is for a batch.

    Parameters
    ----------
    dims_x, dims_y : sequence of int
        The dims of each layer.
    memory : float
        Bytes.

    Returns
    -------
    list of slice
        Consecutive slices of x's layers, each of one layer at least.
    """
    runs, start, used = [], 0, 0.0
    own_y = 8 * sum(d * d for d in dims_y)
    for index, dim in enumerate(dims_x):
        size = 8 * dim * (sum(dims_y) + dim)
        if index > start and used + size + own_y > memory / 2:
            runs.append(slice(start, index))
            start, used = index, 0.0
        used += size
    return [*runs, slice(start, len(dims_x))]


def of_batches(batches: Iterable[Batch], debiased: bool, memory: float) -> Array:
    """Return the layer map of CKA over batches that are read once, computed in float64 from the start.

    Parameters
    ----------
    batches : iterable of pairs
        Layers (sample, dim) of x and of y, batch by batch.
    debiased : bool
        Whether HSIC_1 is used.
    memory : float
        Bytes that the products may take.

    Returns
    -------
    Array
        Scores (x layer, y layer).

    Raises
    ------
    ValueError
        No batches, or products that do not fit in memory.
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
            centring = [[centring_of(layer.double(), [slice(None)]) for layer in side] for side in (xs, ys)]
            for side in centring:  # a layer that is constant so far need not stay so
                side[:] = [layer._replace(scale=1.0) if layer.constant else layer for layer in side]
            sums = Covariances(centring[0], centring[1], torch.float64)
        for start in range(0, len(xs[0]), ROWS):
            sums.add([x[start : start + ROWS] for x in xs], [y[start : start + ROWS] for y in ys])
    if sums is None:
        raise ValueError("no batches: expected pairs of (layer, sample, dim) features")
    inner, whole = sums.hsic(debiased)
    own, width = np.diag(inner), sums.width
    own = np.where(own > NOTHING * np.maximum(np.diag(whole), sums.spread()), own, np.nan)
    return inner[:width, width:] / np.sqrt(own[:width])[:, None] / np.sqrt(own[width:])


def centring_of(layer: Tensor, rows: Sequence[slice]) -> Centring:
    """Return a layer's mean and scale, read in slices of its samples.

    Parameters
    ----------
    layer : Tensor
        Features (sample, dim).
    rows : sequence of slice
        The slices, which cover all samples.

    Returns
    -------
    Centring
        Mean, what rounding left of it, and scale.
    """
    mean = torch.stack([layer[part].sum(0, dtype=torch.float64) for part in rows]).sum(0) / len(layer)
    mean = mean.to(layer.dtype)
    rest = torch.stack([(layer[part] - mean).sum(0, dtype=torch.float64) for part in rows]).sum(0) / len(layer)
    largest = max(float((layer[part] - mean).abs().max()) for part in rows)
    # the mean of equal float64 values may be off by rounding; that of float32 values, summed in float64, is not
    rounding = 8 * torch.finfo(layer.dtype).eps * float(mean.abs().max()) if layer.dtype == torch.float64 else 0.0
    if largest <= rounding:
        return Centring(mean, 0 * mean, math.inf, True)
    return Centring(mean, rest.to(layer.dtype), largest)
