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
from ..batched_cka import hsic
from ..cka import u_centred
from ..metric import Array
from .query_rows import CHUNK
from .unit_sampling import alone


def unevenness(layer: Tensor, centre: Tensor) -> float:
    """Return how many rows weigh as much as one would if all weighed the same: 1, or more where few rows outweigh many.

    A row weighs its squared distance from the centre, which is how its Gram grows with it.

    Parameters
    ----------
    layer : Tensor
        Features of all samples (sample, dim), which may lie on disk.
    centre : Tensor
        Their mean, or that of many of them (dim,).

    Returns
    -------
    float
        The mean square of the weights over their squared mean; NaN where a row is not finite, or too large to square.
    """
    parts = [torch.linalg.vector_norm(part - centre, dim=1).double() for part in layer.split(CHUNK)]
    far = torch.cat(parts)
    longest = far.max()
    if longest == 0:
        return 1.0
    weights = (far / longest).square()
    return float(weights.square().mean() / weights.mean().square())


def block_terms(layers: Sequence[Tensor], units: bool) -> Array:
    """Return HSIC_1 of all pairs of layers of one block, as it is and as the mean of both halves.

    Parameters
    ----------
    layers : sequence of Tensor
        (sample, dim) each, an even number of samples in random order.
    units : bool
        Whether no unit meets itself in a layer's own HSIC_1, as in `cka_units`.

    Returns
    -------
    Array
        (2, layer, layer).
    """
    half = len(layers[0]) // 2
    whole, *halves = (
        _terms([layer[part] for layer in layers], units) for part in (slice(None), slice(None, half), slice(half, None))
    )
    return np.stack([whole, (halves[0] + halves[1]) / 2])


def _terms(layers: Sequence[Tensor], units: bool) -> Array:
    n = len(layers[0])
    terms = hsic(layers)
    if units:
        dims = np.array([layer.shape[1] for layer in layers])
        own = (np.diag(terms) - [alone(layer) for layer in layers]) * dims / np.maximum(dims - 1, 1)
        np.fill_diagonal(terms, own)
    return terms / (n * (n - 3))


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
