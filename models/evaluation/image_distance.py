"""Measure how far drawn images are from real ones in the feature space of a frozen expert.

The Frechet distance compares mean and covariance (FID, Heusel et al. 2017, arXiv 1706.08500; with DINOv2's features it
agrees better with people, Stein et al. 2023, arXiv 2306.04675). With few samples it is biased upwards, the more so the
more dims there are: even two halves of one set lie apart. The kernel distance compares all moments up to the third and
is unbiased for any number of samples (KID, Binkowski et al. 2018, arXiv 1801.01401); it may come out below 0. Neither
distance says whether a caption was followed.
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
    """Return the Frechet and the kernel distance of drawn images to as many real ones, beside a floor.

    Features are the means over the patches of one layer of `expert`, in float64. The first N of `real` are the
    reference, N being the number of drawn images. The next N are the floor: the distance of real images to the
    reference. Compare a distance with its floor, and not with one of another N, layer or expert.

    Parameters
    ----------
    drawn : sequence of PIL.Image.Image
        N images, at least two.
    real : sequence of PIL.Image.Image
        At least 2 N others; the first N and the next N must be of the same kind.
    expert : Subject
        Any subject that sees images without a timestep (dinov2-s once fetched, scenes-vlm).
    layer : str, optional
        Name of a layer: "embeddings", "0", ... None stands for the last layer and, in a vision-language model, for
        "embeddings", the output of its vision tower.

    Returns
    -------
    pandas.DataFrame
        The rows frechet and kernel, with the columns metric, distance, floor, samples (N), dims, expert, layer.

    Raises
    ------
    ValueError
        For fewer than two drawn images, for too few real ones, and for what `extract` refuses.
    """
    count = len(drawn)
    if count < 2 or len(real) < 2 * count:
        raise ValueError(
            f"expected at least 2 drawn images and twice as many real ones (the floor takes half), got {count} and "
            f"{len(real)}"
        )
    if layer is None:
        layer = EMBEDDINGS if "text" in expert.modalities else f"{len(expert.blocks) - 1}"
    features, reference, other = (
        image_features(images, expert, layer) for images in (drawn, real[:count], real[count : 2 * count])
    )
    rows = [
        {"metric": metric.__name__.removesuffix("_distance"), "distance": metric(features, reference)}
        | {"floor": metric(other, reference), "samples": count, "dims": features.shape[1]}
        for metric in (frechet_distance, kernel_distance)
    ]
    return pd.DataFrame(rows).assign(expert=expert.name, layer=layer)


def image_features(images: Sequence[Image.Image], expert: Any, layer: str) -> Array:
    """Return the mean over the patches of one layer for every image.

    Parameters
    ----------
    images : sequence of PIL.Image.Image
        The images.
    expert : Subject
        Any subject that sees images without a timestep.
    layer : str
        Name of the layer: "embeddings", "0", ...

    Returns
    -------
    numpy.ndarray
        (sample, dim), float64.
    """
    samples = [Stimulus(image, "an image", str(number)) for number, image in enumerate(images)]
    task = "understanding" if len(expert.tasks) > 1 else None
    features = extract(expert, Stimuli(samples, "images"), layers=[layer], task=task)["image"]
    return features.values[0].double().cpu().numpy()


def frechet_distance(x: Array, y: Array) -> float:
    """Return the squared Frechet distance of the Gaussians fitted to two samples.

    It is |m - m'|^2 + tr(C + C' - 2 (C C')^(1/2)), with means m, m' and covariances C, C'.

    Parameters
    ----------
    x : numpy.ndarray
        (sample, dim), at least two samples.
    y : numpy.ndarray
        (sample', dim), at least two samples.

    Returns
    -------
    float
        The distance.

    Raises
    ------
    ValueError
        For arrays of other shapes.

    Notes
    -----
    With C = R'R and C' = S'S the last trace is the nuclear norm of R S': no square root of a matrix is taken, and
    covariances that are singular (no more samples than dims) do no harm.
    """
    x, y = _checked(x, y)
    roots: list[Array] = [np.linalg.qr((z - z.mean(0)) / (len(z) - 1) ** 0.5, mode="r") for z in (x, y)]  # type: ignore[misc]
    apart = np.square(x.mean(0) - y.mean(0)).sum()
    joint = np.linalg.svd(roots[0] @ roots[1].T, compute_uv=False).sum()
    return float(apart + sum(np.square(root).sum() for root in roots) - 2 * joint)


def kernel_distance(x: Array, y: Array) -> float:
    """Return the squared maximum mean discrepancy of two samples, without bias.

    The kernel is (x.y / dims + 1)^3.

    Parameters
    ----------
    x : numpy.ndarray
        (sample, dim), at least two samples.
    y : numpy.ndarray
        (sample', dim), at least two samples.

    Returns
    -------
    float
        The distance; chance may take it below 0.

    Raises
    ------
    ValueError
        For arrays of other shapes.
    """
    x, y = _checked(x, y)

    def within(z: Array) -> float:
        values = _kernel(z, z)
        return (values.sum() - np.trace(values)) / (len(z) * (len(z) - 1))

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
