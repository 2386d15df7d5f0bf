"""Hold what all figures share: the style sheet, grids of panels, colours, headings and the check of a table."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter

from ..probes.curves.table_checks import holds_numbers
from .publishing.drawn import LabelledFigure, figure_of
from .publishing.line_names import spread_names
from .publishing.page import CLOSE, close_lines, current_page, page_height, points, wrapped
from .publishing.panel_letters import letter_panels

STYLE = Path(__file__).with_name("style.mplstyle")
# From seaborn's "colorblind" palette: told apart under the common colour-vision deficiencies, in grey too.
TASK_COLOUR = {"understanding": "#0173b2", "generation": "#de8f05"}
TRAINED, YES, NO, QUIET = "#029e73", "#0173b2", "#d55e00", "#6b6b6b"
WORDS = {"text.parse_math": False}  # names and captions hold dollars: only ticks are formulas
NUMBERS = {  # columns of all tables that figures draw, which hold numbers
    "depth", "score", "low", "high", "chance", "null_mean", "null95", "p", "k", "samples", "timestep", "step", "loss",
    "validation_loss", "share", "seed", "worth", "gain", "rho", "partial", "ceiling", "partial_ceiling", "attribution",
    "mass", "expected", "conflict", "batches", "effective_rank", "dims", "own_x", "own_y", "near", "far",
}  # fmt: skip
NOISE = 0.05  # p above which a score is marked as no more than unrelated features give

Arguments = ParamSpec("Arguments")


def styled(draw: Callable[Arguments, Figure]) -> Callable[Arguments, Figure]:
    """Make a drawing function run inside the style sheet and the page, whatever the caller's settings are.

    Parameters
    ----------
    draw : callable
        A function that returns a figure.

    Returns
    -------
    callable
        The same function, inside the style.
    """

    @wraps(draw)
    def inside(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Figure:
        page = current_page()
        with plt.style.context(["default", STYLE, WORDS, dict(page.settings) if page else {}]):
            figure = draw(*args, **kwargs)
            if page and page.letters and kwargs.get("ax") is None:
                letter_panels(figure, [part for part in figure.axes if part.get_title(loc="left")])
            # Ticks are made on the first drawing, with the settings of that moment: make them now.
            close_lines(figure if kwargs.get("ax") is None else kwargs["ax"])
            _read_powers(figure)
            figure.draw_without_rendering()
            if spread_names(figure) | _read_powers(figure):
                figure.draw_without_rendering()
        return figure

    return inside


def _read_powers(figure: Figure) -> bool:
    """Let ticks of logarithmic axes be formulas, which no name stands in; return whether one was not yet."""
    changed = False
    for axis in (axis for ax in figure.axes for axis in (ax.xaxis, ax.yaxis)):
        major = axis.get_major_formatter(), axis.get_major_ticks()
        for formatter, ticks in (major, (axis.get_minor_formatter(), axis.get_minor_ticks())):
            for tick in ticks if isinstance(formatter, LogFormatter) else ():
                changed |= not tick.label1.get_parse_math()
                tick.label1.set_parse_math(True)
    return changed


def panels(rows: int, columns: int, size: tuple[float, float], **options: Any) -> tuple[Figure, np.ndarray]:
    """Make a figure with a grid of panels.

    Parameters
    ----------
    rows, columns : int
        The grid.
    size : (float, float)
        Width and height in inches.
    **options
        Options of `matplotlib.pyplot.subplots`.

    Returns
    -------
    Figure
        The figure.
    ndarray of Axes, (rows, columns)
        The panels.
    """
    return plt.subplots(rows, columns, FigureClass=LabelledFigure, figsize=size, squeeze=False, **options)


def one_panel(ax: Axes | None, size: tuple[float, float], name: str) -> tuple[Figure, Axes]:
    """Return the caller's axes and their figure, or those of a new figure.

    Parameters
    ----------
    ax : Axes or None
        The caller's axes.
    size : (float, float)
        Width and height of a new figure in inches.
    name : str
        The name of the drawing function, which errors begin with.

    Returns
    -------
    Figure, Axes
        Where to draw.

    Raises
    ------
    TypeError
        If `ax` is something else, such as an array of axes.
    """
    if ax is None:
        figure, grid = panels(1, 1, size)
        return figure, grid[0, 0]
    if not isinstance(ax, Axes):
        raise TypeError(f"{name}: expected one matplotlib Axes as ax=, got {type(ax).__name__}")
    return figure_of(ax), ax


def width_of(ax: Axes) -> float:
    """Return about how many inches wide axes will be; the layout is not known yet.

    Parameters
    ----------
    ax : Axes
        The axes.

    Returns
    -------
    float
        The inches.
    """
    room = 1.15 if current_page() else 1  # margins on paper are smaller than those that subplots start with
    return room * float(ax.get_window_extent().width / ax.figure.dpi)


def need(table: object, columns: Iterable[str], name: str, maker: str) -> pd.DataFrame:
    """Return a table if it is a DataFrame with rows and all columns that a figure needs.

    Parameters
    ----------
    table : object
        The table.
    columns : iterable of str
        The columns that it must have.
    name : str
        The name of the figure or of the table, which errors begin with.
    maker : str
        What makes a right table, which errors name.

    Returns
    -------
    DataFrame
        The same table.

    Raises
    ------
    TypeError
        If it is no DataFrame.
    ValueError
        If columns or rows are missing, a column is there twice, or one of `NUMBERS` holds something else.
    """
    columns = tuple(columns)
    if not isinstance(table, pd.DataFrame):
        raise TypeError(f"{name}: expected a pandas.DataFrame from {maker}, got {type(table).__name__}")
    missing = [column for column in columns if column not in table.columns]
    if missing:
        raise ValueError(f"{name}: missing columns {', '.join(missing)}: pass a table from {maker}")
    if table.empty:
        raise ValueError(f"{name}: the table has no rows: pass a table from {maker}")
    for column in columns:
        if not isinstance(table[column], pd.Series):
            raise ValueError(f"{name}: the column {column!r} is there twice: pass a table from {maker}")
        if column in NUMBERS and not holds_numbers(table[column]):
            raise ValueError(f"{name}: the column {column!r} holds no finite numbers: pass a table from {maker}")
    return table


def heading(ax: Axes, title: str, subtitle: str, inches: float | None = None) -> None:
    """Write a bold title, and under it a quieter line for what was measured, both broken to the width of a page.

    Parameters
    ----------
    ax : Axes
        The axes that get the title.
    title, subtitle : str
        The two texts; the second may have several lines.
    inches : float, optional
        The width that they may take on paper; about that of the axes by default.
    """
    inches = inches or width_of(ax)
    title, subtitle = wrapped(title, inches, points(10)), wrapped(subtitle, inches, points(8))
    note = ax.annotate(
        subtitle,
        (0, 1),
        (0, page_height(5, 3)),
        xycoords="axes fraction",
        textcoords="offset points",
        fontsize=points(8),
        color=QUIET,
        va="bottom",
        annotation_clip=False,
    )
    pad = 7.0 + 11 * (1 + subtitle.count("\n"))
    if current_page():
        note.set_linespacing(CLOSE)
        pad = 5 + 72 * note.get_window_extent().height / ax.figure.dpi if subtitle else 4
    ax.set_title(title, pad=pad)


def measured(metric: object, k: object, samples: object, chance: object) -> str:
    """Return a line that says how scores were measured; what does not apply (None or NaN) is left out.

    Parameters
    ----------
    metric, k, samples, chance : object
        The name of the metric, its number of neighbours, the number of samples, and the score of unrelated features.

    Returns
    -------
    str
        The line.

    Examples
    --------
    >>> measured("mutual_knn", 10, 512, 0.0196)
    'mutual_knn · k = 10 · N = 512 · chance 0.020'
    """
    parts = [str(metric)]
    for text, value in (("k = {:g}", k), ("N = {:g}", samples), ("chance {:.3f}", chance)):
        if value is not None and not pd.isna(value):
            parts.append(text.format(float(str(value))))
    return " · ".join(parts)
