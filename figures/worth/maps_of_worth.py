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
from ..style import QUIET, need, styled

WIDTH, ROW = 9.4, 2.9  # inches, of the figure and of a pair of experts
LINES = 2  # of rules beside each map of worth
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
        9.4 inches wide.

    Raises
    ------
    TypeError
        If a table is no DataFrame.
    ValueError
        If columns or rows are missing, or a cell stands twice.

    See Also
    --------
    rule_correlations : the same correlations over all pairs.
    """
    maker = "bridgework.studies.verdict.report"
    worths = need(worths, [*CELL, "worth"], "worth_maps, worths", maker)
    maps = need(maps, [*CELL, "rule", "gain"], "worth_maps, maps", maker) if len(maps) else NO_MAPS
    ranks = need(ranks, ["rule", "pair", "rho", "partial", "ceiling", "partial_ceiling"], "worth_maps, ranks", maker)
    for name, table, keys in (("worths", worths, CELL), ("maps", maps, [*CELL, "rule"])):
        if table.duplicated(keys).any():
            cell = table[table.duplicated(keys)].iloc[0]
            raise ValueError(f"worth_maps, {name}: {dict(cell[keys])} stands twice: pass one row a cell")
    pairs, rules = list(worths["pair"].unique()), list(maps["rule"].unique())
    figure = plt.figure(figsize=(WIDTH, ROW * len(pairs) + 0.75))
    figure.suptitle("What single bridges are worth, and what each rule said", x=0.01, ha="left")
    rows = np.atleast_1d(figure.subfigures(len(pairs), 1))
    span = worths["worth"].min(), worths["worth"].max()
    for row, pair in zip(rows, pairs, strict=True):
        own = {str(rule): cells for rule, cells in maps[maps["pair"] == pair].groupby("rule")}
        _draw_pair(
            row, worths[worths["pair"] == pair], own, ranks[ranks["pair"] == pair].set_index("rule"), rules, span
        )
        row.suptitle(str(pair), x=0.01, ha="left", fontsize=9)
    figure.text(
        0.01, 0.004,
        "worth: 0 floor (captions of other images), 1 ceiling (own text input), mean over seeds · rules: colour is the "
        "rank of the gain, bright is more\nring: best cell of a map · cross: the cell that is worth most · ρ: rank "
        "correlation with worth · partial: the same beside both depths"
        + " · names of metrics: rule alignment" * any(str(rule).startswith(ALIGNMENT) for rule in rules),
        fontsize=7.5, color=QUIET, va="bottom",
    )  # fmt: skip
    figure.get_layout_engine().set(rect=(0, 0.35 / figure.get_figheight(), 1, 1 - 0.35 / figure.get_figheight()))  # type: ignore[union-attr]
    return figure


def _draw_pair(
    row: SubFigure,
    worths: pd.DataFrame,
    maps: dict[str, pd.DataFrame],
    ranks: pd.DataFrame,
    rules: list[str],
    span: tuple[float, float],
) -> None:
    columns = -(-len(rules) // LINES)
    places = row.add_gridspec(LINES, 1 + columns, width_ratios=[1.9, *[1] * columns])
    truth = _grid(worths, "worth")
    ax = row.add_subplot(places[:, 0])
    _draw_worth(ax, truth, span, ranks)
    known = truth.notna().to_numpy().all()
    best = np.unravel_index(np.nanargmax(truth.to_numpy()), truth.shape) if known else None
    for number, rule in enumerate(rules):
        ax = row.add_subplot(places[number // columns, 1 + number % columns])
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
    ax.tick_params(length=0, labelsize=7)
    ax.set_xlabel("generation block", fontsize=7.5)
    ax.set_ylabel("understanding block", fontsize=7.5)
    note = ""
    if known:
        middle = sum(span) / 2
        for (u, g), value in np.ndenumerate(values):
            ax.text(
                g, u, _short(value), ha="center", va="center", fontsize=7, color="black" if value > middle else "white"
            )
        _ring(ax, np.unravel_index(values.argmax(), values.shape), 19)
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
            _ring(ax, np.unravel_index(gains.argmax(), gains.shape), 9)
        if best is not None:
            ax.plot([best[1]], [best[0]], "x", color="white", ms=6.5, mew=3)
            ax.plot([best[1]], [best[0]], "x", color="#d55e00", ms=5.5, mew=1.6)
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
        ax.text(0.5, 0.5, instead, transform=ax.transAxes, ha="center", va="center", fontsize=7.5, color=QUIET)
        return
    cmap = sns.color_palette("mako", as_cmap=True)
    ax.imshow(values, cmap=cmap, vmin=low, vmax=high, origin="lower", aspect="auto")


def _ring(ax: Axes, cell: tuple, size: float) -> None:
    for colour, width in (("black", 2.6), (RING, 1.5)):
        ax.plot([cell[1]], [cell[0]], "o", mfc="none", mec=colour, mew=width, ms=size, clip_on=False)


def _correlations(rho: float, partial: float) -> str:
    return f"ρ {_short(rho)}, partial {_short(partial)}"


def _short(value: float) -> str:
    return f"{round(value, 2) + 0:.2f}".replace("0.", ".", 1)  # no minus before a zero


def _head(ax: Axes, title: str, note: str) -> None:
    ax.set_title(title, fontsize=8, pad=13)
    ax.annotate(
        note, (0, 1), (0, 3), xycoords="axes fraction", textcoords="offset points", fontsize=6.5, color=QUIET,
        va="bottom", annotation_clip=False,
    )  # fmt: skip
