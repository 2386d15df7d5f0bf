"""Turn runs into tables: what each layout is worth, and each sweep, with intervals over seeds."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ...probes.similarity.intervals import mean_interval
from . import claim_settings as settings
from .tower_runs import CEILING, UNBRIDGED

WORTH = "worth"
ABOVE = {"loss_above": "loss", "answer_loss_above": "answer_loss"}  # what stands above `shared`, and of which loss
COSTS = ("parameters", "sharing", "step_flops", "step_seconds")


def read_runs(path: Path) -> pd.DataFrame:
    """Read the runs that `gather` wrote.

    Parameters
    ----------
    path : Path
        A runs.parquet.

    Returns
    -------
    DataFrame
        One row a study and run: study, seed, what was trained and what was measured, a column each; and worth, of two
        towers.

    Raises
    ------
    ValueError
        Runs of one pair of experts, or of one trunk, are of two configurations.
    """
    table = pd.read_parquet(path)
    cells = [
        {
            "study": row.study,
            "seed": row.seed,
            "config": row.config,
            **json.loads(row.about),
            **json.loads(row.measured),
        }
        for row in table.itertuples()
    ]
    runs = pd.DataFrame(cells)
    if "pair" not in runs:
        runs["pair"] = None
    mixed = runs.groupby(runs["pair"].fillna("one trunk"))["config"].nunique()
    if (mixed > 1).any():
        raise ValueError(f"{path} holds runs of {mixed.idxmax()} by two protocols or experts: run one of them again")
    return above_shared(with_worth(runs))


def above_shared(runs: pd.DataFrame) -> pd.DataFrame:
    """Return runs with the losses of one trunk above those of `shared` at the same seed, which saw the same batches.

    Parameters
    ----------
    runs : DataFrame
        Of `read_runs`.

    Returns
    -------
    DataFrame
        With the columns of `ABOVE`; NaN for two towers, and where `shared` was not run at that seed.
    """
    shared = runs[(runs["study"] == "trunks") & (runs["layout"] == "shared")].set_index("seed")
    trunks = runs["study"].isin(["trunks", "forks", "ends"])
    found = {}
    for name, outcome in ABOVE.items():
        known = shared[outcome] if outcome in shared else pd.Series(dtype=float)
        found[name] = (runs.get(outcome, np.nan) - runs["seed"].map(known)).where(trunks)
    return runs.assign(**found)


def with_worth(runs: pd.DataFrame) -> pd.DataFrame:
    """Return runs with their worth: the share of the way from the layout's floor to the pair's ceiling.

    Parameters
    ----------
    runs : DataFrame
        Of `read_runs`.

    Returns
    -------
    DataFrame
        With the column worth. It is NaN for one trunk, and where no floor or no ceiling was run. Sweeps of H and double
        fusion have the floors of these layouts as published.
    """
    runs = runs.assign(**{WORTH: np.nan})
    shuffled = runs.get("shuffled", pd.Series(np.nan, runs.index)) == True  # noqa: E712
    for _, rows in runs.groupby("pair"):
        ceiling = rows.loc[rows["layout"] == CEILING, "loss"].mean()
        floors = rows[shuffled.loc[rows.index]].groupby("layout")["loss"].mean()
        floor = rows["layout"].map(floors)
        runs.loc[rows.index, WORTH] = (floor - rows["loss"]) / (floor - ceiling)
    return runs.assign(shuffled=shuffled)


def spread(values: Sequence[float] | np.ndarray, name: str) -> dict[str, Any]:
    """Return a mean with its 95 % interval over seeds as columns: NAME, NAME_low, NAME_high."""
    mean, low, high = map(float, mean_interval(np.asarray(values, float)))
    return {name: mean, f"{name}_low": low, f"{name}_high": high}


def layout_table(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the table of two towers: one row a pair and layout.

    Parameters
    ----------
    runs : DataFrame
        Of `read_runs`.

    Returns
    -------
    DataFrame
        pair, layout, seeds; worth, loss, score, each with low and high; floor; the costs of `COSTS`, bridges,
        used_rank; time, the seconds of a step over those of the layout "last".
    """
    found = []
    rows = runs[(runs["study"] == "layouts") & ~runs["layout"].isin([UNBRIDGED, CEILING])]
    for (pair, layout), group in rows.groupby(["pair", "layout"], sort=False):
        own, others = group[~group["shuffled"]], group[group["shuffled"]]
        row = {"pair": pair, "layout": layout, "seeds": len(own), "floor": others["loss"].mean()}
        for outcome in (WORTH, "loss", "score", "exact"):
            row |= spread(own[outcome], outcome)
        for cost in (*COSTS, "bridges", "used_rank"):
            row[cost] = own[cost].mean() if cost in own else np.nan
        found.append(row)
    table = pd.DataFrame(found)
    if table.empty:
        return table
    base = table[table["layout"] == "last"].set_index("pair")["step_seconds"]
    return table.assign(time=table["step_seconds"] / table["pair"].map(base))


