"""What helps to read a curve: its score against samples, rank and patches of a layer, and its own ceiling."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ..arguments import checked
from ..comparison_options import check_comparison
from ..features.caption_groups import image_by_image
from ..features.layer_features import LayerFeatures
from ..metrics import DEFAULT_METRIC, METRICS
from ..similarity.calibration import chance, used_k
from ..similarity.inputs import check_metric
from ..similarity.scoring import similarity
from .curve_sides import check_one_time

FEWEST = 8  # samples of a part
DISTANT = 6 / 16  # the published distance of distant patches, 6 of 16 rows


def score_by_samples(
    x: LayerFeatures,
    y: LayerFeatures,
    metric: str = DEFAULT_METRIC,
    k: int = 10,
    parts: Sequence[float] = (0.125, 0.25, 0.5, 1.0),
    draws: int = 10,
    seed: int = 0,
) -> pd.DataFrame:
    """Measure how the score of each layer depends on the number of samples that it is measured with.

    Parameters
    ----------
    x, y : LayerFeatures
        As of `alignment_curve`: of one subject, whose layers are matched by name, or y of one layer.
    metric : str
        A name that `similarity` explains.
    k : int
        The number of neighbours, the same for every part.
    parts : sequence of float
        Shares of the samples. Parts of fewer than 8 samples, or of fewer than two times k, are left out.
    draws : int
        How many random parts of each size, without replacement.
    seed : int
        Seed of the parts.

    Returns
    -------
    DataFrame
        One row a layer and part, with the columns layer, depth, samples, metric, k, score (the mean over draws),
        deviation (their standard deviation) and chance (NaN where it depends on the features).

    Raises
    ------
    TypeError
        An argument is of another kind.
    ValueError
        No layers match, or the metric is unknown.

    See Also
    --------
    similarity_map : Measures to a stated standard error, `tolerance=`, instead of with a stated number of samples.

    Notes
    -----
    A score of neighbours falls as samples are added, since the same k is a smaller share of them, and so does its
    chance. Biased scores fall towards what debiased ones have from the start. So two scores are compared at one number
    of samples, and a score that still changes at the last step is not yet that of the models.

    Examples
    --------
    >>> score_by_samples(features["image"], features["text"]).pivot(index="layer", columns="samples", values="score")
    """
    _check_both(x, y, metric)
    check_comparison(k=k, draws=draws, seed=seed)
    checked("parts", parts, Sequence[float], above=0, most=1, remedy="they are shares of the samples")
    x, y = image_by_image(x, y).pairs[0]
    rng, count = np.random.default_rng(seed), len(x.samples)
    sizes = sorted({round(part * count) for part in parts if round(part * count) >= max(FEWEST, 2 * k)})
    if not sizes:
        least = max(FEWEST, 2 * k)
        raise ValueError(f"no part of {count} samples holds {least}, the fewest for k = {k}: name larger parts")
    rows = []
    for size in sizes:
        chosen = [torch.from_numpy(rng.permutation(count)[:size]) for _ in range(draws if size < count else 1)]
        for layer, depth, one, other in _matched(x, y):
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="k = ")  # the column chance says it
                scores = [float(similarity(one[part], other[part], metric, k=k)) for part in chosen]
            spread = float(np.std(scores, ddof=1)) if len(scores) > 1 else np.nan
            rows.append((layer, depth, size, np.mean(scores), spread, chance(metric, k, size)))
    table = pd.DataFrame(rows, columns=["layer", "depth", "samples", "score", "deviation", "chance"])
    table.insert(3, "metric", metric)
    table.insert(4, "k", pd.array([used_k(metric, k)] * len(table), dtype="Int64"))
    return table.astype({"chance": float})


def effective_rank(features: LayerFeatures) -> pd.DataFrame:
    """Measure in how many directions the samples of each layer vary.

    Parameters
    ----------
    features : LayerFeatures
        (layer, sample, dim), of one timestep.

    Returns
    -------
    DataFrame
        One row a layer, with the columns layer, depth, effective_rank, dims and samples. The rank is at least 1 and at
        most the smaller of dims and samples less one.

    Raises
    ------
    ValueError
        There is a sweep over timesteps.

    See Also
    --------
    alignment_curve : Its scores are of layers whose rank this says: one of rank 1 or 2 is ruled by single dims.

    Notes
    -----
    The exponential of the entropy of the singular values' shares, of features centred over samples (Roy and Vetterli,
    EUSIPCO 2007).

    Examples
    --------
    >>> effective_rank(features["image"])
    """
    check_one_time("features", features)
    features = image_by_image(features, features).pairs[0][0]
    rows = []
    for layer, depth in zip(features.layers, features.depths, strict=True):
        values = features.layer(layer).double()
        singular = torch.linalg.svdvals(values - values.mean(0))
        shares = singular / singular.sum() if singular.sum() > 0 else singular
        entropy = float(-torch.special.xlogy(shares, shares).sum())
        rows.append((layer, depth, float(np.exp(entropy)), values.shape[1], values.shape[0]))
    return pd.DataFrame(rows, columns=["layer", "depth", "effective_rank", "dims", "samples"])


def halves_ceiling(
    x: LayerFeatures,
    y: LayerFeatures,
    metric: str = DEFAULT_METRIC,
    k: int = 10,
    draws: int = 5,
    seed: int = 0,
) -> pd.DataFrame:
    """Measure how alike two random halves of a layer's own dims are: what another model could hardly exceed.

    Parameters
    ----------
    x, y : LayerFeatures
        As of `alignment_curve`.
    metric : str
        A name that `similarity` explains.
    k : int
        The number of neighbours.
    draws : int
        Random halves, over which the score is averaged.
    seed : int
        Seed of the halves.

    Returns
    -------
    DataFrame
        One row a layer, with the columns layer, depth, metric, score (of x with y), own_x and own_y (of the halves of
        each side) and ceiling, the root of own_x times own_y, 0 where one of them is below 0.

    Raises
    ------
    ValueError
        No layers match, a layer has one dim, or the metric is a distance.

    See Also
    --------
    map_null : The other end: what features that have nothing to do with each other would score.

    Notes
    -----
    It is no bound: two whole layers see more than two halves. Where it is low, neighbours or distances of the layer
    rest on few dims, and a low score says little about the other model.

    Examples
    --------
    >>> halves_ceiling(features["image"], features["text"])
    """
    _check_both(x, y, metric)
    check_comparison(k=k, draws=draws, seed=seed)
    x, y = image_by_image(x, y).pairs[0]
    if METRICS[metric].is_distance:
        raise ValueError(f"{metric} is a distance, which has no ceiling: choose a similarity")
    rng, rows = np.random.default_rng(seed), []
    for layer, depth, one, other in _matched(x, y):
        own = [np.mean([_of_halves(side, metric, k, rng) for _ in range(draws)]) for side in (one, other)]
        ceiling = float(np.sqrt(max(own[0], 0) * max(own[1], 0)))
        rows.append((layer, depth, metric, float(similarity(one, other, metric, k=k)), *own, ceiling))
    return pd.DataFrame(rows, columns=["layer", "depth", "metric", "score", "own_x", "own_y", "ceiling"])


def spatial_similarity(features: LayerFeatures, distance: int | None = None) -> pd.DataFrame:
    """Measure how much more alike neighbouring patches of an image are than distant ones, in each layer.

    Parameters
    ----------
    features : LayerFeatures
        Of one timestep, extracted with a patch grid: (layer, sample, row, column, dim). Cells that are single patches
        are what was published; cells that are means over several smooth it.
    distance : int, optional
        From how many steps on, rows and columns together, patches are distant. By default 6 of 16 rows, scaled to the
        grid, and at least 2.

    Returns
    -------
    DataFrame
        One row a layer, with the columns layer, depth, near (the mean cosine of patches that share a side), far (that
        of distant ones), score (near minus far, the mean over images), deviation (its standard deviation over images),
        rows, columns, distance and samples. Cosines lie in -1 to 1, so scores in -2 to 2.

    Raises
    ------
    TypeError
        An argument is of another kind.
    ValueError
        There is a sweep over timesteps, there is no grid of at least 2 x 2 cells, or no patches are so distant.

    See Also
    --------
    match_patches : For the patches of two models, compared with each other.
    effective_rank : For what a layer's states of whole images show, without a grid.

    Notes
    -----
    The local against distant similarity of iREPA (arXiv 2512.10794): over 27 encoders it says better than accuracy on
    ImageNet which representations help a generator.

    Examples
    --------
    >>> grid = extract(expert, stimuli[:64], pooling="grid:8")
    >>> spatial_similarity(grid["image"])
    """
    check_one_time("features", features)
    if not features.pooling.startswith("grid:"):
        raise ValueError(
            f"the features are pooled by {features.pooling}: extract them with a patch grid, as pooling='grid:8'"
        )
    rows, columns = features.layer(features.layers[0]).shape[1:3]
    if min(rows, columns) < 2:
        raise ValueError(f"a grid of {rows} x {columns} cells has no rows and columns: extract with pooling='grid:8'")
    checked("distance", distance, int | None, least=1)
    steps = max(2, round(DISTANT * min(rows, columns))) if distance is None else distance
    places = torch.cartesian_prod(torch.arange(rows), torch.arange(columns))
    apart = (places[:, None] - places).abs().sum(-1)
    if not (apart >= steps).any():
        most = rows + columns - 2
        raise ValueError(f"distance {steps} is not between 1 and {most}, the most steps on {rows} x {columns} cells")
    table = []
    for layer, depth in zip(features.layers, features.depths, strict=True):
        unit = torch.nn.functional.normalize(features.layer(layer).double().flatten(1, 2), dim=-1)
        cosines = unit @ unit.mT  # (sample, patch, patch)
        near, far = (cosines[:, chosen].mean(1) for chosen in (apart == 1, apart >= steps))
        spread = float((near - far).std()) if len(near) > 1 else np.nan
        table.append((layer, depth, float(near.mean()), float(far.mean()), float((near - far).mean()), spread))
    found = pd.DataFrame(table, columns=["layer", "depth", "near", "far", "score", "deviation"])
    return found.assign(rows=rows, columns=columns, distance=steps, samples=len(features.samples))


def _of_halves(values: Tensor, metric: str, k: int, rng: np.random.Generator) -> float:
    dims = values.shape[1]
    if dims < 2:
        raise ValueError("a layer of one dim has no halves: choose layers of at least two dims")
    order = torch.from_numpy(rng.permutation(dims))
    return float(similarity(values[:, order[: dims // 2]], values[:, order[dims // 2 :]], metric, k=k))


def _check_both(x: LayerFeatures, y: LayerFeatures, metric: str) -> None:
    """Raise an error where x or y is not the features of one modality and timestep, or the metric is unknown."""
    check_metric(metric)
    check_one_time("x", x)
    check_one_time("y", y)


def _matched(x: LayerFeatures, y: LayerFeatures) -> list[tuple[str, float, Tensor, Tensor]]:
    """Return the layers that a curve compares: those of one name, or each of x with the one of y."""
    for side in (x, y):
        if side.groups:
            raise ValueError(
                "the features hold several captions of each image, whose rows are no samples of their own: load the "
                "stimuli with captions='first'"
            )
    if x.samples != y.samples:
        raise ValueError("x and y are of different stimuli: extract both from the same, in the same order")
    single = len(y.layers) == 1
    pairs = [(layer, depth) for layer, depth in zip(x.layers, x.depths, strict=True) if single or layer in y.layers]
    if not pairs:
        raise ValueError(f"no layer of y is one of x: x has {', '.join(x.layers)}, y has {', '.join(y.layers)}")
    return [(layer, depth, x.layer(layer), y.layer(y.layers[0] if single else layer)) for layer, depth in pairs]
