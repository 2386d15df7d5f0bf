"""Hold the page that figures are drawn for: a screen, or a column of a venue's paper."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from textwrap import fill
from typing import Any

import matplotlib as mpl
from matplotlib.artist import Artist
from matplotlib.text import Text

# Inches of one column and of the whole text: LaTeX's \columnwidth and \textwidth.
VENUES = {
    "cvpr": (3.25, 6.875),
    "icml": (3.25, 6.75),
    "neurips": (5.5, 5.5),
    "iclr": (5.5, 5.5),
}
SCREEN_LETTERS = 9  # points: `font.size` of style.mplstyle, for which the sizes in this package are written
LETTER = 0.5  # of the size of a font: the width of its mean letter, in the fonts of papers

CLOSE = 1.0  # of the height of a line, between lines of one text on paper


@dataclass(frozen=True)
class Page:
    """A width of a venue's paper, with the settings of matplotlib that fit it.

    Attributes
    ----------
    venue : str
        The name of the venue.
    columns : int
        How many of its columns a figure spans.
    width : float
        The width of a figure in inches.
    letters : bool
        Whether panels get letters.
    settings : mapping of str to object
        Settings of matplotlib, on top of the style sheet.
    """

    venue: str
    columns: int
    width: float
    letters: bool
    settings: Mapping[str, Any]


_pages: list[Page | None] = [None]


def current_page() -> Page | None:
    """Return the page that figures are drawn for.

    Returns
    -------
    Page or None
        The page; None is a screen.
    """
    return _pages[0]


def set_page(page: Page | None) -> None:
    """Set the page that figures are drawn for from now on.

    Parameters
    ----------
    page : Page or None
        The page; None is a screen.
    """
    _pages[0] = page


def page_width(screen: float) -> float:
    """Return the width of a figure.

    Parameters
    ----------
    screen : float
        The inches that it takes on a screen.

    Returns
    -------
    float
        The inches of the page, or those of a screen.
    """
    page = current_page()
    return page.width if page else screen


def page_height(screen: float, paper: float) -> float:
    """Return the height of a figure, or of a part of it.

    Parameters
    ----------
    screen, paper : float
        The inches that it takes on a screen and on paper, where letters are smaller.

    Returns
    -------
    float
        One of the two.
    """
    return paper if current_page() else screen


def is_narrow() -> bool:
    """Return whether figures are drawn for one column of a page that has two.

    Returns
    -------
    bool
        True below 4.5 inches.
    """
    return page_width(9.0) < 4.5


def panels_across(count: int, screen: int, inches: float) -> int:
    """Return how many panels stand beside each other.

    Parameters
    ----------
    count : int
        How many panels there are.
    screen : int
        How many stand beside each other on a screen.
    inches : float
        The least width of a panel on paper.

    Returns
    -------
    int
        The number, at least 1.
    """
    page = current_page()
    return max(1, min(count, int(page.width / inches) if page else screen))


def points(size: float) -> float:
    """Return a size of letters for the page.

    Parameters
    ----------
    size : float
        The size in points on a screen.

    Returns
    -------
    float
        The size in points: the same on a screen; smaller on paper, and at least 6.
    """
    return max(6.0, size * mpl.rcParams["font.size"] / SCREEN_LETTERS) if current_page() else size


def wrapped(text: str, inches: float, size: float, screen: int = 1000) -> str:
    """Break a text into lines that fit a width.

    Parameters
    ----------
    text : str
        The text; its own line breaks stay.
    inches : float
        The width, on paper.
    size : float
        The size of letters in points.
    screen : int
        The most letters of a line on a screen.

    Returns
    -------
    str
        The lines.
    """
    letters = int(inches * 72 / (LETTER * size)) if current_page() else screen
    text = text.replace(" = ", "\0=\0")  # t = 0.5 stays in one line
    lines = [fill(line, max(letters, 8), break_long_words=False) for line in text.split("\n")]
    return "\n".join(lines).replace("\0", " ")


def close_lines(artist: Artist) -> None:
    """Set lines of one text closer on paper: the fonts of papers bring room above and below with them.

    Parameters
    ----------
    artist : Artist
        A figure or axes, whose texts of several lines are changed.
    """
    if current_page():
        for text in artist.findobj(Text):
            if isinstance(text, Text) and "\n" in text.get_text():
                text.set_linespacing(CLOSE)
