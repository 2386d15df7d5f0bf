"""Layer maps: the similarity of every understanding layer with every generation layer, and the plan drawn on it."""

from __future__ import annotations

from textwrap import fill
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .style import heading, measured, styled

if TYPE_CHECKING:
    from ..probes.plans.bridge_plan import BridgePlan

RING = "#ffb000"


@styled
def layer_map(heat: pd.DataFrame, plan: BridgePlan | None = None) -> Figure:
    """Heat map of a layer map: generation layers along x, understanding layers along y, **deeper is right and up**.

    ``heat`` comes from ``probes.similarity_map``: labels are layer names ("embeddings", "0", "1", ...), ``heat.attrs``
    says metric, k, samples, chance, and in x and y whose layers these are, which the axis labels repeat. ``plan``'s
    bridges are ringed cells joined by a line in depth order; its pairs count blocks from 0, without the embeddings.

    Raises TypeError for no DataFrame, ValueError for an unlabelled map or a plan with a layer that the map lacks.
    """
    if not isinstance(heat, pd.DataFrame):
        raise TypeError(f"layer_map: expected the DataFrame of similarity_map, got {type(heat).__name__}")
    if heat.empty:
        raise ValueError("layer_map: the map has no cells: pass a table from similarity_map")
    missing = [key for key in ("metric", "samples") if heat.attrs.get(key) is None]
    if missing:
        raise ValueError(f"layer_map: heat.attrs lacks {', '.join(missing)}: set it as similarity_map does")
    cells = _cells(heat, plan) if plan is not None else []

    rows, columns = heat.shape
    width, height = _size(columns), _size(rows)
    figure, ax = plt.subplots(figsize=(max(width, 3.4) + 1.6, max(height, 2.6) + 1.2))
    values = heat.to_numpy(float)
    label = f"similarity ({heat.attrs['metric']})"
    sns.heatmap(values, ax=ax, cmap="mako", cbar_kws={"label": label, "pad": 0.02}, linewidths=0, rasterized=True)
    ax.grid(False)
    ax.invert_yaxis()
    _ticks(ax, heat)
    if cells:
        outline = [patheffects.withStroke(linewidth=2.4, foreground="black")]
        y, x = [row + 0.5 for row, _ in cells], [column + 0.5 for _, column in cells]
        ax.plot(x, y, color=RING, lw=1, zorder=3, path_effects=outline)
        side = 72 * min(width / columns, height / rows)
        line = min(2.0, 0.12 * side)
        ring = {"marker": "o", "s": (0.8 * side) ** 2, "clip_on": False, "zorder": 4}
        ax.scatter(x, y, facecolors="none", edgecolors="black", linewidths=2 * line, **ring)
        ax.scatter(x, y, facecolors="none", edgecolors=RING, linewidths=line, label="bridges", **ring)
    of = measured(heat.attrs["metric"], heat.attrs.get("k"), heat.attrs["samples"], heat.attrs.get("chance"))
    bridges = "bridge" if len(cells) == 1 else "bridges"
    heading(ax, f"{len(cells)} {bridges} by rule “{plan.rule}”" if plan is not None else "layer map", of)
    return figure


def _size(count: int) -> float:
    """Inches for so many layers: .3 each, less where there are many."""
    return min(max(0.3 * count, 2.0), 6.0)


def _cells(heat: pd.DataFrame, plan: BridgePlan) -> list[tuple[int, int]]:
    """(row, column) of each bridge, found by the block's name: the embeddings, where present, shift both."""
    rows = {str(name): place for place, name in enumerate(heat.index)}
    columns = {str(name): place for place, name in enumerate(heat.columns)}
    cells = []
    for understanding, generation in sorted(plan.pairs):
        for tower, block, places in (("understanding", understanding, rows), ("generation", generation, columns)):
            if str(block) not in places:
                raise ValueError(
                    f"layer_map: the plan bridges {tower} layer {block}, the map has {', '.join(places)}: "
                    "pass the map that the plan was chosen from"
                )
        cells.append((rows[str(understanding)], columns[str(generation)]))
    return cells


def _ticks(ax: Axes, heat: pd.DataFrame) -> None:
    sides = (ax.xaxis, heat.columns, "generation", "y"), (ax.yaxis, heat.index, "understanding", "x")
    for axis, labels, word, stack in sides:
        names = ["emb." if str(label) == "embeddings" else str(label) for label in labels]
        step = -(-len(names) // 20)
        first = 1 if names[0] == "emb." else 0
        places = list(range(first, len(names), step))
        if first:
            # "emb." is wide: where not every block has a tick, block 0 gives way to it.
            places = [0, *places[step > 1 :]]
        axis.set_ticks([place + 0.5 for place in places], [names[place] for place in places], rotation=0)
        axis.set_label_text(f"{labels.name or f'{word} layer'} (block; deeper →){_told(heat.attrs.get(stack))}")
    ax.tick_params(length=0)


def _told(stack: dict | None) -> str:
    """A second line for an axis label: subject, modality and timestep, as far as the map tells them."""
    stack = stack or {}
    parts = [str(stack[key]) for key in ("subject", "modality") if stack.get(key)]
    if stack.get("timestep") is not None:
        parts.append(f"t = {stack['timestep']:g}")
    return "\n" + fill(", ".join(parts), 40) if parts else ""
