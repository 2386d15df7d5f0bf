"""Draw layouts beside each other: what each has learnt from its captions, and what that cost."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .style import NO, QUIET, YES, heading, need, styled

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
    """
    columns = ("layout", "parameters", "step_seconds", "loss", "shuffled", "low", "high")
    table = need(table, columns, "layouts_compared", "bridgework reproduce layouts")
    if table["layout"].duplicated().any():
        twice = table["layout"][table["layout"].duplicated()].iloc[0]
        raise ValueError(f"layouts_compared: the layout {twice!r} is there twice: pass one row for each")
    table = table.sort_values("loss", ascending=False)
    heights = np.arange(len(table))
    figure, (left, *right) = plt.subplots(
        1, 3, figsize=(9.4, 1.5 + 0.42 * len(table)), sharey=True, width_ratios=(2.6, 1, 1)
    )
    for name, (label, colour, interval) in LOSSES.items():
        if name not in table or table[name].isna().all():
            continue
        if interval:
            low, high = (table["loss"] + table[end] for end in interval)
            left.hlines(heights, low, high, color=colour, lw=2)
        left.plot(table[name], heights, "o", color=colour, ms=6.5, label=label)
    left.set(yticks=heights, yticklabels=table["layout"], ylim=(-0.6, len(table) - 0.4))
    left.tick_params(axis="y", length=0, labelsize=9)
    heading(left, "validation loss", "bars: 95 % interval of the difference from blue")
    _bars(right[0], heights, table["parameters"] / 1e6, "{:.2f} M")
    heading(right[0], "trained parameters", "")
    _bars(right[1], heights, table["step_seconds"], "{:.2g} s")
    heading(right[1], "a training step", "")
    figure.legend(loc="outside lower center", ncols=3)
    return figure


def _bars(ax: Axes, heights: np.ndarray, values: pd.Series, shown: str) -> None:
    bars = ax.barh(heights, values, height=0.5, color=QUIET, alpha=0.55)
    ax.bar_label(bars, [shown.format(value) for value in values], padding=3, fontsize=8)
    ax.margins(x=0.45)
    ax.set_xticks([])
    ax.spines["bottom"].set_visible(False)
