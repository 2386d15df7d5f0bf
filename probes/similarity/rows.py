"""Find rows that are no samples of their own: repeated stimuli, rows of zeros, the same row for all.

Rows of one picture are each other's neighbours in any two towers, so that strangers score high, and a permutation of
single rows, which tears them apart, calls that significant.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..features.layer_features import LayerFeatures
from ..metrics.metric import Array

FEW = 0.01  # the share of repeated rows that changes no p by more than a fraction of the null's deviation
SAME = 1e-5  # of a row's length: rows that differ by less are one row and rounding
PATCHES = "patches_of_an_image"  # the attribute by which tensors say how many of their rows one image has
NEAR = 1e-3  # of the spread of all rows: the same, where a common mean is long


class Side(NamedTuple):
    """One side of a comparison.

    Attributes
    ----------
    name : str
        What messages call it.
    given : object
        LayerFeatures, which know what their stimuli show, or anything else.
    layers : sequence of Tensor
        (sample, dim) each.
    """

    name: str
    given: object
    layers: Sequence[Tensor]


def side_of(given: object, layers: Sequence[Tensor], name: str) -> Side:
    """Return a side under the name that messages use."""
    if isinstance(given, LayerFeatures):
        name = f"the {given.modality} features of {given.subject!r}"
    return Side(name, given, layers)


def warn_of_rows(*sides: Side, grouped: bool = False) -> None:
    """Say which rows are repeated, and which are zero.

    Parameters
    ----------
    *sides : Side
        The sides of a comparison.
    grouped : bool
        Whether it is known which rows are captions of one image.

    Raises
    ------
    ValueError
        LayerFeatures of which all samples are the same.
    """
    several = "" if grouped else _captions_of_images(sides)
    if several:
        warnings.warn(several, stacklevel=4)
    for side in sides:
        check_varied(side)
        _warn_of_zeros(side)
        repeated = _repeated(side)
        if repeated.size and not grouped and not several:
            warnings.warn(
                f"{_share(repeated)} of {side.name} are repeated: rows of one stimulus are each other's neighbours, "
                "and strangers score high; compare one row of each stimulus, or name the image of each row by groups=",
                stacklevel=4,
            )


def check_exchangeable(what: str, *sides: Side, block: int = 1, groups: Array | None = None) -> None:
    """Raise ValueError where more than one row in a hundred is repeated outside its block.

    Parameters
    ----------
    what : str
        What is asked for, for the message: "a null" or "an interval".
    *sides : Side
        The sides of a comparison.
    block : int
        How many consecutive rows move together.
    groups : Array, optional
        The number of each row's image, whose rows move together.

    Raises
    ------
    ValueError
        Patches of one image outside one block; repeated rows, with their number; or LayerFeatures of which all samples
        are the same.
    """
    for side in sides:
        if block % (patches := getattr(side.given, PATCHES, 1)):
            raise ValueError(
                f"{what} needs rows that could be exchanged, but {patches} rows of {side.name} each are patches of one "
                f"image: let them move together, by map_null(..., block={patches})"
            )
        check_varied(side)
        _warn_of_zeros(side)
        repeated = _repeated(side)
        blocks = np.arange(len(repeated)) // block if groups is None else groups
        apart = [rows for rows in _sets(repeated) if len(set(blocks[rows])) > 1]
        if sum(map(len, apart)) > FEW * len(repeated):
            first, second = apart[0][:2]
            raise ValueError(
                f"{what} needs rows that could be exchanged, but {_share(repeated)} of {side.name} are repeated, such "
                f"as rows {first} and {second}: keep one row of each stimulus, load captions of one image as groups "
                "(load_stimuli(..., captions='all')), or let rows of one stimulus, where they follow each other, move "
                "together by block= (rows a stimulus)"
            )
    if block == 1 and groups is None and (several := _captions_of_images(sides)):
        warnings.warn(several, stacklevel=4)


def check_varied(side: Side) -> None:
    """Raise ValueError for LayerFeatures of which all samples are the same, in all layers, up to rounding.

    Parameters
    ----------
    side : Side
        One side of a comparison. Plain arrays score NaN instead.

    Raises
    ------
    ValueError
        The features.
    """
    if not isinstance(side.given, LayerFeatures) or len(side.layers[0]) < 2:
        return
    shown = _shown(side.given)
    if shown is not None and len(set(shown)) == 1:
        why = f"every stimulus shows the same {side.given.modality}"
    elif all(_collapsed(layer) for layer in side.layers):
        why = "the rows of every layer are equal up to rounding"
    else:
        return
    raise ValueError(
        f"all samples of {side.name} are the same ({why}), so that there is nothing to compare: give every stimulus "
        f"its own {side.given.modality}"
    )


def _collapsed(layer: Tensor) -> bool:
    values = layer.double()
    return float((values - values[0]).norm(dim=1).max()) <= SAME * float(values.norm(dim=1).max())


def _shown(features: LayerFeatures) -> list[str] | None:
    """Return a hash of what each sample shows of the features' own modality, None where one is unknown."""
    digests = [features.digests.get(sample) for sample in features.samples] if features.digests else []
    part = ("text", "image").index(features.modality) if features.modality in ("text", "image") else None
    if part is None or not digests or None in digests:
        return None
    return [str(digest).split()[part] for digest in digests]


