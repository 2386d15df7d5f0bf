"""Save a figure with the numbers that it was drawn from and a record of where they come from."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ...probes.arguments import checked, file_name
from ...probes.files import write_atomically
from .curve_descriptions import kept
from .drawn import EMBEDDED, drawn_into
from .page import current_page

FORMATS = ("pdf", "svg", "png")
RECORD = {"pdf": "Keywords", "svg": "Source", "png": "Source"}  # the field of each format that holds the record
CAPTION = {"pdf": "Subject", "svg": "Description", "png": "Description"}
NO_DATE: dict[str, dict[str, Any]] = {"pdf": {"CreationDate": None}, "svg": {"Date": None}, "png": {}}
MOST = 64  # values of an attribute in a record; larger ones are tables, which the file of numbers holds
PACKAGES = ("bridgework", "matplotlib", "numpy", "pandas", "seaborn")


def save(
    figure: Figure,
    path: str | os.PathLike[str],
    *,
    numbers: pd.DataFrame | None = None,
    provenance: Mapping[str, Any] | None = None,
    dpi: float = 300,
) -> list[Path]:
    """Save a figure as NAME.pdf, NAME.svg or NAME.png, its numbers as NAME.csv and its provenance as NAME.json.

    The provenance also lies in the file of the figure: in PDF as Keywords, in SVG and PNG as Source. It says which
    functions drew the figure from what, with the `attrs` of the tables, the hash of the numbers, and the versions of
    the libraries. Nothing in it depends on the time, the machine or the folder, so that the same call with the same
    numbers writes the same bytes. The figure keeps its size in inches, and fonts are TrueType.

    Parameters
    ----------
    figure : Figure
        A figure that was drawn by a function of `bridgework.figures`, also into axes of your own.
    path : str or os.PathLike
        The file to write. Its suffix is the format: pdf, svg or png; all three without one. Its folder is made.
    numbers : DataFrame, optional
        The numbers instead of those that the figure was drawn from; needed for a figure of other origin.
    provenance : mapping of str to object, optional
        What else is worth knowing, such as a commit or the name of a store; anything that JSON has.
    dpi : float
        Dots an inch, of PNG and of the cells of maps.

    Returns
    -------
    list of Path
        The files that were written: figures, numbers, provenance. Each is written whole or not at all.

    Raises
    ------
    TypeError
        If `figure` is no Figure, `numbers` no DataFrame, or JSON has no such `provenance`.
    ValueError
        If the format is unknown, if nothing is known of the numbers, or if NAME.json is there and holds something else
        than a figure's record, such as the plan that is drawn.

    See Also
    --------
    paper : Fits figures to the page of a venue.
    caption : Returns a caption in LaTeX from the same numbers.
    latex_table : Returns a table in LaTeX from the same numbers.

    Examples
    --------
    >>> figures.save(figures.alignment_curves(curve), "curves.pdf", provenance={"commit": "1a2b3c"})
    [PosixPath('curves.pdf'), PosixPath('curves.csv'), PosixPath('curves.json')]
    """
    if not isinstance(figure, Figure):
        raise TypeError(f"save: expected a matplotlib Figure, got {type(figure).__name__}")
    checked("dpi", dpi, float, least=1, most=2400)
    checked("provenance", provenance, Mapping | None)
    path = file_name("path", path)
    if not path.name or path.is_dir():
        raise ValueError(f"save: the path {str(path)!r} is a folder: name a file, such as curves.pdf")
    formats = [path.suffix[1:].lower()] if path.suffix else list(FORMATS)
    if formats[0] not in FORMATS:
        raise ValueError(
            f"save: unknown format {path.suffix!r}: expected .pdf, .svg, .png, or no suffix for all three; "
            "figure.savefig writes other formats, without numbers and provenance"
        )
    _check_record(path.with_suffix(".json"))
    table = numbers_of(figure) if numbers is None else numbers
    if not isinstance(table, pd.DataFrame):
        raise TypeError(f"save: expected a pandas DataFrame as numbers=, got {type(table).__name__}")
    written = table.to_csv(index=not isinstance(table.index, pd.RangeIndex), lineterminator="\n")
    record: dict[str, Any] = {
        **_described(figure),
        "numbers": {"rows": len(table), "sha256": sha256(written.encode()).hexdigest()},
    }
    if provenance is not None:
        record["provenance"] = dict(provenance)
    try:
        compact = json.dumps(record, sort_keys=True)
    except (TypeError, ValueError, RecursionError) as error:
        raise TypeError(f"save: provenance= holds what JSON has not: {error}") from None
    files = []
    with _settled(figure), mpl.rc_context(EMBEDDED):
        for name in formats:
            text = {"Title": ", ".join(each["function"] for each in record["drawn"]) or path.stem}
            text |= {CAPTION[name]: " ".join(drawn.caption for drawn in drawn_into(figure)), RECORD[name]: compact}
            options = {"format": name, "dpi": dpi, "bbox_inches": None, "metadata": {**NO_DATE[name], **text}}
            files.append(path.with_suffix(f".{name}"))
            write_atomically(files[-1], lambda file, options=options: figure.savefig(file, **options))
    indented = json.dumps(record, sort_keys=True, indent=2) + "\n"
    for suffix, content in ((".csv", written), (".json", indented)):
        files.append(path.with_suffix(suffix))
        write_atomically(files[-1], lambda file, content=content: file.write_bytes(content.encode()))
    return files


def _check_record(path: Path) -> None:
    """Raise ValueError where a file that is no figure's record would be written over."""
    if not path.is_file():
        return
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        found = None
    if not (isinstance(found, dict) and {"drawn", "numbers"} <= found.keys()):
        raise ValueError(
            f"save: {path} is there and is no figure's record, which would be written over it: give the figure another "
            f"name than {path.stem}"
        )


