"""Quote the study of what bridges are worth: captions, runs, maps, rank correlations, regrets, verdicts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from ...figures.worth.correlation_dots import DEPTH
from ...probes.plans.choice_options import DEFAULT_RULE
from ...probes.similarity.intervals import mean_interval
from .markers import table
from .rounding import between, rounded, whole, with_interval

ASKED = 50  # captions that a kind must be asked about
DECIDING = "smollm2-135m"  # the expert whose probes decide which kinds of captions are kept
OTHER_EXPERTS = ("scenes-reader", "minilm-l6")
BAGS = ("bag of words", "word pairs")
OF_PLANS = ("worth", "regret", "over_shallow", "over_random")
QUOTED_PLANS = (DEFAULT_RULE, "random", "descent", "shallow", "last")
MISSING, INCOMPLETE, LEFT_OUT, HOLDS, UNDECIDED = "-", "incomplete", "left out", "holds", "undecided"


def numbers(results: Path) -> dict[str, str]:
    """Return every quotable number of the study by name."""
    pairs, worths, rules = (_read(results, name) for name in ("pairs", "worths", "verdicts"))
    judged = rules[rules["verdict"] != LEFT_OUT]["rule"].nunique()
    found = {
        "verdict.pairs": whole(len(pairs)),
        "verdict.grids": whole(pairs["grid_complete"].sum()),
        "verdict.plans": whole(pairs["plans_complete"].sum()),
        "verdict.rules": whole(judged),
        "verdict.mapped": whole((pairs["rules"] >= judged).sum()),
        "verdict.runs": whole(pairs[["end_runs", "grid_runs", "plan_runs"]].to_numpy().sum()),
        "verdict.cells": whole(len(worths) / len(pairs)),
        "verdict.grid_runs": whole(pairs[["ends_wanted", "grid_wanted"]].sum(axis=1).iloc[0]),
        "verdict.seeds": whole(sum(name.startswith("worth_seed_") for name in worths)),
    }
    ranks = _read(results, "ranks").query("outcome == 'loss'")
    known = ranks.groupby("rule")["rho"].mean()
    found |= {
        f"verdict.rho.{rule}": _number(known[rule]) for rule in ("descent", "depth_generation", "depth_understanding")
    }
    plans = _means_of_plans(results)
    found |= {f"verdict.worth.{rule}": _number(plans["worth"].get(rule, np.nan)) for rule in QUOTED_PLANS if len(plans)}
    kinds = _kinds(results)
    found |= {"verdict.kinds.kept": whole(kinds["kept"].sum()), "verdict.kinds.all": whole(len(kinds))}
    return found | {"verdict.kinds.asked": whole(kinds["asked"].max()), "verdict.kinds.chance": rounded(0.5)}


def tables(results: Path) -> dict[str, Callable[[], str]]:
    """Return what writes each table of the study, by name."""
    return {
        "verdict answer": lambda: answer(results),
        "verdict kinds": lambda: kinds_table(results),
        "verdict pairs": lambda: pairs_table(results),
        "verdict worths": lambda: worths_table(results),
        "verdict ranks": lambda: ranks_table(results),
        "verdict regrets": lambda: regrets_table(results),
        "verdicts": lambda: verdicts_table(results),
    }


# ---------------------------------------------------------------------------------------------------- captions, runs


def _kinds(results: Path) -> pd.DataFrame:
    """Return for each kind of caption what probes know of the attribute that an inner layer gains most on."""
    every = pd.read_csv(results / "verdict" / "kinds.csv", dtype={"layer": str})
    outcomes = pd.read_parquet(results / "verdict" / "outcomes.parquet")
    rows = []
    for kind in every["kind"].unique():
        own = every[(every["kind"] == kind) & (every["asked"] >= ASKED)]
        decides = own[own["source"] == DECIDING]
        row: dict[str, object] = {"kind": kind, "kept": f"loss of {kind}" in outcomes, "asked": 0}
        if len(decides):
            first = decides["layer"] == "embeddings"
            inner, outer = decides[~first], decides[first].set_index("attribute")["accuracy"]
            gains = (inner.groupby("attribute")["accuracy"].max() - outer).dropna()
            attribute = gains.idxmax()
            best = inner[inner["attribute"] == attribute].nlargest(1, "accuracy").iloc[0]
            row |= {"attribute": attribute, "gain": gains[attribute], "asked": best["asked"]}
            row |= {"embeddings": outer[attribute], "inner": best["accuracy"], "layer": best["layer"]}
            of = own[own["attribute"] == attribute]
            row |= {source: of[of["source"] == source]["accuracy"].max() for source in (*BAGS, *OTHER_EXPERTS)}
        rows.append(row)
    return pd.DataFrame(rows)


def kinds_table(results: Path) -> str:
    """Return what probes know of each kind of caption, from bags of words and from layers."""
    rows = []
    for row in _kinds(results).to_dict("records"):
        if not row["asked"]:
            rows.append([row["kind"], "too few to ask about", *[MISSING] * 7, "no"])
            continue
        cells = [row["kind"], row["attribute"], *(rounded(row[name]) for name in (*BAGS, "embeddings"))]
        cells += [f"{rounded(row['inner'])} (block {row['layer']})", rounded(row["gain"])]
        rows.append([*cells, *(rounded(row[name]) for name in OTHER_EXPERTS), "yes" if row["kept"] else "no"])
    columns = ["kind", "asked about", *BAGS, "SmolLM2, embeddings", "SmolLM2, best inner block", "gain"]
    return table([*columns, "scenes-reader, best", "MiniLM, best", "kept"], rows)


def pairs_table(results: Path) -> str:
    """Return floor and ceiling of every pair of experts, and how much of it is run."""
    rules = _read(results, "verdicts")["rule"].nunique()
    rows = []
    for row in _read(results, "pairs").to_dict("records"):
        ends = [f"{end}_{outcome}" for outcome in ("loss", "score") for end in ("floor", "ceiling")]
        cells = [row["pair"], *(_number(row[name]) for name in ends)]
        cells += [f"{row['end_runs']} of {row['ends_wanted']}", f"{row['grid_runs']} of {row['grid_wanted']}"]
        plans = f"{row['plan_runs']} of {row['plans_wanted']}" if row["plans_wanted"] else "0"
        rows.append([*cells, plans, f"{row['rules']} of {rules}"])
    columns = ["pair of experts", "floor, loss", "ceiling, loss", "floor, score", "ceiling, score"]
    return table([*columns, "floors and ceiling run", "single bridges run", "plans of four run", "maps of rules"], rows)


def worths_table(results: Path) -> str:
    """Return the best, the first and the last single bridge of every pair whose grid is complete."""
    ranks = _read(results, "ranks").query("outcome == 'loss'").groupby("pair")[["reliability", "ceiling"]].first()
    rows = []
    for pair, cells in _read(results, "worths").groupby("pair", sort=False):
        if cells["worth"].isna().any():
            rows.append([str(pair), "not complete", *[MISSING] * 6])
            continue
        best = cells.loc[cells["worth"].idxmax()]
        seeds = ", ".join(rounded(best[name]) for name in cells if name.startswith("worth_seed_"))
        row = [str(pair), f"{best['understanding']}-{best['generation']}", f"{rounded(best['worth'])} ({seeds})"]
        row += [rounded(best["worth_by_score"]), rounded(cells["worth"].mean())]
        row += [rounded(cells.iloc[place]["worth"]) for place in (0, -1)]
        rows.append([*row, rounded(ranks.loc[pair, "reliability"])])
    columns = ["pair of experts", "best single bridge", "worth (each seed)", "by score", "mean of the grid"]
    return table([*columns, "first blocks of both", "last blocks of both", "reliability"], rows)


# ---------------------------------------------------------------------------------------------------- rules


def ranks_table(results: Path) -> str:
    """Return how well each rule's map, and depth alone, predict the map of worth: means over the complete pairs."""
    if not _read(results, "pairs")["grid_complete"].any():
        return "No pair's map of worth is complete yet."
    rules = _read(results, "verdicts")
    by_score = rules[rules["outcome"] == "score"].set_index("rule")["partial"]
    rows = []
    for row in rules[rules["outcome"] == "loss"].sort_values("partial", ascending=False).to_dict("records"):
        cells = [f"`{row['rule']}`", whole(row["pairs"] if row["pairs"] == row["pairs"] else 0)]
        cells += [_mean(row, name) for name in ("rho", "partial", "curved")] + [_number(by_score[row["rule"]])]
        rows.append([*cells, _mean(row, "over_depth"), _number(row["ceiling"])])
    ranks = _read(results, "ranks").query("outcome == 'loss'")
    for name, title in DEPTH.items():
        rho = ranks[ranks["rule"] == name]["rho"].dropna()
        mean, low, high = map(float, mean_interval(rho.to_numpy()))
        rows.append([title, whole(len(rho)), with_interval(mean, low, high), "0", "0", "0", MISSING, MISSING])
    columns = ["rule", "pairs", "rank correlation", "partial on both depths", "curved", "partial, by score"]
    return table([*columns, "over depth", "partial of a perfect map"], rows)


