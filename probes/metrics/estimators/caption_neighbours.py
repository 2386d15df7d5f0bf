"""Compare neighbourhoods of captions, whose neighbours are other images, each as near as its nearest caption.

An image's own captions are left out, so that strangers score as they do with one caption an image: k / (images - 1).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ..metric import MEMORY, Array, Metric, unit_rows
from ..neighbours import MUTUAL_KNN, Neighbours, one_way
from .nearest_rows import closeness_blocks

NOTHING = torch.empty(0)


@dataclass(frozen=True, eq=False)
class CaptionNeighbours:
    """Hold the nearest images of every caption.

    Attributes
    ----------
    near : Array
        Numbers of other images, nearest first (slot, image, neighbour). A slot holds one caption of each image; an
        image with fewer captions than slots is in some of them again, so that all images weigh the same.
    again : callable
        ``again()`` returns the same with all other images as neighbours.
    """

    near: Array
    again: Callable[[], Array]

    def slots(self, k: int) -> list[Neighbours]:
        """Return the k nearest images of each slot, as `neighbours` compares them."""
        return [Neighbours(near[:, :k], np.empty(0), NOTHING) for near in self.near]


def nearest_images(unit: Tensor, numbers: Array, count: int) -> Array:
    """Rank other images by the distance of their nearest caption.

    Parameters
    ----------
    unit : Tensor
        Unit rows (caption, dim), float64.
    numbers : Array
        The number of each caption's image (caption,), from 0.
    count : int
        How many images are kept.

    Returns
    -------
    Array
        Numbers of images (caption, count), nearest first; equally near ones go by number.
    """
    shifted, zero = unit - unit.mean(0), ~unit.any(1)
    images, near = int(numbers.max()) + 1, np.empty((len(unit), count), np.int32)
    of = torch.from_numpy(numbers).to(unit.device)
    everyone = torch.arange(len(unit), device=unit.device)
    for rows, closeness, _ in closeness_blocks(shifted, zero, everyone):
        best = torch.full((len(rows), images), -torch.inf, dtype=closeness.dtype, device=unit.device)
        best.scatter_reduce_(1, of.expand(len(rows), -1), closeness, "amax")
        best[torch.arange(len(rows), device=unit.device), of[rows]] = -torch.inf
        near[rows.cpu().numpy()] = best.sort(dim=1, descending=True, stable=True).indices[:, :count].cpu().numpy()
    return near


def mutual_knn_of_captions(numbers: Array) -> Metric:
    """Build mutual kNN between captions, whose samples are images.

    Parameters
    ----------
    numbers : Array
        The number of each row's image (row,), from 0.

    Returns
    -------
    Metric
        Its features have one row a caption; its subsets and permutations are of images.
    """
    members = [np.flatnonzero(numbers == image) for image in range(int(numbers.max()) + 1)]
    slots = np.stack([np.resize(rows, max(map(len, members))) for rows in members], 1)  # (slot, image)

    def prepare(x: Tensor, k: int) -> CaptionNeighbours | None:
        unit = unit_rows(x)
        most = len(members) - 1
        count = min(16 * k + 64, most)  # of so many, k are nearly always left in a subset

        def all_images() -> Array:
            return nearest_images(unit, numbers, most)[slots]

        return None if one_way(unit) else CaptionNeighbours(nearest_images(unit, numbers, count)[slots], all_images)

    def permuted(
        a: Sequence[CaptionNeighbours | None], b: Sequence[CaptionNeighbours | None], k: int, orders: Array
    ) -> Array:
        one, other = ([[None] * len(slots) if layer is None else layer.slots(k) for layer in side] for side in (a, b))
        found = []
        for slot in range(len(slots)):
            ours, theirs = ([layer[slot] for layer in side] for side in (one, other))
            found.append(MUTUAL_KNN.permuted(ours, theirs, k, orders))
        return np.mean(found, axis=0)

    def compare(a: Sequence[CaptionNeighbours | None], b: Sequence[CaptionNeighbours | None], k: int) -> Array:
        images = [layer.near.shape[1] for layer in a if layer is not None][:1] or [0]
        return permuted(a, b, k, np.arange(images[0])[None])[0]

    def scores(xs: Sequence[Tensor], ys: Sequence[Tensor], k: int, memory: float = MEMORY) -> Array:
        return compare([prepare(x, k) for x in xs], [prepare(y, k) for y in ys], k)

    about = "Mutual kNN of captions is the mean share of each caption's k nearest images that x and y have in common."
    return MUTUAL_KNN._replace(
        prepare=prepare,
        compare=compare,
        subset=_subset,
        permuted=permuted,
        scores=scores,
        about=about,
        bounded=False,
    )


def _subset(a: CaptionNeighbours | None, chosen: Array, k: int) -> CaptionNeighbours | None:
    """Find the k nearest among chosen images."""
    if a is None:
        return None
    place = np.full(a.near.shape[1], -1, np.int32)
    place[chosen] = np.arange(len(chosen))
    found = place[a.near[:, chosen]]
    if ((found >= 0).sum(-1) < k).any():  # too few of the nearest were chosen
        found = place[a.again()[:, chosen]]
    first = (found >= 0) & ((found >= 0).cumsum(-1) <= k)
    return replace(a, near=found[first].reshape(*found.shape[:2], k))
