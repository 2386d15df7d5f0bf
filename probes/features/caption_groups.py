"""Make one row an image of features that have one row a caption, so that they are compared image by image.

Captions of one image are no samples of their own: they are each other's neighbours in any two models, so that strangers
score high. What is compared are images: by the mean of the rows of their captions, by one caption that is drawn, or by
all captions, where those of the same image are no neighbours.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..arguments import checked
from ..comparison_options import group_labels
from .layer_features import LayerFeatures

Array = NDArray[Any]
CAPTIONS = ("mean", "draw", "apart")
DRAWS = 10  # how often a caption of each image is drawn: what the draw adds to the error is then small


class Compared(NamedTuple):
    """Hold what is compared of two sides.

    Attributes
    ----------
    pairs : list of tuple
        Both sides, as often as captions were drawn. Scores are the mean over these.
    numbers : array or None
        The number of each row's image (row,), where the captions of an image stay apart; None where a row is a sample.
    captions : str or None
        "mean", "draw" or "apart"; None where no images are known.
    """

    pairs: list[tuple[Any, Any]]
    numbers: Array | None = None
    captions: str | None = None


def image_by_image(
    x: Any, y: Any, groups: Sequence[Any] | Array | None = None, captions: str | None = None, seed: int = 0
) -> Compared:
    """Return both sides of a comparison as they are compared, image by image where images have several captions.

    Parameters
    ----------
    x, y : LayerFeatures, Tensor, array or sequence of layers
        (layer, row, dim), (row, dim), or a sequence of (row, dim) layers. A side may have one row an image already, in
        the order in which images first come in the other.
    groups : sequence, optional
        The image of each row, where neither side knows it (`LayerFeatures.groups`).
    captions : str, optional
        "mean" (the default) averages the rows of an image, "draw" draws one caption of each image, `DRAWS` times, and
        "apart" keeps all rows.
    seed : int
        Seed of the captions that are drawn.

    Returns
    -------
    Compared
        The sides; as they are, where no images are known.

    Raises
    ------
    ValueError
        An unknown word, or sides of other images or captions.
    """
    checked("captions", captions, str | None, known=CAPTIONS)
    known = [side for side in (x, y) if isinstance(side, LayerFeatures) and side.groups] if groups is None else []
    labels = group_labels(groups) if groups is not None else known[0].groups if known else ()
    if not labels:
        return Compared([(x, y)])
    captions, names = captions or "mean", tuple(dict.fromkeys(labels))
    place = {name: number for number, name in enumerate(names)}
    numbers, owns = np.array([place[label] for label in labels]), []
    for side in (x, y):
        own = _images_of(side, labels, names, known[0].samples if known else None)
        if set(own) != set(names) or (captions != "mean" and own not in (labels, names)):
            raise ValueError(
                "the two sides are captions of different images, or other captions of them: extract both from the "
                "same stimuli, in the same order"
            )
        owns.append(own)
    other_rows = owns == [labels, labels] and _is(x) and _is(y) and x.samples != y.samples
    if other_rows and (captions != "mean" or groups is not None):
        raise ValueError(
            "the two sides are other captions of the same images, or of different ones: extract both from the same "
            "stimuli, in the same order"
        )
    done = [own == names and not (_is(side) and side.groups) for side, own in zip((x, y), owns, strict=True)]
    if captions == "mean":
        places = [np.array([place[label] for label in own]) for own in owns]
        pair = [
            side if ready else _grouped(side, names, rows, None)
            for side, ready, rows in zip((x, y), done, places, strict=True)
        ]
        return Compared([(pair[0], pair[1])], None, captions)
    if captions == "apart":
        listed = [side.samples for side, own in zip((x, y), owns, strict=True) if own == labels and _is(side)]
        ids = listed[0] if listed else labels
        pair = tuple(
            side if own == labels else _grouped(side, ids, None, numbers)
            for side, own in zip((x, y), owns, strict=True)
        )
        return Compared([(pair[0], pair[1])], numbers, captions)
    rng, members = np.random.default_rng([seed, 3]), [np.flatnonzero(numbers == number) for number in range(len(names))]
    pairs = []
    for _ in range(DRAWS):
        rows = np.array([rng.choice(some) for some in members])
        one, other = (
            side if ready else _grouped(side, names, None, rows) for side, ready in zip((x, y), done, strict=True)
        )
        pairs.append((one, other))
    return Compared(pairs, None, captions)


def known_groups(groups: Any, *sides: Any) -> Any:
    """Return groups, or where nobody gives them the images that features know.

    Parameters
    ----------
    groups : sequence or None
        A label for each row.
    *sides : LayerFeatures or any stack
        The rows.

    Returns
    -------
    sequence or None
        A label for each row; None where nobody knows it.
    """
    return next((side.groups for side in sides if groups is None and _is(side) and side.groups), groups)


def _images_of(side: Any, labels: tuple[Any, ...], names: tuple[Any, ...], ids: Sequence[str] | None) -> Any:
    """Return the image of each row of a side; `ids` are those of the features that know the images."""
    if ids is not None and isinstance(side, LayerFeatures):
        if side.groups or side.samples in (ids, names):
            return side.groups or (labels if side.samples == ids else names)
        raise ValueError(
            f"the features are of different stimuli: {side.subject!r} has neither the rows of the captions of the "
            "other side nor one row for each of its images in their order; extract both from the same data"
        )
    layer = side[0] if isinstance(side, list | tuple) and len(side) else side
    shape = np.shape(layer)
    rows = len(side.samples) if isinstance(side, LayerFeatures) else shape[-2] if len(shape) > 1 else 0
    if rows not in (len(labels), len(names)):
        raise ValueError(
            f"groups must hold one label for each of {rows} samples, got {len(labels)} labels of {len(names)} groups: "
            "give both sides the same stimuli, or one row an image"
        )
    return labels if rows == len(labels) else names


def _is(side: Any) -> bool:
    return isinstance(side, LayerFeatures)


def _grouped(side: Any, ids: Sequence[Any], numbers: Array | None, rows: Array | None) -> Any:
    """Return a side with the mean over the rows of each number, or with some of its rows, under new ids."""
    if isinstance(side, LayerFeatures):
        reader: Any = _Rows(side, len(ids), numbers, rows)
        cleaned = None if side.cleaned is None else _grouped(side.cleaned, ids, numbers, rows)
        digests = _digests(side, ids, numbers, rows)
        return replace(
            side, values=reader, samples=tuple(ids), digests=digests, groups=(), counts=None, cleaned=cleaned
        )
    if isinstance(side, list | tuple) or np.ndim(side) > 2:
        return [_grouped(layer, ids, numbers, rows) for layer in side]
    values = side if isinstance(side, Tensor) else torch.from_numpy(np.array(side))
    return _of_rows(values, 0, len(ids), numbers, rows)


def _of_rows(values: Tensor, axis: int, count: int, numbers: Array | None, rows: Array | None) -> Tensor:
    """Return the means of the rows of each number, or some of the rows, along an axis."""
    where = torch.from_numpy(rows if numbers is None else numbers).to(values.device)
    if numbers is None:
        return values.index_select(axis, where)
    shape = [*values.shape[:axis], count, *values.shape[axis + 1 :]]
    total = torch.zeros(shape, dtype=torch.float64, device=values.device).index_add_(axis, where, values.double())
    total /= torch.bincount(where, minlength=count).view(-1, *[1] * (values.ndim - axis - 1))
    return total if values.dtype == torch.float64 else total.float()


def _digests(side: LayerFeatures, ids: Sequence[Any], numbers: Array | None, rows: Array | None) -> dict[str, str]:
    """Return what the rows of each id show: the hash of one text or of all, and that of the image."""
    shown = [side.digests.get(sample, "") for sample in side.samples]
    if not all(shown):
        return {}
    if rows is not None:
        return {id: shown[row] for id, row in zip(ids, rows, strict=True)}
    texts: list[list[str]] = [[] for _ in ids]
    images = [""] * len(ids)
    for number, digest in zip(np.asarray(numbers).tolist(), shown, strict=True):
        text, images[number] = digest.split()
        texts[number].append(text)
    joined = [some[0] if len(some) == 1 else hashlib.sha256(" ".join(some).encode()).hexdigest()[:16] for some in texts]
    return {id: f"{text} {image}" for id, text, image in zip(ids, joined, images, strict=True)}


@dataclass(frozen=True)
class _Rows:
    """Read the means of rows, or some of the rows, of other features (a `layer_features.Reader`)."""

    given: LayerFeatures
    count: int
    numbers: Array | None
    rows: Array | None

    @property
    def _held(self) -> Any:
        return self.given.__dict__.get("values", self.given.__dict__.get("_reader"))

    @property
    def shape(self) -> tuple[int, ...]:
        shape, axis = tuple(self._held.shape), self.given.swept + 1
        return (*shape[:axis], self.count, *shape[axis + 1 :])

    @property
    def dtype(self) -> torch.dtype:
        return self._held.dtype if self.numbers is None else torch.float32

    def read(self, layers: slice | int) -> Tensor:
        swept, held = self.given.swept, self._held
        every = (slice(None), layers) if swept else layers
        values = held[every] if isinstance(held, Tensor) else held.read(layers)
        return _of_rows(values, swept + isinstance(layers, slice), self.count, self.numbers, self.rows)

    def counts(self) -> Tensor:
        return self.given.counts if self.rows is None else self.given.counts[:, torch.from_numpy(self.rows)]

    def at(self, timestep: int) -> _Rows:
        return replace(self, given=self.given.at(self.given.timesteps[timestep]))
