"""Layouts beside each other: what each has learnt from its captions, and what that cost."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .style import NO, QUIET, YES, heading, need, styled

LOSSES = {"loss": ("own captions", YES), "shuffled_loss": ("captions of other images", NO)}
COSTS = {"trainable_parameters": ("trained parameters", "{:.3g} M", 1e-6), "step_seconds": ("step", "{:.2g} s", 1.0)}


@styled
def layouts_compared(table: pd.DataFrame) -> Figure:
    """One row of dots and bars for each layout, the lowest loss on top: loss, trained parameters, time of a step.

    ``table`` has columns layout; loss, loss_low, loss_high (on new scenes, with an interval), the same of
    shuffled_loss (the same model trained and scored with captions of other images); trainable_parameters and
    step_seconds. Raises TypeError or ValueError for another table or a layout named twice.
    """
    spans = [name + end for name in LOSSES for end in ("", "_low", "_high")]
    table = need(table, ["layout", *spans, *COSTS], "layouts_compared", "python -m bridgework.layouts")
    if table["layout"].duplicated().any():
        twice = table["layout"][table["layout"].duplicated()].iloc[0]
        raise ValueError(f"layouts_compared: the layout {twice!r} is there twice: pass one row for each")
    table = table.sort_values("loss", ascending=False)
    heights = np.arange(len(table))
    figure, (left, *right) = plt.subplots(
        1, 3, figsize=(9.4, 1.4 + 0.42 * len(table)), sharey=True, width_ratios=(2.6, 1, 1)
    )
    for name, (label, colour) in LOSSES.items():
        left.hlines(heights, table[f"{name}_low"], table[f"{name}_high"], color=colour, lw=2)
        left.plot(table[name], heights, "o", color=colour, ms=6.5, label=label)
    left.set(yticks=heights, yticklabels=table["layout"], ylim=(-0.6, len(table) - 0.4))
    left.tick_params(axis="y", length=0, labelsize=9)
    heading(left, "validation loss", "new scenes, with 95 % intervals")
    for ax, (name, (title, shown, unit)) in zip(right, COSTS.items(), strict=True):
        _bars(ax, heights, table[name] * unit, shown)
        heading(ax, title, "")
    figure.legend(loc="outside lower center", ncols=2)
    return figure


def _bars(ax: Axes, heights: np.ndarray, values: pd.Series, shown: str) -> None:
    bars = ax.barh(heights, values, height=0.5, color=QUIET, alpha=0.55)
    ax.bar_label(bars, [shown.format(value) for value in values], padding=3, fontsize=8)
    ax.margins(x=0.45)
    ax.set_xticks([])
    ax.spines["bottom"].set_visible(False)
