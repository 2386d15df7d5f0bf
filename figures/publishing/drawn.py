"""Remember what each figure was drawn from, and embed fonts whenever one is saved."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import matplotlib as mpl
import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# TrueType in PDF and PostScript, since venues refuse Type 3; text that can be searched, and one name a run, in SVG.
EMBEDDED = {"pdf.fonttype": 42, "ps.fonttype": 42, "svg.fonttype": "none", "svg.hashsalt": "bridgework"}


class LabelledFigure(Figure):
    """A figure that is saved with TrueType fonts, and that a notebook draws once where a cell ends with it."""

    def savefig(self, fname: Any, **options: Any) -> None:
        """Save the figure as `Figure.savefig` does, with TrueType fonts in PDF and PostScript and text in SVG.

        Parameters
        ----------
        fname : str, path or file
            Where to write.
        **options
            Options of `matplotlib.figure.Figure.savefig`.
        """
        with mpl.rc_context(EMBEDDED):
            super().savefig(fname, **options)

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        """Take the figure from pyplot, whose backend for notebooks would draw it again at the cell's end."""
        if "inline" in mpl.get_backend():
            plt.close(self)
        return {}  # the formats are those that the notebook is set to


@dataclass
class Drawn:
    """What one call of a drawing function drew.

    Attributes
    ----------
    function : str
        The name of the function.
    tables : mapping of str to DataFrame
        The numbers, by the name of the argument.
    caption : str
        What the figure shows, in plain text.
    summary : DataFrame
        The few numbers that a table of a paper holds.
    options : mapping of str to object
        What else the figure was drawn with, as JSON has it.
    """

    function: str
    tables: Mapping[str, pd.DataFrame]
    caption: str
    summary: pd.DataFrame
    options: Mapping[str, Any] = field(default_factory=dict)


_drawn: WeakKeyDictionary[Figure, list[Drawn]] = WeakKeyDictionary()


def remember(figure: Figure, drawn: Drawn) -> None:
    """Remember what was drawn into a figure.

    Parameters
    ----------
    figure : Figure
        The figure.
    drawn : Drawn
        What was drawn; tables are copied.
    """
    drawn.tables = {name: table.copy() for name, table in drawn.tables.items()}
    _drawn.setdefault(figure, []).append(drawn)


def drawn_into(figure: Figure) -> list[Drawn]:
    """Return what was drawn into a figure, in the order of the calls.

    Parameters
    ----------
    figure : Figure
        The figure.

    Returns
    -------
    list of Drawn
        One for each call of a drawing function; none for a figure of other origin.
    """
    return list(_drawn.get(figure, []))


def figure_of(ax: Axes) -> Figure:
    """Return the whole figure that axes stand in.

    Parameters
    ----------
    ax : Axes
        The axes, in a figure or in a part of one.

    Returns
    -------
    Figure
        The figure.
    """
    return ax.figure.figure  # of a SubFigure, this is the figure that it is a part of


def long_map(heat: pd.DataFrame) -> pd.DataFrame:
    """Return a layer map with one row for each cell.

    Parameters
    ----------
    heat : DataFrame
        The map, (understanding layer, generation layer).

    Returns
    -------
    DataFrame
        Columns understanding, generation and value, with the `attrs` of the map.
    """
    cells = [
        (str(row), str(column), value)
        for row, values in zip(heat.index, heat.to_numpy(float), strict=True)
        for column, value in zip(heat.columns, values, strict=True)
    ]
    table = pd.DataFrame(cells, columns=["understanding", "generation", "value"])
    table.attrs = dict(heat.attrs)
    return table
