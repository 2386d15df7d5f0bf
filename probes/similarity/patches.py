"""Average the patches of two vision towers onto one grid, so that they can be compared one by one."""

from __future__ import annotations

import torch

from ..features.layer_features import LayerFeatures
from ..features.patch_grids import regrid
from ..features.plain_arrays import as_tensor, check_finite
from ..metrics.metric import Array
from .inputs import check_same_stimuli
from .rows import PATCHES

Patches = torch.Tensor | Array | LayerFeatures


def match_patches(x: Patches, y: Patches) -> tuple[torch.Tensor, torch.Tensor]:
    """Average the patches of two towers onto the coarser of their grids, and list them as samples.

    Each patch is a rectangle of the image, 1 / height by 1 / width, so a patch of the coarser grid (the lesser of the
    two heights, the lesser of the two widths) is the mean of the patches it overlaps, weighted by the area of the
    overlap. No patch is lost or counted twice, a constant grid stays constant, and a tower that has the coarser grid
    already keeps its values.

    Parameters
    ----------
    x : Tensor, Array or LayerFeatures
        Patches (..., sample, height, width, dim) of one tower: features that `extract` pooled by "grid:N", or values
        whose rows and columns you know. All tokens in a row (pooling "none") have no rows and columns.
    y : Tensor, Array or LayerFeatures
        Patches (..., sample, height', width', dim') of another tower of the same images. The axes before sample, such
        as layers, may differ from those of x.

    Returns
    -------
    x : Tensor
        (..., sample * patch, dim): all patches of sample 0 row by row, then those of sample 1. Half precision becomes
        float32.
    y : Tensor
        (..., sample * patch, dim') in the same order.

    Raises
    ------
    ValueError
        Fewer than four axes, an axis of length 0, different numbers of samples, or features that are pooled otherwise
        or come from other stimuli.
    TypeError
        Something that is not an array of real numbers.

    See Also
    --------
    extract : Pools patches onto grids, by ``pooling="grid:N"``.
    similarity_map : Compares what this returns; without it, it refuses two grids.
    map_null : Permutes whole images, by ``block=``, where patches are samples.

    Notes
    -----
    Patches of one image are not independent samples. A null that permutes them would call any two towers aligned that
    merely tell images apart: permute images, with ``block=14 * 14`` in `map_null`, which refuses what this returns
    without it.

    Examples
    --------
    SigLIP's 14 x 14 patches and DINOv2's 16 x 16 of the same 100 images, 12 and 24 layers:

    >>> x, y = match_patches(siglip, dino)  # (12, 100, 14, 14, 768), (24, 100, 16, 16, 1024)
    >>> x.shape, y.shape
    (torch.Size([12, 19600, 768]), torch.Size([24, 19600, 1024]))
    >>> similarity_map(x, y, "cka")  # token-level CKA, 12 x 24
    """
    check_same_stimuli(x, y)
    x, y = _grid(x, "x"), _grid(y, "y")
    if x.shape[-4] != y.shape[-4]:
        raise ValueError(
            f"x has {x.shape[-4]} samples, y has {y.shape[-4]}: both must be extracted from the same images"
        )
    height, width = min(x.shape[-3], y.shape[-3]), min(x.shape[-2], y.shape[-2])
    one, other = (regrid(each, height, width).flatten(-4, -2) for each in (x, y))
    for listed in (one, other):
        setattr(listed, PATCHES, height * width)
    return one, other


def _grid(values: Patches, name: str) -> torch.Tensor:
    if isinstance(values, LayerFeatures):
        if not values.pooling.startswith("grid:"):
            raise ValueError(
                f"{name} holds features pooled by {values.pooling!r}, which have no rows and columns: extract them "
                "with pooling='grid:N'"
            )
        values = values.values
    values = as_tensor(values, name)
    if values.ndim < 4 or not values.numel():
        raise ValueError(
            f"{name} must be (..., sample, height, width, dim), got shape {tuple(values.shape)}: unfold the patches "
            "into their grid, without class or register tokens"
        )
    check_finite([values.reshape(-1, values.shape[-1])], [name])
    return values
