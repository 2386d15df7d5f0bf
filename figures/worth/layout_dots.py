"""Draw what layouts reach on equal terms: dots with intervals over training seeds, and quality against compute."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ...probes.arguments import checked
from ..publishing.drawn import Drawn, remember
from ..publishing.line_names import legend_below
from ..publishing.page import current_page, is_narrow, page_height, page_width, points
from ..style import NO, QUIET, YES, heading, need, panels, styled

COLOURS = (YES, NO, "#029e73", "#cc78bc")


@styled
def layout_outcomes(
    table: pd.DataFrame, outcomes: Mapping[str, str], lines: Mapping[str, Mapping[str, float]] | None = None
) -> Figure:
    """Draw the outcomes of each layout as dots, with 95 % intervals over training seeds as bars.

    Parameters
    ----------
    table : DataFrame
        One row a layout, and a pair of experts where there are several: layout, seeds, and of each outcome the mean in
        its own column with OUTCOME_low and OUTCOME_high; optionally pair.
    outcomes : mapping of str to str
        The columns that are drawn, one panel each, with the titles of the panels.
    lines : mapping of str to mapping, optional
        Of an outcome, values that are marked by a broken line, by name: a floor, a ceiling.

    Returns
    -------
    Figure
        One panel for each outcome, one colour for each pair. In one column of paper they stand below each other.

    Raises
    ------
    TypeError
        If `table` is no DataFrame.
    ValueError
        If columns or rows are missing, or a layout stands twice for a pair.

    See Also
    --------
    layouts_compared : Draws layouts that were trained once, each with its own parameters.
    outcome_sweep : Draws one layout along a number that is varied.

    Examples
    --------
    >>> table = pd.DataFrame({"layout": ["H", "last"], "seeds": 5, "worth": [0.6, 0.4]})
    >>> table = table.assign(worth_low=table.worth - 0.1, worth_high=table.worth + 0.1)
    >>> figure = figures.layout_outcomes(table, {"worth": "worth"})
    """
    checked("outcomes", outcomes, Mapping, remedy="pass the title of each column, as {'worth': 'worth'}")
    ends = [f"{name}_{end}" for name in outcomes for end in ("low", "high")]
    table = need(table, ["layout", "seeds", *outcomes, *ends], "layout_outcomes", "studies/claims")
    table = table if "pair" in table else table.assign(pair="")
    if table.duplicated(["layout", "pair"]).any():
        raise ValueError("layout_outcomes: a layout stands twice for one pair of experts: pass one row for each")
    names, pairs = list(table["layout"].unique())[::-1], list(table["pair"].unique())
    count = len(outcomes)
    if is_narrow():
        size = page_width(0), count * (0.75 + 0.24 * len(names))
        figure, grid = panels(count, 1, size)
    else:
        size = page_width(3.2 * count + 1.2), page_height(1.5 + 0.42 * len(names), 0.9 + 0.22 * len(names))
        figure, grid = panels(1, count, size, sharey=True)
    step = 0.5 / max(1, len(pairs))
    for ax, (outcome, title) in zip(grid.flat, outcomes.items(), strict=True):
        for number, (pair, colour) in enumerate(zip(pairs, COLOURS, strict=False)):
            rows = table[table["pair"] == pair]
            heights = [names.index(name) - step * (number - (len(pairs) - 1) / 2) for name in rows["layout"]]
            ax.hlines(heights, rows[f"{outcome}_low"], rows[f"{outcome}_high"], color=colour, lw=2)
            ax.plot(rows[outcome], heights, "o", color=colour, ms=page_height(6, 4), label=pair)
        for name, value in (lines or {}).get(outcome, {}).items():
            ax.axvline(value, color=QUIET, lw=1, ls=(0, (4, 2)))
            ax.annotate(
                name, (value, 0), (2, 2), xycoords=("data", "axes fraction"), textcoords="offset points",
                fontsize=points(7), color=QUIET, rotation=90, va="bottom",
            )  # fmt: skip
        ax.set(yticks=range(len(names)), yticklabels=names, ylim=(-0.6, len(names) - 0.4))
        ax.tick_params(axis="y", length=0, labelsize=points(9))
        ax.grid(visible=False, axis="y")
        seeds = "–".join(map(str, sorted({int(table["seeds"].min()), int(table["seeds"].max())})))
        heading(ax, title, f"95 % over {seeds} seeds")
    if pairs != [""]:
        handles, labels = grid[0, 0].get_legend_handles_labels()
        if current_page():
            legend_below(figure, dict(zip(labels, handles, strict=True)), len(pairs))
        else:
            figure.legend(handles, labels, loc="outside lower left", ncols=len(pairs))
    said = ", ".join(outcomes.values())
    text = f"Layouts on equal terms: {said}. Dots are means over training seeds, bars 95% t intervals."
    remember(figure, Drawn("layout_outcomes", {"layouts": table}, text, table[["pair", "layout", *outcomes]]))
    return figure


@styled
def quality_against_compute(table: pd.DataFrame, quality: str = "score") -> Figure:
    """Draw what models of two families reach against the operations that their training took.

    Parameters
    ----------
    table : DataFrame
        One row a model: name, family, flops (floating point operations of the whole training), and the quality with its
        QUALITY_low and QUALITY_high.
    quality : str
        The column of the quality, a share from 0 to 1.

    Returns
    -------
    Figure
        One panel, with a logarithmic axis of operations.

    Raises
    ------
    TypeError
        If `table` is no DataFrame.
    ValueError
        If columns or rows are missing.

    See Also
    --------
    layout_outcomes : Compares layouts of one family, on equal terms.

    Examples
    --------
    >>> table = pd.DataFrame({"name": ["Y", "H"], "family": ["trunk", "towers"], "flops": [1e16, 1e15]})
    >>> table = table.assign(score=0.4, score_low=0.3, score_high=0.5)
    >>> figure = figures.quality_against_compute(table)
    """
    columns = ["name", "family", "flops", quality, f"{quality}_low", f"{quality}_high"]
    table = need(table, columns, "quality_against_compute", "studies/claims")
    ends = {f"{quality}_{end}": table[f"{quality}_{end}"].fillna(table[quality]) for end in ("low", "high")}
    table = table.assign(**ends)  # one seed has no interval
    figure, ((ax,),) = panels(1, 1, (page_width(7), page_height(4.2, 2.4)))
    places = {name: place for place, name in enumerate(table["family"].unique())}
    for family, place in places.items():
        rows, colour = table[table["family"] == family], COLOURS[place % len(COLOURS)]
        ax.vlines(rows["flops"], rows[f"{quality}_low"], rows[f"{quality}_high"], color=colour, lw=1.5, alpha=0.5)
        ax.plot(rows["flops"], rows[quality], "o", color=colour, ms=page_height(6, 4), label=family)
    ax.set_xscale("log")
    reach = np.log10(table["flops"].max() / table["flops"].min()) + 1
    ax.set_xlim(table["flops"].min() / 10 ** (0.1 * reach), table["flops"].max() * 10 ** (0.25 * reach))
    ranked = table.sort_values(quality)
    spread = max(float(table[f"{quality}_high"].max() - table[f"{quality}_low"].min()), 1e-9)
    ax.set_ylim(table[f"{quality}_low"].min() - 0.1 * spread, table[f"{quality}_high"].max() + 0.1 * spread)
    low = -np.inf
    for row in ranked.itertuples(index=False):  # names are moved up where they would lie on each other
        flops, value = float(row.flops), float(getattr(row, quality))
        low = max(value, low + spread * 0.07)
        right = flops * 10 ** (0.03 * reach)
        ax.annotate(str(row.name), (flops, value), (right, low), textcoords="data", fontsize=points(8), va="center")
    ax.set(xlabel="floating point operations of training", ylabel=quality)
    heading(ax, "Quality against compute", "no verdict across families: a trunk also learns to answer")
    if current_page():
        legend_below(figure, dict(zip(*ax.get_legend_handles_labels()[::-1], strict=True)), len(places))
    else:
        figure.legend(loc="outside lower left", ncols=len(places))
    text = f"The {quality} of models of two families against the floating point operations of their training."
    remember(figure, Drawn("quality_against_compute", {"models": table}, text, table[["name", "flops", quality]]))
    return figure
