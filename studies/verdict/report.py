"""Write the report of the study from the runs that are complete: worths, rank correlations, regrets, verdicts, figures.

    python -m bridgework.studies.verdict.report                 # from the committed runs and maps, beside them
    python -m bridgework.studies.verdict.report runs/verdict    # from the folder of a study

The second form takes the outcomes.parquet that `bridgework.studies.verdict.outcomes` has gathered there, and the maps
of the rules. A pair of experts counts for the maps of worth once its grid, floors and ceiling are complete, and for
regrets once its plans of four bridges are. No verdict is given before all pairs are complete for all rules.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from functools import partial
from io import BytesIO
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from PIL import Image

from ...figures.worth.correlation_dots import rule_correlations
from ...figures.worth.maps_of_worth import worth_maps
from ...probes.files import write_atomically, write_csv, write_parquet
from .bridge_runs import Cell, config
from .outcomes import OUTCOMES, missing_cells, plan_cells
from .rank_tests import depth_maps
from .rule_maps import rule_plans
from .testbed import BRIDGES, CEILING, FLOOR, PAIRS, SEEDS, Pair, pair_named
from .thresholds import CONTROLS, RULES
from .verdicts import means_over_pairs, rank_table, regrets, verdicts
from .worths import GRID, LOSS, MAP_COLUMNS, SCORE, grids, read_runs, with_labels, worth

MAPS = "rule_maps.parquet"
TABLES = ("pairs", "worths", "ranks", "regrets", "verdicts")
FIGURES = ("worth_maps.png", "rule_correlations.png")
FILES = (MAPS, *(f"{name}.csv" for name in TABLES), *FIGURES)  # what `write_report` writes
INCOMPLETE, LEFT_OUT = "incomplete", "left out"  # instead of a verdict
NOT_TO_BE_HAD: tuple[str, ...] = ()  # rules that no map can be had of; the verdicts leave them out by name
OUTCOME_NAMES = (LOSS, SCORE)


def write_report(folder: Path = OUTCOMES.parent) -> dict[str, pd.DataFrame]:
    """Write the tables and figures of the study into its folder.

    Parameters
    ----------
    folder : Path
        The folder of a study, with outcomes.parquet and either rule_maps.parquet or the maps in the folder maps.

    Returns
    -------
    dict of str to DataFrame
        The tables of `TABLES` by name, as they are written.

    Raises
    ------
    FileNotFoundError
        There are no outcomes.
    ValueError
        Runs are of another protocol or stand twice, a pair's ceiling is not better than its floor, a rule has no gain
        for a cell of a grid, or the maps hold a rule that the protocol does not know.

    See Also
    --------
    report_tables : the tables alone, from outcomes and maps that are read already.
    """
    path = folder / OUTCOMES.name
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing: gather the runs first, by python -m bridgework.studies.verdict.outcomes {folder}"
        )
    outcomes, maps = pd.read_parquet(path), _read_maps(folder)
    known = {*outcomes["pair"], *maps["pair"]}
    pairs = PAIRS | {name: pair_named(name) for name in sorted(known - {*PAIRS})}
    configs = {name: config(pair) for name, pair in pairs.items() if name in known}  # of others an expert may lack
    maps = own_maps(maps, configs, strict=not (folder / "maps").is_dir())
    plans = {name: rule_plans(of_pair) for name, of_pair in maps.groupby("pair")}
    cells = {name: plan_cells(pairs[name], plans.get(name, {})) for name in configs}
    tables = report_tables(outcomes, maps, pairs, cells, {name: configs[name] for name in {*outcomes["pair"]}})
    write_parquet(folder / MAPS, maps)
    for name, table in tables.items():
        write_csv(folder / f"{name}.csv", table, float_format="%.6g")
    for file, figure in zip(FIGURES, draw_report(tables, maps), strict=True):
        write_atomically(folder / file, partial(_save, figure))
        plt.close(figure)
    return tables


def _save(figure: Figure, path: Path) -> None:
    """Save a figure with a palette of 256 colours, which takes a third of the bytes."""
    drawn = BytesIO()
    figure.savefig(drawn, format="png", dpi=110)
    Image.open(drawn).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(path, format="PNG", optimize=True)


def own_maps(maps: pd.DataFrame, configs: Mapping[str, str], strict: bool) -> pd.DataFrame:
    """Return the maps that were measured on this testbed.

    Parameters
    ----------
    maps : DataFrame
        One row a cell: the columns of `worths.MAP_COLUMNS`, and config.
    configs : mapping of str to str
        The hash that the maps of each pair must have.
    strict : bool
        Whether other maps are an error. Else they are left out, as the folder of a study keeps those of old settings.

    Returns
    -------
    DataFrame
        In the protocol's order of pairs and rules.

    Raises
    ------
    ValueError
        There are maps of another protocol, or there is a rule that the protocol does not know.
    """
    own = maps["config"] == maps["pair"].map(dict(configs))
    if strict and not own.all():
        raise ValueError(
            f"{MAPS} holds maps of {maps[~own]['pair'].iloc[0]} by another protocol, other experts or other settings: "
            "measure them again, or put the settings back"
        )
    maps = maps[own].astype({"understanding": int, "generation": int, "gain": float})
    if other := sorted({*maps["rule"]} - {*RULES}):
        raise ValueError(f"maps: unknown rule {other[0]!r}, the protocol has {', '.join(RULES)}")
    names = [*PAIRS, *sorted({*maps["pair"]} - {*PAIRS})]
    places = {"rule": {rule: place for place, rule in enumerate(RULES)}, "pair": {n: i for i, n in enumerate(names)}}
    keys = list(MAP_COLUMNS[:-1])
    return maps.sort_values(keys, key=lambda c: c.map(places[c.name]) if c.name in places else c, ignore_index=True)


def _read_maps(folder: Path) -> pd.DataFrame:
    files = sorted((folder / "maps").rglob("*.parquet"))
    files += [path for path in [folder / MAPS] if path.is_file() and not (folder / "maps").is_dir()]
    empty = pd.DataFrame(columns=[*MAP_COLUMNS, "config"])
    read = [pd.read_parquet(path).reindex(columns=list(empty)) for path in files]
    return pd.concat(read, ignore_index=True) if read else empty


def report_tables(
    outcomes: pd.DataFrame,
    maps: pd.DataFrame,
    pairs: Mapping[str, Pair],
    plans: Mapping[str, Sequence[Cell]],
    configs: Mapping[str, str] | None = None,
) -> dict[str, pd.DataFrame]:
    """Return every table of the report; numbers that wait for runs are missing.

    Parameters
    ----------
    outcomes : DataFrame
        As `worths.worth` takes them.
    maps : DataFrame
        As `own_maps` returns them.
    pairs : mapping of str to Pair
        The pairs of experts of the study, with their grids.
    plans : mapping of str to sequence of Cell
        The runs of several bridges of each pair, as `outcomes.plan_cells` lists them. Of a pair that is not begun they
        may be left out.
    configs : mapping of str to str, optional
        As `worths.worth` takes them.

    Returns
    -------
    dict of str to DataFrame
        pairs, worths, ranks, regrets and verdicts (docs/verdict.md lists their columns).

    Raises
    ------
    ValueError
        As `write_report`.
    """
    checked = read_runs(outcomes, configs)
    rules = [rule for rule in RULES if rule not in NOT_TO_BE_HAD]
    states = pd.DataFrame([_state(pair, plans.get(name, ()), outcomes, checked, maps) for name, pair in pairs.items()])
    ended = states[states["end_runs"] == states["ends_wanted"]]["pair"]
    runs = worth(outcomes[outcomes["pair"].isin(ended)], configs) if len(ended) else checked.head(0)
    named = [(name, label, cell.pairs) for name in plans for cell in plans[name] for label in cell.labels]
    runs = with_labels(runs, pd.DataFrame(named, columns=["pair", "label", "pairs"]))
    ready = {str(name): runs[runs["pair"] == name] for name in states[states["grid_complete"]]["pair"]}
    planned = [str(name) for name in states[states["plans_complete"]]["pair"]]
    tables = {"pairs": states, "worths": _worths(pairs, ready), "ranks": _ranks(pairs, ready, maps, rules)}
    tables["regrets"] = _regrets(pairs, ready, planned, maps, rules)
    tables["verdicts"] = _verdicts(runs, maps, tables, rules)
    return tables


def draw_report(tables: Mapping[str, pd.DataFrame], maps: pd.DataFrame) -> tuple[Figure, Figure]:
    """Draw the maps of worth beside those of the rules, and the rank correlations of all pairs of experts.

    Parameters
    ----------
    tables : mapping of str to DataFrame
        As `report_tables` returns them, or as they are read from the committed CSV files.
    maps : DataFrame
        As `own_maps` returns them.

    Returns
    -------
    tuple of Figure
        In the order of `FIGURES`.
    """
    ranks = tables["ranks"]
    ranks = ranks[ranks["outcome"] == LOSS]
    return worth_maps(tables["worths"], maps, ranks), rule_correlations(ranks)


def _state(
    pair: Pair, wanted: Sequence[Cell], outcomes: pd.DataFrame, checked: pd.DataFrame, maps: pd.DataFrame
) -> dict[str, object]:
    """Return one row of pairs.csv: how much of a pair is run, and what worth 0 and 1 are."""
    own = checked[checked["pair"] == pair.name]
    ends = {end: _labelled(own, end) for end in (FLOOR, CEILING)}
    floors = ends[FLOOR][["bridges", "seed"]].value_counts().reindex(list(product((1, BRIDGES), SEEDS))).count()
    grid = list(product([((u, g),) for u, g in _blocks(pair)], SEEDS))
    single = _labelled(own, GRID)
    found = set(zip(single["pairs"], single["seed"], strict=True))
    plans = {(cell.pairs, cell.seed) for cell in wanted}
    missing = {(cell.pairs, cell.seed) for cell in missing_cells(wanted, outcomes)}
    row: dict[str, object] = {"pair": pair.name, "understanding": pair.understanding, "generation": pair.generation}
    row |= {"end_runs": int(floors) + (len(ends[CEILING]) > 0), "ends_wanted": 2 * len(SEEDS) + 1}
    row |= {"grid_runs": len(found & set(grid)), "grid_wanted": len(grid)}
    row |= {"plan_runs": len(plans) - len(missing), "plans_wanted": len(plans)}
    row |= {"rules": maps[maps["pair"] == pair.name]["rule"].nunique()}
    row["grid_complete"] = row["end_runs"] == row["ends_wanted"] and row["grid_runs"] == row["grid_wanted"]
    row["plans_complete"] = row["grid_complete"] and bool(plans) and not missing
    for end, rows in ends.items():
        row |= {f"{end}_{outcome}": rows[outcome].mean() for outcome in OUTCOME_NAMES}
    return row


def _labelled(runs: pd.DataFrame, label: str) -> pd.DataFrame:
    return runs[runs["labels"].map(lambda labels: label in labels).astype(bool)]


def _blocks(pair: Pair) -> list[tuple[int, int]]:
    return list(product(pair.understanding_blocks, pair.generation_blocks))


def _worths(pairs: Mapping[str, Pair], ready: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Return worths.csv: every cell of every grid, with the mean over the seeds and each seed, by loss and by score."""
    parts = []
    for name, pair in pairs.items():
        table = pd.DataFrame(_blocks(pair), columns=["understanding", "generation"])
        table.insert(0, "pair", name)
        for outcome, column in ((LOSS, "worth"), (SCORE, "worth_by_score")):
            values = grids(ready[name], outcome)[name].values if name in ready else np.full((len(SEEDS), 1, 1), np.nan)
            table[column] = values.mean(0).ravel() if name in ready else np.nan
            for seed, each in zip(SEEDS, values, strict=True):
                table[f"{column}_seed_{seed}"] = each.ravel() if name in ready else np.nan
        parts.append(table)
    return pd.concat(parts, ignore_index=True)


