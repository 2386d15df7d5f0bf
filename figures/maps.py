"""Draw layer maps: the similarity of every understanding with every generation layer, and a plan's bridges on it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import ceil
from textwrap import fill

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from ..probes.arguments import checked
from ..probes.curves.table_checks import check_layer_map
from ..probes.plans.bridge_plan import BridgePlan
from .publishing.drawn import remember
from .publishing.map_descriptions import map_drawn
from .publishing.page import current_page, page_height, page_width, panels_across, points, wrapped
from .style import NOISE, heading, measured, one_panel, panels, styled, width_of

RING = "#ffb000"
WIDE, HIGH = 0.15, 0.11  # inches on paper: what the number of a block takes
VALUES = {  # of maps that are no similarity
    "complementarity": "R² added (complementarity)",
    "descent": "fall of the loss (descent)",
    "soft": "learned weight (soft)",
}


@styled
def layer_map(
    heat: pd.DataFrame | Mapping[float, pd.DataFrame], plan: BridgePlan | None = None, *, ax: Axes | None = None
) -> Figure:
    """Draw a layer map: generation layers along x, understanding layers along y, **deeper is right and up**.

    The bridges of a plan are ringed cells, joined by a line in depth order. Colours span the values of the blocks. The
    embeddings, which no plan can bridge, stand apart behind a white line; they may lie outside the colours, and the
    colour bar then ends in a point. Where the plan says which cells are within noise of the best block pair
    (`choose_bridges` with draws), these are outlined. Where the map holds its null (`similarity_map` with
    permutations), cells within it are dotted, and p of the map's best is written.

    Parameters
    ----------
    heat : DataFrame, or mapping of float to DataFrame
        The table of `similarity_map`, or those of a timestep sweep, which are drawn beside each other in the same
        colours. Labels are layer names ("embeddings", "0", "1", ...). `heat.attrs` holds metric,
        k, samples and chance, and in x and y whose layers these are, which the axis labels repeat.
    plan : BridgePlan, optional
        The plan. Its pairs count blocks from 0, without the embeddings. Of several maps it is drawn on that of its
        timestep, or on all if it does not say which.
    ax : Axes, optional
        Where to draw one map; the colour bar takes its room from it.

    Returns
    -------
    Figure
        The map with its colour bar. With `ax`, the figure that it stands in.

    Raises
    ------
    TypeError
        If `heat` is no DataFrame, or `ax` no Axes.
    ValueError
        If the map has no cells or lacks its attrs, if the plan has a layer that the map lacks, or if several maps are
        of unlike layers, metrics or samples, or have `ax`.

    See Also
    --------
    plan_outcomes : Draws the map beside what the bridges of several plans brought.

    Examples
    --------
    >>> figure = figures.layer_map(heat, choose_bridges(heat, "alignment", bridges=4))
    """
    checked("plan", plan, BridgePlan | None, remedy="make one with choose_bridges, or read it with BridgePlan.load")
    if isinstance(heat, Mapping):
        if ax is not None:
            raise ValueError("layer_map: ax= is one panel: draw one map of the sweep")
        return _of_sweep(heat, plan)
    check_map(heat, "layer_map")
    width, height = _size(heat.shape[1]), _size(heat.shape[0])
    size = max(width, 3.4) + 1.6, max(height, 2.6) + 1.2
    if current_page():
        # Cells as square as they can be: what the colour bar and the labels of the axes take is known.
        width = page_width(0) - 1.1
        height = min(max(width * heat.shape[0] / heat.shape[1], 1.3), 1.1 * width, 4.0)
        size = page_width(0), height + 0.75
    figure, given = one_panel(ax, size, "layer_map")
    if ax is not None:
        width, height = 0.8 * width_of(ax), ax.get_window_extent().height / figure.dpi
    ax = given
    draw_map(ax, heat, plan, min(width / heat.shape[1], height / heat.shape[0]), "layer_map")
    subtitle = _how(heat)
    if plan is not None and (near := _near_best(heat, plan)):
        _outline(ax, cells_of(heat, near, "layer_map"))
        subtitle += "\noutlined: within noise of the best block pair"
    if _dot(ax, heat):
        subtitle += f"\ndotted: within the null; p of the best cell {heat.attrs['peak_p']:.2g}"
    heading(ax, "layer map" if plan is None else _bridges(plan), subtitle)
    remember(figure, map_drawn("layer_map", heat, plan, _how(heat)))
    return figure


def _how(heat: pd.DataFrame) -> str:
    return measured(*(heat.attrs.get(key) for key in ("metric", "k", "samples", "chance")))


def _bridges(plan: BridgePlan) -> str:
    count = len(plan.pairs)
    return f"{count} {'bridge' if count == 1 else 'bridges'} by rule “{plan.rule}”"


def _of_sweep(heats: Mapping[float, pd.DataFrame], plan: BridgePlan | None) -> Figure:
    """Draw the layer maps of several timesteps beside each other, four in a row, in the same colours."""
    if not heats:
        raise ValueError("layer_map: no maps: pass those of similarity_map of a sweep")
    for heat in heats.values():
        check_map(heat, "layer_map")
    first = next(iter(heats.values()))
    for heat in heats.values():
        alike = [heat.attrs.get(key) == first.attrs.get(key) for key in ("metric", "k", "samples")]
        if not all(alike) or list(heat.index) != list(first.index) or list(heat.columns) != list(first.columns):
            raise ValueError("layer_map: the maps are of unlike layers, metrics, k or N: draw them one by one")
    columns = panels_across(len(heats), 4, 1.3)
    rows = -(-len(heats) // columns)
    width, height = 0.75 * _size(first.shape[1]), 0.75 * _size(first.shape[0])
    size = max(width, 2.2) * columns + 1.8, (max(height, 1.8) + 0.9) * rows + 0.6
    if current_page():
        width = (page_width(0) - 0.9) / columns - 0.2
        height = min(max(width * first.shape[0] / first.shape[1], 1.0), 1.5 * width)
        size = page_width(0), (height + 0.4) * rows + 0.8
    figure, grid = panels(rows, columns, size)
    ranges = [_colour_range(heat) for heat in heats.values()]
    lows, highs = [low for low, _, _ in ranges if low is not None], [high for _, high, _ in ranges if high is not None]
    low, high = (min(lows), max(highs)) if lows else (None, None)
    beyond = {one[2] for one in ranges} - {"neither"}
    planned = (plan.evidence.get("y") or plan.evidence).get("timestep") if plan is not None else None
    for ax, (time, heat) in zip(grid.flat, heats.items(), strict=False):
        own = plan if planned is None or abs(planned - time) < 1e-6 else None
        inches = min(width / heat.shape[1], height / heat.shape[0])
        draw_map(ax, heat, own, inches, "layer_map", span=(low, high))
        best = f"p of the best cell {heat.attrs['peak_p']:.2g}" if _dot(ax, heat) else ""
        heading(ax, f"t = {time:g}", best)
        ax.set(xlabel="", ylabel="")
    for ax in grid.flat[len(heats) :]:
        ax.remove()
    metric = first.attrs["metric"]
    drawn = [ax for ax in grid.flat if ax.collections]
    extend = beyond.pop() if len(beyond) == 1 else "both" if beyond else "neither"
    label = VALUES.get(metric, f"similarity ({metric})")
    figure.colorbar(drawn[0].collections[0], ax=drawn, label=label, pad=0.02, extend=extend)
    title = ["layer maps of a sweep" if plan is None else _bridges(plan)]
    title.append(_how(first))
    title += ["dotted: within the null"] if "p" in first.attrs else []
    figure.suptitle(wrapped("\n".join(title), 0.5 * size[0], points(9)), fontsize=points(9))
    whose = {name: {**(first.attrs.get(name) or {}), "timestep": None} for name in ("x", "y")}
    across, up = (f"{name} layer (block; deeper →)" for name in ("generation", "understanding"))
    figure.supxlabel(wrapped(across + _origin(whose["y"]), size[0] - 0.5, points(9)), fontsize=points(9))
    figure.supylabel(wrapped(up + _origin(whose["x"]), size[1] - 0.5, points(9)), fontsize=points(9))
    remember(figure, map_drawn("layer_map", heats, plan, _how(first)))
    return figure


def _dot(ax: Axes, heat: pd.DataFrame) -> bool:
    """Mark the cells that are within their null by dots, and return whether the map holds a null."""
    p = np.array(heat.attrs.get("p", ()), float)
    if p.shape != heat.shape:
        return False
    rows, columns = np.nonzero(p > NOISE)
    dots = {"marker": ".", "s": 9, "color": "#bbbbbb", "linewidths": 0, "zorder": 2.4}
    ax.scatter(columns + 0.5, rows + 0.5, label="within the null", **dots)
    return True


def check_map(heat: object, name: str) -> None:
    """Raise an error if a table is no layer map.

    Parameters
    ----------
    heat : object
        The table.
    name : str
        The name of the figure, which the errors begin with.

    Raises
    ------
    TypeError
        If it is no DataFrame.
    ValueError
        If it has no cells, or if its attrs do not hold metric and samples (None where samples play no part).
    """
    if not isinstance(heat, pd.DataFrame):
        raise TypeError(f"{name}: expected the DataFrame of similarity_map, got {type(heat).__name__}")
    if heat.empty:
        raise ValueError(f"{name}: the map has no cells: pass a table from similarity_map")
    check_layer_map(f"{name}: heat", heat)
    missing = [key for key in ("metric", "samples") if key not in heat.attrs]
    if missing:
        raise ValueError(f"{name}: heat.attrs lacks {', '.join(missing)}: set it as similarity_map does")


def draw_map(
    ax: Axes,
    heat: pd.DataFrame,
    plan: BridgePlan | None,
    inches: float,
    name: str,
    span: tuple[float | None, float | None] | None = None,
) -> None:
    """Draw a layer map into axes, with its colour bar and the rings of a plan.

    Parameters
    ----------
    ax : Axes
        Where to draw.
    heat : DataFrame
        The layer map.
    plan : BridgePlan or None
        The plan whose bridges are ringed.
    inches : float
        The side of a cell on the page, which the rings follow.
    name : str
        The name of the figure, which errors begin with.
    span : tuple of float or None, optional
        The values that the colours span, where several maps have one colour bar that is drawn elsewhere.

    Raises
    ------
    ValueError
        If the plan has a layer that the map lacks.
    """
    cells = cells_of(heat, plan.pairs, name) if plan is not None else []
    low, high, beyond = _colour_range(heat)
    metric = heat.attrs["metric"]
    bar = {"label": VALUES.get(metric, f"similarity ({metric})"), "pad": 0.02, "extend": beyond}
    values = heat.to_numpy(float)
    low, high = (low, high) if span is None else span
    bars = span is None
    sns.heatmap(values, vmin=low, vmax=high, ax=ax, cmap="mako", cbar=bars, cbar_kws=bar, linewidths=0, rasterized=True)
    ax.grid(False)
    ax.invert_yaxis()
    apart = {"colors": "white", "linewidths": page_height(3, 2), "zorder": 2}
    if str(heat.index[0]) == "embeddings":
        ax.hlines(1, 0, heat.shape[1], **apart)
    if str(heat.columns[0]) == "embeddings":
        ax.vlines(1, 0, heat.shape[0], **apart)
    _ticks(ax, heat, inches)
    if cells:
        outline = [patheffects.withStroke(linewidth=2.4, foreground="black")]
        y, x = [row + 0.5 for row, _ in cells], [column + 0.5 for _, column in cells]
        ax.plot(x, y, color=RING, lw=1, zorder=3, path_effects=outline)
        side = 72 * inches
        line = min(2.0, 0.12 * side)
        ring = {"marker": "o", "s": (0.8 * side) ** 2, "clip_on": False, "zorder": 4}
        ax.scatter(x, y, facecolors="none", edgecolors="black", linewidths=2 * line, **ring)
        ax.scatter(x, y, facecolors="none", edgecolors=RING, linewidths=line, label="bridges", **ring)


def _colour_range(heat: pd.DataFrame) -> tuple[float | None, float | None, str]:
    """Return the least and the largest value of block pairs, and where other values lie: a colour bar's `extend`."""
    rows, columns = (labels.astype(str) != "embeddings" for labels in (heat.index, heat.columns))
    blocks, every = heat.loc[rows, columns].to_numpy(float), heat.to_numpy(float)
    if not np.isfinite(blocks).any():
        return None, None, "neither"
    low, high = float(np.nanmin(blocks)), float(np.nanmax(blocks))
    below, above = np.nanmin(every) < low, np.nanmax(every) > high
    return low, high, {(1, 0): "min", (0, 1): "max", (1, 1): "both"}.get((below, above), "neither")


