"""Read runs and layer maps of the study: what each run is worth, the grid of a pair, a rule's gains on that grid."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from ...probes.metrics.metric import Array
from .testbed import BRIDGES, CEILING, FLOOR
from .thresholds import LEAST_GENERATION, LEAST_PLANS, LEAST_SEEDS, LEAST_UNDERSTANDING, RULES

LOSS, SCORE = "loss", "score"  # the primary and the secondary outcome
COLUMNS = ("pair", "pairs", "bridges", "seed", "labels", LOSS, SCORE, "config")
MAP_COLUMNS = ("pair", "rule", "understanding", "generation", "gain")
GRID = "grid"  # the label of runs of one bridge


class Grid(NamedTuple):
    """The map of what single bridges are worth, of one pair of experts.

    Attributes
    ----------
    understanding, generation : tuple of int
        The blocks, increasing.
    seeds : tuple of int
        The seeds, increasing.
    values : Array
        Worth (seed, understanding block, generation block).
    """

    understanding: tuple[int, ...]
    generation: tuple[int, ...]
    seeds: tuple[int, ...]
    values: Array


def read_runs(outcomes: pd.DataFrame, configs: Mapping[str, str] | None = None) -> pd.DataFrame:
    """Check outcomes and read their plans and labels.

    Parameters
    ----------
    outcomes : DataFrame
        As `worth` takes them.
    configs : mapping of str to str, optional
        As `worth` takes them.

    Returns
    -------
    DataFrame
        The columns of `COLUMNS`; pairs and labels are tuples.

    Raises
    ------
    ValueError
        Columns or rows are missing; runs are of another protocol or other settings, stand twice, or are no numbers.

    See Also
    --------
    worth : what the runs are worth, which needs floors and ceilings as well.
    """
    _check_columns("outcomes", outcomes, COLUMNS)
    runs = outcomes[list(COLUMNS)].copy()
    for pair, rows in runs.groupby("pair", sort=True):
        hashes = sorted(map(str, rows["config"].unique()))
        if configs is None and len(hashes) > 1:
            raise ValueError(
                f"outcomes of {pair!r}: runs of the configs {', '.join(hashes)}, made by other protocols or settings; "
                "keep those of one config"
            )
        if configs is not None and hashes != [configs.get(str(pair))]:
            raise ValueError(
                f"outcomes of {pair!r}: runs of config {', '.join(hashes)}, this protocol's is "
                f"{configs.get(str(pair))}; leave them out, or run them again"
            )
    runs["pairs"] = [tuple(tuple(map(int, pair)) for pair in json.loads(text)) for text in runs["pairs"]]
    runs["labels"] = [tuple(json.loads(text)) for text in runs["labels"]]
    ends = [tuple(sorted({FLOOR, CEILING} & set(labels))) for labels in runs["labels"]]
    again = runs.assign(ends=ends).duplicated(["pair", "pairs", "seed", "ends"])
    if again.any():
        row = runs[again].iloc[0]
        raise ValueError(
            f"outcomes of {row['pair']!r}: plan {row['pairs']} stands twice at seed {row['seed']}; keep one"
        )
    bad = runs[~np.isfinite(runs[[LOSS, SCORE]].to_numpy(float)).all(1)]
    if len(bad):
        row = bad.iloc[0]
        raise ValueError(
            f"outcomes of {row['pair']!r}: the run of plan {row['pairs']} at seed {row['seed']} has loss {row[LOSS]} "
            f"and score {row[SCORE]}; run that cell again"
        )
    return runs


def worth(outcomes: pd.DataFrame, configs: Mapping[str, str] | None = None) -> pd.DataFrame:
    """Return what each run is worth: the share of the way from the floor to the ceiling that it goes.

    Parameters
    ----------
    outcomes : DataFrame
        One row a run: pair, the pair of experts; pairs, the plan, a JSON list of [understanding, generation]; bridges;
        seed; labels, a JSON list of the rules and controls that choose this plan, "grid", "random 3", "floor" or
        "ceiling"; loss; score; config, the hash of `bridge_runs.config`.
    configs : mapping of str to str, optional
        The hash that the runs of each pair must have. Without it, they must have one hash.

    Returns
    -------
    DataFrame
        One row a run without floors and ceilings: pair; pairs, a tuple of pairs; bridges; seed; labels, a tuple; and
        the worth by loss and by score, in columns of these names. Floor and ceiling are the means of their runs, the
        floor of those with the nearest number of bridges, so worth and outcome have the same order.

    Raises
    ------
    ValueError
        Runs are of another protocol or other settings, stand twice, or are no numbers; a pair lacks its floor or its
        ceiling, or its ceiling is not above its floor.

    See Also
    --------
    mean_worth : the mean over the seeds of each plan.
    """
    runs = read_runs(outcomes, configs)
    return pd.concat([_worth_of(pair, rows) for pair, rows in runs.groupby("pair", sort=True)], ignore_index=True)


def with_labels(runs: pd.DataFrame, plans: pd.DataFrame) -> pd.DataFrame:
    """Return runs that bear the name of every rule and control that chooses their plan.

    Rules that choose the same plan share its run, which may bear the name of one of them only.

    Parameters
    ----------
    runs : DataFrame
        As `worth` returns it.
    plans : DataFrame
        One row a rule or control and pair of experts: pair; label; pairs, a sequence of (understanding, generation).

    Returns
    -------
    DataFrame
        The runs; labels has the names of `plans` in addition.
    """
    names: dict[tuple[str, tuple[tuple[int, ...], ...]], set[str]] = {}
    for pair, label, pairs in zip(plans["pair"], plans["label"], plans["pairs"], strict=True):
        names.setdefault((pair, tuple(tuple(map(int, each)) for each in pairs)), set()).add(label)
    every = zip(runs["pair"], runs["pairs"], runs["labels"], strict=True)
    return runs.assign(labels=[tuple(sorted({*labels, *names.get((pair, plan), ())})) for pair, plan, labels in every])


def mean_worth(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the worth of each plan, the mean over its seeds.

    Parameters
    ----------
    runs : DataFrame
        As `worth` returns it.

    Returns
    -------
    DataFrame
        One row a plan of a pair of experts: pair, pairs, bridges, labels, the number of seeds, worth by loss and by
        score.
    """
    rows = runs.groupby(["pair", "pairs", "bridges"], sort=False)
    return rows.agg(
        labels=("labels", lambda each: tuple(sorted({label for one in each for label in one}))),
        seeds=("seed", "nunique"),
        loss=(LOSS, "mean"),
        score=(SCORE, "mean"),
    ).reset_index()