def _ranks(
    pairs: Mapping[str, Pair], ready: Mapping[str, pd.DataFrame], maps: pd.DataFrame, rules: Sequence[str]
) -> pd.DataFrame:
    """Return ranks.csv: every rule and map of depth for every pair, by both outcomes."""
    names = [*rules, *depth_maps(1, 1)]
    parts = []
    for outcome in OUTCOME_NAMES:
        for name in pairs:
            every = pd.DataFrame({"outcome": outcome, "rule": names, "pair": name})
            if name in ready:
                held = _held(maps, name, rules)
                found = rank_table(ready[name], maps[maps["pair"] == name], outcome, held)
                every = every.merge(found, how="left", on=["rule", "pair"])
            parts.append(every)
    numbers = ["rho", "partial", "curved", "reliability", "ceiling", "partial_ceiling"]
    return pd.concat(parts, ignore_index=True).reindex(columns=["outcome", "rule", "pair", *numbers])


def _held(maps: pd.DataFrame, pair: str, rules: Sequence[str]) -> list[str]:
    own = set(maps[maps["pair"] == pair]["rule"])
    return [rule for rule in rules if rule in own]


def _regrets(
    pairs: Mapping[str, Pair],
    ready: Mapping[str, pd.DataFrame],
    planned: Sequence[str],
    maps: pd.DataFrame,
    rules: Sequence[str],
) -> pd.DataFrame:
    """Return regrets.csv: every rule and control for every pair and seed, by both outcomes."""
    keys = ["rule", "pair", "seed"]
    parts = []
    for outcome in OUTCOME_NAMES:
        for name in pairs:
            every = [(outcome, rule, name, seed) for rule in (*rules, *CONTROLS) for seed in SEEDS]
            table = pd.DataFrame(every, columns=["outcome", *keys])
            if name in planned:
                table = table.merge(regrets(ready[name], outcome, _held(maps, name, rules)), how="left", on=keys)
            parts.append(table)
    numbers = ["worth", "regret", "over_shallow", "over_random"]
    return pd.concat(parts, ignore_index=True).reindex(columns=["outcome", *keys, *numbers])