def trunk_table(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the table of one trunk: one row a layout.

    Parameters
    ----------
    runs : DataFrame
        Of `read_runs`.

    Returns
    -------
    DataFrame
        layout, seeds; loss, score, answer_loss, accuracy and `ABOVE`, each with low and high; the costs of `COSTS`;
        time, the seconds of a step over those of `shared`.
    """
    found = []
    for layout, group in runs[runs["study"] == "trunks"].groupby("layout", sort=False):
        row: dict[str, Any] = {"layout": layout, "seeds": len(group)}
        for outcome in ("loss", "score", "answer_loss", "accuracy", *ABOVE):
            row |= spread(group[outcome], outcome)
        found.append(row | {cost: group[cost].mean() for cost in COSTS})
    table = pd.DataFrame(found)
    if table.empty:
        return table
    return table.assign(time=table["step_seconds"] / table.set_index("layout").loc["shared", "step_seconds"])


def compute_table(runs: pd.DataFrame) -> pd.DataFrame:
    """Return what each layout of both families reaches, and the operations that its training took.

    Parameters
    ----------
    runs : DataFrame
        Of `read_runs`.

    Returns
    -------
    DataFrame
        name, family, flops (of all training steps here; of a trunk those of the common trunk too; of two towers without
        the frozen understanding expert, which reads each caption once), and score with low and high. Pretrained experts
        count nothing in either family.
    """
    found = []
    trunks = runs[runs["study"] == "trunks"]
    for layout, group in trunks.groupby("layout", sort=False):
        base = trunks.loc[trunks["layout"] == "shared", "step_flops"].mean() * settings.START_STEPS
        flops = base + group["step_flops"].mean() * settings.TRUNK_STEPS
        found.append({"name": layout, "family": "one trunk", "flops": flops} | spread(group["score"], "score"))
    towers = runs[(runs["study"] == "layouts") & (runs["pair"] == settings.PAIRS[0]) & ~runs["shuffled"]]
    for layout, group in towers.dropna(subset="step_flops").groupby("layout", sort=False):
        flops = group["step_flops"].mean() * settings.TOWER_STEPS
        found.append({"name": layout, "family": "two towers", "flops": flops} | spread(group["score"], "score"))
    return pd.DataFrame(found)


def sweep_rows(runs: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Return the runs of each sweep, in which one number is varied.

    Parameters
    ----------
    runs : DataFrame
        Of `read_runs`.

    Returns
    -------
    dict of str to DataFrame
        forks, first_ends, last_ends, bridges, injection, shifts. The shared trunk is the fork behind its last block.
    """
    shared = runs[(runs["study"] == "trunks") & (runs["layout"] == "shared")]
    shared = shared[shared["seed"].isin(settings.SWEEP_SEEDS)].assign(study="forks", fork=settings.DEPTH)
    ends = runs[runs["study"] == "ends"]
    first, last = settings.ENDS
    ends = ends.assign(first=ends["ends"].str[0], last=ends["ends"].str[1]) if len(ends) else ends
    return {
        "forks": pd.concat([runs[runs["study"] == "forks"], shared], ignore_index=True),
        "first_ends": ends[ends["last"] == last] if len(ends) else ends,
        "last_ends": ends[ends["first"] == first] if len(ends) else ends,
    } | {study: runs[runs["study"] == study] for study in ("bridges", "injection", "shifts")}


def sweep_table(rows: pd.DataFrame, by: str, outcomes: Sequence[str]) -> pd.DataFrame:
    """Return a sweep: the mean of each outcome at every value, with its interval over seeds.

    Parameters
    ----------
    rows : DataFrame
        Of `sweep_rows`.
    by : str
        The column that varies.
    outcomes : sequence of str
        What was measured.

    Returns
    -------
    DataFrame
        pair, where there is one, the value, seeds, and each outcome with low and high.
    """
    found: list[dict[str, Any]] = []
    if rows.empty:
        return pd.DataFrame(found)
    rows = rows.assign(pair=rows["pair"].fillna(""), **{by: rows[by].map(_plain)})
    for (pair, value), group in rows.groupby(["pair", by], sort=True):
        row: dict[str, Any] = {"pair": pair, by: value, "seeds": len(group), "sharing": group["sharing"].mean()}
        for outcome in outcomes:
            row |= spread(group[outcome], outcome)
        found.append(row)
    return pd.DataFrame(found)


def _plain(value: Any) -> Any:
    """Return a list as words, so that rows can be grouped by it."""
    return " and ".join(map(str, value)) if isinstance(value, list) else value


def link_table(runs: pd.DataFrame) -> pd.DataFrame:
    """Return what breaking each bridge of the plan with all bridges costs, with its interval over seeds.

    Parameters
    ----------
    runs : DataFrame
        Of `read_runs`.

    Returns
    -------
    DataFrame
        pair, link, understanding, generation, seeds, loss_increase with low and high.
    """
    found = []
    if "links" not in runs:
        return pd.DataFrame(found)
    rows = runs[(runs["study"] == "bridges") & runs["links"].notna()]
    for pair, group in rows.groupby("pair"):
        losses = np.array(group["links"].tolist())  # (seed, link)
        for number, (understanding, generation) in enumerate(group["link_pairs"].iloc[0]):
            row = {"pair": pair, "link": number, "understanding": understanding, "generation": generation}
            found.append(row | {"seeds": len(losses)} | spread(losses[:, number], "loss_increase"))
    return pd.DataFrame(found)


def paired(runs: pd.DataFrame, one: Mapping[str, Any], other: Mapping[str, Any], outcome: str) -> dict[str, np.ndarray]:
    """Return the differences of an outcome between two kinds of runs, paired by seed, of each pair of experts.

    Parameters
    ----------
    runs : DataFrame
        Of `read_runs`.
    one, other : mapping
        Columns with the value that the runs must have.
    outcome : str
        What was measured.

    Returns
    -------
    dict of str to ndarray
        By pair, "" for one trunk: one less other, (seed,). A pair without a common seed is left out.
    """
    sides = []
    for wanted in (one, other):
        chosen = runs
        for column, value in wanted.items():
            chosen = chosen[chosen[column].map(_plain) == _plain(value)]
        sides.append(chosen.assign(pair=chosen["pair"].fillna("")).set_index(["pair", "seed"])[outcome])
    difference = (sides[0] - sides[1]).dropna()
    return {str(pair): values.to_numpy() for pair, values in difference.groupby(level="pair", sort=False)}


def bounds(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the floor without bridges and the ceiling of each pair: pair, layout, loss, score."""
    return runs[runs["layout"].isin([UNBRIDGED, CEILING])][["pair", "layout", "loss", "score"]].reset_index(drop=True)