def grids(runs: pd.DataFrame, outcome: str = LOSS) -> dict[str, Grid]:
    """Return the map of worth of each pair of experts, from the runs of one bridge that are labelled "grid".

    Parameters
    ----------
    runs : DataFrame
        As `worth` returns it.
    outcome : str
        "loss" or "score".

    Returns
    -------
    dict of str to Grid
        By pair of experts.

    Raises
    ------
    ValueError
        A pair has no grid, one with too few blocks or seeds, or one that lacks runs.
    """
    return {str(pair): _grid(str(pair), rows, outcome) for pair, rows in runs.groupby("pair", sort=True)}


def gains_on_grid(maps: pd.DataFrame, grid: Mapping[str, Grid], rules: Sequence[str] = RULES) -> dict[str, Array]:
    """Return the gains of the rules on the grid of each pair of experts.

    Parameters
    ----------
    maps : DataFrame
        One row a cell: pair, rule, understanding, generation (blocks), gain. Cells beside the grid are left out.
    grid : mapping of str to Grid
        As `grids` returns it.
    rules : sequence of str
        The rules, in order.

    Returns
    -------
    dict of str to Array
        (rule, understanding block, generation block), by pair of experts.

    Raises
    ------
    ValueError
        A rule's map lacks cells of a grid, has one twice, or holds what is no number.
    """
    if not rules:
        return {pair: np.empty((0, len(each.understanding), len(each.generation))) for pair, each in grid.items()}
    _check_columns("maps", maps, MAP_COLUMNS)
    keys = list(MAP_COLUMNS[:-1])
    if maps.duplicated(keys).any():
        row = maps[maps.duplicated(keys)].iloc[0]
        cell = f"{row['understanding']}-{row['generation']}"
        raise ValueError(f"maps: {row['rule']!r} of {row['pair']!r} gives cell {cell} twice; keep one map of each rule")
    gains = maps.set_index(keys)["gain"].astype(float)
    found = {}
    for pair, each in grid.items():
        cells = [(u, g) for u in each.understanding for g in each.generation]
        values = []
        for rule in rules:
            wanted = pd.MultiIndex.from_tuples([(pair, rule, *cell) for cell in cells], names=keys)
            gain = gains.reindex(wanted).to_numpy()
            bad = [f"{u}-{g}" for (u, g), value in zip(cells, gain, strict=True) if not np.isfinite(value)]
            if bad:
                raise ValueError(
                    f"maps: {rule!r} has no gain for {len(bad)} of {len(cells)} cells of {pair!r} ({_some(bad)}), so "
                    "it cannot be had from the evidence; measure its map over all blocks, or leave it out of `rules`"
                )
            values.append(gain.reshape(len(each.understanding), len(each.generation)))
        found[pair] = np.stack(values)
    return found


