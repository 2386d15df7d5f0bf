"""Compute the products and decompositions that no implementation can avoid, whose times are compared with ours."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...probes.metrics.metric import in_threads

Array = NDArray[Any]
CHUNK = 65_536  # columns of float32 inner products before they are summed in float64


def gram_map(x: Tensor, y: Tensor, rows: int = 512) -> Tensor:
    """Compute the Gram of every layer once, by torch.mm in float32, and all inner products of Grams.

    The inner products are float32 over chunks of 65,536 columns, summed in float64. Nothing is centred: this is the
    arithmetic of a CKA map, not its score.

    Parameters
    ----------
    x, y : Tensor
        Stacks (layer, sample, dim).
    rows : int
        Rows of each Gram that are computed at a time, into memory that is used again.

    Returns
    -------
    Tensor
        Inner products (x layer, y layer), float64.
    """
    total = torch.zeros(len(x), len(y), dtype=torch.float64, device=x.device)
    samples = x.shape[1]
    grams = [x.new_empty(len(side), rows * samples) for side in (x, y)]
    for start in range(0, samples, rows):
        held = min(rows, samples - start)
        for side, side_grams in zip((x, y), grams):
            for layer, gram in zip(side, side_grams):
                torch.mm(layer[start : start + held], layer.T, out=gram[: held * samples].view(held, samples))
        for left, right in zip(*(side_grams[:, : held * samples].split(CHUNK, 1) for side_grams in grams)):
            total += torch.mm(left, right.T)
    return total


def cosine_grams(x: Tensor, y: Tensor) -> None:
    """Compute the cosines between all samples, once for every layer, by torch.mm in float32.

    Parameters
    ----------
    x, y : Tensor
        Stacks (layer, sample, dim).
    """
    cosines = x.new_empty(x.shape[1], x.shape[1])
    for side in (x, y):
        for layer in side:
            unit = torch.nn.functional.normalize(layer, dim=1)
            torch.mm(unit, unit.T, out=cosines)


def gram_flops(x_layers: int, y_layers: int, samples: int, dims: tuple[int, int]) -> float:
    """Return the floating-point operations of `gram_map`."""
    grams = 2 * samples**2 * (x_layers * dims[0] + y_layers * dims[1])
    return float(grams + 2 * samples**2 * x_layers * y_layers)


def procrustes_products(x: Tensor, y: Tensor) -> None:
    """Compute what a Procrustes map takes: for each pair x'y in float32, and its singular values.

    The cheapest way to singular values that keeps five digits is the eigenvalues of the smaller Gram of x'y in float64.
    Nothing is centred. Pairs run in threads of one BLAS thread each, which is faster than threads inside an
    eigendecomposition.

    Parameters
    ----------
    x, y : Tensor
        Stacks (layer, sample, dim).
    """
    pairs = [(left.numpy(), right.numpy()) for left in x for right in y]
    in_threads(lambda left, right: _singular_values(left.T @ right), pairs, x.device)


def svcca_products(x: Tensor, y: Tensor) -> None:
    """Compute what an SVCCA map takes: each layer's leading directions, and for each pair their singular values.

    For a layer these are the covariance and its eigendecomposition, both in float64, because the cut at 99 % of the
    variance is lost in float32, and a product in float32 with the directions that are kept. For a pair they are the
    product of two bases in float32, and its singular values as in `procrustes_products`.

    Parameters
    ----------
    x, y : Tensor
        Stacks (layer, sample, dim), of more samples than dims.
    """
    _canonical(x, y, lambda left, right: _singular_values(left[0].T @ right[0]), np.float32)


def pwcca_products(x: Tensor, y: Tensor) -> None:
    """Compute what a PWCCA map takes: as SVCCA, in float64, with eigenvectors and their product with x's loadings.

    Equal correlations can be told from nearly equal ones in float64 alone.

    Parameters
    ----------
    x, y : Tensor
        Stacks (layer, sample, dim), of more samples than dims.
    """

    def pair(left: tuple[Array, Array], right: tuple[Array, Array]) -> None:
        product = left[0].T @ right[0]
        np.linalg.eigh(product @ product.T)[1].T @ left[1]

    _canonical(x, y, pair, np.float64)


def _canonical(x: Tensor, y: Tensor, pair: Callable[..., None], dtype: type) -> None:
    """Decompose every layer, and call `pair` with the bases (sample, rank) and loadings (rank, dim) of each pair."""

    def kept(layer: Array) -> tuple[Array, Array]:
        values = layer.astype(np.float64)
        variances, directions = np.linalg.eigh(values.T @ values)
        cumulated = variances.cumsum()
        directions = directions[:, (cumulated <= 0.01 * cumulated[-1]).sum() :]
        return layer.astype(dtype, copy=False) @ directions.astype(dtype), directions.T

    sides = [in_threads(kept, [(layer.numpy(),) for layer in side], x.device) for side in (x, y)]
    in_threads(pair, [(left, right) for left in sides[0] for right in sides[1]], x.device)


def _singular_values(product: Array) -> None:
    """Compute the singular values of a product, from its smaller Gram in float64."""
    product = product.astype(np.float64)
    product = product if product.shape[0] <= product.shape[1] else product.T
    np.linalg.eigvalsh(product @ product.T)
