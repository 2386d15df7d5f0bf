"""Draw the share of the gap between floor and ceiling that each plan's bridges close."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy import stats

from .publishing.drawn import Drawn, remember
from .publishing.page import is_narrow, page_height, page_width, points
from .style import QUIET, YES, need, one_panel, styled

# What stands under the name of a plan that the committed study compares.
NOTES = {
    "alignment": "chosen from the layer map",
    "shallow": "fixed: first understanding blocks",
    "middle": "fixed: middle blocks",
    "deep": "fixed: last understanding blocks",
    "random": "another plan for each seed",
}
GAP = (
    "Share of the gap between models trained with shuffled captions (0) and the generation expert with its own text "
    "route (1) that each plan closes. Small dots are seeds, large marks their means, and bars 95% t intervals of them."
)


@styled
def gap_closed(table: pd.DataFrame, *, ax: Axes | None = None) -> Figure:
    """Draw the share of the gap that each plan closes, best mean on top: seeds as small dots, the mean as a large one.

    The bar is Student's 95 % t interval of the mean over seeds; one seed has none.

    Parameters
    ----------
    table : DataFrame
        Columns plan, seed, score, share. Share 0 is the floor (models trained with shuffled captions), share 1 the
        ceiling (the generation expert with its own text route).
    ax : Axes, optional
        Where to draw.

    Returns
    -------
    Figure
        One row for each plan. With `ax`, the figure that it stands in.

    Raises
    ------
    TypeError
        If `table` is no DataFrame, or `ax` no Axes.
    ValueError
        If columns or rows are missing, or if a seed is there twice for one plan.

    See Also
    --------
    plan_outcomes : Draws the same beside the layer map and the bridges.

    Examples
    --------
    >>> figure = figures.gap_closed(pd.read_csv(RESULTS / "gap.csv"))
    """
    means = plan_means(table, "gap_closed")
    size = page_width(7.2), page_height(1.3 + 0.5 * len(means), 0.8 + 0.36 * len(means))
    figure, ax = one_panel(ax, size, "gap_closed")
    draw_gap(ax, table, means, dict.fromkeys(means.index, (YES, "o")), counted=True, short=is_narrow())
    for value, name in ((0, "floor:\nshuffled captions"), (1, "ceiling:\nown text route")):
        ax.annotate(
            name, (value, 1), (0, 3), xycoords=("data", "axes fraction"), textcoords="offset points", ha="center",
            va="bottom", fontsize=points(8), color=QUIET, annotation_clip=False,
        )  # fmt: skip
    how = "(small dots: seeds; bar: 95 % t interval of the mean)"
    ax.set_xlabel(f"share of the gap closed\n{how}" if is_narrow() else f"share of the gap closed {how}")
    remember(figure, Drawn("gap_closed", {"shares": table}, GAP, gap_summary(table, means)))
    return figure


def gap_summary(table: pd.DataFrame, means: pd.Series) -> pd.DataFrame:
    """Return the mean share of each plan with its interval, best first.

    Parameters
    ----------
    table : DataFrame
        The table, as `gap_closed` takes it.
    means : Series
        The mean share by plan, ascending.

    Returns
    -------
    DataFrame
        Columns plan, share, low, high and seeds.
    """
    rows = []
    for plan, mean in means[::-1].items():
        low, high, count = interval_of(table.share[table.plan == plan])
        rows.append({"plan": str(plan), "share": mean, "low": low, "high": high, "seeds": count})
    return pd.DataFrame(rows)


def plan_means(table: object, name: str) -> pd.Series:
    """Return the mean share of each plan, in ascending order.

    Parameters
    ----------
    table : object
        The table, as `gap_closed` takes it.
    name : str
        The name of the figure, which errors begin with.

    Returns
    -------
    Series
        The mean over seeds, by plan.

    Raises
    ------
    TypeError
        If `table` is no DataFrame.
    ValueError
        If columns or rows are missing, or if a seed is there twice for one plan.
    """
    shares = need(table, ("plan", "seed", "score", "share"), name, "the evaluation of the fused models")
    if shares.duplicated(["plan", "seed"]).any():
        row = shares[shares.duplicated(["plan", "seed"])].iloc[0]
        raise ValueError(f"{name}: plan {row.plan!r} has seed {row.seed} twice: pass one row per plan and seed")
    return shares.groupby("plan", sort=False).share.mean().sort_values()


def interval_of(shares: pd.Series) -> tuple[float, float, int]:
    """Return Student's 95 % t interval of a mean over seeds.

    Parameters
    ----------
    shares : Series
        One share for each seed.

    Returns
    -------
    float, float
        Both ends; NaN for one seed.
    int
        The number of seeds.
    """
    count, mean = len(shares), float(shares.mean())
    half = float(stats.t.ppf(0.975, count - 1) * shares.std() / np.sqrt(count)) if count > 1 else float("nan")
    return mean - half, mean + half, count


def draw_gap(
    ax: Axes, table: pd.DataFrame, means: pd.Series, looks: Mapping[str, tuple[str, str]], counted: bool, short: bool
) -> None:
    """Draw the shares of every plan into axes, one row for each, with lines at floor and ceiling, and numbers beside.

    Parameters
    ----------
    ax : Axes
        Where to draw.
    table : DataFrame
        The table, as `gap_closed` takes it.
    means : Series
        The mean share by plan; the first stands at the bottom.
    looks : mapping of str to (str, str)
        The colour and the marker of each plan.
    counted : bool
        Whether the number of seeds is written beside each row.
    short : bool
        Whether notes and intervals stand on lines of their own, which takes less width.
    """
    for value in (0, 1):
        ax.axvline(value, color=QUIET, lw=1, ls=(0, (4, 2)), zorder=1.5)
    for height, (plan, mean) in enumerate(means.items()):
        shares, (colour, marker) = table.share[table.plan == plan], looks[str(plan)]
        low, high, count = interval_of(shares)
        text, seeds = f"{mean:.2f}", f"  n = {count}" * counted
        if count > 1:
            ax.plot([low, high], [height, height], color=colour, lw=2, solid_capstyle="butt")
            interval = f"[{low:.2f}, {high:.2f}]"
            text += f"{seeds}\n{interval}" if short else f"  {interval}{seeds}"
        else:
            text += seeds
        ax.plot(shares, np.full(count, height + 0.24), "o", color=QUIET, ms=page_height(4, 3), mew=0, alpha=0.8)
        ax.plot([mean], [height], marker, color=colour, ms=page_height(7, 5))
        beside = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points", "annotation_clip": False}
        ax.annotate(text, (1, height), (6, 0), va="center", fontsize=points(8.5), **beside)
        if note := NOTES.get(str(plan)):
            quiet = {"ha": "right", "va": "top", "fontsize": points(7.5), "color": QUIET}
            ax.annotate(note.replace(": ", ":\n") if short else note, (0, height), (-7, -1), **quiet, **beside)
    ax.set_yticks(range(len(means)), [str(plan) for plan in means.index], fontsize=points(9))
    for label, plan in zip(ax.get_yticklabels(), means.index, strict=True):
        label.set_va("bottom" if plan in NOTES else "center")
    ax.set_ylim(-0.6, len(means) - 0.4)
    ax.grid(visible=False)
    left, right = ax.get_xlim()
    ax.set_xlim(min(left, -0.05), max(right, 1.05))
