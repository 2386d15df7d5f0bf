"""Compute the similarity of two sets of features over the same samples: one pair of layers, or a whole layer map."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..arguments import checked
from ..comparison_options import MOST_DRAWS, check_comparison
from ..features.caption_groups import image_by_image
from ..features.layer_features import LayerFeatures
from ..features.plain_arrays import check_finite
from ..metrics import DEFAULT_METRIC
from ..metrics.batched_cka import batch_map
from ..metrics.metric import MEMORY, Array
from ..metrics.named_metrics import count_samples, formula_of
from ..workers.devices import chosen_device
from ..workers.shared_parts import kept_in
from .calibration import labelled, used_k, warn_of_k
from .inputs import (
    Layers,
    Stack,
    at_time,
    check_dims,
    check_metric,
    check_same_stimuli,
    check_samples,
    full_precision,
    read_pair,
    read_stack,
    swept_times,
    to_common_dtype,
)
from .nulls import map_null
from .rows import side_of, warn_of_rows
from .sampled_maps import HEAD, check_tolerance, sampled_scores

if TYPE_CHECKING:
    import pandas as pd

Batches = Iterable[tuple[Stack, Stack]]


def similarity(
    x: Tensor | Array,
    y: Tensor | Array,
    metric: str = DEFAULT_METRIC,
    k: int = 10,
    groups: Sequence[Any] | Array | None = None,
    captions: str | None = None,
) -> float:
    """Return the similarity of two sets of features over the same samples.

    Parameters
    ----------
    x : Tensor or Array
        Features (sample, dim).
    y : Tensor or Array
        Features (sample, dim') of the same samples. The dims may differ, except for cosine and modality_gap.
    metric : str
        One of the names below.
    k : int
        The number of neighbours of mutual_knn, cknna and information_imbalance. Other metrics ignore it.
    groups : sequence, optional
        A label for each row: the image that it is a caption of. For linear_probe, rows of one group, such as names that
        share a word, are held out together. With random folds the probe may know a group from its other members.
    captions : str, optional
        How rows of one group are compared, as images: "mean" (the default) averages them, "draw" draws one of each
        group several times and averages the scores, "apart" (mutual_knn and linear_probe) keeps all rows: those of the
        same group are no neighbours, neighbours are other groups, or groups are held out together.

    Returns
    -------
    float
        The score; NaN where all samples of a side are equal, or as said below.

    Raises
    ------
    ValueError
        An unknown metric, a wrong shape, different numbers of samples (or dims, for cosine and modality_gap), too few
        samples (k must be less), or a value that is not finite.
    TypeError
        Something that is not an array of numbers.

    See Also
    --------
    similarity_map : The similarity of all pairs of layers at once.
    map_null : What unrelated features would score: several metrics are high for these.

    Notes
    -----
    =====================  =============================================================================================
    cka                    Debiased linear CKA: HSIC_1(x, y) / sqrt(HSIC_1(x, x) HSIC_1(y, y)) (Song et al. 2012, eq. 5;
                           Nguyen et al. 2021, eq. 3). At most 1; 0 on average for unrelated features of any size, and
                           sometimes slightly below 0. NaN also where all samples are equally far apart. 4 samples at
                           least.
    cka_biased             Linear CKA, tr(KHLH) over its norms (Kornblith et al. 2019). Tends to 1 for unrelated
                           features as dims outnumber samples: do not show it without a null.
    cka_rbf                The same with K_ij = exp(-|x_i - x_j|^2 / 2 s), s the median of all squared distances, zeros
                           of the diagonal included, as in the code published with the paper (of more than 4,096
                           samples: of 4,096 evenly spaced ones). Biased too. NaN also where the median is 0.
    cka_units              cka over the units that were left out too (Chun et al., arXiv 2502.15104): what cka would be
                           of all units, where those given are a random draw of them. In a side's own HSIC_1 no unit
                           meets itself. Few units out of many lower cka. Can exceed 1; 0 on average for unrelated
                           features; noisy, and NaN at times, where units have hardly anything in common.
    mutual_knn             Mean share of common members among each sample's k nearest neighbours (Huh et al. 2024): by
                           cosine, uncentred, without the sample itself, ties to the lower index; a row of zeros has
                           cosine 0 with all. k / (samples - 1) by chance. NaN where all samples point the same way.
    cknna                  CKA over common neighbours only, by the code published with Huh et al. 2024 (their formula
                           differs), on unit rows, without its epsilon: HSIC_1 of the cosines between samples and their
                           common neighbours, over the norms that each side has with itself. NaN where a norm is not
                           positive. Nearly symmetric; can exceed 1.
    information_imbalance  2 / samples times the mean rank in y of a sample's k nearest neighbours in x (Glielmo et al.
                           2022), by cosine. A distance, and not symmetric: near 0 where x knows y's neighbours, 1 for
                           unrelated features, (k + 1) / samples at least. x holds what y knows, and more, where the
                           score of (x, y) is well below that of (y, x). Ties rank by their mean. NaN where all samples
                           point the same way.
    svcca                  Mean canonical correlation of the leading directions that hold 99 % of each side's variance
                           (Raghu et al. 2017), decided in float64; rho, not its square. High for unrelated features
                           unless samples are many.
    pwcca                  The same correlations, weighted by how much of x's columns lies along x's canonical variates
                           (Morcos et al. 2018). Not symmetric, and not blind to rotations of x. High for unrelated
                           features too.
    procrustes             Nuclear norm of x'y, both centred and of Frobenius norm 1: 1 - d^2 / 2 with the orthogonal
                           Procrustes distance d (Williams et al. 2021). High for unrelated features too.
    rsa                    Spearman correlation of the distances 1 - Pearson's r between samples (Kriegeskorte et al.
                           2008), average ranks for ties. NaN also where a sample is constant over its dims.
    linear_probe           R^2 of predicting y from x on held-out samples, by ridge regression in 5 folds
                           (`metrics.probe`). Not symmetric; negative where the mean predicts better. 10 samples at
                           least.
    cosine                 Mean cosine between x and y of one sample; the dims must be the same ones.
    modality_gap           Distance between the means of unit x and unit y (Liang et al. 2022); 0 to 2, a distance. The
                           same dims.
    =====================  =============================================================================================

    Scores are computed on the device of the tensors. Float32 features are multiplied in float32 and summed in float64.
    Half precision is converted to float32 first, and layers whose result would lose its digits are computed again in
    float64. All scores are within 1e-5 of float64, and neighbours, ties and cuts are those of float64.

    Examples
    --------
    >>> similarity(features["image"].layer("3"), features["text"].layer("3"), metric="mutual_knn", k=10)
    """
    check_metric(metric)
    seen = image_by_image(x, y, groups, _default(metric, groups, captions))
    if len(seen.pairs) > 1:
        return float(np.mean([similarity(a, b, metric, k) for a, b in seen.pairs]))
    x, y = seen.pairs[0]
    one, other = read_pair(x, y, metric, k)
    samples = count_samples(metric, len(one), seen.numbers)
    check_samples(metric, k, samples, samples)
    warn_of_rows(side_of(x, [one], "x"), side_of(y, [other], "y"), grouped=seen.numbers is not None)
    warn_of_k(metric, k, samples)
    with full_precision():
        return float(formula_of(metric, seen.numbers).scores([one], [other], k)[0, 0])


def similarity_map(
    x: Stack | Batches,
    y: Stack | None = None,
    metric: str = DEFAULT_METRIC,
    k: int = 10,
    *,
    device: str | torch.device | None = None,
    memory: float = MEMORY,
    minibatch: bool = False,
    groups: Sequence[Any] | Array | None = None,
    captions: str | None = None,
    tolerance: float | None = None,
    store: str | os.PathLike[str] | None = None,
    permutations: int = 0,
) -> Any:
    """Compute the similarity of every layer of x with every layer of y over the same samples.

    Parameters
    ----------
    x : LayerFeatures, Tensor, Array, sequence of layers, or iterable of batches
        Layers of the understanding model: (layer, sample, dim) features, tensors or arrays (mapped from disk, if they
        are large), or a list of (sample, dim) layers of any dims. Half precision is converted in memory as a whole,
        with a tolerance part by part. Plain layers are named 0 to L - 1 and taken for blocks. Without y, an iterable of
        batches of samples, pairs (x, y) of stacks, which is read once. Batches are for `cka` and `cka_biased` only, and
        the result is exact, from accumulated products of dims.
    y : LayerFeatures, Tensor, Array or sequence of layers, optional
        Layers of the generation model, (layer, sample, dim').
    metric : str
        A name that `similarity` explains.
    k : int
        The number of neighbours of mutual_knn, cknna and information_imbalance.
    device : str or torch.device, optional
        Where to compute; by default where the features are.
    memory : float
        Bytes that cka, cka_biased, mutual_knn and cknna may take beside the features and three copies of one layer in
        float64. cka takes what products of one layer of x with all of y need, at least. With less memory features are
        read more often. Other metrics know no bound.
    minibatch : bool
        Whether batches are scored by CKA of Nguyen et al. (2021, eq. 2): HSIC_1 of each batch alone, summed over
        batches. It needs batches of 4 samples at least, equal in size for equal weights, and little memory.
    groups, captions
        As in `similarity`. Features of `load_stimuli(..., captions="all")` know their groups.
    tolerance : float, optional
        The standard error of a score that is good enough, such as .002, for mutual_knn, cka and cka_units: as many rows
        are used as that takes. All rows are used, and scores are exact, where fewer cannot meet it, or where a few rows
        far from all others make up most of cka. Repeated rows are looked for among the first ones.
    store : path, optional
        A folder to write, part by part. A map that was stopped resumes there, and one that is complete is read. Under
        torchrun all ranks must call `similarity_map`, and they share the parts. The scores are those of one process
        with as many threads, bit for bit.
    permutations : int
        Permutations of the null that `map_null` adds to `attrs`, such as 200, so that plans and figures say what is no
        more than noise. A `map_null` of other options, such as blocks, is added by ``heat.attrs |= null.summary``.

    Returns
    -------
    DataFrame, or dict of float to DataFrame
        The layer map: x's layers are the index ("understanding layer"), y's layers the columns ("generation layer").
        After a timestep sweep of x or y it is the map of each timestep, by its timestep.
        `attrs` is plain JSON: metric, k (None where it plays no part), samples, chance (None where it depends on the
        features), x_depths, y_depths, and in x and y subject, modality, task, pass and timestep of LayerFeatures.
        With a tolerance also tolerance, rows (how many samples were used), and errors, the standard error of each score
        around the exact one, 0 where all samples were used. With permutations also those of `Null.summary`. Of images
        with several captions, captions ("mean", ...).

    Raises
    ------
    ValueError, TypeError
        As `similarity`, and with permutations as `map_null`; a value that is not finite is named with its layer. Also
        two sweeps over different timesteps, features of different stimuli, batches for a metric that needs all samples,
        and a store that holds another map.
    RuntimeError, OSError
        Another rank failed; or the store cannot be written.

    See Also
    --------
    similarity_map_on_ray : Computes the same map with the workers of a Ray cluster.
    map_null : What unrelated features would score.
    scaled_map : The map that is left above what unrelated features score, for metrics that are high by chance.

    Examples
    --------
    >>> similarity_map(understanding["text"], generation["image"], "mutual_knn", k=10)  # (x layer, y layer)
    >>> similarity_map(understanding["text"], swept["image"])[0.5]  # the map at one timestep of a sweep
    >>> similarity_map(((xb, yb) for xb, yb in loader), metric="cka")  # batches, xb (layer, sample, dim)
    """
    check_metric(metric)
    check_comparison(memory=memory, minibatch=minibatch)
    checked("permutations", permutations, int, least=0, most=MOST_DRAWS)
    checked("store", store, str | os.PathLike | None, remedy="it is the folder that the map is written to")
    if y is None and isinstance(x, LayerFeatures | Tensor | np.ndarray):
        raise ValueError("y is missing: pass two stacks, or one iterable of batches, pairs of stacks")
    if store is not None and (y is None or tolerance is not None):
        raise ValueError("store keeps the parts of a map of all samples of x and y: leave batches, tolerance or it out")
    if y is None and groups is not None:
        raise ValueError("groups are of the rows of two stacks: with batches, average the rows of each group before")
    if permutations and (y is None or minibatch):
        raise ValueError("a null permutes all samples in one process: leave batches, or permutations, out")
    device = None if device is None else chosen_device(device)
    options: dict[str, Any] = {"device": device, "memory": memory, "tolerance": tolerance, "minibatch": minibatch}
    if times := swept_times(x, y):
        options |= {"groups": groups, "captions": captions, "permutations": permutations}
        folders = [None if store is None else Path(store) / f"t{time:g}" for time in times]
        return {
            time: similarity_map(*at_time(x, y, time), metric, k, store=folder, **options)
            for time, folder in zip(times, folders, strict=True)
        }
    seen = image_by_image(x, y, groups, _default(metric, groups, captions))
    check_tolerance(metric, tolerance, groups=seen.numbers is not None, minibatch=minibatch, batches=y is None)
    if y is None:
        return _of_batches(x, metric, k, device, memory, minibatch)  # type: ignore[arg-type]
    if minibatch:
        raise ValueError("minibatch takes batches: pass one iterable of (x, y) pairs instead of x and y")
    if len(seen.pairs) > 1:
        folders = [None if store is None else Path(store) / f"draw-{draw}" for draw in range(len(seen.pairs))]
        drawn = zip(seen.pairs, folders, strict=True)
        heat = _mean_of([similarity_map(*pair, metric, k, store=folder, **options) for pair, folder in drawn])
        if permutations:
            null = map_null(x, y, metric, k, permutations, groups=groups, captions="draw")  # type: ignore[arg-type]
            heat.attrs |= null.summary
        return heat
    given, (x, y) = (x, y), seen.pairs[0]
    xs, x_names, x_depths, x_about = read_stack(x, "x", tolerance is None)  # type: ignore[arg-type]
    ys, y_names, y_depths, y_about = read_stack(y, "y", tolerance is None)
    check_samples(metric, k, len(xs[0]), len(ys[0]))
    samples = count_samples(metric, len(xs[0]), seen.numbers)
    check_samples(metric, k, samples, samples)
    check_dims(metric, xs, ys)
    check_same_stimuli(x, y)
    if tolerance is None:
        looked = xs, ys = to_common_dtype(xs, ys, device)
    else:  # layers of a million samples may lie on disk, in half precision
        xs, ys = ([layer.to(device or xs[0].device) for layer in side] for side in (xs, ys))
        looked = to_common_dtype([x[:HEAD] for x in xs], [y[:HEAD] for y in ys])
    warn_of_rows(side_of(x, looked[0], "x"), side_of(y, looked[1], "y"), grouped=seen.numbers is not None)
    warn_of_k(metric, k, samples)
    shape, sampled = (len(xs), len(ys)), None
    with full_precision():
        if tolerance is not None:
            sampled = sampled_scores(xs, ys, list(np.ndindex(shape)), metric, k, tolerance, memory)
        if sampled is not None:
            scores = sampled.scores.reshape(shape)
        else:
            if tolerance is not None:
                xs, ys = to_common_dtype(xs, ys, device)
                check_finite([*xs, *ys], [f"layer {name!r}" for name in (*x_names, *y_names)])
            formula = formula_of(metric, seen.numbers)
            if store is None:
                scores = formula.scores(xs, ys, k, memory)
            else:
                made = {"metric": metric, "k": used_k(metric, k), "memory": memory, "device": xs[0].device.type}
                numbers = None if seen.numbers is None else seen.numbers.tolist()
                made |= {"x layers": x_names, "y layers": y_names, "groups": numbers}
                sides = {"values of x": xs, "values of y": ys}
                scores = kept_in(store, made, sides, lambda: torch.from_numpy(formula.scores(xs, ys, k, memory)))
                scores = scores.numpy()
    heat = labelled(scores, x_names, y_names, metric, k, samples)
    heat.attrs |= {"x_depths": x_depths, "y_depths": y_depths, "x": x_about, "y": y_about}
    if seen.captions is not None:
        heat.attrs["captions"] = seen.captions
    if tolerance is not None:
        errors = np.zeros(shape) if sampled is None else sampled.errors.reshape(shape)
        rows = len(xs[0]) if sampled is None else sampled.rows
        heat.attrs |= {"tolerance": float(tolerance), "rows": rows, "errors": errors.tolist()}
    if permutations:
        asked: dict[str, Any] = {"tolerance": tolerance, "groups": groups, "captions": seen.captions}
        heat.attrs |= map_null(*given, metric, k, permutations, **asked).summary  # type: ignore[arg-type]
    return heat


def _default(metric: str, groups: object, captions: str | None) -> str | None:
    """Return how rows of one group are compared, where nobody says it."""
    return "apart" if captions is None and groups is not None and metric == "linear_probe" else captions


def _mean_of(maps: list[pd.DataFrame]) -> pd.DataFrame:
    """Return the mean of maps of captions that were drawn."""
    heat = sum(maps[1:], maps[0]) / len(maps)
    heat.attrs = maps[0].attrs | {"captions": "draw"}
    if "errors" in heat.attrs:
        heat.attrs["errors"] = np.max([one.attrs["errors"] for one in maps], axis=0).tolist()
    return heat


def _of_batches(
    batches: Batches, metric: str, k: int, device: str | torch.device | None, memory: float, minibatch: bool
) -> pd.DataFrame:
    """Compute a layer map from batches, checking each while it is read."""
    common: dict[str, Any] = {"samples": 0}  # what the batches so far have in common

    def opened() -> Iterable[tuple[Layers, Layers]]:
        for index, batch in enumerate(batches):
            if not (isinstance(batch, tuple | list) and len(batch) == 2):
                raise ValueError(
                    f"batch {index} must be a pair (x, y) of (layer, sample, dim), got {type(batch).__name__}"
                )
            (xs, x_names, x_depths, _), (ys, y_names, y_depths, _) = (
                read_stack(side, f"{name} of batch {index}") for side, name in zip(batch, "xy", strict=True)
            )
            check_samples(metric, k, len(xs[0]), len(ys[0]), alone=minibatch)
            dims = [layer.shape[1] for layer in xs], [layer.shape[1] for layer in ys]
            if common.setdefault("dims", dims) != dims:
                raise ValueError(
                    f"batch {index} has layers of dims {dims}, those before {common['dims']}: they must agree"
                )
            common["samples"] += len(xs[0])
            common.update(names=(x_names, y_names), x_depths=x_depths, y_depths=y_depths)
            xs, ys = to_common_dtype(xs, ys, device)
            first = common.setdefault("first", xs[0][:0])
            yield [x.to(first) for x in xs], [y.to(first) for y in ys]

    check_metric(metric)
    with full_precision():
        scores = batch_map(opened(), metric, memory, minibatch)
    check_samples(metric, k, common["samples"], common["samples"])
    x_names, y_names = common["names"]
    heat = labelled(scores, x_names, y_names, metric, k, common["samples"])
    heat.attrs |= {"x_depths": common["x_depths"], "y_depths": common["y_depths"], "x": {}, "y": {}}
    return heat