def regrets_table(results: Path) -> str:
    """Return what the plan of each rule and control is worth, and what the best plan has beyond it."""
    means = _means_of_plans(results)
    if means.empty:
        return "No pair's plans of four bridges are complete yet."
    rows = []
    for rule, row in means.sort_values("worth", ascending=False).iterrows():
        rows.append([f"`{rule}`", whole(row["pairs"]), *(_mean(row, column) for column in OF_PLANS)])
    return table(["rule or control", "pairs", "worth", "regret", "over `shallow`", "over `random`"], rows)


def _means_of_plans(results: Path) -> pd.DataFrame:
    """Return the means of every rule's and control's plans over the complete pairs, with intervals, by rule."""
    losses = _read(results, "regrets").query("outcome == 'loss'").dropna()
    by_pair = losses.groupby(["rule", "pair"], sort=False)[[*OF_PLANS]].mean()
    rows = []
    for rule, of_rule in by_pair.groupby("rule", sort=False):
        row: dict[str, object] = {"rule": rule, "pairs": len(of_rule)}
        for column in OF_PLANS:
            interval = map(float, mean_interval(of_rule[column].to_numpy()))
            row |= dict(zip((column, f"{column}_low", f"{column}_high"), interval, strict=True))
        rows.append(row)
    return pd.DataFrame(rows).set_index("rule") if rows else pd.DataFrame()