def _verdicts(
    runs: pd.DataFrame, maps: pd.DataFrame, tables: Mapping[str, pd.DataFrame], rules: Sequence[str]
) -> pd.DataFrame:
    """Return the verdicts if every pair is complete for every rule, else what the complete pairs say so far."""
    pairs, parts = tables["pairs"], []
    complete = pairs["plans_complete"].all() and all(_held(maps, name, rules) == rules for name in pairs["pair"])
    for outcome in OUTCOME_NAMES:
        ranks, losses = (table[table["outcome"] == outcome] for table in (tables["ranks"], tables["regrets"]))
        waiting = None if complete else means_over_pairs(ranks, losses, rules).assign(verdict=INCOMPLETE)
        table = verdicts(runs, maps, outcome, rules) if waiting is None else waiting
        left_out = pd.DataFrame({"rule": NOT_TO_BE_HAD, "verdict": LEFT_OUT})
        parts.append(pd.concat([table, left_out], ignore_index=True).assign(outcome=outcome))
    found = pd.concat(parts, ignore_index=True)
    late = ["draws_low", "draws_high", "p", "p_holm"]
    others = [column for column in found if column not in ("outcome", "rule", "verdict", *late)]
    found = found.astype({"pairs": "Int64", "pairs_with_plans": "Int64"})
    return found.reindex(columns=["outcome", "rule", *others, *late, "verdict"])


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line that the head of this module shows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", default=OUTCOMES.parent, help="The folder of the study.")
    tables = write_report(parser.parse_args(arguments).folder)
    pairs = tables["pairs"]
    print(pairs.to_string(index=False))
    rules = tables["verdicts"]
    print(rules[rules["outcome"] == LOSS][["rule", "pairs", "pairs_with_plans", "partial", "verdict"]].to_string())


if __name__ == "__main__":
    main()
