"""Judge each rule: whether its map predicts what bridges are worth, beyond depth, and what its plan gains."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from ...probes.metrics.metric import Array
from ...probes.similarity.intervals import mean_interval
from .rank_tests import (
    CURVED,
    LINEAR,
    NO_DEPTH,
    bootstrap_correlations,
    depth_maps,
    holm,
    noise_ceiling,
    permutation_p,
    rank_correlations,
)
from .testbed import BRIDGES
from .thresholds import ALPHA, CONTROLS, LEAST_CEILING, LEAST_GAIN, LOW_RHO, RULES
from .worths import LOSS, check_plans, gains_on_grid, grids

HOLDS, FAILS, UNDECIDED = "holds", "fails", "undecided"
RANDOM, SHALLOW, DEPTH = "random", "shallow", "depth"


def rank_table(
    runs: pd.DataFrame, maps: pd.DataFrame, outcome: str = LOSS, rules: Sequence[str] = RULES
) -> pd.DataFrame:
    """Return the rank correlations of each rule's map, and of depth alone, with the map of worth of each pair.

    Parameters
    ----------
    runs : DataFrame
        As `worths.worth` returns it.
    maps : DataFrame
        The rules' maps, as `worths.gains_on_grid` takes them.
    outcome : str
        "loss" or "score".
    rules : sequence of str
        The rules.

    Returns
    -------
    DataFrame
        One row a rule, or map of depth, and pair of experts: rule, pair; rho, Spearman's; partial, the same without the
        maps of depth; curved, without a curved surface over both depths; and of the pair reliability (of the mean map
        over the seeds), ceiling and partial_ceiling (the correlations that a perfect map would reach).

    Raises
    ------
    ValueError
        As `grids` and `gains_on_grid`.
    """
    rows = []
    for pair, (grid, gains) in _grids_and_maps(runs, maps, outcome, rules).items():
        depths = depth_maps(*grid.shape[1:])
        names, every = [*rules, *depths], np.concatenate([gains, np.stack(list(depths.values()))])
        rho, partial, curved = (rank_correlations(every, grid.mean(0), powers) for powers in (NO_DEPTH, LINEAR, CURVED))
        _, reliability, ceiling = noise_ceiling(grid)
        about = {"reliability": reliability, "ceiling": ceiling, "partial_ceiling": noise_ceiling(grid, LINEAR)[2]}
        for index, name in enumerate(names):
            row = {"rule": name, "pair": pair, "rho": rho[index], "partial": partial[index], "curved": curved[index]}
            rows.append(row | about)
    return pd.DataFrame(rows)


def regrets(
    runs: pd.DataFrame, outcome: str = LOSS, rules: Sequence[str] = RULES, controls: Sequence[str] = CONTROLS
) -> pd.DataFrame:
    """Return the worth and the regret of the plan of each rule and control, for each pair of experts and seed.

    Parameters
    ----------
    runs : DataFrame
        As `worths.worth` returns it. The labels say which plan is whose; "random 0", "random 1", ... are random plans.
    outcome : str
        "loss" or "score".
    rules, controls : sequence of str
        Their names. `random` is the mean of the random plans. `all` has a number of bridges that differs, and is not
        judged by it.

    Returns
    -------
    DataFrame
        One row a rule or control, pair and seed: rule, pair, seed, worth; regret, the worth of the best plan less that,
        the best plan being chosen by the other seeds, so that its luck is not counted as worth; over_shallow and
        over_random, the gain in worth over these controls at the same seed.

    Raises
    ------
    ValueError
        A rule or control has no run for a pair and seed.
    """
    parts = []
    for pair, rows in runs.groupby("pair", sort=True):
        plans = rows[rows["bridges"] == BRIDGES]
        table = plans.pivot_table(index="pairs", columns="seed", values=outcome, sort=True)
        of = {name: _labelled(rows, name, outcome) for name in dict.fromkeys([*rules, *controls, SHALLOW, RANDOM])}
        for seed in table.columns:
            lacking = [name for name, values in of.items() if seed not in values.index]
            if lacking or table[seed].isna().any():
                what = f"no run is labelled {lacking[0]!r}" if lacking else f"plans of {BRIDGES} bridges lack a run"
                raise ValueError(f"outcomes of {pair!r}: {what} at seed {seed}; run the plans that are missing")
            others = table.drop(columns=seed) if table.shape[1] > 1 else table
            best = table[seed].to_numpy()[others.mean(axis=1).to_numpy().argmax()]
            for name in [*rules, *controls]:
                value = of[name].loc[seed]
                row = {"rule": name, "pair": pair, "seed": seed, "worth": value, "regret": best - value}
                row |= {"over_shallow": value - of[SHALLOW].loc[seed], "over_random": value - of[RANDOM].loc[seed]}
                parts.append(row)
    return pd.DataFrame(parts)


def verdicts(
    runs: pd.DataFrame, maps: pd.DataFrame, outcome: str = LOSS, rules: Sequence[str] = RULES, seed: int = 0
) -> pd.DataFrame:
    """Return the verdict on each rule, with every number that it rests on.

    Parameters
    ----------
    runs : DataFrame
        As `worths.worth` returns it.
    maps : DataFrame
        The rules' maps, as `worths.gains_on_grid` takes them.
    outcome : str
        "loss", by which rules are judged, or "score", which is shown beside it.
    rules : sequence of str
        The rules. Holm's procedure counts them.
    seed : int
        Seed of permutations and bootstrap.

    Returns
    -------
    DataFrame
        One row a rule: pairs and pairs_with_plans, the numbers of pairs of experts; the means over them of rho,
        partial, curved, over_depth (rho less that of depth alone), regret, over_shallow and over_random, each with its
        95 % interval over the pairs (_low, _high, Student's t); draws_low and draws_high, the bootstrap interval of
        partial over pairs and seeds; p and p_holm of partial; ceiling, the mean of partial_ceiling; verdict.

    Raises
    ------
    ValueError
        As `rank_table` and `regrets`, or a pair has too few plans.

    See Also
    --------
    decide : how a verdict follows from the numbers.
    """
    check_plans(runs)
    ranks = rank_table(runs, maps, outcome, rules)
    losses = regrets(runs, outcome, rules)
    both = _grids_and_maps(runs, maps, outcome, rules).values()
    gains, truths = [each for _, each in both], [grid for grid, _ in both]
    p = permutation_p(gains, [grid.mean(0) for grid in truths], LINEAR, seed=seed)
    low, high = np.quantile(bootstrap_correlations(gains, truths, LINEAR, seed=seed), [0.025, 0.975], axis=0)
    table = means_over_pairs(ranks, losses, rules).assign(draws_low=low, draws_high=high, p=p, p_holm=holm(p))
    return table.assign(verdict=[decide(row) for row in table.to_dict("records")])


def means_over_pairs(ranks: pd.DataFrame, losses: pd.DataFrame, rules: Sequence[str]) -> pd.DataFrame:
    """Return the means of each rule's numbers over the pairs of experts, with Student's 95 % intervals.

    Parameters
    ----------
    ranks : DataFrame
        As `rank_table` returns it. Rows without a number, of pairs that are not run, are left out of the means.
    losses : DataFrame
        As `regrets` returns it, with the same exception.
    rules : sequence of str
        The rules.

    Returns
    -------
    DataFrame
        One row a rule: rule; pairs and pairs_with_plans, over how many pairs of experts the correlations and the
        regrets are means; the columns of `verdicts` from rho to over_random, and ceiling.

    See Also
    --------
    verdicts : adds p, bootstrap and verdict.
    """
    depth = _by_pair(ranks, DEPTH, "rho")
    rows = []
    for rule in rules:
        rho, regret = _by_pair(ranks, rule, "rho"), _by_pair(losses, rule, "regret")
        row: dict[str, object] = {"rule": rule, "pairs": len(rho), "pairs_with_plans": len(regret)}
        for column in ("rho", "partial", "curved"):
            row |= _with_interval(column, _by_pair(ranks, rule, column))
        row |= _with_interval("over_depth", rho - depth.reindex(rho.index))
        for column in ("regret", "over_shallow", "over_random"):
            row |= _with_interval(column, _by_pair(losses, rule, column))
        rows.append(row | {"ceiling": ranks.groupby("pair")["partial_ceiling"].mean().mean()})
    return pd.DataFrame(rows)


def decide(row: dict[str, float]) -> str:
    """Return the verdict that follows from a rule's numbers.

    Parameters
    ----------
    row : dict
        partial_low, partial_high, p_holm, over_shallow_low, over_random_low, over_random_high, ceiling, as `verdicts`
        has them.

    Returns
    -------
    str
        "holds": the partial correlation is above 0, by Holm's p and by its interval over pairs, and the plan is worth
        more than the shallow one and the mean random one, both intervals above 0. "fails": the upper bound of the
        partial correlation is below `LOW_RHO` although a perfect map would reach `LEAST_CEILING`, or the upper bound of
        the gain over random is below `LEAST_GAIN`. "undecided" otherwise, and always with one pair of experts.

    Examples
    --------
    >>> row = {"partial_low": 0.3, "partial_high": 0.8, "p_holm": 0.01, "ceiling": 0.9}
    >>> decide(row | {"over_shallow_low": 0.02, "over_random_low": 0.05, "over_random_high": 0.3})
    'holds'
    """
    predicts = row["p_holm"] < ALPHA and row["partial_low"] > 0
    if predicts and row["over_shallow_low"] > 0 and row["over_random_low"] > 0:
        return HOLDS
    useless = row["partial_high"] < LOW_RHO and row["ceiling"] >= LEAST_CEILING
    return FAILS if useless or row["over_random_high"] < LEAST_GAIN else UNDECIDED


def _grids_and_maps(
    runs: pd.DataFrame, maps: pd.DataFrame, outcome: str, rules: Sequence[str]
) -> dict[str, tuple[Array, Array]]:
    """Return by pair the worth (seed, understanding, generation) and the gains (rule, understanding, generation)."""
    grid = grids(runs, outcome)
    return {pair: (grid[pair].values, gains) for pair, gains in gains_on_grid(maps, grid, rules).items()}


def _labelled(rows: pd.DataFrame, name: str, outcome: str) -> pd.Series:
    """Return the worth by seed of the plan that bears a label; of random plans, their mean."""
    chosen = [
        any(label == name or (name == RANDOM and label.startswith(f"{RANDOM} ")) for label in labels)
        for labels in rows["labels"]
    ]
    return rows[chosen].groupby("seed")[outcome].mean()


def _by_pair(table: pd.DataFrame, rule: str, column: str) -> pd.Series:
    """Return a rule's numbers by pair of experts, the mean over seeds where there are several."""
    return table[table["rule"] == rule].groupby("pair", sort=True)[column].mean().dropna()


def _with_interval(name: str, values: pd.Series) -> dict[str, float]:
    mean, low, high = mean_interval(values.to_numpy()) if len(values) else (np.nan, np.nan, np.nan)
    return {name: float(mean), f"{name}_low": float(low), f"{name}_high": float(high)}
