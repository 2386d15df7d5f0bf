"""Draw where plans put their bridges beside what those bridges brought."""

from __future__ import annotations

import json
from itertools import cycle

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ..probes.arguments import checked
from ..probes.plans.bridge_plan import BridgePlan
from .gap import GAP, draw_gap, gap_summary, plan_means
from .maps import RING, cells_of, check_map, draw_map
from .publishing.drawn import Drawn, LabelledFigure, remember
from .publishing.line_names import legend_below
from .publishing.map_descriptions import map_drawn
from .publishing.page import current_page, is_narrow, page_width
from .style import QUIET, heading, measured, panels, styled

LOOKS = {
    "alignment": (RING, "o"),
    "shallow": ("#d55e00", "v"),
    "middle": ("#cc78bc", "D"),
    "deep": ("#56b4e9", "^"),
    "random": (QUIET, "s"),
}
OTHERS = (("#0173b2", "P"), ("#029e73", "X"), ("#ca9161", "p"))


@styled
def plan_outcomes(heat: pd.DataFrame, table: pd.DataFrame, plan: BridgePlan) -> Figure:
    """Draw the layer map with the bridges of a plan beside the share of the gap that each plan's bridges closed.

    The bridges of `plan` are ringed cells. The other plans stand on the map with the marker that their row has on the
    right, but for random plans, which differ from seed to seed. On the right, small dots are seeds, a large marker is
    their mean, and the bar is Student's 95 % t interval of the mean.

    Parameters
    ----------
    heat : DataFrame
        The table of `similarity_map`, (understanding layer, generation layer).
    table : DataFrame
        Columns plan, seed, score, share; share 0 is the floor (models trained with shuffled captions), share 1 the
        ceiling (the generation expert with its own text route). The columns floor and ceiling, if they are there, hold
        the scores of both, and the column pairs the bridges of each model as JSON.
    plan : BridgePlan
        The plan that was chosen from the map. Its rule is its name in the table.

    Returns
    -------
    Figure
        Two panels, 9.4 inches wide, and on paper as wide as the page; in one column they stand below each other.

    Raises
    ------
    TypeError
        If `heat` or `table` is no DataFrame.
    ValueError
        If a table lacks columns, rows or attrs, if a seed is there twice for one plan, or if the map lacks a layer of a
        plan.

    See Also
    --------
    layer_map : Draws the map alone.
    gap_closed : Draws the shares alone.

    Examples
    --------
    >>> heat = pd.read_csv(RESULTS / "map.csv", index_col=0, dtype={0: str})
    >>> heat.attrs = json.loads((RESULTS / "map.json").read_text())
    >>> gap, plan = pd.read_csv(RESULTS / "gap.csv"), BridgePlan.load(RESULTS / "plan.json")
    >>> figure = figures.plan_outcomes(heat, gap, plan)
    """
    check_map(heat, "plan_outcomes")
    checked("plan", plan, BridgePlan, remedy="make one with choose_bridges, or read it with BridgePlan.load")
    means = plan_means(table, "plan_outcomes")
    others = cycle(OTHERS)
    looks = {str(name): LOOKS.get(str(name)) or next(others) for name in means.index}
    height, width = max(3.2, 0.5 * len(means) + 0.6), 2.7
    if current_page():
        # Parts of a figure have margins each of their own, which leaves more room for the panels.
        height = max(1.6, 0.36 * len(means) + 0.2)
        width = page_width(0) / (1 if is_narrow() else 2) - 1.1
        inches = 2 * height + 1.6 if is_narrow() else height + 1.1
        figure = plt.figure(FigureClass=LabelledFigure, figsize=(page_width(0), inches))
        left, right = (part.subplots() for part in figure.subfigures(*((2, 1) if is_narrow() else (1, 2))))
    else:
        figure, ((left, right),) = panels(1, 2, (9.4, height + 1.3), width_ratios=(1.3, 1))
    draw_map(left, heat, plan, min(width / heat.shape[1], height / heat.shape[0]), "plan_outcomes")
    marked = [mark for name in reversed(looks) for mark in _mark_plan(left, heat, table, plan, name, looks[name])]
    count = len(plan.pairs)
    subtitle = measured(*(heat.attrs.get(key) for key in ("metric", "k", "samples", "chance")))
    heading(left, f"Layer map, K = {count} {'bridge' if count == 1 else 'bridges'} a plan", subtitle)

    draw_gap(right, table, means, looks, counted=False, short=current_page() is not None)
    seeds = sorted({int(size) for size in table.groupby("plan").size()})
    several = f"dots: {' to '.join(map(str, seeds))} seeds, bar: 95 % t interval of their mean"
    # Names at the left and intervals at the right of the panel take the rest.
    inches = page_width(0) / (1 if is_narrow() else 2) - 1.5 if current_page() else None
    heading(right, "Share of the gap closed", several if seeds[-1] > 1 else "one seed", inches)
    floor, ceiling = _score(table, "floor"), _score(table, "ceiling")
    labels = [f"0\nfloor{floor}:\nshuffled\ncaptions", "0.5", f"1\nceiling{ceiling}:\nown text\nroute"]
    right.set_xticks([0, 0.5, 1], labels)
    right.set_xlabel("scene score, from floor to ceiling")

    ring = Line2D([], [], ls="none", marker="o", ms=8, mfc="none", mec=RING, mew=2, label=f"rings: {plan.rule}")
    if current_page():
        legend_below(figure, {str(mark.get_label()): mark for mark in (ring, *marked)}, 4)
    else:
        figure.legend(handles=[ring, *marked], loc="outside lower left", ncols=4, handletextpad=0.3, columnspacing=1.5)
    described = map_drawn("plan_outcomes", heat, plan, subtitle)
    tables = {**described.tables, "shares": table}
    remember(
        figure,
        Drawn("plan_outcomes", tables, f"{described.caption} {GAP}", gap_summary(table, means), described.options),
    )
    return figure


def _mark_plan(
    ax: Axes, heat: pd.DataFrame, table: pd.DataFrame, ringed: BridgePlan, name: str, look: tuple[str, str]
) -> list[Line2D]:
    """Mark the bridges of a plan on the map, unless they are the ringed ones or differ from seed to seed."""
    rows = table[table["plan"] == name]
    if "pairs" not in table or name == ringed.rule or name == "random" or rows["pairs"].nunique() > 1:
        return []
    colour, marker = look
    cells = cells_of(heat, [(u, g) for u, g in json.loads(rows["pairs"].iloc[0])], "plan_outcomes")
    x, y = [column + 0.5 for _, column in cells], [row + 0.5 for row, _ in cells]
    outline = [patheffects.withStroke(linewidth=2, foreground="white")]
    return ax.plot(x, y, marker, color=colour, ms=4.5, mew=0, zorder=5, path_effects=outline, label=name)


def _score(table: pd.DataFrame, column: str) -> str:
    """Return the score of floor or ceiling with a space before it, where the table holds it."""
    return f" {table[column].iloc[0]:.2f}" if column in table else ""
