"""Draw outcomes along a number that is varied: fork depth, ends, the number of bridges."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
from matplotlib.figure import Figure

from ...probes.arguments import checked
from ..publishing.drawn import Drawn, remember
from ..publishing.page import is_narrow, page_height, page_width, points
from ..style import QUIET, YES, heading, need, panels, styled


@styled
def outcome_sweep(
    table: pd.DataFrame,
    by: str,
    outcomes: Mapping[str, str],
    label: str,
    marks: Mapping[str, tuple[float, float, float]] | None = None,
) -> Figure:
    """Draw outcomes along a number that is varied, with 95 % intervals over training seeds.

    Parameters
    ----------
    table : DataFrame
        One row a value: the column `by`, seeds, and of each outcome the mean with OUTCOME_low and OUTCOME_high.
    by : str
        The column of what is varied, a number.
    outcomes : mapping of str to str
        The columns that are drawn, one panel each, with the titles of the panels.
    label : str
        What the axis of `by` says.
    marks : mapping of str to (value, low, high), optional
        Places that were measured beforehand, by name: a line with a band.

    Returns
    -------
    Figure
        One panel for each outcome. In one column of paper they stand below each other.

    Raises
    ------
    TypeError
        If `table` is no DataFrame.
    ValueError
        If columns or rows are missing, or a value stands twice.

    See Also
    --------
    layout_outcomes : Compares layouts that have no order.

    Examples
    --------
    >>> table = pd.DataFrame({"fork": [1, 2, 3], "seeds": 3, "loss": [0.3, 0.2, 0.25]})
    >>> table = table.assign(loss_low=table.loss - 0.02, loss_high=table.loss + 0.02)
    >>> figure = figures.outcome_sweep(table, "fork", {"loss": "drawing loss"}, "shared blocks", {"split": (2, 1, 3)})
    """
    checked("outcomes", outcomes, Mapping, remedy="pass the title of each column, as {'worth': 'worth'}")
    ends = [f"{name}_{end}" for name in outcomes for end in ("low", "high")]
    table = need(table, [by, "seeds", *outcomes, *ends], "outcome_sweep", "studies/claims").sort_values(by)
    if table[by].duplicated().any():
        raise ValueError(f"outcome_sweep: {by} {table[by][table[by].duplicated()].iloc[0]} stands twice: pass one pair")
    count = len(outcomes)
    if is_narrow():
        figure, grid = panels(count, 1, (page_width(0), 1.5 * count + 0.5), sharex=True)
    else:
        figure, grid = panels(1, count, (page_width(4.2 * count), page_height(3.4, 2.2)))
    for ax, (outcome, title) in zip(grid.flat, outcomes.items(), strict=True):
        for name, (value, low, high) in (marks or {}).items():
            ax.axvspan(low, high, color=QUIET, alpha=0.15, lw=0)
            ax.axvline(value, color=QUIET, lw=1, ls=(0, (4, 2)))
            ax.annotate(
                name, (value, 1), (3, -3), xycoords=("data", "axes fraction"), textcoords="offset points",
                fontsize=points(7), color=QUIET, rotation=90, va="top",
            )  # fmt: skip
        ax.vlines(table[by], table[f"{outcome}_low"], table[f"{outcome}_high"], color=YES, lw=2, alpha=0.6)
        ax.plot(table[by], table[outcome], "o-", color=YES, ms=page_height(5, 3.5), lw=1)
        heading(ax, title, f"95 % over {int(table['seeds'].min())} seeds")
        if ax is grid.flat[-1] or not is_narrow():
            ax.set_xlabel(label)
    text = f"{', '.join(outcomes.values())} along {label}. Dots are means over training seeds, bars 95% t intervals."
    options = {"by": by} | ({"marks": {name: list(mark) for name, mark in marks.items()}} if marks else {})
    remember(figure, Drawn("outcome_sweep", {"sweep": table}, text, table[[by, *outcomes]], options))
    return figure