def _near_best(heat: pd.DataFrame, plan: BridgePlan) -> list[tuple[int, int]]:
    """Return the block pairs that a plan calls within noise of the best, if it was chosen from this map."""
    same = all(plan.evidence.get(key) == heat.attrs.get(key) for key in ("metric", "k", "samples"))
    return [(u, g) for u, g in plan.evidence.get("stability", {}).get("near_best", ())] if same else []


def _outline(ax: Axes, cells: Iterable[tuple[int, int]]) -> None:
    """Draw the edge of a set of cells (row, column), without the lines between its cells."""
    inside, edges = set(cells), []
    for row, column in inside:
        corners = [(column, row), (column + 1, row), (column + 1, row + 1), (column, row + 1)]
        beside = [(row - 1, column), (row, column + 1), (row + 1, column), (row, column - 1)]
        sides = zip(corners, corners[1:] + corners[:1], beside, strict=True)
        edges += [(start, end) for start, end, other in sides if other not in inside]
    for colour, width in (("black", 3.2), ("white", 1.4)):
        lines = LineCollection(edges, colors=colour, linewidths=width, capstyle="projecting", clip_on=False)
        lines.set(label="within noise", zorder=2.5)
        ax.add_collection(lines)


def _size(count: int) -> float:
    """Return the inches for so many layers: .3 each, less where there are many."""
    return min(max(0.3 * count, 2.0), 6.0)


