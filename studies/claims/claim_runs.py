"""Run what is missing of the studies of claims, and gather their rows.

    python -m bridgework.studies.claims.claim_runs runs/claims            # resumes; stop it at any time
    python -m bridgework.studies.claims.claim_runs runs/claims --only towers

Several processes may be started at once: each takes runs that no other has begun. `bridgework reproduce claims` runs
everything with one process, and copies the rows to studies/results/claims. A GPU is used where there is one.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd
from filelock import FileLock, Timeout

from ...models.experts.opening import open_expert
from ...probes.files import write_json, write_parquet
from ..settings import RESULTS
from . import cell_lists as lists
from . import claim_settings as settings
from .claim_cells import Cell, Row, read_cell, run_cell
from .tower_runs import depths, fitting_rank, plan_of, run_tower, tower_config
from .trunk_runs import run_trunk, trunk_config

COMMITTED = RESULTS / "claims" / "runs.parquet"
FAMILIES = ("towers", "trunks")


def config_of(cell: Cell) -> str:
    """Return the hash of all that a run depends on but what it trains."""
    return tower_config(cell.about["pair"]) if "pair" in cell.about else trunk_config()


def row_of(cell: Cell, folder: Path, wait: float = -1) -> Row:
    """Return the row of a run, and run it if no earlier call has.

    Another process that runs it is waited for: so many seconds, then Timeout is raised; without an end below 0.
    """
    run = run_tower if "pair" in cell.about else run_trunk
    with FileLock(folder / "locks" / cell.key, timeout=wait):
        return run_cell(cell, folder, config_of(cell), lambda each: run(each, folder))


def stages(family: str, run: lists.Run) -> Iterator[list[Cell]]:
    """Yield the runs of a family, those that need no other first.

    Parameters
    ----------
    family : {"towers", "trunks"}
        The family.
    run : callable
        Returns the row of a run that chooses a learning rate, when a later list needs it.

    Yields
    ------
    list of Cell
    """
    if family == "trunks":
        chosen = lists.tune_trunks(run)
        yield lists.task_cells()
        yield lists.trunk_cells(chosen)
        yield lists.fork_cells(chosen)
        yield lists.end_cells(chosen)
        return
    for pair in settings.PAIRS:
        chosen = lists.tune_towers(pair, run)
        yield lists.layout_cells(pair, chosen)
        if pair == settings.PAIRS[0]:
            yield lists.semantic_cells(pair, chosen)
            yield lists.bridge_cells(pair, chosen, widest_rank(pair))
        yield lists.injection_cells(pair, chosen)
        if pair == settings.PAIRS[0]:
            yield lists.shift_cells(pair, chosen)


def widest_rank(pair: str) -> int | None:
    """Return the largest rank at which H with a bridge at every pair fits the budget of parameters."""
    plan = plan_of({"pair": pair, "layout": "H", "gated": False, "middle": min(depths(pair))})
    return fitting_rank(plan, [open_expert(name) for name in pair.split(" x ")])


def run_missing(folder: Path, families: Sequence[str] = FAMILIES) -> None:
    """Run what no process has run or begun.

    Parameters
    ----------
    folder : Path
        The folder of the study.
    families : sequence of str
        "towers", "trunks".
    """
    (folder / "locks").mkdir(parents=True, exist_ok=True)
    restore(folder)
    for family in families:
        for cells in stages(family, lambda cell: row_of(cell, folder)):
            for cell in cells:
                if read_cell(cell, folder, config_of(cell)) is not None:
                    continue
                try:
                    row = row_of(cell, folder, wait=0)
                except Timeout:  # another process has begun it
                    continue
                print(f"{cell.study} {dict(cell.about)} seed {cell.seed}: loss {row['loss']:.4f}", flush=True)


class _NotDone(Exception):
    """A run has left no row yet."""


def gather(folder: Path) -> pd.DataFrame:
    """Write the rows of all runs that are done to runs.parquet of the folder.

    Parameters
    ----------
    folder : Path
        The folder of the study.

    Returns
    -------
    DataFrame
        One row a study and run, those that chose learning rates too: study, key, config, seed; about and measured, both
        JSON. A run that two studies ask for stands in both.
    """
    rows: list[dict[str, Any]] = []

    def kept(cell: Cell) -> Row:
        row = read_cell(cell, folder, config_of(cell))
        if row is None:
            raise _NotDone(cell.key)
        known = {**cell.about, "seed": cell.seed, "config": row["config"]}  # links are asked for and measured
        measured = {name: value for name, value in row.items() if known.get(name) != value}
        about = {"study": cell.study, "key": cell.key, "config": row["config"], "seed": cell.seed}
        rows.append(about | {"about": json.dumps(dict(cell.about)), "measured": json.dumps(measured)})
        return row

    for family in FAMILIES:
        with suppress(_NotDone):  # later lists need learning rates that are not chosen yet
            for cell in (cell for cells in stages(family, kept) for cell in cells):
                with suppress(_NotDone):
                    kept(cell)
    table = pd.DataFrame(rows).drop_duplicates(["study", "key"]).reset_index(drop=True)
    write_parquet(folder / COMMITTED.name, table)
    return table


def restore(folder: Path) -> None:
    """Put the committed rows into a folder, so that they are not run again.

    Runs whose weights are kept for the curves are not among them: weights are not committed.

    Parameters
    ----------
    folder : Path
        The folder of the study.
    """
    if not COMMITTED.is_file():
        return
    for row in pd.read_parquet(COMMITTED).itertuples():
        path = folder / "cells" / f"{row.key}.json"
        if not path.is_file() and "keep" not in json.loads(row.about):
            path.parent.mkdir(parents=True, exist_ok=True)
            about = {**json.loads(row.about), "seed": row.seed}
            write_json(path, about | json.loads(row.measured) | {"config": row.config})


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line that the head of this module shows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="The folder of the study.")
    parser.add_argument("--only", choices=FAMILIES, help="One family alone.")
    options = parser.parse_args(arguments)
    run_missing(options.folder, [options.only] if options.only else FAMILIES)


if __name__ == "__main__":
    main()
