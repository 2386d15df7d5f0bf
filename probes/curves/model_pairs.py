"""Compare every pair of several models on the same stimuli: at the layers that align best, or at stated ones."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from itertools import permutations as ordered
from typing import Any

import numpy as np
import pandas as pd

from ..arguments import checked
from ..comparison_options import check_comparison
from ..features.caption_groups import image_by_image
from ..features.features import Features
from ..features.layer_features import LayerFeatures
from ..metrics import DEFAULT_METRIC, METRICS
from ..similarity.calibration import TOO_HIGH, chance, used_k, warn_of_k
from ..similarity.inputs import check_metric, check_same_stimuli, check_samples
from ..similarity.nulls import map_null

Layer = str | int | float
ONE_WAY = ("information_imbalance", "pwcca", "linear_probe")  # metrics by which (x, y) and (y, x) score differently
LABELS = ("subject", "modality", "task", "timestep")


def alignment_matrix(
    features: Sequence[LayerFeatures],
    layer: Layer | Sequence[Layer] | None = None,
    metric: str = DEFAULT_METRIC,
    k: int = 10,
    permutations: int = 200,
    seed: int = 0,
    block: int = 1,
) -> pd.DataFrame:
    """Measure the similarity of every pair of models, at the pair of layers that aligns best or at stated layers.

    Parameters
    ----------
    features : sequence of LayerFeatures
        Features of two models or more, or of several modalities of a model, on the same stimuli in the same order. Of
        several captions an image the means are compared.
    layer : str, int, float or sequence, optional
        The layer of all models, as `LayerFeatures.at_layer` takes it, such as "last" or .5; or one for each of them.
        By default all layers are compared, and each pair of models has its best pair of layers.
    metric : str
        A name that `similarity` explains.
    k : int
        The number of neighbours.
    permutations : int
        Permutations of the null: 200 resolve p down to .005.
    seed : int
        Seed of the permutations.
    block : int
        How many consecutive samples move together in the null, as in `map_null`.

    Returns
    -------
    DataFrame
        One row per pair of models; by information_imbalance, pwcca and linear_probe two, one in each direction.
        Columns: subject, modality, task, timestep (NaN without), layer and depth of one model; reference,
        reference_modality, reference_task, reference_timestep, reference_layer and reference_depth of the other;
        metric, k (missing for cka), samples, compared (how many pairs of layers), score, chance (of one pair of layers;
        NaN where it depends on the features, or with blocks), null_mean, null95 and p. The null is that of the best of
        all pairs of layers that were compared: where one is compared, its own.

    Raises
    ------
    ValueError, TypeError
        As `map_null`; also fewer than two features, one that is given twice, an unknown layer, different stimuli, a
        sweep over timesteps, and more than half of the samples as neighbours.

    See Also
    --------
    alignment_curve : Compares all layers of one model with one layer of another, with intervals.
    similarity_map : Compares all layers of two models, and keeps all scores.

    Notes
    -----
    The best pair of layers stands for a pair of models, as with Huh et al. 2024. It scores high by chance, so it is
    compared with the best of as many pairs in every permutation of the samples, as `Null.peak_p` of `map_null`, and p
    is as valid as that of a pair that was named beforehand. It is the p of one pair of models. Of ten pairs, one has a
    p below .1 by chance alone: multiply by the number of rows where only the best row is reported.

    Examples
    --------
    >>> alignment_matrix([dino["image"], clip["image"], minilm["text"]])  # the best layers of each pair
    >>> alignment_matrix([dino["image"], minilm["text"]], layer="last")  # what the models' outputs have in common
    """
    check_metric(metric)
    check_comparison(permutations=permutations, seed=seed, block=block)
    sides = [image_by_image(side, side).pairs[0][0] for side in _sides(features, layer)]
    check_samples(metric, k, len(sides[0].samples), len(sides[0].samples))
    warn_of_k(metric, k, len(sides[0].samples), most=TOO_HIGH)
    for one, other in combinations(sides, 2):
        check_samples(metric, k, len(one.samples), len(other.samples))
        check_same_stimuli(one, other)
    rows = []
    for one, other in (ordered if metric in ONE_WAY else combinations)(sides, 2):
        null = map_null(one, other, metric, k, permutations, seed, block)
        scores = null.observed
        row = dict.fromkeys(("layer", "reference_layer")) | dict.fromkeys(("depth", "reference_depth"), np.nan)
        if np.isfinite(scores).any():
            best = (np.nanargmin if METRICS[metric].is_distance else np.nanargmax)(scores)
            i, j = np.unravel_index(best, scores.shape)
            row |= {"layer": one.layers[i], "depth": one.depths[i]}
            row |= {"reference_layer": other.layers[j], "reference_depth": other.depths[j]}
            row |= {"score": float(scores[i, j])}
        row |= {"null_mean": float(null.peaks.mean()), "null95": null.peak95, "p": null.peak_p, "compared": scores.size}
        rows.append(_labels(one, "") | _labels(other, "reference_") | row)
    count, expected = len(sides[0].samples), chance(metric, k, len(sides[0].samples))
    table = pd.DataFrame(rows).assign(
        metric=metric,
        k=pd.array([used_k(metric, k)] * len(rows), dtype="Int64"),
        samples=count,
        chance=np.nan if block > 1 or expected is None else expected,
    )
    return table.reindex(columns=_columns())


def _columns() -> list[str]:
    ours = ["subject", "modality", "task", "timestep", "layer", "depth"]
    theirs = ["reference", *(f"reference_{name}" for name in ours[1:])]
    return [*ours, *theirs, "metric", "k", "samples", "compared", "score", "chance", "null_mean", "null95", "p"]


def _labels(side: LayerFeatures, prefix: str) -> dict[str, Any]:
    """Return whose features these are, as columns of one side of a pair."""
    found = {f"{prefix}{name}": side.origin[name] for name in LABELS}
    found[f"{prefix}timestep"] = np.nan if side.origin["timestep"] is None else side.origin["timestep"]
    return {"reference" if name == "reference_subject" else name: value for name, value in found.items()}


def _sides(features: Sequence[LayerFeatures], layer: Layer | Sequence[Layer] | None) -> list[LayerFeatures]:
    """Return the layers that are compared of each model, or raise for what is no list of single features."""
    if isinstance(features, Features | LayerFeatures) or not isinstance(features, list | tuple):
        raise TypeError(f"features must be a list of LayerFeatures, of two models or more: {type(features).__name__}")
    for place, side in enumerate(features):
        if isinstance(side, Features):
            raise TypeError(f"features {place} hold {' and '.join(side)}: name one, such as features['image']")
        if not isinstance(side, LayerFeatures):
            raise TypeError(f"features {place} must be LayerFeatures, as extract returns them: {type(side).__name__}")
        if side.swept:
            swept = ", ".join(f"{t:g}" for t in side.timesteps)
            raise ValueError(
                f"the {side.modality} features of {side.subject!r} hold a sweep over timesteps {swept}: "
                "select one with .at(t)"
            )
    if len(features) < 2:
        raise ValueError(f"a matrix needs the features of two models at least, got {len(features)}")
    known: list[dict[str, Any]] = []
    for side in features:
        if side.origin in known:
            raise ValueError(f"the {side.modality} features of {side.subject!r} are given twice: leave one out")
        known.append(side.origin)
    listed = isinstance(layer, Sequence) and not isinstance(layer, str)
    for name in layer if listed else [layer]:
        checked("layer", name, str | int | float | None)
    if layer is None:
        return list(features)
    chosen = [layer] * len(features) if isinstance(layer, str | int | float) else list(layer)
    if len(chosen) != len(features):
        raise ValueError(f"{len(chosen)} layers are named for {len(features)} models: name one for all, or one each")
    return [side.at_layer(name) for side, name in zip(features, chosen, strict=True)]
