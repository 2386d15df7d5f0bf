"""Write a figure's caption and a table of its numbers in LaTeX."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pandas as pd
from matplotlib.figure import Figure

from ...probes.arguments import checked
from .drawn import Drawn, drawn_into
from .saving import numbers_of

ESCAPED = {
    "\\": r"\textbackslash{}", "$": r"\$", "%": r"\%", "&": r"\&", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "ρ": r"$\rho$", "→": r"$\rightarrow$", "↔": r"$\leftrightarrow$", "−": "$-$", "×": r"$\times$", "²": "$^2$",
    "·": r"$\cdot$", "≤": r"$\leq$", "≥": r"$\geq$", "±": r"$\pm$", "–": "--", "“": "``", "”": "''", "…": r"\dots{}",
}  # fmt: skip
SIGNS = re.compile("|".join(map(re.escape, ESCAPED)))


def caption(figure: Figure, first: str = "", *, label: str | None = None) -> str:
    r"""Return a caption for a figure in LaTeX, written from the numbers that it was drawn from.

    Parameters
    ----------
    figure : Figure
        A figure that was drawn by a function of `bridgework.figures`.
    first : str
        LaTeX of your own that comes first, such as what the figure shows.
    label : str, optional
        What `\ref` calls the figure.

    Returns
    -------
    str
        `\caption{...}`, and a line with `\label{...}` if there is one. Signs such as $, _ and % in names are escaped.

    Raises
    ------
    TypeError
        An argument is of another kind.
    ValueError
        If the figure was not drawn by a function of `bridgework.figures`.

    See Also
    --------
    latex_table : Returns the numbers as a table.
    save : Writes the figure itself, with its numbers.

    Examples
    --------
    >>> print(figures.caption(figure, r"\textbf{Alignment peaks early.}", label="fig:curves"))
    """
    checked("first", first, str)
    checked("label", label, str | None)
    calls = _calls(figure, "caption")
    texts = [escaped(call.caption) for call in calls]
    if len(texts) > 1:
        texts = [f"({chr(97 + place)}) {text}" for place, text in enumerate(texts)]
    lines = [rf"\caption{{{' '.join([first, *texts] if first else texts)}}}"]
    return "\n".join(lines + ([rf"\label{{{label}}}"] if label else []))


def latex_table(figure: Figure, *, columns: Sequence[str] | None = None, decimals: int = 3, every: bool = False) -> str:
    r"""Return a table of a figure's numbers in LaTeX, in the form of the package booktabs.

    Parameters
    ----------
    figure : Figure
        A figure that was drawn by a function of `bridgework.figures`.
    columns : sequence of str, optional
        The columns to show, in this order.
    decimals : int
        The digits behind the point, of columns that do not hold whole numbers alone.
    every : bool
        Whether all numbers are shown, in place of the few that the figure is about, such as the peak of each curve.

    Returns
    -------
    str
        A `tabular` for each call that drew into the figure. Nothing that applies is "--".

    Raises
    ------
    TypeError
        An argument is of another kind.
    ValueError
        If the figure was not drawn by a function of `bridgework.figures`, or if it lacks a column.

    See Also
    --------
    caption : Returns a caption from the same numbers.
    numbers_of : Returns the numbers as a DataFrame.

    Examples
    --------
    >>> Path("peaks.tex").write_text(figures.latex_table(figure, columns=["subject", "peak layer", "score"]))
    """
    checked("decimals", decimals, int, least=0, most=15)
    checked("columns", columns, Sequence[str] | None)
    checked("every", every, bool)
    calls = _calls(figure, "latex_table")
    tables = [numbers_of(figure)] if every else [call.summary for call in calls]
    return "\n\n".join(_tabular(table, columns, decimals) for table in tables)


def escaped(text: object) -> str:
    """Return a text with the signs escaped that LaTeX would read as commands, and others as LaTeX writes them.

    Parameters
    ----------
    text : object
        The text, or what becomes one.

    Returns
    -------
    str
        LaTeX.

    Examples
    --------
    >>> escaped("mutual_knn, 95%")
    'mutual\\\\_knn, 95\\\\%'
    """
    return SIGNS.sub(lambda sign: ESCAPED[sign.group()], str(text))


def _calls(figure: Figure, name: str) -> list[Drawn]:
    checked("figure", figure, Figure, remedy="pass what a function of bridgework.figures returns")
    calls = drawn_into(figure)
    if not calls:
        raise ValueError(f"{name}: the figure was not drawn by bridgework.figures, so nothing is known of its numbers")
    return calls


def _tabular(table: pd.DataFrame, columns: Sequence[str] | None, decimals: int) -> str:
    if columns is not None:
        missing = [column for column in columns if column not in table]
        if missing:
            raise ValueError(f"latex_table: no column {missing[0]!r}: expected some of {', '.join(map(str, table))}")
        table = table[list(columns)]
    numeric = [pd.api.types.is_numeric_dtype(table[column]) and table[column].dtype != bool for column in table]
    shown = pd.DataFrame({
        escaped(column): _cells(table[column], decimals) if number else [_cell(value) for value in table[column]]
        for column, number in zip(table, numeric, strict=True)
    })  # fmt: skip
    return shown.to_latex(index=False, escape=False, column_format="".join("lr"[number] for number in numeric)).strip()


def _cells(values: pd.Series, decimals: int) -> list[str]:
    """Return numbers with the same number of digits, and a true minus."""
    whole = bool((values.dropna() % 1 == 0).all())
    texts = ["--" if pd.isna(value) else f"{value:.{0 if whole else decimals}f}" for value in values]
    return [f"${text}$" if text[:1] == "-" and text != "--" else text for text in texts]


def _cell(value: object) -> str:
    return "--" if value is None or value is pd.NA or value != value else escaped(value)
