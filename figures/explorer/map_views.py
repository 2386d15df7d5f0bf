"""Measure one layer map with its null and its noise, as the explorer shows it."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from ...probes.metrics import METRICS
from ...probes.metrics.metric import Array
from ...probes.plans.rules import RULES
from ...probes.similarity.nulls import map_null
from ...probes.similarity.scoring import similarity_map
from ...probes.similarity.subsampled_maps import subsampled_maps
from .explored_layers import LIVE, ExploredLayers


class MapView(NamedTuple):
    """Hold a layer map and what is known of its noise.

    Attributes
    ----------
    heat : DataFrame
        The layer map, scaled by its null where the metric is high by chance or a distance.
    timestep : int or None
        The number of the timestep; None for a map that was handed over.
    k : int or None
        The number of neighbours; None where it plays no part.
    rule : str
        The rule that reads the map.
    p, adjusted, null95 : Array or None
        As `p`, `adjusted_p` and `top95` of `Null`; None where there is no null.
    halves : Array or None
        The map of both halves of each split (split, 2, row, column); None where it was not measured.
    """

    heat: pd.DataFrame
    timestep: int | None
    k: int | None
    rule: str
    p: Array | None = None
    adjusted: Array | None = None
    null95: Array | None = None
    halves: Array | None = None

    @property
    def metric(self) -> str:
        """What the map is of."""
        return self.heat.attrs["metric"]


def measure_view(explored: ExploredLayers, metric: str, timestep: int, k: int, halves: bool = True) -> MapView:
    """Measure the layer map of a metric, its null, and if it is wanted its halves; of mutual_knn the map alone.

    Parameters
    ----------
    explored : ExploredLayers
        Both sides.
    metric : str
        A name of `METRICS`.
    timestep : int
        The number of the timestep.
    k : int
        The number of neighbours.
    halves : bool
        Whether the map of each half of the samples is measured too, which takes far longer than the map.

    Returns
    -------
    MapView
        The view.
    """
    x, y, formula = explored.understanding, explored.generation[timestep], METRICS[metric]
    block, permutations = explored.block, len(explored.orders)
    heat = similarity_map(x, y, metric, k)
    if metric == LIVE:
        return MapView(heat, timestep, k, "alignment")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the map has said what there is to warn of
        null = map_null(x, y, metric, k, permutations, block=block)
        if scaled := formula.high_by_chance or formula.is_distance:
            attrs = heat.attrs | {"scaled": True, "permutations": permutations, "block": block, "chance": 0.0}
            heat = pd.DataFrame(null.scaled, heat.index, heat.columns)
            heat.attrs = attrs
        maps = None
        if halves:
            near = explored.near(metric, k)
            maps = subsampled_maps(x, y, metric, k, explored.chosen, near)
            if scaled:
                one, other = (
                    [layer[explored.chosen[0]] for layer in side] for side in (explored.xs, explored.ys[timestep])
                )
                maps = map_null(one, other, metric, near, permutations, block=block).left_above(maps)
            maps = maps.reshape(-1, 2, *heat.shape)
    used = k if formula.neighbours else None
    return MapView(heat, timestep, used, "alignment", null.p, null.adjusted_p, null.top95, maps)


def view_of_map(explored: ExploredLayers, heat: pd.DataFrame) -> MapView:
    """Check a layer map that was measured elsewhere, such as a complementarity map, and make it a view.

    Parameters
    ----------
    explored : ExploredLayers
        Both sides.
    heat : DataFrame
        The map.

    Returns
    -------
    MapView
        The view, without null and halves.

    Raises
    ------
    TypeError
        If it is no DataFrame.
    ValueError
        If no rule reads it, or if it is of other layers.
    """
    if not isinstance(heat, pd.DataFrame):
        raise TypeError(f"explorer: maps must be layer maps, such as complementarity_map's, got {type(heat).__name__}")
    metric = heat.attrs.get("metric")
    if metric in METRICS or metric not in RULES:
        maps = [name for name, rule in RULES.items() if "map" in rule.needs and name != "alignment"]
        raise ValueError(
            f"explorer: a map of {metric!r} cannot be handed over: similarities are measured here (metrics=), and "
            f"other maps are those of {', '.join(maps)}"
        )
    for word, labels, there in (
        ("understanding", heat.index, explored.rows),
        ("generation", heat.columns, explored.columns),
    ):
        if list(map(str, labels)) != list(map(str, there)):
            raise ValueError(
                f"explorer: the {metric} map has the {word} layers {', '.join(map(str, labels))}, the features "
                f"{', '.join(map(str, there))}: pass a map of the same layers"
            )
    return MapView(heat, None, None, metric)


def common_neighbours(explored: ExploredLayers, timestep: int, row: int, column: int, k: int) -> Array:
    """Return the share of each sample's k nearest that two layers have in common.

    Parameters
    ----------
    explored : ExploredLayers
        Both sides.
    timestep : int
        The number of the timestep.
    row, column : int
        The places of the two layers.
    k : int
        The number of neighbours.

    Returns
    -------
    Array
        (sample,); NaN where a layer has no neighbours.
    """
    prepare = METRICS["mutual_knn"].prepare
    one, other = prepare(explored.xs[row], k), prepare(explored.ys[timestep][column], k)
    if one is None or other is None:
        return np.full(explored.samples, np.nan)
    return np.array([len(np.intersect1d(a, b)) for a, b in zip(one.near, other.near)]) / k


def place_of(names: Sequence[Any], wanted: str | int, word: str) -> int:
    """Return the place of a layer, by its name.

    Parameters
    ----------
    names : sequence
        The names of the layers.
    wanted : str or int
        The name of one.
    word : str
        Whose layers they are, for the message.

    Returns
    -------
    int
        Its place.

    Raises
    ------
    ValueError
        No layer has this name.
    """
    known = [str(name) for name in names]
    if str(wanted) not in known:
        raise ValueError(f"no {word} layer {wanted!r}: there are {', '.join(known)}")
    return known.index(str(wanted))