def verdicts_table(results: Path) -> str:
    """Return the verdict on each rule with the numbers that it rests on, or what it waits for."""
    rules = _read(results, "verdicts").query("outcome == 'loss'")
    if (rules["verdict"] == INCOMPLETE).any():
        return f"No verdict yet: {_waiting(results)}."
    rows = []
    for row in rules.to_dict("records"):
        cells = [f"`{row['rule']}`", str(row["verdict"]), _number(row["p"]), _number(row["p_holm"])]
        drawn = between(row["draws_low"], row["draws_high"]) if row["p"] == row["p"] else MISSING
        rows.append([*cells, _mean(row, "partial"), drawn, _mean(row, "over_shallow"), _mean(row, "over_random")])
    columns = ["rule", "verdict", "p", "Holm's p", "partial on both depths", "its bootstrap", "over `shallow`"]
    return table([*columns, "over `random`"], rows)


def answer(results: Path) -> str:
    """Return three sentences: which rule to use, what it is worth over `shallow` and `random`, what may change it."""
    rules = _read(results, "verdicts").query("outcome == 'loss'").set_index("rule")
    if (rules["verdict"] == INCOMPLETE).any():
        return " ".join(_sentences_so_far(results, rules))
    held = rules[rules["verdict"] == HOLDS].sort_values("partial", ascending=False)
    best = (held if len(held) else rules.sort_values("partial", ascending=False)).iloc[0]
    said = f"partial rank correlation {_mean(best, 'partial')} over {whole(best['pairs'])} pairs of experts, where a "
    said += f"perfect map has {rounded(best['ceiling'])}"
    if len(held):
        names = " or ".join(f"`{name}`" for name in held.index)
        first = f"**Use {names}**: its map knows more than depth of what bridges are worth (`{best.name}`: {said})."
    else:
        counts = ", ".join(_counted(count, verdict) for verdict, count in rules["verdict"].value_counts().items())
        first = f"**Use depth**, by the default rule `{DEFAULT_RULE}`: no rule that measures is shown to know more "
        first += f"({counts}; the best, `{best.name}`: {said})."
        best = _means_of_plans(results).loc[DEFAULT_RULE]
    second = f"The plans of `{best.name}` are worth {_mean(best, 'over_shallow')} more than `shallow` and "
    second += f"{_mean(best, 'over_random')} more than `random`, where 1 is the way from floor to ceiling"
    unsure = best["over_shallow_low"] <= 0 and best["over_random_low"] <= 0
    second += ": both intervals include 0, so it is not shown to be better than they are." if unsure else "."
    third = "Other captions, longer training, or other experts may change it: these pairs share members."
    return " ".join((first, second, third))