def cells_of(heat: pd.DataFrame, pairs: Iterable[tuple[int, int]], name: str) -> list[tuple[int, int]]:
    """Return the cell of each bridge, found by the block's name: the embeddings, where present, shift both.

    Parameters
    ----------
    heat : DataFrame
        The layer map.
    pairs : iterable of (int, int)
        (understanding block, generation block).
    name : str
        The name of the figure, which errors begin with.

    Returns
    -------
    list of (int, int)
        (row, column) of each pair, in depth order.

    Raises
    ------
    ValueError
        If the map lacks a block.
    """
    rows = {str(label): place for place, label in enumerate(heat.index)}
    columns = {str(label): place for place, label in enumerate(heat.columns)}
    cells = []
    for understanding, generation in sorted(pairs):
        for tower, block, places in (("understanding", understanding, rows), ("generation", generation, columns)):
            if str(block) not in places:
                raise ValueError(
                    f"{name}: the plan bridges {tower} layer {block}, the map has {', '.join(places)}: "
                    "pass the map that the plan was chosen from"
                )
        cells.append((rows[str(understanding)], columns[str(generation)]))
    return cells


def _ticks(ax: Axes, heat: pd.DataFrame, inches: float) -> None:
    box = ax.get_window_extent()
    sides = (ax.xaxis, heat.columns, "generation", "y"), (ax.yaxis, heat.index, "understanding", "x")
    for axis, labels, word, stack in sides:
        across = axis is ax.xaxis
        names = ["emb." if str(label) == "embeddings" else str(label) for label in labels]
        step = -(-len(names) // 20)
        if current_page():
            step = max(step, ceil((WIDE if across else HIGH) / inches))
        first = 1 if names[0] == "emb." else 0
        places = list(range(first, len(names), step))
        if first:
            # "emb." is wide: where not every block has a tick, or cells are narrow, block 0 gives way to it.
            narrow = step > 1 or (across and inches < page_height(0.25, 0.2))
            places = [0, *places[narrow:]]
        axis.set_ticks([place + 0.5 for place in places], [names[place] for place in places], rotation=0)
        label = f"{labels.name or f'{word} layer'} (block; deeper →){_origin(heat.attrs.get(stack))}"
        axis.set_label_text(wrapped(label, (box.width if across else box.height) / ax.figure.dpi, points(9)))
    ax.tick_params(length=0)


def _origin(stack: dict | None) -> str:
    """Return a second line for an axis label: subject, modality and timestep, as far as the map holds them."""
    stack = stack or {}
    parts = [str(stack[key]) for key in ("subject", "modality") if stack.get(key)]
    if stack.get("timestep") is not None:
        parts.append(f"t = {stack['timestep']:g}")
    return "\n" + fill(", ".join(parts), 40) if parts else ""
