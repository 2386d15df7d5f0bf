"""What helps to read an alignment curve: its score against the number of samples, rank of a layer, its own ceiling."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ..features.caption_groups import image_by_image
from ..features.layer_features import LayerFeatures
from ..metrics import DEFAULT_METRIC, METRICS
from ..similarity.calibration import chance, used_k
from ..similarity.scoring import similarity

FEWEST = 8  # samples of a part


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
    x, y = image_by_image(x, y).pairs[0]
    rng, count = np.random.default_rng(seed), len(x.samples)
    sizes = sorted({round(part * count) for part in parts if round(part * count) >= max(FEWEST, 2 * k)})
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
    _check_one_time(features)
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
    x, y = image_by_image(x, y).pairs[0]
    if metric in METRICS and METRICS[metric].is_distance:
        raise ValueError(f"{metric} is a distance, which has no ceiling: choose a similarity")
    rng, rows = np.random.default_rng(seed), []
    for layer, depth, one, other in _matched(x, y):
        own = [np.mean([_of_halves(side, metric, k, rng) for _ in range(draws)]) for side in (one, other)]
        ceiling = float(np.sqrt(max(own[0], 0) * max(own[1], 0)))
        rows.append((layer, depth, metric, float(similarity(one, other, metric, k=k)), *own, ceiling))
    return pd.DataFrame(rows, columns=["layer", "depth", "metric", "score", "own_x", "own_y", "ceiling"])


def _of_halves(values: Tensor, metric: str, k: int, rng: np.random.Generator) -> float:
    dims = values.shape[1]
    if dims < 2:
        raise ValueError("a layer of one dim has no halves: choose layers of at least two dims")
    order = torch.from_numpy(rng.permutation(dims))
    return float(similarity(values[:, order[: dims // 2]], values[:, order[dims // 2 :]], metric, k=k))


def _check_one_time(features: LayerFeatures) -> None:
    if features.swept:
        times = ", ".join(f"{time:g}" for time in features.timesteps)
        raise ValueError(
            f"the features hold the timesteps {times}: choose one, as features.at({features.timesteps[0]:g})"
        )


def _matched(x: LayerFeatures, y: LayerFeatures) -> list[tuple[str, float, Tensor, Tensor]]:
    """Return the layers that a curve compares: those of one name, or each of x with the one of y."""
    for side in (x, y):
        _check_one_time(side)
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
