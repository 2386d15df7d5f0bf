"""Hold what all figures share: the style sheet, the colours of the two tasks, and the check of an incoming table."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import wraps
from pathlib import Path
from typing import ParamSpec

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

STYLE = Path(__file__).with_name("style.mplstyle")
# From seaborn's "colorblind" palette: told apart under the common colour-vision deficiencies, in grey too.
TASK_COLOUR = {"understanding": "#0173b2", "generation": "#de8f05"}
TRAINED, YES, NO, QUIET = "#029e73", "#0173b2", "#d55e00", "#6b6b6b"
NOISE = 0.05  # p above which a score is marked as no more than unrelated features give

Arguments = ParamSpec("Arguments")


def styled(draw: Callable[Arguments, Figure]) -> Callable[Arguments, Figure]:
    """Make a drawing function run inside the style sheet, whatever the caller's settings are.

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
        with plt.style.context(["default", STYLE]):
            figure = draw(*args, **kwargs)
            # Ticks are made on the first drawing, with the settings of that moment: make them now.
            figure.draw_without_rendering()
        return figure

    return inside


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
        If columns or rows are missing.
    """
    if not isinstance(table, pd.DataFrame):
        raise TypeError(f"{name}: expected a pandas.DataFrame from {maker}, got {type(table).__name__}")
    missing = [column for column in columns if column not in table.columns]
    if missing:
        raise ValueError(f"{name}: missing columns {', '.join(missing)}: pass a table from {maker}")
    if table.empty:
        raise ValueError(f"{name}: the table has no rows: pass a table from {maker}")
    return table


def heading(ax: Axes, title: str, subtitle: str) -> None:
    """Write a bold title, and under it a quieter line for what was measured.

    Parameters
    ----------
    ax : Axes
        The axes that get the title.
    title, subtitle : str
        The two texts; the second may have several lines.
    """
    ax.set_title(title, pad=7 + 11 * (1 + subtitle.count("\n")))
    ax.annotate(
        subtitle,
        (0, 1),
        (0, 5),
        xycoords="axes fraction",
        textcoords="offset points",
        fontsize=8,
        color=QUIET,
        va="bottom",
        annotation_clip=False,
    )


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