def _captions_of_images(sides: Sequence[Side]) -> str:
    """Return what to say of rows that are captions of one image, "" where there are few or none."""
    for side in sides:
        if not isinstance(side.given, LayerFeatures) or not side.given.digests:
            continue
        shown = [str(side.given.digests.get(sample, "")).split() for sample in side.given.samples]
        texts: dict[str, set[str]] = {}
        for text, image in (digest for digest in shown if len(digest) == 2):
            texts.setdefault(image, set()).add(text)
        rows = sum(len(digest) == 2 and len(texts[digest[1]]) > 1 for digest in shown)
        if len(texts) > 1 and rows > FEW * len(shown):
            return (
                f"{rows} of {len(shown)} rows of {side.name} are captions of images that have several "
                f"({len(texts)} images in all): captions of one image are each other's neighbours, and strangers score "
                "high; load them by load_stimuli(..., captions='all'), or name the image of each row by groups=, and "
                "images are compared"
            )
    return ""


def _repeated(side: Side) -> Array:
    """Return a number for each row, equal for rows that are the same; empty where no row is repeated."""
    if not isinstance(side.given, LayerFeatures) and all(_is_label(layer) for layer in side.layers):
        return np.empty(0, int)
    numbers = _equal_rows(side.layers)
    shown = _shown(side.given) if isinstance(side.given, LayerFeatures) else None
    if shown is not None and len(set(shown)) < len(set(numbers.tolist())):
        numbers = np.unique(shown, return_inverse=True)[1]
    return numbers if len(set(numbers.tolist())) < len(numbers) else np.empty(0, int)


def _is_label(layer: Tensor) -> bool:
    """Return whether rows are labels or one number a sample, which samples of their own share."""
    return layer.shape[1] == 1 or bool(((layer == 0) | (layer == 1)).all())


def _equal_rows(layers: Sequence[Tensor]) -> Array:
    """Return a number for each row, equal for rows that are the same in all layers up to rounding."""
    last = layers[-1].double()
    spread = (last - last.mean(0)).norm(dim=1).mean()
    # rows that are the same lie together once sorted by any direction
    generator = torch.Generator().manual_seed(0)
    direction = torch.randn(last.shape[1], generator=generator, dtype=torch.float64).to(last.device)
    order = (last @ (direction / direction.norm())).argsort()
    same = torch.ones(len(order) - 1, dtype=torch.bool, device=last.device)
    for layer in (last, *layers[:-1]):
        pairs = same.nonzero().ravel()
        if not len(pairs):
            break
        one, other = (layer[order[pairs + shift]].double() for shift in (0, 1))
        apart = (one - other).norm(dim=1)
        limit = SAME * torch.maximum(one.norm(dim=1), other.norm(dim=1))
        if layer is last:
            limit = torch.minimum(limit, NEAR * spread)
        same[pairs] = apart <= limit
    starts = torch.cat([torch.zeros(1, dtype=torch.long), (~same).long().cumsum(0).cpu()])
    numbers = np.empty(len(order), int)
    numbers[order.cpu().numpy()] = starts.numpy()
    return numbers


def _sets(numbers: Array) -> list[Array]:
    """Return the rows of every number that several have."""
    found: dict[Any, list[int]] = {}
    for row, number in enumerate(numbers.tolist()):
        found.setdefault(number, []).append(row)
    return [np.array(rows) for rows in found.values() if len(rows) > 1]


def _share(numbers: Array) -> str:
    count = sum(map(len, _sets(numbers)))
    return f"{count} of {len(numbers)} rows ({len(set(numbers.tolist()))} distinct in all)"


def _warn_of_zeros(side: Side) -> None:
    """Say in which layer most rows are zero, if any are."""
    counts = [int((~layer.any(1)).sum()) for layer in side.layers]
    if not (most := max(counts)) or most == len(side.layers[0]):  # a layer of zeros alone has no score
        return
    names = side.given.layers if isinstance(side.given, LayerFeatures) else range(len(counts))
    warnings.warn(
        f"{most} of {len(side.layers[0])} rows of layer {names[counts.index(most)]!r} of {side.name} are zero: they "
        "point nowhere, and score as strangers do; leave these samples out, or keep more digits",
        stacklevel=4,
    )
