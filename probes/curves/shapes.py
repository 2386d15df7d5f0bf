"""Test the published shapes of alignment curves: rising, and rising then falling."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from ..metrics.metric import Array
from ..similarity.intervals import interval
from .table_checks import check_table


class Interval(NamedTuple):
    """Hold an estimate with its 95 % interval.

    Attributes
    ----------
    value, low, high : float
        The estimate and its bounds.
    """

    value: float
    low: float
    high: float


class ShapeTest(NamedTuple):
    """Hold the answer of a shape test.

    Attributes
    ----------
    holds : bool
        Whether the curve has the shape.
    intervals : dict
        The intervals that decide it, by name.
    """

    holds: bool
    intervals: dict[str, Interval]


def rises(curve: pd.DataFrame) -> ShapeTest:
    """Test whether a curve rises: whether the interval of Spearman(depth, score) is above 0.

    Parameters
    ----------
    curve : DataFrame
        A curve of `alignment_curve`: one subject, task and timestep.

    Returns
    -------
    ShapeTest
        With the interval "spearman". A curve of fewer than three layers does not rise.

    Raises
    ------
    ValueError
        Several curves in one frame, a score that is NaN, or no draws.

    See Also
    --------
    rises_then_falls : Tests whether the peak lies inside; a curve that rises on the whole may also fall in the end.
    divergence : Compares two curves, where this tests one.

    Examples
    --------
    >>> rises(curve[curve["timestep"] == 0.5]).holds
    True
    """
    depths, scores, draws = read_curve(curve)
    if len(scores) < 3:
        return ShapeTest(False, {"spearman": Interval(np.nan, np.nan, np.nan)})
    rank = _spread(lambda line: _spearman(depths, line), scores, draws, bound=1)
    return ShapeTest(rank.low > 0, {"spearman": rank})


def rises_then_falls(curve: pd.DataFrame) -> ShapeTest:
    """Test whether a curve rises, then falls: whether its peak is above its first and above its last layer.

    Parameters
    ----------
    curve : DataFrame
        A curve of `alignment_curve`: one subject, task and timestep.

    Returns
    -------
    ShapeTest
        With the intervals "peak minus first" and "peak minus last", which must both be above 0.

    Raises
    ------
    ValueError
        As `rises`.

    See Also
    --------
    rises : Tests the trend over all layers, whatever the ends do.
    divergence : Compares two curves, where this tests one.

    Notes
    -----
    UniFork (arXiv 2506.17202) finds this shape in generation, and a rising one in understanding. This is a test of it.

    Examples
    --------
    >>> rises_then_falls(curve[curve["timestep"] == 0.5]).holds
    False
    """
    _, scores, draws = read_curve(curve)
    peak = int(np.argmax(scores))
    rise = _spread(lambda line: line[..., peak] - line[..., 0], scores, draws)
    fall = _spread(lambda line: line[..., peak] - line[..., -1], scores, draws)
    return ShapeTest(rise.low > 0 and fall.low > 0, {"peak minus first": rise, "peak minus last": fall})


def read_curve(curve: pd.DataFrame, name: str = "curve") -> tuple[Array, Array, Array]:
    """Read depths, scores and draws of one curve in depth order.

    Parameters
    ----------
    curve : DataFrame
        A curve of `alignment_curve`, also read again from CSV or Parquet.
    name : str
        What messages call it.

    Returns
    -------
    depths, scores : Array
        (layer,).
    draws : Array
        (draw, layer).

    Raises
    ------
    ValueError
        Missing columns, no rows, several curves in one frame, a score that is NaN, or draws that are no numbers.
    TypeError
        It is no DataFrame.
    """
    if isinstance(curve, pd.DataFrame) and "draws" not in curve and {"layer", "depth", "score"} <= {*curve}:
        raise ValueError(
            f"{name} has no draws, which its CSV file leaves out: read the Parquet file of `bridgework align --out`, "
            "or measure it again with alignment_curve"
        )
    check_table(name, curve, ("layer", "depth", "score", "draws"), "alignment_curve", ("depth", "score"))
    if curve["depth"].duplicated().any():
        raise ValueError(
            "more than one curve in the frame: pick one subject, task and timestep, curve[curve.timestep == .5]"
        )
    if curve["score"].isna().any():
        layer = curve["layer"][curve["score"].isna()].iloc[0]
        raise ValueError(f"layer {layer!r} has no score, its features are constant: leave its row out")
    if curve["depth"].isna().any():
        raise ValueError(f"{name} has a layer without a depth: expected a table of alignment_curve")
    curve = curve.sort_values("depth")
    return curve["depth"].to_numpy(float), curve["score"].to_numpy(float), _draws(curve["draws"], name)


def _draws(column: pd.Series, name: str) -> Array:
    """Return the draws (draw, layer) of the layers of a curve."""
    try:
        draws: list[Any] = [json.loads(d.replace("nan", "NaN")) if isinstance(d, str) else d for d in column]
        found = np.array(draws, float).T
    except (ValueError, TypeError):
        found = np.empty(0)
    if found.ndim != 2 or not len(found) or np.isinf(found).any():
        raise ValueError(
            f"{name} holds no lists of numbers, as many for each layer, in the column 'draws': measure it again"
        )
    return found


def _spread(statistic: Callable[[Array], Array], scores: Array, draws: Array, bound: float = np.inf) -> Interval:
    """Return the interval of a statistic that maps (..., layer) to (...)."""
    value = statistic(scores)
    low, high = interval(value, statistic(draws))
    return Interval(float(value), max(float(low), -bound), min(float(high), bound))


def _spearman(depths: Array, scores: Array) -> Array:
    """Return Spearman's correlation of (..., layer) scores with depth; 0 where all scores are the same."""
    first, second = (rank - rank.mean(-1, keepdims=True) for rank in (rankdata(depths), rankdata(scores, axis=-1)))
    norms = np.sqrt((first**2).sum() * (second**2).sum(-1))
    return np.divide(second @ first, norms, out=np.zeros_like(norms), where=norms != 0)
