"""How far drawn images are from real ones in the feature space of a frozen expert: Frechet and kernel distance.

The Frechet distance compares mean and covariance (FID, Heusel et al. 2017, arXiv 1706.08500; with DINOv2's features it
agrees better with people, Stein et al. 2023, arXiv 2306.04675). At small N it is biased upwards, the more so the more
dims: two halves of one set are apart. The kernel distance compares all moments up to the third and is unbiased at any N
(KID, Binkowski et al. 2018, arXiv 1801.01401); it may come out below 0. Neither tells whether a caption was followed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from ...probes.extraction.extracting import extract
from ...probes.hooks.capturing import EMBEDDINGS
from ...probes.metrics.metric import Array
from ...probes.stimuli.stimulus_set import Stimuli, Stimulus


def image_distance(
    drawn: Sequence[Image.Image], real: Sequence[Image.Image], expert: Any, layer: str | None = None
) -> pd.DataFrame:
    """Both distances of drawn images to as many real ones, beside what as many other real ones measure (the floor).

    Features are the means over the patches of one layer of `expert`, any subject that sees images without a timestep
    (dinov2-s once fetched, scenes-vlm), float64 from there on. The first N of `real` are the reference and the next N
    the floor, N being the number drawn: compare a distance with its floor, and with none of another N, layer or
    expert.

    Args:
        drawn: N images.
        real: at least 2 N others; the first N and the next N must be alike in kind.
        layer: a name, "embeddings", "0", ...; None is the last, and of a vision-language model "embeddings", what its
            vision tower hands over.

    Returns: the rows frechet and kernel: metric, distance, floor, samples (N), dims, expert, layer.

    Raises:
        ValueError: fewer than two drawn images, too few real ones; what `extract` refuses.
    """
    count = len(drawn)
    if count < 2 or len(real) < 2 * count:
        raise ValueError(
            f"expected at least 2 drawn images and twice as many real ones (the floor takes half), got {count} and "
            f"{len(real)}"
        )
    if layer is None:
        layer = EMBEDDINGS if "text" in expert.modalities else f"{len(expert.blocks) - 1}"
    found, reference, other = (
        image_features(images, expert, layer) for images in (drawn, real[:count], real[count : 2 * count])
    )
    rows = [
        {"metric": metric.__name__.removesuffix("_distance"), "distance": metric(found, reference)}
        | {"floor": metric(other, reference), "samples": count, "dims": found.shape[1]}
        for metric in (frechet_distance, kernel_distance)
    ]
    return pd.DataFrame(rows).assign(expert=expert.name, layer=layer)


def image_features(images: Sequence[Image.Image], expert: Any, layer: str) -> Array:
    """The mean over the patches of one layer, (sample, dim) in float64."""
    samples = [Stimulus(image, "an image", str(number)) for number, image in enumerate(images)]
    task = "understanding" if len(expert.tasks) > 1 else None
    features = extract(expert, Stimuli(samples, "images"), layers=[layer], task=task)["image"]
    return features.values[0].double().cpu().numpy()


def frechet_distance(x: Array, y: Array) -> float:
    """The squared Frechet distance |m - m'|^2 + tr(C + C' - 2 (C C')^(1/2)) of the Gaussians fitted to two samples.

    With C = R'R and C' = S'S the last trace is the nuclear norm of R S': no square root of a matrix is taken, and
    covariances that are singular (N not above dims) do no harm.

    x (sample, dim), y (sample', dim), at least two samples each.
    """
    x, y = _checked(x, y)
    roots: list[Array] = [np.linalg.qr((each - each.mean(0)) / (len(each) - 1) ** 0.5, mode="r") for each in (x, y)]  # type: ignore[misc]
    apart = np.square(x.mean(0) - y.mean(0)).sum()
    joint = np.linalg.svd(roots[0] @ roots[1].T, compute_uv=False).sum()
    return float(apart + sum(np.square(root).sum() for root in roots) - 2 * joint)


def kernel_distance(x: Array, y: Array) -> float:
    """The squared maximum mean discrepancy with the kernel (x.y / dims + 1)^3, without bias.

    x (sample, dim), y (sample', dim), at least two samples each.
    """
    x, y = _checked(x, y)

    def within(each: Array) -> float:
        values = _kernel(each, each)
        return (values.sum() - np.trace(values)) / (len(each) * (len(each) - 1))

    return float(within(x) + within(y) - 2 * _kernel(x, y).mean())


def _kernel(x: Array, y: Array) -> Array:
    return (x @ y.T / x.shape[1] + 1) ** 3


def _checked(x: Array, y: Array) -> tuple[Array, Array]:
    x, y = np.asarray(x, float), np.asarray(y, float)
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1] or min(len(x), len(y)) < 2:
        raise ValueError(
            f"expected two sets of (sample, dim) with the same dims and at least 2 samples, got {x.shape} and {y.shape}"
        )
    return x, y
