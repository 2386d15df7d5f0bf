"""Write results row by row, so that a run that is killed loses none."""

from __future__ import annotations

import csv
import math
import platform
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

COLUMNS = ("part", "quantity", "value", "unit", "aim", "met", "note", "card", "versions", "seconds")
LIBRARIES = ("torch", "transformers", "diffusers", "accelerate")


class Row(NamedTuple):
    """Hold one result of a part.

    Attributes
    ----------
    quantity : str
        What was measured.
    value : float or None
        How much; None for what is said in words.
    unit : str
        Of the value.
    at_most, at_least : float or None
        What it should be.
    note : str
        What else a reader should know.
    """

    quantity: str
    value: float | None
    unit: str = ""
    at_most: float | None = None
    at_least: float | None = None
    note: str = ""


def versions() -> str:
    """Return the versions of Python and of the libraries that decide about speed."""
    return ", ".join([f"Python {platform.python_version()}", *(f"{name} {version(name)}" for name in LIBRARIES)])


def begin(path: Path) -> None:
    """Begin a file of results."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        csv.writer(file).writerow(COLUMNS)


def append(path: Path, part: str, row: Row, card: str, seconds: float) -> None:
    """Append one result to a file, and print it.

    Parameters
    ----------
    path : Path
        The file, which `begin` has begun.
    part : str
        Name of the part.
    row : Row
        The result.
    card : str
        Name of the device.
    seconds : float
        Since the part began.
    """
    value = "" if row.value is None else f"{row.value:.6g}"
    aims = [
        f"{word} {aim:g}" for word, aim in (("at most", row.at_most), ("at least", row.at_least)) if aim is not None
    ]
    met = ""
    if aims:  # what is not a number meets no aim
        low, high = (-math.inf if row.at_least is None else row.at_least), row.at_most
        met = str(row.value is not None and low <= row.value <= (math.inf if high is None else high))
    line = (part, row.quantity, value, row.unit, ", ".join(aims), met, row.note, card, versions(), f"{seconds:.1f}")
    with path.open("a", newline="") as file:
        csv.writer(file).writerow(line)
    said = [f"{value} {row.unit}".strip(), *aims, row.note]
    print(f"{part}: {row.quantity}: {', '.join(filter(None, said))}", flush=True)


def read(path: Path) -> list[dict[str, str]]:
    """Read the rows of a file, each as a dict by column."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))
