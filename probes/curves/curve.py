"""Measure alignment curves: the similarity of two modalities along the depth of a model."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from torch import Tensor

from ..arguments import checked
from ..comparison_options import check_comparison
from ..features.caption_groups import image_by_image
from ..features.layer_features import LayerFeatures
from ..features.plain_arrays import as_tensor, check_finite
from ..metrics import DEFAULT_METRIC
from ..metrics.metric import Array
from ..metrics.named_metrics import count_samples
from ..similarity.calibration import TOO_HIGH, Null, chance, used_k, warn_of_k
from ..similarity.inputs import (
    Layers,
    check_dims,
    check_metric,
    check_same_stimuli,
    check_samples,
    full_precision,
    open_layers,
    to_common_dtype,
)
from ..similarity.intervals import SPLITS, curve_draws, interval
from ..similarity.nulls import check_block, curve_null, mean_null
from ..similarity.rows import check_exchangeable, side_of
from ..similarity.sampled_maps import Sampled, check_tolerance, draws_around, sampled_scores
from .curve_sides import check_side
from .curve_table import CurveTable


def alignment_curve(
    x: LayerFeatures,
    y: LayerFeatures | Tensor | Array,
    metric: str = DEFAULT_METRIC,
    k: int = 10,
    permutations: int = 200,
    seed: int = 0,
    block: int = 1,
    samples: Sequence[str] | None = None,
    tolerance: float | None = None,
    captions: str | None = None,
) -> pd.DataFrame:
    """Measure the similarity of two sets of features along depth: of one subject, or with one layer of another.

    Layers of one subject are matched by name, and a layer that y lacks is left out: SD3's last block has no text
    stream, so its curve ends one block earlier. A y of one layer is a reference that every layer of x is compared with.

    Parameters
    ----------
    x : LayerFeatures
        Features of every layer.
    y : LayerFeatures, Tensor or Array
        Features of the same subject, task and stimuli; or one layer of any features of the same stimuli, as
        ``y.at_layer("last")`` gives it; or a plain reference (sample, dim), of which nothing is known but its length.
    metric : str
        A name that `similarity` explains.
    k : int
        The number of neighbours.
    permutations : int
        Permutations of the null: 200 resolve p down to .005.
    seed : int
        Seed of permutations and splits.
    block : int
        How many consecutive samples move together in the null and in the splits, as in `map_null`: as many frames of a
        video as depend on each other.
    samples : sequence of str, optional
        The id of each row of a plain reference, which are compared with those of x. A tensor has no ids: without them
        its rows are taken to be x's stimuli in their order, and a warning says so.
    tolerance : float, optional
        As in `similarity_map`: scores, null and draws are of as many rows as that takes, the same in every layer.
    captions : str, optional
        How features of `load_stimuli(..., captions="all")` are compared, as in `similarity`: samples are images, which
        the null permutes and the splits deal out with all their captions.

    Returns
    -------
    DataFrame
        One row per layer, after a timestep sweep one per (timestep, layer). Columns: subject, modality, task, pass,
        timestep (NaN without), pooling, layer, depth; reference, reference_modality and reference_layer, the other
        subject and its layer (missing where a subject's own layers are compared, or with a plain reference); metric, k
        (missing for cka), samples, score, low and high (95 % interval),
        chance (NaN where it depends on the features, or with blocks), null_mean, null95 and p (permutation null per
        row; each permutation is shared by all rows), pairing (equal in curves whose draws are paired: same samples,
        same seed), and last draws, a list of floats per row: the score as other samples could have had it. `attrs`:
        peak95 and peak_p, the null of the curve's maximum; x and y, plain JSON: subject, modality, task, pass and
        timestep of both sides, {} for a plain reference; with a tolerance also tolerance, rows and errors, as of
        `similarity_map`, and with several captions an image captions.

    Raises
    ------
    ValueError, TypeError
        As `similarity` and `map_null`; also features of different stimuli or timesteps, of different subjects or tasks
        where y has several layers, or without a layer in common; more than half of the samples as neighbours; the same
        caption or image for all samples.

    Warns
    -----
    UserWarning
        A plain reference without ids: neither its order nor what its rows show can be checked.

    See Also
    --------
    alignment_matrix : Compares every pair of several models, at their best layers or at stated ones.
    similarity_map : Compares every layer of one model with every layer of another.
    divergence : The depth at which two curves part.
    rises, rises_then_falls : Tests of a curve's shape.

    Notes
    -----
    UniFork (arXiv 2506.17202) draws such curves of one model's image and text, and Huh et al. 2024 compare two models.
    The intervals come from `similarity.intervals.curve_draws`. `divergence` and the shape tests take theirs from the
    column draws. Its lists survive slicing, concat and Parquet; CSV and HTML leave them out, unless ``columns=`` asks
    for them.

    Examples
    --------
    >>> features = extract(expert, stimuli, task="understanding")
    >>> curve = alignment_curve(features["image"], features["text"])
    >>> curve = alignment_curve(dino["image"], minilm["text"].at_layer("last"))  # two models on the same stimuli
    """
    check_side("x", x)
    if isinstance(y, Mapping):
        check_side("y", y)
    check_metric(metric)
    check_comparison(permutations=permutations, seed=seed, block=block)
    if samples is not None:
        checked("samples", samples, Sequence[str], remedy="they are the ids of the rows of y")
    seen = image_by_image(x, y, None, captions)
    check_tolerance(metric, tolerance, block=block, captions=seen.numbers is not None or len(seen.pairs) > 1)
    _check_reference(x if samples is None or len(samples) == len(x.samples) else seen.pairs[0][0], y, samples)
    asked = metric, k, permutations, seed, block, tolerance, seen.numbers
    measured = [_measured(one, other, *asked) for one, other in seen.pairs]
    (x, y), rows, found = seen.pairs[0], measured[0].rows, measured[0].found
    referred = _is_reference(x, y)
    null = mean_null([each.null for each in measured])
    scores, draws = (np.mean([getattr(each, name) for each in measured], axis=0) for name in ("scores", "draws"))
    count = count_samples(metric, len(x.samples), seen.numbers)
    errors, used = (np.zeros(len(rows)), count) if found is None else (found.errors, found.rows)
    low, high = interval(scores, draws)
    drawn = [x.samples, seed] if found is None else [x.samples, seed, metric, used]
    paired = hashlib.sha256(json.dumps(drawn).encode()).hexdigest()[:12]
    layers = [layer for _, layer, _, _ in rows]
    curve = CurveTable(
        {
            "subject": x.subject,
            "modality": x.modality,
            "task": x.task,
            "pass": x.pass_,
            "timestep": [np.nan if timestep is None else timestep for timestep, _, _, _ in rows],
            "pooling": x.pooling,
            "layer": [x.layers[layer] for layer in layers],
            "depth": [x.depths[layer] for layer in layers],
            **{name: pd.array([value] * len(rows), dtype="string") for name, value in _named(y, referred).items()},
            "metric": metric,
            "k": pd.array([used_k(metric, k)] * len(rows), dtype="Int64"),
            "samples": count,
            "score": scores,
            "low": low,
            "high": high,
            "chance": np.nan if block > 1 or (expected := chance(metric, k, count)) is None else expected,
            "null_mean": null.mean,
            "null95": null.top95,
            "p": null.p,
            "pairing": paired,
            "draws": draws.T.tolist(),
        }
    )
    curve.attrs = {
        "peak95": null.peak95,
        "peak_p": null.peak_p,
        "x": x.origin,
        "y": y.origin if isinstance(y, LayerFeatures) else {},
    }
    if seen.captions is not None:
        curve.attrs |= {"captions": seen.captions}
    if tolerance is not None:
        curve.attrs |= {"tolerance": float(tolerance), "rows": used, "errors": errors.tolist()}
    return curve


class _Measured(NamedTuple):
    """Hold what a curve's rows are of, (timestep, index of the layer, x's layer, y's layer), and what was measured."""

    rows: list[tuple[float | None, int, Tensor, Tensor]]
    found: Sampled | None
    null: Null
    scores: Array
    draws: Array


def _measured(
    x: LayerFeatures,
    y: LayerFeatures | Tensor | Array,
    metric: str,
    k: int,
    permutations: int,
    seed: int,
    block: int,
    tolerance: float | None,
    groups: Array | None,
) -> _Measured:
    """Score the layers of a curve, with null and draws; `found` is None where all samples were used."""
    rows = _rows(x, y, _is_reference(x, y))
    pairs = [(a, b) for _, _, a, b in rows]
    check_samples(metric, k, len(x.samples), len(pairs[0][1]))
    count = count_samples(metric, len(x.samples), groups)
    check_samples(metric, k, count, count)
    check_dims(metric, [a for a, _ in pairs], [b for _, b in pairs])
    warn_of_k(metric, k, count, most=TOO_HIGH)
    check_block(count, block)
    sides = side_of(x, [a for a, _ in pairs], "x"), side_of(y, [b for _, b in pairs], "the reference y")
    check_exchangeable("a curve with its null and interval", *sides, block=block, groups=groups)
    found = None if tolerance is None else _sampled(pairs, metric, k, tolerance, permutations, seed)
    if found is None or found.null is None:
        null = curve_null(pairs, metric, k, permutations, seed, block, groups)
        return _Measured(rows, None, null, *curve_draws(pairs, metric, k, seed, block=block, groups=groups))
    null, draws = Null(found.scores, found.null), draws_around(found, 2 * SPLITS, seed)
    return _Measured(rows, found, null, found.scores, draws)


def _sampled(
    pairs: Sequence[tuple[Tensor, Tensor]], metric: str, k: int, tolerance: float, permutations: int, seed: int
) -> Sampled | None:
    """Score the pairs of a curve to a standard error; a reference of several pairs is read once."""
    xs, ys = [a for a, _ in pairs], list({id(b): b for _, b in pairs}.values())
    place = {id(b): index for index, b in enumerate(ys)}
    chosen = [(index, place[id(b)]) for index, (_, b) in enumerate(pairs)]
    xs, ys = to_common_dtype(xs, ys)
    with full_precision():
        return sampled_scores(xs, ys, chosen, metric, k, tolerance, permutations=permutations, seed=seed)


def _check_reference(x: LayerFeatures, y: object, samples: Sequence[str] | None) -> None:
    """Raise ValueError where a reference is of other stimuli, and warn where nothing says of which."""
    if isinstance(y, LayerFeatures):
        if samples is not None:
            raise ValueError("y has ids of its own: samples= is for a reference without them, leave it out")
        return
    if samples is None:
        warnings.warn(
            f"the reference y has no ids: its rows are taken to be the stimuli of {x.subject!r} in their order; pass "
            "their ids as samples= to have that checked",
            stacklevel=3,
        )
        return
    if len(samples) != len(x.samples):
        raise ValueError(
            f"x has {len(x.samples)} samples, samples= names {len(samples)}: both must be the same stimuli"
        )
    for row, (ours, theirs) in enumerate(zip(x.samples, samples, strict=True)):
        if ours != theirs:
            raise ValueError(
                f"the reference y is of different stimuli: sample {row} is {ours!r} in {x.subject!r} but {theirs!r} in "
                "samples=; give y the same stimuli, in the same order"
            )


def _is_reference(x: LayerFeatures, y: LayerFeatures | Tensor | Array) -> bool:
    """Return whether y is one layer that every layer of x is compared with, or raise where the two do not fit."""
    if not isinstance(y, LayerFeatures):
        return False
    own = all(getattr(x, name) == getattr(y, name) for name in ("subject", "task"))
    referred = len(y.layers) == 1 and not (own and x.layers == y.layers)
    if not own and not referred:
        names = [f"{side.subject!r} ({side.task}, {side.modality})" for side in (x, y)]
        raise ValueError(
            f"x is of {names[0]} and y of {names[1]}, whose layers are not those of x: name the one that all layers of "
            f"x are compared with, y.at_layer('last'), or compare all with all by similarity_map. y has "
            f"{', '.join(y.layers)}"
        )
    if own and x.pass_ != y.pass_:
        raise ValueError(
            f"x is of a {x.pass_} pass and y of a {y.pass_} one, and a joint pass mixes the modalities: extract both "
            "in the same way"
        )
    check_same_stimuli(x, y)
    return referred


def _named(y: LayerFeatures | Tensor | Array, referred: bool) -> dict[str, str | None]:
    """Return the columns that name the other subject of a curve."""
    named = (y.subject, y.modality, y.layers[0]) if referred and isinstance(y, LayerFeatures) else (None,) * 3
    return dict(zip(("reference", "reference_modality", "reference_layer"), named, strict=True))


def _rows(
    x: LayerFeatures, y: LayerFeatures | Tensor | Array, referred: bool
) -> list[tuple[float | None, int, Tensor, Tensor]]:
    """Return (timestep, index of the layer in x, x's samples, y's samples) for every row of the curve."""
    values = _finite(x)
    times: list[float | None] = list(x.timesteps) or [None]
    if not isinstance(y, LayerFeatures):
        reference = as_tensor(y, "y")
        if reference.ndim != 2:
            raise ValueError(
                f"y must be LayerFeatures or a (sample, dim) reference, got shape {tuple(reference.shape)}"
            )
        check_finite([reference], ["the reference y"])
        _, (reference,) = to_common_dtype(values[0], [reference])
        others = [[reference]]
    else:
        if x.timesteps != y.timesteps and (y.swept if referred else y.timesteps):
            remedy = "extract both in one sweep" + (", or select one of y with .at(t)" if referred else "")
            raise ValueError(f"x was swept over timesteps {x.timesteps}, y over {y.timesteps}: {remedy}")
        others = _finite(y)
    if len(others) != len(values):
        others = others * len(values)
    if referred or not isinstance(y, LayerFeatures):
        matched = [(index, 0) for index in range(len(x.layers))]
    else:
        in_y = {name: index for index, name in enumerate(y.layers)}
        matched = [(index, in_y[name]) for index, name in enumerate(x.layers) if name in in_y]
        if not matched:
            raise ValueError(f"x and y have no layer in common: {', '.join(x.layers)} and {', '.join(y.layers)}")
    return [(t, i, a[i], b[j]) for t, a, b in zip(times, values, others, strict=True) for i, j in matched]


def _finite(features: LayerFeatures) -> list[Layers]:
    """Read the layers (sample, dim) of each timestep, and check that they are finite."""
    layers = open_layers(features)
    stacks = [list(stack) for stack in zip(*layers, strict=True)] if features.swept else [layers]
    for stack in stacks:
        check_finite(
            stack,
            [f"layer {name!r} of {features.modality} features of {features.subject!r}" for name in features.layers],
        )
    return stacks
