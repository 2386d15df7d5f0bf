"""Read plain arrays and tensors as tensors of real numbers, and check that they hold any."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .layer_features import LayerFeatures

Array = NDArray[Any]
PART = 2**22  # values that are read at once, of layers that may lie on disk


def as_tensor(values: Tensor | Array, name: str, half: bool = False) -> Tensor:
    """Convert an array or tensor to a float32 or float64 tensor.

    Parameters
    ----------
    values : Tensor or Array
        Real numbers. Half precision becomes float32, integers become float64.
    name : str
        What messages call it.
    half : bool
        Whether half precision stays as it is: what lies on disk is not read then.

    Returns
    -------
    Tensor
        The values without gradients, which share memory with the input where they can.

    Raises
    ------
    TypeError
        Something that is not a dense array of real numbers.
    ValueError
        A masked array with masked values, rows of unlike lengths, or a tensor without values, on the device meta.
    """
    if isinstance(values, LayerFeatures):
        raise TypeError(f"{name} is LayerFeatures, with all layers: expected one layer, as features.layer('7')")
    if np.ma.is_masked(values):
        raise ValueError(f"{name} is a masked array with masked values: leave those samples out, or fill them in")
    if not isinstance(values, Tensor):
        values = _as_array(values, name)
        if values.dtype.kind not in "fiub":
            raise TypeError(f"{name} must be an array or tensor of real numbers, got {values.dtype}")
        if values.dtype.kind == "f" and values.dtype.itemsize > 8:
            values = values.astype(np.float64)
        if not values.dtype.isnative or min(values.strides, default=0) < 0:  # which torch cannot read
            values = values.astype(values.dtype.newbyteorder("="), order="C")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that an array mapped from disk is read-only: so are we
            values = torch.from_numpy(values)
    values = values.detach()
    if values.is_meta:
        raise ValueError(f"{name} lies on the device meta, which holds no values: compute it on another device")
    if values.is_complex() or values.layout != torch.strided:
        raise TypeError(f"{name} must be a dense array or tensor of real numbers, got {values.dtype}, {values.layout}")
    if values.dtype in (torch.float32, torch.float64) or (half and values.is_floating_point() and values.itemsize == 2):
        return values
    return values.float() if values.is_floating_point() else values.double()


def check_finite(layers: Iterable[Tensor], names: Sequence[str]) -> None:
    """Raise ValueError for the first layer that is empty or holds NaN or infinity.

    Parameters
    ----------
    layers : iterable of Tensor
        (sample, dim) each.
    names : sequence of str
        What the message calls each layer.

    Raises
    ------
    ValueError
        The layer, and the first sample where it is not finite.
    """
    for layer, name in zip(layers, names, strict=True):
        if not layer.numel():
            raise ValueError(f"{name}: nothing to measure, shape {tuple(layer.shape)}")
        rows = max(1, PART // layer[:1].numel())  # a sum in float64 copies what it sums
        if all(math.isfinite(float(part.sum(dtype=torch.float64))) for part in layer.split(rows)):
            continue
        bad = ~layer.isfinite()
        if bad.any():
            sample = int(bad.any(1).nonzero()[0])
            raise ValueError(
                f"{name} holds NaN or infinity ({int(bad.sum())} values, the first in sample {sample}): leave that "
                "sample out, or extract in float32"
            )


def _as_array(values: Any, name: str) -> Array:
    """Return what NumPy makes of a sequence or table, one array."""
    if isinstance(values, list | tuple):
        for part, each in enumerate(values):
            if np.ma.is_masked(each):
                raise ValueError(f"part {part} of {name} is a masked array: leave its samples out, or fill them in")
    try:
        return np.asarray(values)
    except (ValueError, TypeError, RuntimeError):  # parts of unlike shapes; what has an __array__ that fails
        kind = type(values).__name__
        raise ValueError(f"{name} is a {kind} that is no array: expected rows of one length, real numbers") from None
