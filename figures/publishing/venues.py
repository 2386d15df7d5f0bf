"""Set the width, the letters and the fonts of a venue's paper."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import matplotlib as mpl
from matplotlib import rc_params_from_file

from ...probes.arguments import checked
from ..style import STYLE
from .page import VENUES, Page, current_page, set_page

# Times-like letters that matplotlib ships, as these venues set their text in Times; DejaVu has what they lack.
LETTERS = {
    "font.family": ["STIXGeneral", "DejaVu Sans"],
    "mathtext.fontset": "stix",
    "font.size": 8,
    "axes.labelsize": 8,
    "axes.titlesize": 8.5,
    "figure.titlesize": 9,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "legend.handlelength": 1.6,
    "legend.handletextpad": 0.5,
    "legend.columnspacing": 1.2,
    "legend.labelspacing": 0.3,
    "legend.borderpad": 0.2,
    "lines.linewidth": 1.2,
    "lines.markersize": 2.4,
    "axes.linewidth": 0.6,
    "axes.labelpad": 2.5,
    "grid.linewidth": 0.5,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "xtick.major.pad": 2.5,
    "ytick.major.pad": 2.5,
    "figure.constrained_layout.h_pad": 0.03,
    "figure.constrained_layout.w_pad": 0.03,
    "figure.dpi": 150,
    "savefig.dpi": 300,
}


class _Drawing(ExitStack):
    """Hold what is put back when a drawing for a venue ends, and refuse to begin it again."""

    ended = False

    def __enter__(self) -> _Drawing:
        if self.ended:
            raise RuntimeError(
                "this paper was left before, and figures are drawn for the screen again: call paper again"
            )
        return super().__enter__()

    def __exit__(self, *error: Any) -> bool:
        self.ended = True
        return bool(super().__exit__(*error))


def paper(venue: str, columns: int = 1, *, width: float | None = None, letters: bool = False) -> ExitStack:
    """Draw all figures for a venue's paper: its width, letters of 7 to 9 points like those of its text, TrueType fonts.

    Include the saved file at its own size, without `width=`, so that letters keep their size. The settings also hold
    for figures that you draw with matplotlib yourself.

    Parameters
    ----------
    venue : str
        "cvpr", "icml", "neurips" or "iclr".
    columns : int
        1 for one column of the page (LaTeX's `figure`), 2 for the whole width (`figure*`). NeurIPS and ICLR have one
        column, so that both are the same.
    width : float, optional
        Inches instead of the venue's own, for figures beside each other; at least 2.
    letters : bool
        Whether the panels of a figure get letters, (a), (b), and so on.

    Returns
    -------
    contextlib.ExitStack
        For `with`, behind which all is as before. In a plain call the settings hold until `.close()` of what it
        returned.

    Raises
    ------
    TypeError
        An argument is of another kind.
    ValueError
        If the venue is unknown, if `columns` is neither 1 nor 2, or if the width is below 2 inches or wider than the
        text.

    See Also
    --------
    save : Writes a figure with its numbers and provenance.
    letter_panels : Gives letters to the panels of one figure.

    Notes
    -----
    One column and the whole text, in inches: CVPR 3.25 and 6.875 (author kit: columns 3 1/4, text 6 7/8; the style file
    leaves 3.28 for a column), ICML 3.25 and 6.75 (icml2025.sty), NeurIPS and ICLR 5.5 (neurips_2024.sty,
    iclr2025_conference.sty: `\\textwidth 5.5 true in`). All set their text in Times; figures use STIX, which matplotlib
    ships and which looks like it.

    Examples
    --------
    >>> with figures.paper("cvpr"):
    ...     figures.save(figures.layer_map(heat, plan), "layer_map.pdf")
    """
    checked("venue", venue, str, known=VENUES)
    checked("letters", letters, bool)
    checked("width", width, float | None, above=0, remedy="it is a number of inches")
    if checked("columns", columns, int) not in (1, 2):
        raise ValueError(f"paper: columns is {columns!r}: expected 1 (one column) or 2 (the whole width of the text)")
    inches, text = VENUES[venue][columns - 1], VENUES[venue][1]
    if width is not None and not 2 <= width <= text:
        raise ValueError(f"paper: width is {width!r} inches: expected 2 to {text:g}, the width of the text of {venue}")
    inches = width or inches
    page = Page(venue, columns, inches, letters, {**LETTERS, "figure.figsize": (inches, 0.62 * inches)})
    settings: dict[str, Any] = {**rc_params_from_file(STYLE, use_default_template=False), **page.settings}
    undo = _Drawing()
    undo.callback(set_page, current_page())
    undo.callback(mpl.rcParams.update, {name: mpl.rcParams[name] for name in settings})
    set_page(page)
    mpl.rcParams.update(settings)
    return undo
