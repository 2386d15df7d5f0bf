"""Draw how well each rule's map predicts what bridges are worth, over pairs of experts, beside depth alone."""

from __future__ import annotations

from itertools import cycle

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..gap import interval_of
from ..publishing.drawn import Drawn, remember
from ..publishing.line_names import legend_below
from ..publishing.page import current_page, is_narrow, page_height, page_width, points
from ..style import NO, QUIET, YES, heading, need, panels, styled

DEPTH = {
    "depth": "depth alone: early in both",
    "depth_understanding": "depth alone: early understanding",
    "depth_generation": "depth alone: early generation",
}
MARKERS = ("o", "s", "^", "D", "v", "P")


@styled
def rule_correlations(ranks: pd.DataFrame) -> Figure:
    """Draw the rank correlation of each rule's map with the map of worth, and what is left of it beside both depths.

    Small marks are pairs of experts, a large dot is their mean, and the bar is Student's 95 % t interval of the mean
    over pairs. The dashed line is what a perfect map would reach, given the noise between seeds. Maps of depth alone
    stand below the rules; beside depth nothing is left of them.

    Parameters
    ----------
    ranks : DataFrame
        One row a rule and pair: rule, pair, rho, partial, ceiling, partial_ceiling. Rules named in `DEPTH` are the maps
        of depth. Rows of pairs that are not complete have no numbers and are not drawn.

    Returns
    -------
    Figure
        Two panels, one row for each rule, the largest mean partial correlation on top. In one column of paper they
        stand below each other.

    Raises
    ------
    TypeError
        If `ranks` is no DataFrame.
    ValueError
        If columns or rows are missing, or a rule stands twice for one pair.

    See Also
    --------
    worth_maps : Draws the maps that are compared here.

    Examples
    --------
    >>> ranks = pd.read_csv(RESULTS / "verdict" / "ranks.csv")
    >>> figure = figures.rule_correlations(ranks[ranks["outcome"] == "loss"])
    """
    columns = ["rule", "pair", "rho", "partial", "ceiling", "partial_ceiling"]
    ranks = need(ranks, columns, "rule_correlations", "bridgework.studies.verdict.report")
    if ranks.duplicated(["rule", "pair"]).any():
        row = ranks[ranks.duplicated(["rule", "pair"])].iloc[0]
        raise ValueError(f"rule_correlations: rule {row.rule!r} stands twice for {row.pair!r}: pass one outcome")
    means = ranks.groupby("rule", sort=False)["partial"].mean()
    rules = means.drop([name for name in DEPTH if name in means]).sort_values(na_position="first").index
    names = [name for name in DEPTH if name in means][::-1] + list(rules)
    heights = {name: height + 0.5 * (name not in DEPTH) for height, name in enumerate(names)}
    if is_narrow():
        figure, ((left,), (right,)) = panels(2, 1, (page_width(0), 1.2 + 0.32 * len(names)), sharex=True)
    else:
        height = page_height(1.5 + 0.36 * len(names), 0.8 + 0.19 * len(names))
        figure, ((left, right),) = panels(1, 2, (page_width(9.4), height), sharey=True)
    shapes = dict(zip(ranks["pair"].unique(), cycle(MARKERS), strict=False))
    for ax, column, ceiling in ((left, "rho", "ceiling"), (right, "partial", "partial_ceiling")):
        _draw(ax, ranks, column, ranks.groupby("pair")[ceiling].first().mean(), heights, shapes)
    ready = ranks.dropna(subset="rho")["pair"].nunique()
    heading(left, "Rank correlation with worth", f"Spearman's ρ · {ready} of {len(shapes)} pairs of experts")
    heading(right, "Beside both depths", "partial rank correlation, the primary number")
    for ax in (left, right) if is_narrow() else (left,):
        ax.set_yticks(list(heights.values()), [DEPTH.get(name, name) for name in heights])
    handles, labels = left.get_legend_handles_labels()
    if not ready:
        left.text(0, heights[names[-1]], " no pair is complete", fontsize=points(8), color=QUIET, va="center")
    elif current_page():
        legend_below(figure, dict(zip(labels, handles, strict=True)), len(shapes))
    else:
        figure.legend(handles, labels, loc="outside lower left", ncols=len(shapes), handletextpad=0.2)
    text = (
        "Spearman's rank correlation of each rule's map with the map of what bridges are worth, and what is left of it "
        "beside both depths. Small marks are pairs of experts, dots their means, and bars 95% t intervals; the broken "
        "line is what a perfect map would reach."
    )
    shown = ranks.groupby("rule", sort=False)[["rho", "partial"]].mean().loc[names[::-1]].reset_index()
    remember(figure, Drawn("rule_correlations", {"ranks": ranks}, text, shown))
    return figure


def _draw(
    ax: Axes, ranks: pd.DataFrame, column: str, ceiling: float, heights: dict[str, float], shapes: dict[str, str]
) -> None:
    ax.axvline(0, color="#444444", lw=0.8)
    if pd.notna(ceiling):
        ax.axvline(ceiling, color=QUIET, lw=1, ls=(0, (4, 2)))
        top = int(current_page() is not None)  # on paper, what is left of depth needs the room at the bottom
        ax.annotate(
            "a perfect map", (ceiling, top), (-3, 3 - 6 * top), xycoords=("data", "axes fraction"),
            textcoords="offset points", ha="right", va=("baseline", "top")[top], fontsize=points(7), color=QUIET,
        )  # fmt: skip
    beside = column == "partial"
    if beside and heights.keys() & DEPTH.keys():
        middle = sum(height for name, height in heights.items() if name in DEPTH) / len(heights.keys() & DEPTH.keys())
        ax.text(0, middle, " nothing is left of depth", fontsize=points(8), color=QUIET, va="center")
        ranks = ranks[~ranks["rule"].isin(DEPTH)]
    for pair, marker in shapes.items():
        of_pair = ranks[ranks["pair"] == pair].dropna(subset=column)
        places = [heights[rule] + 0.2 for rule in of_pair["rule"]]
        if len(of_pair):
            ax.plot(of_pair[column], places, marker, color=QUIET, ms=3.6, mew=0, alpha=0.85, label=str(pair))
    for rule, height in heights.items():
        values = ranks[ranks["rule"] == rule][column].dropna()
        if values.empty:
            continue
        colour = NO if rule in DEPTH else YES
        low, high, count = interval_of(values)
        if count > 1:
            ax.plot([low, high], [height, height], color=colour, lw=2, solid_capstyle="butt")
        ax.plot([values.mean()], [height], "o", color=colour, ms=6)
    ax.set_xlim(-1.02, 1.02)
    ax.set_ylim(-0.6, max(heights.values()) + page_height(0.6, 1.3))
    ax.grid(visible=False, axis="y")
