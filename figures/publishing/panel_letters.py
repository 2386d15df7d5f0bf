"""Give letters to the panels of a figure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from string import ascii_lowercase

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text

from ...probes.arguments import checked


def letter_panels(figure: Figure, axes: Iterable[Axes] | None = None) -> Figure:
    """Write (a), (b), (c) before the titles of a figure's panels.

    Parameters
    ----------
    figure : Figure
        The figure.
    axes : iterable of Axes, optional
        The panels, in the order of the letters; all but colour bars by default.

    Returns
    -------
    Figure
        The same figure. A single panel gets no letter.

    Raises
    ------
    TypeError
        An argument is of another kind.
    ValueError
        If there are more than 26 panels, or if one has a letter already.

    See Also
    --------
    paper : Gives letters to all figures of a paper, by `letters=True`.

    Examples
    --------
    >>> figure, (left, right) = plt.subplots(1, 2)
    >>> figures.live_curve(log, ax=left)
    >>> figures.layer_map(heat, ax=right)
    >>> figures.letter_panels(figure)
    """
    checked("figure", figure, Figure, remedy="pass what a function of bridgework.figures returns")
    given = None if axes is None else list(checked("axes", axes, Iterable, remedy="pass some of figure.axes"))
    for place, ax in enumerate(given or ()):
        checked(f"panel {place} of axes", ax, Axes, remedy="pass some of figure.axes")
    panels = given if given is not None else [ax for ax in figure.axes if ax.get_label() != "<colorbar>"]
    if len(panels) > len(ascii_lowercase):
        raise ValueError(f"letter_panels: {len(panels)} panels: name at most {len(ascii_lowercase)} by axes=")
    titles = [ax.get_title(loc="left") for ax in panels]
    if any(re.match(r"\([a-z]\)(\s|$)", title) for title in titles):
        raise ValueError("letter_panels: the panels have letters already: call it once, or leave out letters=True")
    if len(panels) < 2:
        return figure
    for letter, ax, title in zip(ascii_lowercase, panels, titles, strict=False):
        if title:
            _title_of(ax, title).set_text(f"({letter}) {title}")
        else:
            ax.set_title(f"({letter})", loc="left", fontweight="bold")
    return figure


def _title_of(ax: Axes, title: str) -> Text:
    """Return the text of a panel's title: `set_title` would set its size and distance back to those of the style."""
    texts = [child for child in ax.get_children() if isinstance(child, Text) and child not in ax.texts]
    return next(text for text in texts if text.get_text() == title)
