"""Name each run, keep its row on disk, and deal runs that are missing to processes."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ...probes.files import write_json
from ...probes.fingerprints.described_values import digest

Row = dict[str, Any]


class Cell(NamedTuple):
    """One run.

    Attributes
    ----------
    study : str
        What it belongs to, such as "layouts" or "forks".
    about : dict
        What it trains, plain JSON: the same in two studies is one run.
    seed : int
        Of first weights and batches.
    """

    study: str
    about: Mapping[str, Any]
    seed: int

    @property
    def key(self) -> str:
        """What tells this run from others, whatever study asks for it."""
        return digest([dict(self.about), self.seed])


def read_cell(cell: Cell, folder: Path, config: str) -> Row | None:
    """Return the row that a run has left, or None.

    Parameters
    ----------
    cell : Cell
        The run.
    folder : Path
        The folder of the study.
    config : str
        The hash of all else that it depends on.

    Returns
    -------
    dict or None
    """
    path = _path(cell, folder)
    if path.is_file() and (row := json.loads(path.read_text(encoding="utf-8")))["config"] == config:
        return row
    return None


def run_cell(cell: Cell, folder: Path, config: str, run: Callable[[Cell], Row]) -> Row:
    """Return the row of a run: of the file that an earlier call has left, else by running it.

    Parameters
    ----------
    cell : Cell
        The run.
    folder : Path
        The folder of the study.
    config : str
        The hash of all else that it depends on.
    run : callable
        Trains and scores it, and returns what was measured.

    Returns
    -------
    dict
        What was measured, with about, seed and config.
    """
    if (row := read_cell(cell, folder, config)) is not None:
        return row
    row = {**cell.about, "seed": cell.seed, **run(cell), "config": config}
    path = _path(cell, folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, row)
    return row


def _path(cell: Cell, folder: Path) -> Path:
    return folder / "cells" / f"{cell.key}.json"
