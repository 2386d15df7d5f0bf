"""Draw the map of what single bridges are worth beside the map of each rule, for every pair of experts."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from scipy.stats import rankdata

from ..maps import RING
from ..publishing.drawn import Drawn, LabelledFigure, remember
from ..publishing.page import current_page, is_narrow, page_height, page_width, points, wrapped
from ..style import QUIET, need, styled

WIDTH, ROW = 9.4, 2.9  # inches, of the figure and of a pair of experts
LINES = 2  # of rules beside each map of worth
ACROSS, NARROW_WORTH, NARROW_RULES = 3, 1.9, 0.95  # in one column of paper: rules in a line, inches of a map with title
BLANK = "#f2f2f2"
ALIGNMENT = "alignment, "
CELL = ["pair", "understanding", "generation"]
NO_MAPS = pd.DataFrame(columns=[*CELL, "rule", "gain"])


@styled
def worth_maps(worths: pd.DataFrame, maps: pd.DataFrame, ranks: pd.DataFrame) -> Figure:
    """Draw one row for each pair of experts: the map of worth at the left, the maps of the rules at its right.

    Generation blocks stand along x and understanding blocks along y, **deeper is right and up**, in all maps of a row
    the same. The map of worth has one colour scale for all pairs. Rules have other units than worth and than each
    other, so each of their maps is coloured by the ranks of its gains, which is what rank correlations compare. A ring
    marks the best cell of a map, a cross in the rules' maps the cell that is worth most.

    Parameters
    ----------
    worths : DataFrame
        One row a cell: pair, understanding, generation (blocks), worth. Where a pair's worth is missing, its panel says
        so.
    maps : DataFrame
        One row a cell: pair, rule, understanding, generation, gain. Cells beside those of `worths` are not drawn.
        Without rows, maps of worth are drawn alone.
    ranks : DataFrame
        One row a rule and pair: rule, pair, rho and partial, the rank correlations that stand above each map, and
        ceiling and partial_ceiling, those that a perfect map would reach.

    Returns
    -------
    Figure
        9.4 inches wide, and on paper as wide as the page; in one column the map of worth stands above those of rules.

    Raises
    ------
    TypeError
        If a table is no DataFrame.
    ValueError
        If columns or rows are missing, or a cell stands twice.

    See Also
    --------
    rule_correlations : Draws the same correlations over all pairs, with their intervals.

    Examples
    --------
    >>> worths, ranks = (pd.read_csv(RESULTS / "verdict" / f"{name}.csv") for name in ("worths", "ranks"))
    >>> maps = pd.read_parquet(RESULTS / "verdict" / "rule_maps.parquet")
    >>> figure = figures.worth_maps(worths, maps, ranks[ranks["outcome"] == "loss"])
    """
    maker = "bridgework.studies.verdict.report"
    worths = need(worths, [*CELL, "worth"], "worth_maps, worths", maker)
    maps = need(maps, [*CELL, "rule", "gain"], "worth_maps, maps", maker) if _has_rows(maps) else NO_MAPS
    ranks = need(ranks, ["rule", "pair", "rho", "partial", "ceiling", "partial_ceiling"], "worth_maps, ranks", maker)
    for name, table, keys in (("worths", worths, CELL), ("maps", maps, [*CELL, "rule"])):
        if table.duplicated(keys).any():
            cell = table[table.duplicated(keys)].iloc[0]
            raise ValueError(f"worth_maps, {name}: {dict(cell[keys])} stands twice: pass one row a cell")
    pairs, rules = list(worths["pair"].unique()), list(maps["rule"].unique())
    below = is_narrow()
    row_height = NARROW_WORTH + NARROW_RULES * -(-len(rules) // ACROSS) if below else page_height(ROW, 2.7)
    head = page_height(0.75, 0.6)
    size = page_width(WIDTH), row_height * len(pairs) + head
    figure = plt.figure(FigureClass=LabelledFigure, figsize=size)
    title = "What single bridges are worth, and what each rule said"
    figure.suptitle(wrapped(title, size[0], points(11)), x=0.01, ha="left")
    rows = np.atleast_1d(figure.subfigures(len(pairs), 1))
    span = worths["worth"].min(), worths["worth"].max()
    for row, pair in zip(rows, pairs, strict=True):
        own = {str(rule): cells for rule, cells in maps[maps["pair"] == pair].groupby("rule")}
        _draw_pair(
            row, worths[worths["pair"] == pair], own, ranks[ranks["pair"] == pair].set_index("rule"), rules, span
        )
        row.suptitle(str(pair), x=0.01, ha="left", fontsize=points(9))
    note = (
        "worth: 0 floor (captions of other images), 1 ceiling (own text input), mean over seeds · rules: colour is the "
        "rank of the gain, bright is more\nring: best cell of a map · cross: the cell that is worth most · ρ: rank "
        "correlation with worth · partial: the same beside both depths"
        + " · names of metrics: rule alignment"
        * any(str(rule).startswith(ALIGNMENT) for rule in rules)
    )
    if current_page():
        note = wrapped(note.replace("\n", " · "), size[0] - 0.1, points(7.5))
    figure.text(0.01, 0.004, note, fontsize=points(7.5), color=QUIET, va="bottom")
    foot = page_height(0.35, 0.05 + 0.1 * (1 + note.count("\n"))) / size[1]
    figure.get_layout_engine().set(rect=(0, foot, 1, 1 - foot))  # type: ignore[union-attr]
    text = (
        "What single bridges between an understanding and a generation block are worth (0: captions of other images, "
        "1: own text input), and the maps of the rules, coloured by rank. Rings are the best cells, and crosses the "
        "cells that are worth most."
    )
    best = worths.dropna(subset="worth").reset_index(drop=True)
    best = best.loc[best.groupby("pair", sort=False)["worth"].idxmax()].reset_index(drop=True)
    tables = {"worths": worths, "maps": maps, "ranks": ranks}
    remember(figure, Drawn("worth_maps", tables, text, best[[*CELL, "worth"]]))
    return figure


def _has_rows(table: object) -> bool:
    """Return whether a table is to be read; an empty one is that of no rules."""
    return not isinstance(table, pd.DataFrame) or len(table) > 0


def _draw_pair(
    row: SubFigure,
    worths: pd.DataFrame,
    maps: dict[str, pd.DataFrame],
    ranks: pd.DataFrame,
    rules: list[str],
    span: tuple[float, float],
) -> None:
    truth = _grid(worths, "worth")
    if is_narrow():
        columns, first = ACROSS, (1, 0)
        lines = -(-len(rules) // columns)
        places = row.add_gridspec(1 + lines, columns, height_ratios=[NARROW_WORTH / NARROW_RULES, *[1] * lines])
        ax = row.add_subplot(places[0, :])
    else:
        lines = max(LINES, -(-len(rules) // 4)) if current_page() else LINES  # at most four in a line of paper
        columns, first = -(-len(rules) // lines), (0, 1)
        places = row.add_gridspec(lines, 1 + columns, width_ratios=[1.9, *[1] * columns])
        ax = row.add_subplot(places[:, 0])
    _draw_worth(ax, truth, span, ranks)
    known = truth.notna().to_numpy().all()
    best = np.unravel_index(np.nanargmax(truth.to_numpy()), truth.shape) if known else None
    for number, rule in enumerate(rules):
        ax = row.add_subplot(places[first[0] + number // columns, first[1] + number % columns])
        values = _grid(maps[rule], "gain").reindex(index=truth.index, columns=truth.columns) if rule in maps else None
        _draw_rule(ax, rule, values, best, ranks.loc[rule] if rule in ranks.index else None)


def _grid(cells: pd.DataFrame, column: str) -> pd.DataFrame:
    return cells.pivot(index="understanding", columns="generation", values=column)


def _draw_worth(ax: Axes, truth: pd.DataFrame, span: tuple[float, float], ranks: pd.DataFrame) -> None:
    values, known = truth.to_numpy(float), truth.notna().to_numpy().all()
    _draw_cells(ax, values if known else None, *span, "not complete")
    ax.set(xlim=(-0.5, truth.shape[1] - 0.5), ylim=(-0.5, truth.shape[0] - 0.5))
    for axis, labels in ((ax.xaxis, truth.columns), (ax.yaxis, truth.index)):
        axis.set_ticks(range(len(labels)), [str(block) for block in labels])
    ax.tick_params(length=0, labelsize=points(7))
    ax.set_xlabel("generation block", fontsize=points(7.5))
    ax.set_ylabel("understanding block", fontsize=points(7.5))
    note = ""
    if known:
        middle = sum(span) / 2
        for (u, g), value in np.ndenumerate(values):
            ax.text(
                g,
                u,
                _short(value),
                ha="center",
                va="center",
                fontsize=points(7),
                color="black" if value > middle else "white",
            )
        _ring(ax, np.unravel_index(values.argmax(), values.shape), page_height(19, 13))
        ceilings = ranks[["ceiling", "partial_ceiling"]].dropna()
        note = f"a perfect map: {_correlations(*ceilings.iloc[0])}" if len(ceilings) else ""
    _head(ax, "worth of one bridge", note)


def _draw_rule(
    ax: Axes, rule: str, values: pd.DataFrame | None, best: tuple | None, correlations: pd.Series | None
) -> None:
    gains = values.to_numpy(float) if values is not None and values.notna().to_numpy().all() else None
    if gains is not None:
        ranks = rankdata(gains).reshape(gains.shape)
        _draw_cells(ax, ranks, 1, gains.size, "")
        if gains.min() < gains.max():
            _ring(ax, np.unravel_index(gains.argmax(), gains.shape), page_height(9, 6))
        if best is not None:
            ax.plot([best[1]], [best[0]], "x", color="white", ms=page_height(6.5, 4.5), mew=page_height(3, 2.2))
            ax.plot([best[1]], [best[0]], "x", color="#d55e00", ms=page_height(5.5, 3.8), mew=page_height(1.6, 1.1))
    else:
        _draw_cells(ax, None, 0, 1, "no map yet")
    ax.set(xticks=[], yticks=[])
    note = ""
    if correlations is not None and pd.notna(correlations["rho"]):
        note = _correlations(correlations["rho"], correlations["partial"])
    _head(ax, rule.removeprefix(ALIGNMENT), note)


def _draw_cells(ax: Axes, values: np.ndarray | None, low: float, high: float, instead: str) -> None:
    ax.grid(visible=False)
    ax.spines[:].set_visible(False)
    if values is None:
        ax.set_facecolor(BLANK)
        ax.text(0.5, 0.5, instead, transform=ax.transAxes, ha="center", va="center", fontsize=points(7.5), color=QUIET)
        return
    cmap = sns.color_palette("mako", as_cmap=True)
    ax.imshow(values, cmap=cmap, vmin=low, vmax=high, origin="lower", aspect="auto")


def _ring(ax: Axes, cell: tuple, size: float) -> None:
    for colour, width in (("black", page_height(2.6, 1.8)), (RING, page_height(1.5, 1))):
        ax.plot([cell[1]], [cell[0]], "o", mfc="none", mec=colour, mew=width, ms=size, clip_on=False)


def _correlations(rho: float, partial: float) -> str:
    return f"ρ {_short(rho)}, partial {_short(partial)}"


def _short(value: float) -> str:
    return f"{round(value, 2) + 0:.2f}".replace("0.", ".", 1)  # no minus before a zero


def _head(ax: Axes, title: str, note: str) -> None:
    ax.set_title(title, fontsize=points(8), pad=page_height(13, 11))
    ax.annotate(
        note, (0, 1), (0, page_height(3, 2)), xycoords="axes fraction", textcoords="offset points",
        fontsize=points(6.5), color=QUIET, va="bottom", annotation_clip=False,
    )  # fmt: skip
