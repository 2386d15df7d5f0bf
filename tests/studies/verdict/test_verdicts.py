"""Planted truths get the verdict that they deserve; what cannot be judged is refused by name."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from bridgework.studies import verdict as package
from bridgework.studies.verdict import thresholds
from bridgework.studies.verdict.thresholds import CONTROLS, RULES
from bridgework.studies.verdict.verdicts import decide, rank_table, regrets, verdicts
from bridgework.studies.verdict.worths import gains_on_grid, grids, mean_worth, with_labels, worth

from .toy_studies import FIXED, depth_only, scattered, toy_study

RULE_MAPS = {
    "descent": lambda truth, rng: truth + 0.02 * rng.normal(size=truth.shape),
    "cka": lambda truth, rng: rng.normal(size=truth.shape),
    "soft": lambda truth, rng: -truth,
}


@pytest.fixture(scope="module")
def study():
    outcomes, maps = toy_study(scattered, RULE_MAPS)
    return worth(outcomes), maps


def test_planted_truths(study):
    table = verdicts(*study, rules=list(RULE_MAPS)).set_index("rule")
    assert table["verdict"].to_dict() == {"descent": "holds", "cka": "fails", "soft": "fails"}
    good = table.loc["descent"]
    assert good["partial"] > 0.9
    assert good["p_holm"] == pytest.approx(3e-4)
    assert good["partial_low"] <= good["partial"] <= good["partial_high"]
    assert good["draws_low"] <= good["partial"] <= good["draws_high"] + 0.05
    assert abs(good["regret"]) < 0.05
    assert good["ceiling"] > 0.95
    by_score = verdicts(*study, outcome="score", rules=list(RULE_MAPS)).set_index("rule")
    assert by_score["rho"].to_dict() == pytest.approx(table["rho"].to_dict())  # the toy's score follows its loss


def test_where_depth_is_the_truth_a_rule_that_is_depth_does_not_hold():
    depth = {"cka": lambda truth, rng: depth_only(rng), "rsa": lambda truth, rng: -truth}
    outcomes, maps = toy_study(depth_only, depth, noise=0.01)
    table = verdicts(worth(outcomes), maps, rules=["cka", "rsa"]).set_index("rule")
    assert table.loc["cka", "rho"] > 0.85
    assert abs(table.loc["cka", "partial"]) < 0.35
    assert table.loc["cka", "over_depth_low"] < 0 < table.loc["cka", "over_depth_high"]
    assert table.loc["cka", "verdict"] != "holds"
    assert table.loc["rsa", "verdict"] == "fails"


def test_rank_table_has_depth_alone_and_what_a_perfect_map_reaches(study):
    table = rank_table(*study, rules=list(RULE_MAPS))
    assert set(table["rule"]) == {*RULE_MAPS, "depth_understanding", "depth_generation", "depth"}
    assert (table[table["rule"] == "depth"]["partial"] == 0).all()
    assert (table["ceiling"] >= table["reliability"]).all()


def test_worth_is_the_share_of_the_way_from_floor_to_ceiling():
    rows = [("a", "[[0, 0]]", 1, seed, '["grid"]', loss, 0.4) for seed, loss in ((0, 0.7), (1, 0.6))]
    rows += [("a", "[[2, 2]]", 1, seed, '["floor"]', loss, 0.1) for seed, loss in ((0, 0.8), (1, 1.0))]
    rows += [("a", "[]", 0, 0, '["ceiling"]', 0.5, 0.7)]
    columns = ["pair", "pairs", "bridges", "seed", "labels", "loss", "score"]
    runs = worth(pd.DataFrame(rows, columns=columns).assign(config="c"))
    assert runs["loss"].tolist() == pytest.approx([0.5, 0.75])
    assert runs["score"].tolist() == pytest.approx([0.5, 0.5])
    plans = mean_worth(runs)
    assert plans[["seeds", "loss"]].to_numpy().tolist() == [[2, pytest.approx(0.625)]]
    assert plans["pairs"].tolist() == [((0, 0),)]


def test_regret_is_judged_by_the_plan_that_other_seeds_call_best():
    four = [tuple((b + shift, b) for b in range(4)) for shift in range(3)]
    labels = (("cka",), ("shallow", "random 0"), ("random 1",))
    by_seed = {0: (0.2, 0.9, 0.5), 1: (0.6, 0.1, 0.7)}
    rows = [("a", four[i], 4, seed, labels[i], by_seed[seed][i]) for seed in by_seed for i in range(3)]
    runs = pd.DataFrame(rows, columns=["pair", "pairs", "bridges", "seed", "labels", "loss"])
    table = regrets(runs, rules=["cka"], controls=["random"]).set_index("rule")
    # seed 1 calls the third plan best, which is worth .5 at seed 0; seed 0 calls the second, worth .1 at seed 1
    assert table.loc["cka", "regret"].tolist() == pytest.approx([0.3, -0.5])
    assert table.loc["cka", "over_shallow"].tolist() == pytest.approx([-0.7, 0.5])
    assert table.loc["random", "worth"].tolist() == pytest.approx([0.7, 0.4])
    assert table.loc["cka", "over_random"].tolist() == pytest.approx([-0.5, 0.2])


GOOD = {
    "partial_low": 0.3,
    "partial_high": 0.8,
    "p_holm": 0.01,
    "ceiling": 0.9,
    "over_shallow_low": 0.01,
    "over_random_low": 0.02,
    "over_random_high": 0.3,
}


@pytest.mark.parametrize(
    ("change", "verdict"),
    [
        ({}, "holds"),
        ({"p_holm": 0.05}, "undecided"),
        ({"partial_low": -0.01}, "undecided"),
        ({"over_shallow_low": 0.0}, "undecided"),
        ({"over_random_low": 0.0}, "undecided"),
        ({"over_random_low": -0.2, "over_random_high": 0.049}, "fails"),
        ({"partial_low": -0.4, "partial_high": 0.19}, "fails"),
        ({"partial_low": -0.4, "partial_high": 0.19, "ceiling": 0.4}, "undecided"),
        (dict.fromkeys(("partial_low", "partial_high", "over_random_low", "over_random_high"), np.nan), "undecided"),
    ],
)
def test_verdicts_follow_from_the_numbers(change, verdict):
    assert decide(GOOD | change) == verdict


def test_protocol_and_code_hold_the_same_numbers():
    protocol = (Path(package.__file__).parent / "protocol.md").read_text()
    written = {
        name: float(value) for name, value in re.findall(r"^\| `([A-Z_]+)` \| ([\d.]+) \|", protocol, re.MULTILINE)
    }
    held = {
        name: value for name, value in vars(thresholds).items() if name.isupper() and isinstance(value, int | float)
    }
    assert written == held
    for names in (RULES, CONTROLS):
        assert re.search(r"[\s,]+".join(f"`{name}`" for name in names), protocol)


def test_rules_that_choose_one_plan_share_its_run(study):
    runs, _ = study
    bare = runs.assign(labels=[tuple(name for name in labels if name != "deep") for labels in runs["labels"]])
    with pytest.raises(ValueError, match="no run is labelled 'deep'"):
        regrets(bare, rules=[])
    deep = [list(each) for each in FIXED["deep"]]
    plans = pd.DataFrame([(pair, "deep", deep) for pair in "abcd"], columns=["pair", "label", "pairs"])
    assert regrets(with_labels(bare, plans), rules=[]).equals(regrets(runs, rules=[]))


# What is refused


def without(table: pd.DataFrame, label: str) -> pd.DataFrame:
    return table[~(table["labels"].str.contains(f'"{label}') & (table["pair"] == "b"))]


def with_value(table: pd.DataFrame, label: str, column: str, value: object) -> pd.DataFrame:
    changed = table.copy()
    changed.loc[changed["labels"].str.contains(f'"{label}') & (changed["pair"] == "b"), column] = value
    return changed


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda t: with_value(t, "ceiling", "loss", 0.95),
            "'b': the ceiling's loss 0.95 is not better than",
        ),
        (lambda t: with_value(t, "ceiling", "score", 0.05), "'b': the ceiling's score 0.05 is not better"),
        (lambda t: without(t, "floor"), "'b': no run is labelled 'floor'"),
        (lambda t: without(t, "ceiling"), "'b': no run is labelled 'ceiling'"),
        (lambda t: with_value(t, "deep", "config", "c2"), "'b': runs of the configs c1, c2"),
        (lambda t: with_value(t, "deep", "loss", np.nan), "has loss nan"),
        (lambda t: pd.concat([t, without(t, "floor").head(1)]), "stands twice at seed 0"),
        (lambda t: t.drop(columns="config"), "no column config"),
        (lambda t: t.head(0), "no rows"),
    ],
)
def test_outcomes_that_have_no_worth_are_refused(change, message):
    outcomes, _ = toy_study(scattered, RULE_MAPS)
    with pytest.raises(ValueError, match=re.escape(message)):
        worth(change(outcomes))


def test_outcomes_of_another_protocol_are_refused():
    outcomes, _ = toy_study(scattered, RULE_MAPS)
    worth(outcomes, dict.fromkeys("abcd", "c1"))
    with pytest.raises(ValueError, match=r"'c': runs of config c1, this protocol's is c9"):
        worth(outcomes, {"a": "c1", "b": "c1", "c": "c9", "d": "c1"})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda t: t[(t["pairs"] != "[[3, 2]]") | (t["seed"] == 0)],
            "'a': the grid lacks 1 of 60 runs (3-2",
        ),
        (lambda t: t[(t["seed"] == 0)], "6 x 5 blocks and 1 seeds, the protocol asks for 6 x 5 and 2"),
        (lambda t: t[~t["pairs"].str.startswith("[[5,") | (t["bridges"] != 1)], "a grid of 5 x 5 blocks and 2 seeds"),
        (lambda t: without(t, "random"), "plans of 4 bridges, the protocol asks for 30"),
        (
            lambda t: t[~(t["labels"].str.contains('"deep') & (t["seed"] == 1))],
            "'a': no run is labelled 'deep' at seed 1",
        ),
    ],
)
def test_studies_that_are_not_whole_are_refused(change, message):
    outcomes, maps = toy_study(scattered, {"cka": RULE_MAPS["cka"]})
    with pytest.raises(ValueError, match=re.escape(message)):
        verdicts(worth(change(outcomes)), maps, rules=["cka"])


def test_a_rule_that_cannot_be_had_is_refused(study):
    runs, maps = study
    grid = grids(runs)
    with pytest.raises(ValueError, match=r"'causal' has no gain for 30 of 30 cells of 'a' .* cannot be had"):
        gains_on_grid(maps, grid, ["cka", "causal"])
    hole = maps[~((maps["pair"] == "c") & (maps["rule"] == "cka") & (maps["understanding"] == 2))]
    with pytest.raises(ValueError, match=r"'cka' has no gain for 5 of 30 cells of 'c' \(2-0, 2-1, 2-2, ...\)"):
        gains_on_grid(hole, grid, ["cka"])
    with pytest.raises(ValueError, match="gives cell 0-0 twice"):
        gains_on_grid(pd.concat([maps, maps.head(1)]), grid, ["descent"])
