"""Draw what helps to read an alignment curve: score against samples, ranks, patches, and the ceiling of halves."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator, ScalarFormatter

from ...probes.arguments import checked
from ..publishing.drawn import Drawn, remember
from ..publishing.line_names import legend_below, name_ends
from ..publishing.page import page_height, page_width, panels_across
from ..style import NO, QUIET, TASK_COLOUR, YES, heading, measured, need, panels, styled

ALONG = ("layer", "depth")
NEEDED = {  # the columns of each table
    "scores by samples": (*ALONG, "samples", "metric", "k", "score", "deviation", "chance"),
    "ceiling of halves": (*ALONG, "metric", "score", "ceiling"),
    "effective rank": (*ALONG, "side", "modality", "effective_rank", "samples"),
    "spatial similarity": (*ALONG, "side", "score", "rows", "columns", "distance", "samples"),
}
SHADES = ("#9ecae1", "#4292c6", "#08306b")  # of a shallow, a middle and a deep layer


@styled
def companions(tables: Mapping[str, pd.DataFrame]) -> Figure:
    """Draw what helps to read an alignment curve, a panel each for as many tables as there are.

    Parameters
    ----------
    tables : mapping of str to DataFrame
        By name: "scores by samples", of `score_by_samples`, of which the shallowest, the best and the deepest layer are
        drawn; "ceiling of halves", of `halves_ceiling`; "effective rank", of `effective_rank`, and "spatial
        similarity", of `spatial_similarity`, both with the column side ("understanding", "generation"), the former also
        with modality. They are made by functions of `bridgework.probes`.

    Returns
    -------
    Figure
        The panels with one legend; layers are named where lines end.

    Raises
    ------
    TypeError
        If a table is no DataFrame.
    ValueError
        If there is no table, a name is unknown, or columns or rows are missing.

    See Also
    --------
    alignment_curves : Draws the curve that they help to read.

    Examples
    --------
    >>> ranks = effective_rank(features["image"]).assign(side="understanding", modality="image")
    >>> figures.companions({"effective rank": ranks})
    """
    checked("tables", tables, Mapping, remedy="pass tables by name, as {'effective rank': effective_rank(features)}")
    if unknown := [name for name in tables if name not in NEEDED]:
        raise ValueError(f"companions: unknown table {unknown[0]!r}: expected {', '.join(NEEDED)}")
    if not tables:
        raise ValueError(f"companions: no tables: give one or several of {', '.join(NEEDED)}")
    given = [name for name in NEEDED if name in tables]
    found = {name: need(tables[name], NEEDED[name], "companions", "curve_companions") for name in given}
    columns = panels_across(len(found), 2, 1.5)
    rows = -(-len(found) // columns)
    size = page_width(4.6 * columns), page_height(3.0 * rows, 1.75 * rows)
    figure, grid = panels(rows, columns, size)
    for empty in grid.flat[len(found) :]:
        empty.remove()
    draw = {"scores by samples": _samples, "ceiling of halves": _ceiling, "effective rank": _rank}
    draw["spatial similarity"] = _patches
    for (name, table), ax in zip(found.items(), grid.flat, strict=False):
        draw[name](ax, table, size[0] / columns)
        if name != "scores by samples":
            ax.set_xlabel("relative depth")
    lines = {str(line.get_label()): line for ax in figure.axes for line in ax.lines}
    legend_below(figure, {label: line for label, line in lines.items() if not label.startswith("_")}, 3)
    text = f"What helps to read the alignment curve: {', '.join(found)}."
    remember(figure, Drawn("companions", found, text, next(iter(found.values()))))
    return figure


def _samples(ax: Axes, table: pd.DataFrame, inches: float) -> None:
    most = table[table.samples == table.samples.max()]
    layers = [most.layer.iloc[0], most.layer.iloc[most.score.to_numpy().argmax()], most.layer.iloc[-1]]
    ends: list[tuple[str, float, object]] = []
    for layer, colour in zip(layers, SHADES, strict=True):
        if layer in [name for name, _, _ in ends]:
            continue
        rows = table[table.layer == layer]
        spread = rows.deviation.fillna(0)
        ax.fill_between(rows.samples, rows.score - spread, rows.score + spread, color=colour, alpha=0.2, lw=0)
        ax.plot(rows.samples, rows.score, "o-", color=colour, ms=3, label="_" + str(layer))
        ends.append((str(layer), float(rows.score.iloc[-1]), colour))
    first = table[table.layer == layers[0]]
    if first.chance.notna().any():
        ax.plot(first.samples, first.chance, color=QUIET, ls=(0, (4, 2)), lw=1, label="chance")
    ax.set_xscale("log", base=2)
    ax.set_xticks(sorted(table.samples.unique()))
    ax.xaxis.set_major_formatter(ScalarFormatter())
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set(xlabel="samples", ylabel="score")
    named = [("emb." if name == "embeddings" else f"block {name}", height, colour) for name, height, colour in ends]
    name_ends(ax, named, 0.6)
    last = table.iloc[-1]
    heading(ax, "score against samples", measured(last.metric, last.k, None, None))


def _ceiling(ax: Axes, table: pd.DataFrame, inches: float) -> None:
    ax.plot(table.depth, table.score, "o-", color=YES, ms=3, label="score")
    ax.plot(table.depth, table.ceiling, color=NO, ls=(0, (5, 2)), label="ceiling of the layers' own halves")
    ax.set_ylabel("score")
    heading(ax, "score and ceiling", str(table.metric.iloc[0]))


def _rank(ax: Axes, table: pd.DataFrame, inches: float) -> None:
    for (side, modality), rows in table.groupby(["side", "modality"], sort=False):
        style = "--" if modality == "text" else "-"
        colour = TASK_COLOUR.get(str(side), QUIET)
        ax.plot(rows.depth, rows.effective_rank, style, color=colour, label=f"{side}, {modality}")
    ax.set_ylabel("effective rank")
    heading(ax, "directions in use", f"N = {table.samples.max()}")


def _patches(ax: Axes, table: pd.DataFrame, inches: float) -> None:
    for side, rows in table.groupby("side", sort=False):
        ax.plot(rows.depth, rows.score, "-", color=TASK_COLOUR.get(str(side), QUIET), label=f"{side}, image")
    ax.axhline(0, color=QUIET, lw=0.8)
    ax.set_ylabel("near − far cosine")
    grids = table[["rows", "columns", "distance"]].drop_duplicates().itertuples(index=False)
    said = ", ".join(f"{rows} x {columns}, far from {steps} on" for rows, columns, steps in grids)
    heading(ax, "patch contrast", f"N = {table.samples.max()}; {said}")