def _counted(count: int, verdict: str) -> str:
    """Return how many rules have a verdict: 1 fails, 2 fail, 3 are undecided."""
    one = count == 1
    if verdict == UNDECIDED:
        return f"{count} {'is' if one else 'are'} {verdict}"
    return f"{count} {verdict if one else verdict.removesuffix('s')}"


def _sentences_so_far(results: Path, rules: pd.DataFrame) -> tuple[str, str, str]:
    worths = _read(results, "worths").dropna()
    second = "No map of worth is complete, so no rule is shown to beat depth."
    if len(worths):
        of_pairs = worths.groupby("pair", sort=False)["worth"]
        depth = _read(results, "ranks").query("outcome == 'loss' and rule == 'depth'")["rho"].mean()
        parts = [
            f"So far (pairs of experts: {len(of_pairs)}) the best single bridge is worth "
            f"{_range(of_pairs.max())} of the way from floor to ceiling and the one of the first blocks of both "
            f"{_range(of_pairs.first())}",
            f"depth alone, early in both, has a rank correlation of {rounded(depth)} with it",
        ]
        known = rules.dropna(subset="partial")
        if len(known):
            best = known.loc[known["partial"].idxmax()]
            partial = f"{_mean(best, 'partial')} where a perfect map has {rounded(best['ceiling'])}"
            parts.append(f"and of the rules `{best.name}` keeps most beside depth, {partial}")
        second = ", ".join([*parts, "so no rule is shown to beat depth."])
    third = (
        "A rule will hold if its correlation beside depth is above 0 over all pairs, after Holm's correction, and if "
        "its plans of four bridges are worth more than `shallow` and more than `random`."
    )
    return f"**Which rule to use is not known yet**: {_waiting(results)}.", second, third


def _waiting(results: Path) -> str:
    found = {name.removeprefix("verdict."): number for name, number in numbers(results).items()}
    return (
        f"of {found['pairs']} pairs of experts the grids of single bridges are complete for {found['grids']}, the "
        f"plans of four bridges for {found['plans']} and the maps of all {found['rules']} rules for "
        f"{found['mapped']}, and verdicts come when all are"
    )


def _range(values: pd.Series) -> str:
    least, most = rounded(values.min()), rounded(values.max())
    return least if least == most else f"{least} to {most}"


def _read(results: Path, name: str) -> pd.DataFrame:
    return pd.read_csv(results / "verdict" / f"{name}.csv")


def _number(value: float) -> str:
    return MISSING if np.isnan(value) else rounded(value)


def _mean(row: dict | pd.Series, name: str) -> str:
    return MISSING if np.isnan(row[name]) else with_interval(row[name], row[f"{name}_low"], row[f"{name}_high"])
