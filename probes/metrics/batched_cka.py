"""Compute CKA over batches of samples that arrive once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from . import cka, covariances, tables
from .metric import FEW, Array


def batch_map(
    batches: Iterable[tuple[Sequence[Tensor], Sequence[Tensor]]], metric: str, memory: float, minibatch: bool
) -> Array:
    """Return the layer map of cka or cka_biased over batches that are read once.

    Parameters
    ----------
    batches : iterable of pairs
        Layers (sample, dim) of x and of y, batch by batch.
    metric : str
        "cka" or "cka_biased".
    memory : float
        Bytes that the products of dims may take.
    minibatch : bool
        Whether HSIC_1 of each batch is summed over batches (Nguyen et al. 2021) instead of that of all samples.

    Returns
    -------
    Array
        Scores (x layer, y layer).

    Raises
    ------
    ValueError
        Another metric, which needs all samples at once; `minibatch` with another metric than cka; no batches; products
        that do not fit in memory (`covariances.of_batches`).
    """
    if metric not in ("cka", "cka_biased"):
        raise ValueError(
            f"{metric} needs all samples at once: pass x and y whole (arrays mapped from disk will do); batches can be "
            "taken by cka and cka_biased"
        )
    if not minibatch:
        return covariances.of_batches(batches, metric == "cka", memory)
    if metric != "cka":
        raise ValueError("minibatch sums HSIC_1 over batches (Nguyen et al. 2021), which is metric='cka'")
    total, width = None, 0
    for xs, ys in batches:
        width, samples = len(xs), len(xs[0])
        terms = hsic([*xs, *ys]) / (samples * (samples - 3))
        total = terms if total is None else total + terms
    if total is None:
        raise ValueError("no batches: expected pairs of (layer, sample, dim) features")
    own = np.diag(total)
    own = np.sqrt(np.where(own > 0, own, np.nan))
    return total[:width, width:] / own[:width, None] / own[width:]


def hsic(layers: Sequence[Tensor], exact: bool = False) -> Array:
    """Return n (n - 3) HSIC_1 of all pairs of layers of one batch.

    Parameters
    ----------
    layers : sequence of Tensor
        (sample, dim) each.
    exact : bool
        Whether to compute in float64 from the start.

    Returns
    -------
    Array
        (layer, layer), in the scale of the features.
    """
    exact = exact or layers[0].dtype == torch.float64 or len(layers[0]) < FEW
    products = [cka.u_centred(layer, exact) for layer in layers]
    inner = tables.inner_products(products, len(layers[0])).cpu().numpy()
    limits = np.array([product.limit for product in products])
    weak = np.diag(inner) <= ((cka.NOTHING if exact else cka.WEAK) * limits) ** 2
    if weak.any() and not exact:
        return hsic(layers, True)
    inner[weak] = inner[:, weak] = 0  # nothing but rounding is left
    # a product is of features over their largest value, so a Gram lacks the square of that
    scale = np.array([cka.divisor(product, layer) for product, layer in zip(products, layers, strict=True)]) ** 2
    return inner * np.outer(scale, scale)