def numbers_of(figure: Figure) -> pd.DataFrame:
    """Return the numbers that a figure was drawn from, as `save` writes them.

    Parameters
    ----------
    figure : Figure
        A figure that was drawn by a function of `bridgework.figures`.

    Returns
    -------
    DataFrame
        The table that was drawn. Several tables stand below each other, with the column table first, and with the
        column panel before it where several calls drew into the figure. A layer map has one row for each cell:
        understanding, generation, value. The draws of curves are left out.

    Raises
    ------
    TypeError
        An argument is of another kind.
    ValueError
        If nothing is known of its numbers.

    See Also
    --------
    save : Writes them beside the figure.

    Examples
    --------
    >>> figures.numbers_of(figures.layer_map(heat)).columns.tolist()
    ['understanding', 'generation', 'value']
    """
    checked("figure", figure, Figure, remedy="pass what a function of bridgework.figures returns")
    calls = drawn_into(figure)
    if not calls:
        raise ValueError(
            "save: the figure was not drawn by bridgework.figures, so nothing is known of its numbers: pass numbers="
        )
    tables = [(place, name, table) for place, call in enumerate(calls, 1) for name, table in call.tables.items()]
    if len(tables) == 1:
        return kept(tables[0][2])
    parts = []
    for place, name, table in tables:
        part = kept(table).reset_index(drop=isinstance(table.index, pd.RangeIndex) or table.index.name is None)
        part.attrs = {}  # pandas compares them when it joins tables
        part.insert(0, "table", name)
        if len(calls) > 1:
            part.insert(0, "panel", place)
        parts.append(part)
    return pd.concat(parts, ignore_index=True)


def _described(figure: Figure) -> dict[str, Any]:
    """Return what is known of a figure, as JSON has it."""
    calls = []
    for call in drawn_into(figure):
        tables = {
            name: {"rows": len(table), "attrs": _plain({k: v for k, v in table.attrs.items() if np.size(v) <= MOST})}
            for name, table in call.tables.items()
        }
        calls.append(
            {"function": call.function, "caption": call.caption, "options": _plain(call.options), "tables": tables}
        )
    page = current_page()
    inches = [round(float(size), 4) for size in figure.get_size_inches()]
    return {
        "drawn": calls,
        "page": {"venue": page.venue if page else None, "inches": inches},
        "versions": {name: _version(name) for name in PACKAGES},
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _plain(value: Any) -> Any:
    """Return a value as JSON has it; what it does not have becomes the name of its type."""
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple, set, frozenset, np.ndarray, pd.Index)):
        return [_plain(each) for each in (sorted(value) if isinstance(value, (set, frozenset)) else value)]
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value if value is None or isinstance(value, (str, bool, int, float)) else type(value).__name__


@contextmanager
def _settled(figure: Figure) -> Iterator[None]:
    """Lay a figure out once, at its own resolution, so that all formats and repeated calls have the same places."""
    for _ in range(2):
        figure.draw_without_rendering()
    engine = figure.get_layout_engine()
    figure.set_layout_engine("none")
    try:
        yield
    finally:
        if engine is not None:
            figure.set_layout_engine(engine)
