"""Say what alignment curves show, and at which layer each is highest, from the numbers that were drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from .drawn import Drawn

CURVE = ["subject", "task", "pass", "pooling", "timestep", "metric", "k", "samples"]
UNDRAWN = ["draws"]  # a list of floats in each row: what intervals and divergence are computed from
BANDS = "Bands are 95% intervals, and the grey area reaches to the 95% quantile of the permutation null."


def curves_drawn(table: pd.DataFrame, options: Mapping[str, Any]) -> Drawn:
    """Describe a figure of alignment curves.

    Parameters
    ----------
    table : DataFrame
        The curves with their controls, as `alignment_curves` draws them.
    options : mapping of str to object
        The other arguments.

    Returns
    -------
    Drawn
        The curves, a caption, and the highest score of each curve.
    """
    main = table[table.control == "none"]
    controls = list(dict.fromkeys(table.control[table.control != "none"]))
    broken = f" Broken lines are controls: {', '.join(controls)}." if controls else ""
    text = f"Alignment score against relative depth: {names(main)} ({settings(main)}). {BANDS}{broken}"
    return Drawn("alignment_curves", {"curves": kept(table)}, text, peaks(main), options)


def before_after_drawn(pairs: Sequence[pd.DataFrame]) -> Drawn:
    """Describe a figure of curves before and after training.

    Parameters
    ----------
    pairs : sequence of DataFrame
        For each task and timestep, the columns of both tables, such as score_before and score_after.

    Returns
    -------
    Drawn
        Both curves in one table, a caption, and the largest change of each.
    """
    both = pd.concat(pairs, ignore_index=True)
    both["change"] = both.score_after - both.score_before
    rows = []
    for table in pairs:
        change = table.score_after - table.score_before
        row = table.loc[change.abs().idxmax()]
        shown = {"task": row.task, "timestep": row.timestep, "layer": row.layer, "before": row.score_before}
        rows.append(shown | {"after": row.score_after, "change": row.score_after - row.score_before})
    text = (
        f"Alignment score against relative depth before (broken) and after training ({settings(both)}), and below the "
        f"change. {BANDS}"
    )
    numbers = both.drop(columns=[c for c in both if c.startswith(("draws", "_merge"))])
    return Drawn("before_after", {"curves": numbers}, text, without_empty(pd.DataFrame(rows)))


def kept(table: pd.DataFrame) -> pd.DataFrame:
    """Return the columns of a table of curves that a file of numbers holds.

    Parameters
    ----------
    table : DataFrame
        The curves.

    Returns
    -------
    DataFrame
        All but the draws.
    """
    return table.drop(columns=[column for column in UNDRAWN if column in table])


def names(main: pd.DataFrame) -> str:
    """Return whose curves these are.

    Parameters
    ----------
    main : DataFrame
        The curves without controls.

    Returns
    -------
    str
        Subjects with their tasks.
    """
    pairs = main[["subject", "task"]].drop_duplicates().itertuples(index=False)
    return "; ".join(f"{subject}, {task}" for subject, task in pairs)


def settings(table: pd.DataFrame) -> str:
    """Return how scores were measured.

    Parameters
    ----------
    table : DataFrame
        Columns metric, k and samples.

    Returns
    -------
    str
        Metric, k and N, each kind once.
    """
    kinds = []
    for metric, k, samples in table[["metric", "k", "samples"]].drop_duplicates().itertuples(index=False):
        kinds.append(", ".join([str(metric), *([f"k = {k:g}"] if pd.notna(k) else []), f"N = {samples:g}"]))
    return "; ".join(kinds)


def peaks(main: pd.DataFrame) -> pd.DataFrame:
    """Return the row of each curve at which it is highest.

    Parameters
    ----------
    main : DataFrame
        The curves without controls.

    Returns
    -------
    DataFrame
        One row for each curve: what it is of, and the layer, score and interval of its peak.
    """
    main = main.reset_index(drop=True)  # tables under each other repeat their labels
    best = main.loc[main.groupby(CURVE, sort=False, dropna=False).score.idxmax()]
    shown = best[["subject", "task", "timestep", "metric", "k", "samples", "layer", "score", "low", "high", "null95"]]
    return without_empty(shown.rename(columns={"samples": "N", "layer": "peak layer"}).reset_index(drop=True))


def without_empty(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table without the columns in which nothing applies.

    Parameters
    ----------
    table : DataFrame
        The table.

    Returns
    -------
    DataFrame
        The columns that hold a value.
    """
    return table.dropna(axis=1, how="all")
