"""Draw layouts beside each other: what each has learnt from its captions, and what that cost."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .publishing.drawn import Drawn, remember
from .publishing.line_names import legend_below
from .publishing.page import current_page, is_narrow, page_height, page_width, points
from .style import NO, QUIET, YES, heading, need, panels, styled

LOSSES = {
    "loss": ("own captions", YES, ()),
    "shuffled": ("the same model, captions of other scenes", NO, ("low", "high")),
    "floor": ("trained with captions of other scenes", QUIET, ("above_low", "above_high")),
}


@styled
def layouts_compared(table: pd.DataFrame) -> Figure:
    """Draw, for each layout, the losses on held-out scenes, the trained parameters and the time of a training step.

    The layout with the lowest loss is on top. Losses are paired by batch, so the bars are intervals of the differences
    from the loss with the scenes' own captions.

    Parameters
    ----------
    table : DataFrame
        The layouts.csv of the study: columns layout, parameters, step_seconds; loss with the scenes' own captions;
        shuffled, with other scenes' captions, and low and high of the difference; and, where that was measured, floor,
        the loss of a model trained with other scenes' captions, with above_low and above_high.

    Returns
    -------
    Figure
        Three panels.

    Raises
    ------
    TypeError
        If `table` is no DataFrame.
    ValueError
        If columns or rows are missing, or if a layout is there twice.

    See Also
    --------
    gap_closed : Compares plans of one layout by the share of the gap that they close.
    architectures : Draws how the layouts join the towers.

    Examples
    --------
    >>> figure = figures.layouts_compared(pd.read_csv(RESULTS / "layouts.csv"))
    """
    columns = ("layout", "parameters", "step_seconds", "loss", "shuffled", "low", "high")
    table = need(table, columns, "layouts_compared", "bridgework reproduce layouts")
    if table["layout"].duplicated().any():
        twice = table["layout"][table["layout"].duplicated()].iloc[0]
        raise ValueError(f"layouts_compared: the layout {twice!r} is there twice: pass one row for each")
    table = table.sort_values("loss", ascending=False)
    heights = np.arange(len(table))
    size = page_width(9.4), page_height(1.5 + 0.42 * len(table), 0.8 + 0.2 * len(table))
    ratios = (1.7, 1, 1) if is_narrow() else (2.6, 1, 1)
    figure, ((left, *right),) = panels(1, 3, size, sharey=True, width_ratios=ratios)
    for name, (label, colour, interval) in LOSSES.items():
        if name not in table or table[name].isna().all():
            continue
        if interval:
            low, high = (table["loss"] + table[end] for end in interval)
            left.hlines(heights, low, high, color=colour, lw=2)
        left.plot(table[name], heights, "o", color=colour, ms=page_height(6.5, 4), label=label)
    left.set(yticks=heights, yticklabels=table["layout"], ylim=(-0.6, len(table) - 0.4))
    left.tick_params(axis="y", length=0, labelsize=points(9))
    bars = "bars: 95 % intervals" if is_narrow() else "bars: 95 % interval of the difference from blue"
    heading(left, "validation loss", bars)
    _bars(right[0], heights, table["parameters"] / 1e6, "{:.2f} M")
    _bars(right[1], heights, table["step_seconds"], "{:.2g} s")
    if is_narrow():
        heading(right[0], "weights", "trained")
        heading(right[1], "time", "of a step")
    else:
        heading(right[0], "trained parameters", "")
        heading(right[1], "a training step", "")
    handles, labels = left.get_legend_handles_labels()
    if current_page():
        legend_below(figure, dict(zip(labels, handles, strict=True)), 3)
    else:
        figure.legend(loc="outside lower center", ncols=3)
    text = (
        "Layouts by validation loss: with own captions, with captions of other scenes, and trained with captions of "
        "other scenes. Bars are 95% intervals of the difference from the loss with own captions."
    )
    shown = table[[*columns]].iloc[::-1].reset_index(drop=True)
    remember(figure, Drawn("layouts_compared", {"layouts": table}, text, shown))
    return figure


def _bars(ax: Axes, heights: np.ndarray, values: pd.Series, shown: str) -> None:
    bars = ax.barh(heights, values, height=0.5, color=QUIET, alpha=0.55)
    ax.bar_label(bars, [shown.format(value) for value in values], padding=3, fontsize=points(8))
    ax.margins(x=0.9 if is_narrow() else 0.45)
    ax.set_xticks([])
    ax.spines["bottom"].set_visible(False)
