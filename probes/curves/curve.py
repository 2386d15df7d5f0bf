"""Alignment curves, a similarity along depth, and what their shapes say: rising, peaking, parting."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pandas as pd
from torch import Tensor

from ..features.layer_features import LayerFeatures
from ..metrics.metric import Array
from ..similarity.inputs import (
    Layers,
    as_tensor,
    check_dims,
    check_finite,
    check_same_stimuli,
    check_samples,
    open_layers,
    to_common_dtype,
)
from ..similarity.intervals import curve_draws, interval
from ..similarity.nulls import curve_null
from ..similarity.scoring import chance, used_k


def alignment_curve(
    x: LayerFeatures,
    y: LayerFeatures | Tensor | Array,
    metric: str = "mutual_knn",
    k: int = 10,
    permutations: int = 200,
    seed: int = 0,
) -> pd.DataFrame:
    """The similarity of x and y along depth: image and text of the same layer of the same subject, for instance.

    Layers are matched by name, and a layer that y lacks is left out: SD3's last block has no text stream, so its curve
    ends one block earlier. After a timestep sweep there is one row per (timestep, layer). A (sample, dim) y is a
    fixed reference that meets every layer of x.

    Columns: subject, task, pass, timestep (NaN without), pooling, layer, depth, metric, k (missing for cka), samples,
    score, low and high (95 % interval, `significance.curve_draws`), chance (NaN where it depends on the features),
    null_mean, null95 and p (permutation null per row, one permutation at a time for all of them), pairing (equal in
    curves whose draws are paired: same samples, same seed), and last draws, a list of floats per row: the score as
    other samples could have had it, from which `divergence` and the shape tests take their intervals. Lists survive
    slicing, concat, Parquet and CSV; drop the column to print.
    `attrs`: peak95 and peak_p, the null of the curve's maximum.

    Raises:
        ValueError, TypeError: as `similarity`; also features of different subjects, tasks, stimuli or timesteps, or
            without a layer in common.
    """
    if not isinstance(x, LayerFeatures):
        raise TypeError(f"x must be LayerFeatures, as extract returns them, got {type(x).__name__}")
    rows = _rows(x, y)
    pairs = [(a, b) for _, _, a, b in rows]
    samples = len(x.samples)
    check_samples(metric, k, samples, len(pairs[0][1]))
    check_dims(metric, [a for a, _ in pairs], [b for _, b in pairs])
    null = curve_null(pairs, metric, k, permutations, seed)
    scores, draws = curve_draws(pairs, metric, k, seed)
    low, high = interval(scores, draws)
    paired = hashlib.sha256(json.dumps([x.samples, seed]).encode()).hexdigest()[:12]
    layers = [at for _, at, _, _ in rows]
    curve = pd.DataFrame(
        {
            "subject": x.subject,
            "task": x.task,
            "pass": x.pass_,
            "timestep": [np.nan if timestep is None else timestep for timestep, _, _, _ in rows],
            "pooling": x.pooling,
            "layer": [x.layers[at] for at in layers],
            "depth": [x.depths[at] for at in layers],
            "metric": metric,
            "k": pd.array([used_k(metric, k)] * len(rows), dtype="Int64"),
            "samples": samples,
            "score": scores,
            "low": low,
            "high": high,
            "chance": np.nan if (known := chance(metric, k, samples)) is None else known,
            "null_mean": null.mean,
            "null95": null.top95,
            "p": null.p,
            "pairing": paired,
            "draws": draws.T.tolist(),
        }
    )
    curve.attrs = {"peak95": null.peak95, "peak_p": null.peak_p}
    return curve


def _rows(x: LayerFeatures, y: LayerFeatures | Tensor | Array) -> list[tuple[float | None, int, Tensor, Tensor]]:
    """(timestep, place of the layer in x, x's samples, y's samples) for every row of the curve."""
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
        return [
            (t, at, layer, reference) for t, stack in zip(times, values, strict=True) for at, layer in enumerate(stack)
        ]
    for name in ("subject", "task"):
        if getattr(x, name) != getattr(y, name):
            raise ValueError(
                f"a curve compares one subject's own layers, but x's {name} is {getattr(x, name)!r} and y's "
                f"{getattr(y, name)!r}: compare two subjects with similarity_map"
            )
    check_same_stimuli(x, y)
    others = _finite(y)
    if y.timesteps and x.timesteps != y.timesteps:
        raise ValueError(f"x was swept over timesteps {x.timesteps}, y over {y.timesteps}: extract both in one sweep")
    if len(others) != len(values):
        others = others * len(values)
    place = {name: at for at, name in enumerate(y.layers)}
    matched = [(at, place[name]) for at, name in enumerate(x.layers) if name in place]
    if not matched:
        raise ValueError(f"x and y have no layer in common: {', '.join(x.layers)} and {', '.join(y.layers)}")
    return [(t, i, a[i], b[j]) for t, a, b in zip(times, values, others, strict=True) for i, j in matched]


def _finite(features: LayerFeatures) -> list[Layers]:
    """The layers (sample, dim) of each timestep, checked."""
    layers = open_layers(features)
    stacks = [list(each) for each in zip(*layers, strict=True)] if features.swept else [layers]
    for stack in stacks:
        check_finite(
            stack,
            [f"layer {name!r} of {features.modality} features of {features.subject!r}" for name in features.layers],
        )
    return stacks
