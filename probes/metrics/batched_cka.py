"""CKA over batches of samples that arrive once."""

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
    """The layer map (x layer, y layer) of cka or cka_biased over batches of layers (sample, dim).

    Raises:
        ValueError: another metric, which needs all samples at once; as `covariances.of_batches`.
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
    total, wide = None, 0
    for xs, ys in batches:
        wide, samples = len(xs), len(xs[0])
        hsic = _hsic([*xs, *ys]) / (samples * (samples - 3))
        total = hsic if total is None else total + hsic
    if total is None:
        raise ValueError("no batches: expected pairs of (layer, sample, dim) features")
    own = np.diag(total)
    own = np.sqrt(np.where(own > 0, own, np.nan))
    return total[:wide, wide:] / own[:wide, None] / own[wide:]


def _hsic(layers: Sequence[Tensor], exact: bool = False) -> Array:
    """n (n - 3) HSIC_1 of all pairs (layer, layer) of one batch, in the features' own scale."""
    exact = exact or layers[0].dtype == torch.float64 or len(layers[0]) < FEW
    products = [cka.u_centred(layer, exact) for layer in layers]
    inner = tables.inner_products(products, len(layers[0])).cpu().numpy()
    limits = np.array([product.limit for product in products])
    weak = np.diag(inner) <= ((cka.NOTHING if exact else cka.WEAK) * limits) ** 2
    if weak.any() and not exact:
        return _hsic(layers, True)
    inner[weak] = inner[:, weak] = 0  # nothing but rounding is left
    # a product is of features over their largest value; its limit is their summed square
    spreads = np.array([float((layer.double() - layer.double().mean(0)).square().sum()) for layer in layers])
    scale = np.divide(spreads, limits, out=np.zeros_like(limits), where=limits > 0)
    return inner * np.outer(scale, scale)
