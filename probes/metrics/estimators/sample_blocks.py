"""Estimate debiased CKA from blocks of samples drawn at random: HSIC_1 of a block has the mean that it has over all.

HSIC_1 is a U-statistic: its mean over random subsets of the samples is its value at all of them. Means over disjoint
blocks are therefore unbiased for the three terms of CKA, and a block of b samples costs b / N of what its rows cost in
a Gram of all. A block's deviation has a part that is linear in its samples, which cancels over a partition of all
samples, and a part that belongs to pairs of samples, which does not. Halves of the blocks tell them apart.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from .. import tables
from ..cka import NOTHING, WEAK, u_centred
from ..metric import FEW, Array
from .unit_sampling import alone

READ = 2**18  # values of a layer that are read at once: they stay in a cache
LOST = 0.01  # share of a sum below which what cancels hides what is left, in float32


def middle(rows: Tensor) -> Tensor:
    """Return the mean of some rows (sample, dim), in their dtype: (dim,)."""
    sums = [part.sum(0).double() for part in rows.split(256)]
    return (torch.stack(sums).sum(0) / len(rows)).to(rows)


def distances(layer: Tensor, centre: Tensor) -> Tensor:
    """Return how far every row is from the centre.

    Parameters
    ----------
    layer : Tensor
        Features of all samples (sample, dim), which may lie on disk.
    centre : Tensor
        Their mean, or that of many of them (dim,), in the dtype that is computed in.

    Returns
    -------
    Tensor
        (sample,), float64; not finite where a row is not, or too large to square.
    """
    step = max(1, READ // layer.shape[1])
    # Nothing is allocated part by part: what is kept between what is freed would leave holes as large as the layer.
    space, far = centre.new_empty(min(step, len(layer)), layer.shape[1]), centre.new_empty(len(layer))
    for part, lengths in zip(layer.split(step), far.split(step), strict=True):
        torch.linalg.vector_norm(space[: len(part)].copy_(part).sub_(centre), dim=1, out=lengths)
    return far.double()


def unevenness(far: Tensor) -> float:
    """Return how many rows weigh as much as one would if all weighed the same: 1, or more where few rows outweigh many.

    A row weighs its squared distance from the centre, which is how its Gram grows with it.

    Parameters
    ----------
    far : Tensor
        `distances` of all rows (sample,).

    Returns
    -------
    float
        The mean square of the weights over their squared mean; NaN where a distance is not finite.
    """
    longest = far.max()
    if longest == 0:
        return 1.0
    weights = (far / longest).square()
    return float(weights.square().mean() / weights.mean().square())


def block_terms(layers: Sequence[Tensor], units: bool) -> Array:
    """Return HSIC_1 of all pairs of layers of one block, as it is and as the mean of both halves.

    Grams are computed once, in three parts: in the first half, in the second, and between them.

    Parameters
    ----------
    layers : sequence of Tensor
        (sample, dim) each, an even number of samples in random order. Means near 0 and lengths near 1 save digits.
    units : bool
        Whether no unit meets itself in a layer's own HSIC_1, as in `cka_units`.

    Returns
    -------
    Array
        (2, layer, layer).
    """
    half = len(layers[0]) // 2
    exact = layers[0].dtype == torch.float64
    if exact:
        layers = [layer - layer.mean(0) for layer in layers]
    elif half < FEW:
        return block_terms([layer.double() for layer in layers], units)
    grams = layers[0].new_empty(3, len(layers), half, half)
    for index, layer in enumerate(layers):
        for gram, (rows, columns) in zip(grams, ((0, 0), (half, half), (0, half)), strict=True):
            torch.mm(layer[rows : rows + half], layer[columns : columns + half].T, out=gram[index])
    diagonals = grams[:2].diagonal(dim1=2, dim2=3)
    traces = diagonals.sum((0, 2), dtype=torch.float64)
    diagonals.zero_()
    flat = grams.flatten(2)
    inner, sums = (flat @ flat.mT).double(), grams.sum(3, dtype=torch.float64)
    across = grams[2].sum(1, dtype=torch.float64)
    parts = [
        (slice(None), inner[0] + inner[1] + 2 * inner[2], torch.cat([sums[0] + sums[2], sums[1] + across], 1)),
        (slice(None, half), inner[0], sums[0]),
        (slice(half, None), inner[1], sums[1]),
    ]
    found = []
    for rows, product, own_sums in parts:
        terms, n = _debiased(product, own_sums), own_sums.shape[1]
        own = terms.diagonal()
        lost = (own <= (WEAK * traces) ** 2) | (own <= LOST * product.diagonal())
        nothing = own <= (NOTHING * traces) ** 2  # but rounding
        terms[nothing] = terms[:, nothing] = 0
        if units:
            dims = own.new_tensor([layer.shape[1] for layer in layers])
            rest = own - own.new_tensor([alone(layer[rows]) for layer in layers])
            lost |= rest <= LOST * own
            own.copy_(rest * dims / (dims - 1).clamp(min=1))
        if lost.any() and not exact:
            return block_terms([layer.double() for layer in layers], units)
        found.append(terms.cpu().numpy() / (n * (n - 3)))
    return np.stack([found[0], (found[1] + found[2]) / 2])


def _debiased(product: Tensor, sums: Tensor) -> Tensor:
    """Return n (n - 3) HSIC_1 from inner products of Grams without diagonals, and the sums of their rows (layer, n)."""
    n, totals = sums.shape[1], sums.sum(1)
    return product - 2 / (n - 2) * sums @ sums.T + torch.outer(totals, totals) / ((n - 1) * (n - 2))


def scores_and_errors(terms: Array, pairs: Sequence[tuple[int, int]], samples: int, block: int) -> tuple[Array, ...]:
    """Return the scores of some blocks, and how far each block is off.

    Parameters
    ----------
    terms : Array
        `block_terms` of each block (block, 2, layer, layer).
    pairs : sequence of (int, int)
        The layers that are compared.
    samples, block : int
        The numbers of samples in all and in a block.

    Returns
    -------
    scores : Array
        Debiased CKA (pair,); NaN where a layer's own HSIC_1 is not positive.
    deviations : Array
        Each block's deviation (block, pair); their mean is 0.
    paired : Array
        The part of their variance that does not cancel over all blocks (pair,).
    """
    i, j = (np.array(side) for side in zip(*pairs, strict=True))
    means = terms[:, 0].mean(0)
    own = np.diag(means)
    own = np.where(own > 0, own, np.nan)
    norms = np.sqrt(own[i] * own[j])
    scores = means[i, j] / norms
    # how the ratio answers to each block's terms, as leaving out one block at a time does, to first order
    shift = terms[..., i, j] / norms - scores / 2 * (terms[..., i, i] / own[i] + terms[..., j, j] / own[j])
    paired = ((shift[:, 0] - shift[:, 1]) ** 2).mean(0) * (1 - block / samples)
    return scores, shift[:, 0], paired


def permuted_terms(
    xs: Sequence[Tensor], ys: Sequence[Tensor], pairs: Sequence[tuple[int, int]], orders: Array
) -> Array:
    """Return HSIC_1 of pairs of layers under permutations of the samples of one block, (permutation, pair)."""
    n, made = len(xs[0]), []
    for layer in (*xs, *ys):
        product = u_centred(layer, exact=True)
        spread = float((layer.double() - layer.double().mean(0)).square().sum())
        table = tables.full_table(product, n)
        made.append((table * (spread / product.limit if product.limit else 0)).float())
    scores = tables.permuted(made[: len(xs)], made[len(xs) :], 0, orders)
    i, j = (np.array(side) for side in zip(*pairs, strict=True))
    return scores[:, i, j] / (n * (n - 3))
