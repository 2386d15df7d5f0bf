"""Write the gallery: one static page with every figure, what it says, and the numbers behind it."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from jinja2 import Environment, StrictUndefined
from matplotlib.figure import Figure

from ..probes.arguments import checked, file_name

FOLDER = "figures/gallery"
TEMPLATE = Path(__file__).with_name("gallery.html")
ROWS = 40
OWN = "this run"  # how labels of the run that the page is about begin


class Entry(NamedTuple):
    """One figure of the page.

    Attributes
    ----------
    name : str
        The heading, from which the file's name is made.
    figure : Figure
        The figure.
    caption : str
        What it says.
    numbers : DataFrame
        The numbers behind it.
    label : str
        Whose run the numbers are from. Figures of one name and several labels stand beside each other.

    See Also
    --------
    write_gallery : Takes a list of these, or plain tuples.
    """

    name: str
    figure: Figure
    caption: str
    numbers: pd.DataFrame
    label: str = OWN


def write_gallery(
    folder: str | Path = FOLDER,
    figures: Iterable[tuple] = (),
    tables: Mapping[str, pd.DataFrame] | None = None,
    title: str = "Bridgework",
    notes: str | Iterable[str] = (),
    headline: Mapping[str, object] | None = None,
) -> Path:
    """Write a page with figures and tables into a folder, with a PNG and a CSV file for each figure.

    Everything is written to a temporary folder and then moved over, the page last, so a reader never meets a
    half-written page.

    Parameters
    ----------
    folder : str or path
        The folder to write. Other files in it stay.
    figures : iterable of Entry or tuple
        The figures, as `Entry` or tuples (name, figure, caption, numbers[, label]).
    tables : mapping of str to DataFrame, optional
        Further tables, by heading.
    title : str
        The heading of the page.
    notes : str or iterable of str
        Paragraphs under the title.
    headline : mapping of str to object, optional
        The few numbers that come first, by name. Floats are shown with three digits.

    Returns
    -------
    Path
        The page, `folder/index.html`.

    Raises
    ------
    ValueError
        If there are no figures, or if two names with one label give one file name, or a name gives none.
    TypeError
        If an entry is of another kind.

    See Also
    --------
    save : Writes one figure for a paper, with its numbers and provenance.

    Examples
    --------
    >>> curves = figures.alignment_curves(curve)
    >>> page = figures.write_gallery("page", [("curves", curves, "Alignment by depth.", curve)])
    """
    folder = file_name("folder", folder)
    checked("figures", figures, Iterable, remedy="pass (name, figure, caption, numbers, label) of each")
    checked("tables", tables, Mapping | None)
    checked("title", title, str)
    checked("headline", headline, Mapping | None)
    entries = [_entry(item) for item in figures]
    tables = dict(tables or {})
    if not entries:
        raise ValueError("write_gallery: no figures: pass at least one (name, figure, caption, numbers, label)")
    names = [*map(_name, entries), *tables]
    files = [_file(name) for name in names]
    if len(set(files)) < len(files):
        twice = next(name for name, file in zip(names, files, strict=True) if files.count(file) > 1)
        raise ValueError(f"write_gallery: the name {twice!r} is taken twice: every figure and table needs its own")

    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".partial-") as temporary:
        part = Path(temporary)
        for entry in entries:
            file = _file(_name(entry))
            entry.figure.savefig(part / f"{file}.png", dpi=150, facecolor="white", bbox_inches=None)
            _csv(entry.numbers, part / f"{file}.csv")
        for name, table in tables.items():
            _csv(table, part / f"{_file(name)}.csv")
        page = _page(
            title=title,
            notes=[notes] if isinstance(notes, str) else list(notes),
            headline={str(name): _number(value) for name, value in (headline or {}).items()},
            sections=_sections(entries),
            tables=[_numbers(name, table) for name, table in tables.items()],
        )
        (part / "index.html").write_text(page, encoding="utf-8")
        for path in sorted(part.iterdir(), key=lambda path: path.suffix == ".html"):
            os.replace(path, folder / path.name)
    return folder / "index.html"


def _entry(item: tuple) -> Entry:
    try:
        entry = Entry(*item)
    except TypeError:
        kind = type(item).__name__
        raise TypeError(f"write_gallery: expected (name, figure, caption, numbers, label), got a {kind}") from None
    for what, words in (("name", entry.name), ("caption", entry.caption), ("label", entry.label)):
        checked(f"the {what} of a figure", words, str)
    for part, kind in ((entry.figure, Figure), (entry.numbers, pd.DataFrame)):
        if not isinstance(part, kind):
            raise TypeError(f"write_gallery: {entry.name!r}: expected a {kind.__name__}, got {type(part).__name__}")
    return entry


def _file(name: str) -> str:
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    if not slug:
        raise ValueError(f"write_gallery: the name {name!r} gives no file name: use letters or digits")
    return slug


def _name(entry: Entry) -> str:
    """Return the name that an entry's files are called by."""
    return entry.name if entry.label == OWN else f"{entry.name} {entry.label}"


def _sections(entries: Iterable[Entry]) -> list[dict[str, Any]]:
    """Return what the template shows of figures, those of one name in one section."""
    sections: dict[str, dict[str, Any]] = {}
    for entry in entries:
        empty: dict[str, Any] = {"name": entry.name, "file": f"of-{_file(entry.name)}", "figures": []}
        sections.setdefault(_file(entry.name), empty)["figures"].append(_figure(entry))
    return list(sections.values())


def _plain(table: pd.DataFrame) -> bool:
    """Return whether the rows are merely numbered, so that the index says nothing."""
    return isinstance(table.index, pd.RangeIndex) and table.index.name is None


def _csv(table: pd.DataFrame, path: Path) -> None:
    table.to_csv(path, index=not _plain(table))


def _number(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _page(**parts: Any) -> str:
    """Fill the template."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(parts).lstrip()


def _numbers(name: str, table: pd.DataFrame) -> dict[str, Any]:
    """Return what the template shows of a table."""
    shown = table.head(ROWS)
    if not _plain(table):
        shown = shown.rename_axis(columns=None).reset_index()
    html = shown.to_html(index=False, border=0, float_format="{:.4g}".format, na_rep="")
    more = f"; the first {ROWS} are shown" if len(table) > ROWS else ""
    rows = f"{len(table)} row{'s' if len(table) != 1 else ''}{more}"
    return {"name": name, "file": _file(name), "rows": rows, "table": html}


def _figure(entry: Entry) -> dict[str, Any]:
    """Return what the template shows of a figure and its numbers."""
    # Widths at 100 pixels an inch: sharp on dense screens, text no larger than the page's.
    width, height = (round(100 * inches) for inches in entry.figure.get_size_inches())
    about = {"caption": entry.caption, "label": entry.label, "own": entry.label.startswith(OWN)}
    return _numbers(_name(entry), entry.numbers) | about | {"width": width, "height": height}