def check_plans(runs: pd.DataFrame) -> None:
    """Refuse runs with fewer plans of `BRIDGES` bridges, for any pair of experts, than the protocol asks for.

    Raises
    ------
    ValueError
        A pair has too few plans.
    """
    for pair, rows in runs.groupby("pair", sort=True):
        count = rows[rows["bridges"] == BRIDGES]["pairs"].nunique()
        if count < LEAST_PLANS:
            raise ValueError(
                f"outcomes of {pair!r}: {count} plans of {BRIDGES} bridges, the protocol asks for {LEAST_PLANS}; run "
                "the plans that are missing"
            )


def _worth_of(pair: object, rows: pd.DataFrame) -> pd.DataFrame:
    ends = {}
    for label in (FLOOR, CEILING):
        ends[label] = rows[[label in labels for labels in rows["labels"]]]
        if ends[label].empty:
            raise ValueError(f"outcomes of {pair!r}: no run is labelled {label!r}; run the {label} of this pair first")
    plans = rows[[not {FLOOR, CEILING} & set(labels) for labels in rows["labels"]]]
    plans = plans[["pair", "pairs", "bridges", "seed", "labels", LOSS, SCORE]].copy()
    floors = ends[FLOOR].groupby("bridges")[[LOSS, SCORE]].mean()
    nearest = [min(floors.index, key=lambda known, count=count: abs(known - count)) for count in plans["bridges"]]
    for outcome, sign in ((LOSS, -1), (SCORE, 1)):
        ceiling, best = ends[CEILING][outcome].mean(), floors[outcome].max() if sign > 0 else floors[outcome].min()
        if not sign * (ceiling - best) > 0:
            raise ValueError(
                f"outcomes of {pair!r}: the ceiling's {outcome} {ceiling:.4g} is not better than the floor's "
                f"{best:.4g}, so worth has no scale; train the generation expert longer, or choose another pair"
            )
        floor = floors[outcome].loc[nearest].to_numpy()
        plans[outcome] = (plans[outcome] - floor) / (ceiling - floor)
    return plans


def _grid(pair: str, rows: pd.DataFrame, outcome: str) -> Grid:
    rows = rows[[GRID in labels for labels in rows["labels"]]]
    cells = {
        (*cell[0], seed): value for cell, seed, value in zip(rows["pairs"], rows["seed"], rows[outcome], strict=True)
    }
    sides = [tuple(sorted({cell[side] for cell in cells})) for side in range(3)]
    understanding, generation, seeds = sides
    if len(understanding) < LEAST_UNDERSTANDING or len(generation) < LEAST_GENERATION or len(seeds) < LEAST_SEEDS:
        raise ValueError(
            f"outcomes of {pair!r}: a grid of {len(understanding)} x {len(generation)} blocks and {len(seeds)} seeds, "
            f"the protocol asks for {LEAST_UNDERSTANDING} x {LEAST_GENERATION} and {LEAST_SEEDS}; run the missing cells"
        )
    wanted = [(u, g, seed) for seed in seeds for u in understanding for g in generation]
    missing = [f"{u}-{g} at seed {seed}" for u, g, seed in wanted if (u, g, seed) not in cells]
    if missing:
        raise ValueError(
            f"outcomes of {pair!r}: the grid lacks {len(missing)} of {len(wanted)} runs ({_some(missing)}); run them"
        )
    shape = (len(seeds), len(understanding), len(generation))
    return Grid(understanding, generation, seeds, np.array([cells[cell] for cell in wanted]).reshape(shape))


def _check_columns(name: str, table: pd.DataFrame, columns: Sequence[str]) -> None:
    missing = [column for column in columns if column not in table]
    if missing or table.empty:
        what = f"no column {', '.join(missing)}" if missing else "no rows"
        raise ValueError(f"{name}: the table has {what}; the protocol asks for the columns {', '.join(columns)}")


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
