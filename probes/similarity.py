"""Similarity between two sets of features over the same samples: one pair of layers, or a whole layer map."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch

from .features import LayerFeatures
from .metrics import METRICS, Array

Stack = LayerFeatures | torch.Tensor | Array


def similarity(x: torch.Tensor | Array, y: torch.Tensor | Array, metric: str = "cka", k: int = 10) -> float:
    """The similarity of two (sample, dim) arrays or tensors over the same samples; the dims may differ.

    `cka`: debiased linear CKA, HSIC_1(x, y) / sqrt(HSIC_1(x, x) HSIC_1(y, y)) (Song et al. 2012, eq. 5; Nguyen et al.
    2021, eq. 3), in float64 after centring. At most 1, about 0 for independent features, possibly slightly negative.
    `mutual_knn`: the mean share of common members among each sample's k nearest neighbours in x and in y (Huh et al.
    2024), by cosine, uncentred, the sample itself excluded; ties go to the lower index; a row of zeros has cosine 0
    with every row. 0 to 1, k / (samples - 1) by chance.

    NaN where a layer says nothing: `cka` with all samples the same (or all equally far apart), `mutual_knn` with all
    samples in the same direction.

    Raises:
        ValueError: an unknown metric, a wrong shape, different numbers of samples, too few samples (cka needs 4,
            mutual_knn more than k), or a value that is not finite.
        TypeError: something that is not an array of numbers.
    """
    pair = [numbers(side, name) for side, name in ((x, "x"), (y, "y"))]
    for array, name in zip(pair, "xy", strict=True):
        if array.ndim != 2:
            raise ValueError(
                f"{name} must be (sample, dim), got shape {array.shape}; for stacks there is similarity_map"
            )
        check_finite(array[None], [name])
    check_samples(metric, k, len(pair[0]), len(pair[1]))
    return float(METRICS[metric].scores(pair[:1], pair[1:], k)[0, 0])


def similarity_map(x: Stack, y: Stack, metric: str = "cka", k: int = 10) -> pd.DataFrame:
    """The similarity of every layer of x with every layer of y, over the same samples; metrics as in `similarity`.

    x and y are LayerFeatures (layer, sample, dim), understanding first, or plain (layer, sample, dim) tensors or
    arrays, whose layers are then named 0 to L - 1 and taken for blocks. The index ("understanding layer") holds x's
    layers, the columns ("generation layer") y's. `attrs`, plain JSON: metric, k (None where it plays no part), samples,
    chance, x_depths, y_depths, and in x and y subject, modality, task, pass and timestep of LayerFeatures.

    Raises:
        ValueError, TypeError: as `similarity`; a value that is not finite is named with its layer. Also: a timestep
            sweep (select one with `.at(t)`), or features of different stimuli.
    """
    (xs, x_names, x_depths, x_told), (ys, y_names, y_depths, y_told) = (open_stack(x, "x"), open_stack(y, "y"))
    check_samples(metric, k, xs.shape[1], ys.shape[1])
    check_same_stimuli(x, y)
    heat = pd.DataFrame(
        METRICS[metric].scores(list(xs), list(ys), k),
        index=pd.Index(x_names, name="understanding layer"),
        columns=pd.Index(y_names, name="generation layer"),
    )
    samples = xs.shape[1]
    heat.attrs = {"metric": metric, "k": used_k(metric, k), "samples": samples, "chance": chance(metric, k, samples)}
    heat.attrs |= {"x_depths": x_depths, "y_depths": y_depths, "x": x_told, "y": y_told}
    return heat


def chance(metric: str, k: int, samples: int) -> float:
    """The score expected of unrelated features: k / (samples - 1) for mutual_knn, 0 for the debiased cka."""
    return k / (samples - 1) if METRICS[metric].neighbours else 0.0


def used_k(metric: str, k: int) -> int | None:
    """k, or None where the metric has no neighbours."""
    return k if METRICS[metric].neighbours else None


def numbers(values: torch.Tensor | Array, name: str) -> Array:
    """A tensor or array as a numpy array of real numbers."""
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu()
        values = (values.float() if values.dtype in (torch.float16, torch.bfloat16) else values).numpy()
    values = np.asarray(values)
    if values.dtype.kind not in "fiub":
        raise TypeError(f"{name} must be an array or tensor of real numbers, got {values.dtype}")
    return values


def open_stack(stack: Stack, name: str) -> tuple[Array, list[Any], list[float], dict[str, Any]]:
    """Values (layer, sample, dim), layer names, depths and a plain description of a stack, checked to be finite."""
    if isinstance(stack, LayerFeatures):
        what = f"{stack.modality} features of {stack.subject!r}"
        if stack.values.ndim == 4:
            swept = ", ".join(f"{t:g}" for t in stack.timesteps)
            raise ValueError(f"the {what} hold a sweep over timesteps {swept}: select one with .at(t)")
        values, names, depths = stack.values.detach().cpu().numpy(), list(stack.layers), list(stack.depths)
        told: dict[str, Any] = {
            "subject": stack.subject,
            "modality": stack.modality,
            "task": stack.task,
            "pass": stack.pass_,
        }
        told["timestep"] = stack.timesteps[0] if stack.timesteps else None
        name = what
    else:
        values = numbers(stack, name)
        if values.ndim != 3:
            raise ValueError(f"{name} must be (layer, sample, dim), got shape {values.shape}")
        names = list(range(len(values)))
        depths, told = [(index + 1) / len(values) for index in names], {}
    check_finite(values, [f"layer {layer!r} of {name}" for layer in names])
    return values, names, depths, told


def check_finite(values: Array, names: Sequence[str]) -> None:
    """ValueError naming the first of the layers (layer, sample, dim) that holds nothing, NaN or infinity."""
    if not values.size:
        raise ValueError(f"{', '.join(names) or 'the stack'}: nothing to measure, shape {values.shape}")
    for layer, name in zip(values, names, strict=True):
        bad = ~np.isfinite(layer)
        if bad.any():
            sample = int(np.argwhere(bad)[0][0])
            raise ValueError(
                f"{name} holds NaN or infinity ({int(bad.sum())} values, the first in sample {sample}): leave that "
                "sample out, or extract in float32"
            )


def check_samples(metric: str, k: int, x_samples: int, y_samples: int) -> None:
    """ValueError where the metric is unknown, or these numbers of samples cannot be measured with it."""
    if metric not in METRICS:
        raise ValueError(f"unknown metric {metric!r}: expected one of {', '.join(METRICS)}")
    if x_samples != y_samples:
        raise ValueError(f"x has {x_samples} samples, y has {y_samples}: both must be extracted from the same stimuli")
    if x_samples < METRICS[metric].least:
        raise ValueError(f"{metric} needs at least {METRICS[metric].least} samples, got {x_samples}: use more stimuli")
    if METRICS[metric].neighbours and not (isinstance(k, int | np.integer) and 1 <= k < x_samples):
        raise ValueError(
            f"k must be an integer from 1 to samples - 1 = {x_samples - 1}, got {k}: use a smaller k or more stimuli"
        )


def check_same_stimuli(x: object, y: object) -> None:
    """ValueError where two LayerFeatures list different sample ids; different numbers are told by `check_samples`."""
    if not (isinstance(x, LayerFeatures) and isinstance(y, LayerFeatures)):
        return
    for at, (ours, theirs) in enumerate(zip(x.samples, y.samples, strict=False)):
        if ours != theirs:
            raise ValueError(
                f"the features are of different stimuli: sample {at} is {ours!r} in {x.subject!r} but {theirs!r} in "
                f"{y.subject!r}; extract both from the same stimuli, in the same order"
            )
