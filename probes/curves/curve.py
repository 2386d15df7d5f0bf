"""Alignment curves, a similarity along depth, and what their shapes say: rising, peaking, parting."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import rankdata
from torch import Tensor

from ..features.features import LayerFeatures
from ..metrics import Array
from ..similarity.inputs import (
    Layers,
    alike,
    check_dims,
    check_finite,
    check_same_stimuli,
    check_samples,
    numbers,
    open_layers,
)
from ..similarity.nulls import curve_draws, curve_null, interval
from ..similarity.scoring import chance, used_k


class Interval(NamedTuple):
    """An estimate with its 95 % interval."""

    value: float
    low: float
    high: float


class Shape(NamedTuple):
    """The answer of a shape test: whether it holds, and the intervals it rests on, by name."""

    holds: bool
    intervals: dict[str, Interval]


@dataclass(frozen=True)
class Divergence:
    """Where an understanding and a generation curve part.

    Attributes:
        kind: "split" (one trunk, two tasks) or "peak" (two experts).
        depth: the divergence depth, relative; None where the curves do not part.
        low, high: its 95 % interval; None where depth is None.
        reason: what was found, in words.
    """

    kind: str
    depth: float | None
    low: float | None
    high: float | None
    reason: str


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


def rises(curve: pd.DataFrame) -> Shape:
    """Whether the curve rises: Spearman(depth, score) with an interval above 0. One subject, task and timestep.

    Raises:
        ValueError: several curves in one frame, a score that is NaN, or no draws.
    """
    depths, scores, draws = _open(curve)
    if len(scores) < 3:
        return Shape(False, {"spearman": Interval(np.nan, np.nan, np.nan)})
    found = _spread(lambda line: _spearman(depths, line), scores, draws, bound=1)
    return Shape(found.low > 0, {"spearman": found})


def rises_then_falls(curve: pd.DataFrame) -> Shape:
    """Whether the curve rises, then falls: peak minus first and peak minus last both with intervals above 0.

    Raises:
        ValueError: as `rises`.
    """
    _, scores, draws = _open(curve)
    peak = int(np.argmax(scores))
    rise = _spread(lambda line: line[..., peak] - line[..., 0], scores, draws)
    fall = _spread(lambda line: line[..., peak] - line[..., -1], scores, draws)
    return Shape(rise.low > 0 and fall.low > 0, {"peak minus first": rise, "peak minus last": fall})


def divergence(
    understanding_curve: pd.DataFrame, generation_curve: pd.DataFrame, kind: str | None = None
) -> Divergence:
    """The depth at which two curves part, with its 95 % interval (UniFork, arXiv 2506.17202, made testable).

    "split", for one trunk on two tasks (the default where both curves are of one subject; say so for two fine-tunings
    of one trunk): the first depth from which on the paired interval of the difference excludes 0, on one side, to the
    end. Its interval is that of the same depth over the draws; a draw that never parts counts as the last depth.
    "peak", for two experts (the default otherwise), which may start apart: the depth of the generation curve's peak,
    if the understanding curve still rises from there on, by the test of `rises`. Its interval is that of the draws'
    peaks.

    Raises:
        ValueError: as `rises`; an unknown kind; curves of a split without paired draws or a common layer.
    """
    if kind is None:
        one_subject = set(understanding_curve["subject"]) == set(generation_curve["subject"])
        kind = "split" if one_subject else "peak"
    if kind == "split":
        return _split(understanding_curve, generation_curve)
    if kind == "peak":
        return _peak(understanding_curve, generation_curve)
    raise ValueError(f"unknown kind {kind!r}: expected split (one trunk, two tasks) or peak (two experts)")


def _split(understanding_curve: pd.DataFrame, generation_curve: pd.DataFrame) -> Divergence:
    for name in ("metric", "k", "samples", "pairing"):
        ours, theirs = (
            curve[name].iloc[0] if len(curve) else None for curve in (understanding_curve, generation_curve)
        )
        if str(ours) != str(theirs):
            raise ValueError(
                f"the curves differ in {name} ({ours} and {theirs}), so their draws are not paired: measure both on "
                "the same stimuli with the same metric, k and seed"
            )
    common = [layer for layer in understanding_curve["layer"] if layer in set(generation_curve["layer"])]
    if not common:
        raise ValueError("the two curves have no layer in common")
    sides = [curve[curve["layer"].isin(common)] for curve in (understanding_curve, generation_curve)]
    (depths, ours, our_draws), (_, theirs, their_draws) = (_open(side) for side in sides)
    gap, gap_draws = ours - theirs, our_draws - their_draws
    reach = interval(gap, gap_draws)[1] - gap

    def parting(line: Array) -> int | None:
        apart = (np.abs(line) > reach) & (np.sign(line) == np.sign(line[-1]))
        together = np.flatnonzero(~apart)
        first = int(together[-1]) + 1 if len(together) else 0
        return first if first < len(line) else None

    at = parting(gap)
    if at is None:
        return Divergence("split", None, None, None, "the curves are not apart at the last layer")
    parted = [parting(line) for line in gap_draws]
    low, high = np.quantile([depths[-1] if i is None else depths[i] for i in parted], (0.025, 0.975))
    above = "understanding" if gap[-1] > 0 else "generation"
    reason = f"from layer {sides[0]['layer'].iloc[at]} on {above} aligns more"
    return Divergence(
        "split", float(depths[at]), min(float(low), float(depths[at])), max(float(high), float(depths[at])), reason
    )


def _peak(understanding_curve: pd.DataFrame, generation_curve: pd.DataFrame) -> Divergence:
    depths, scores, draws = _open(generation_curve)
    at = int(np.argmax(scores))
    depth = float(depths[at])
    _open(understanding_curve)
    after = rises(understanding_curve[understanding_curve["depth"] >= depth - 1e-9])
    found = after.intervals["spearman"]
    told = f"generation peaks at depth {depth:.2f}, from where on understanding's Spearman is {found.value:.2f}"
    told += f" [{found.low:.2f}, {found.high:.2f}]"
    if not after.holds:
        return Divergence("peak", None, None, None, told + ": it does not rise")
    low, high = np.quantile(depths[np.argmax(draws, 1)], (0.025, 0.975))
    return Divergence("peak", depth, min(float(low), depth), max(float(high), depth), told)


def _rows(x: LayerFeatures, y: LayerFeatures | Tensor | Array) -> list[tuple[float | None, int, Tensor, Tensor]]:
    """(timestep, place of the layer in x, x's samples, y's samples) for every row of the curve."""
    values = _finite(x)
    times: list[float | None] = list(x.timesteps) or [None]
    if not isinstance(y, LayerFeatures):
        reference = numbers(y, "y")
        if reference.ndim != 2:
            raise ValueError(
                f"y must be LayerFeatures or a (sample, dim) reference, got shape {tuple(reference.shape)}"
            )
        check_finite([reference], ["the reference y"])
        _, (reference,) = alike(values[0], [reference])
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


def _open(curve: pd.DataFrame) -> tuple[Array, Array, Array]:
    """Depths, scores and draws (draw, layer) of one curve in depth order."""
    missing = [name for name in ("layer", "depth", "score", "draws") if name not in curve]
    if missing or curve.empty:
        raise ValueError(f"not an alignment curve ({', '.join(missing) or 'no rows'}): make one with alignment_curve")
    if curve["depth"].duplicated().any():
        raise ValueError(
            "more than one curve in the frame: pick one subject, task and timestep, curve[curve.timestep == .5]"
        )
    if curve["score"].isna().any():
        layer = curve["layer"][curve["score"].isna()].iloc[0]
        raise ValueError(f"layer {layer!r} has no score, its features are constant: leave its row out")
    curve = curve.sort_values("depth")
    draws: list[Any] = [json.loads(d.replace("nan", "NaN")) if isinstance(d, str) else d for d in curve["draws"]]
    return curve["depth"].to_numpy(float), curve["score"].to_numpy(float), np.array(draws, float).T


def _spread(statistic: Callable[[Array], Array], scores: Array, draws: Array, bound: float = np.inf) -> Interval:
    """The interval of a statistic that takes (..., layer) to (...)."""
    value = statistic(scores)
    low, high = interval(value, statistic(draws))
    return Interval(float(value), max(float(low), -bound), min(float(high), bound))


def _spearman(depths: Array, scores: Array) -> Array:
    """Spearman's correlation of (..., layer) scores with depth; 0 where all scores are the same."""
    first, second = (rank - rank.mean(-1, keepdims=True) for rank in (rankdata(depths), rankdata(scores, axis=-1)))
    norms = np.sqrt((first**2).sum() * (second**2).sum(-1))
    return np.divide(second @ first, norms, out=np.zeros_like(norms), where=norms != 0)
