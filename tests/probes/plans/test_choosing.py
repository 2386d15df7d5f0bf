"""Rules find what an exhaustive search finds, fixed plans are fair, budgets are met."""

from __future__ import annotations

import warnings
from collections import Counter
from dataclasses import replace
from functools import partial
from itertools import combinations
from math import comb

import numpy as np
import pandas as pd
import pytest

from bridgework.probes.curves.divergence_depth import Divergence
from bridgework.probes.plans.bridge_plan import BridgePlan
from bridgework.probes.plans.choosing import choose_bridges, score_plan
from bridgework.probes.plans.fixed_rules import FIXED
from bridgework.probes.plans.layouts import lay_out, rank_for
from bridgework.probes.plans.matching import count_blocks
from bridgework.probes.plans.rules import RULES
from bridgework.probes.similarity.scaled_maps import scaled_map
from bridgework.probes.similarity.scoring import similarity_map


def heat_of(values, embeddings: bool = False) -> pd.DataFrame:
    values = np.asarray(values, float)
    names = [["embeddings", *map(str, range(n - 1))] if embeddings else [*map(str, range(n))] for n in values.shape]
    return pd.DataFrame(values, index=names[0], columns=names[1])


def plans(understanding: int, generation: int, bridges: int):
    for left in combinations(range(understanding), bridges):
        for right in combinations(range(generation), bridges):
            yield tuple(zip(left, right))


def evidence_of(rule: str, seed: int, shape: tuple[int, int] = (5, 4)):
    """Evidence of a rule, and the gain of every pair by the rule's definition, minus infinity where unmeasured."""
    g = np.random.default_rng(seed)
    if rule in ("alignment", "complementarity", "descent", "soft"):
        heat = heat_of(g.standard_normal(shape))
        heat.attrs = {"metric": "cka" if rule == "alignment" else rule, "cost": {"seconds": 1.5}}
        return heat, heat.to_numpy()
    if rule == "divergence":
        within = [
            [max((u + 1) / shape[0], (i + 1) / shape[1]) <= 0.6 for i in range(shape[1])] for u in range(shape[0])
        ]
        return Divergence("peak", 0.6, 0.5, 0.7, "as asked"), np.where(within, 1.0, -1.0)
    if rule == "gradient_conflict":
        conflicts = [g.standard_normal(count) for count in shape]
        sides = [
            {"subject": name, "layer": str(i), "depth": (i + 1) / len(side), "conflict": value}
            for name, side in zip(("vlm", "dit"), conflicts, strict=True)
            for i, value in enumerate(side)
        ]
        table = pd.DataFrame(sides)
        table.attrs = {"cost": {"steps": 600, "seconds": 100.0}}
        return table, -(conflicts[0][:, None] + conflicts[1][None])
    lost = np.where(g.random(shape) < 0.8, g.standard_normal(shape), -np.inf)
    pairs = [(u, i) for u in range(shape[0]) for i in range(shape[1]) if np.isfinite(lost[u, i])]
    links = pd.DataFrame(
        [{"understanding": u, "generation": i, "score_lost": lost[u, i], "loss_increase": 0.0} for u, i in pairs]
        + [{"understanding": pd.NA, "generation": pd.NA, "score_lost": 9.0, "loss_increase": 9.0}]
    )
    links.attrs = {"cost": {"steps": 600, "seconds": 100.0}}
    return links, lost


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("rule", list(RULES))
def test_a_rule_finds_the_best_of_all_plans(rule, seed):
    evidence, gains = evidence_of(rule, seed)
    for bridges in (1, 2, 3):
        plan = choose_bridges(evidence, rule, bridges, layers=gains.shape)
        best = max(sum(gains[p] for p in pairs) for pairs in plans(5, 4, bridges))
        assert plan.score == pytest.approx(best)
        assert sum(gains[p] for p in plan.pairs) == pytest.approx(best)
        assert score_plan(plan, evidence, rule) == pytest.approx(best)
        assert (plan.rule, plan.understanding_layers, plan.generation_layers) == (rule, *gains.shape)


@pytest.mark.parametrize("rule", list(RULES))
def test_a_plan_is_charged_with_its_evidence_and_survives_its_file(rule, tmp_path):
    evidence, gains = evidence_of(rule, 0)
    plan = choose_bridges(evidence, rule, 2, layers=gains.shape, layout="dense", rank=3, both_ways=True)
    plan.save(tmp_path / "plan.json")
    assert BridgePlan.load(tmp_path / "plan.json") == plan
    assert (plan.layout, plan.rank, plan.both_ways) == ("dense", 3, True)
    assert plan.evidence.get("cost") == (evidence.attrs["cost"] if rule != "divergence" else None)
    if RULES[rule].trained:
        del evidence.attrs["cost"]
        assert choose_bridges(evidence, rule, 2, layers=gains.shape).evidence == evidence.attrs | {"cost": None}


def test_the_best_plan_turns_with_the_towers_but_not_with_one_of_them():
    values = np.random.default_rng(5).standard_normal((6, 5))
    plan = choose_bridges(heat_of(values), "alignment", bridges=3)
    both = choose_bridges(heat_of(values[::-1, ::-1]), "alignment", bridges=3)
    assert both.score == pytest.approx(plan.score)
    assert both.pairs == tuple((5 - u, 4 - g) for u, g in reversed(plan.pairs))
    assert choose_bridges(heat_of(values.T), "alignment", bridges=3).pairs == tuple((g, u) for u, g in plan.pairs)
    assert choose_bridges(heat_of(values * 2 + 1), "alignment", bridges=3).pairs == plan.pairs
    assert choose_bridges(heat_of(values[::-1]), "alignment", bridges=3).score != pytest.approx(plan.score)


def test_ties():
    links = pd.DataFrame(
        {"understanding": [0, 1, 2], "generation": [0, 1, 2], "score_lost": [0.1, 0.1, 0.2], "loss_increase": [1, 3, 2]}
    )
    assert choose_bridges(links, "causal", 2, layers=(3, 3)).pairs == ((1, 1), (2, 2))
    apart = Divergence("split", 0.5, 0.4, 0.6, "")
    assert choose_bridges(apart, "divergence", 1, layers=(4, 8)).pairs == ((0, 1),)


def test_divergence_bridges_all_up_to_its_depth():
    apart = Divergence("split", 0.5, 0.4, 0.6, "")
    plan = choose_bridges(apart, "divergence", layers=(4, 8))
    assert (plan.pairs, plan.score) == (((0, 1), (1, 3)), 2)
    assert choose_bridges(apart, "divergence", 3, layers=(4, 8)).score == 1
    assert len(choose_bridges(apart, "divergence", layers=(24, 24)).pairs) == 12
    assert plan.evidence["depth"] == 0.5
    with pytest.raises(ValueError, match="no block of one tower lies up to the divergence depth"):
        choose_bridges(replace(apart, depth=0.1), "divergence", layers=(4, 8))
    with pytest.raises(ValueError, match="no divergence depth to bridge up to: never"):
        choose_bridges(Divergence("peak", None, None, None, "never"), "divergence", layers=(4, 8))


def test_several_models_and_one_trunk():
    links = pd.DataFrame({"understanding": [0, 0, 1], "generation": [0, 0, 1], "score_lost": [0.0, 0.4, 0.3]})
    plan = choose_bridges(links.assign(loss_increase=0.0), "causal", 1, layers=(2, 2))
    assert (plan.pairs, plan.score) == (((1, 1),), 0.3)
    trunk = pd.DataFrame({"layer": ["0", "1", "2"], "depth": [1 / 3, 2 / 3, 1], "conflict": [0.5, 0.1, 0.2]})
    plan = choose_bridges(trunk, "gradient_conflict", 2)
    assert plan.pairs == ((1, 1), (2, 2))
    assert plan.score == pytest.approx(-0.6)


def test_a_budget_of_parameters_is_met_through_the_rank():
    def count(plan: BridgePlan) -> int:
        return len(plan.pairs) * (plan.rank or 0) * 10 + 7

    heat = heat_of(np.eye(4))
    plan = choose_bridges(heat, "alignment", bridges=3, parameters=1000, count=count)
    assert plan.rank == 33
    assert plan.evidence["parameters"] == 1000
    assert count(plan) <= 1000 < count(replace(plan, rank=34))
    for budget in (10, 11, 12, 99, 100, 1023, 1024):
        assert rank_for(budget, lambda rank: 3 * rank + 7) == (budget - 7) // 3
    for budget in range(1, 200):  # not linear in the rank
        assert rank_for(budget, lambda rank: rank**2) == int(budget**0.5)
    with pytest.raises(ValueError, match="36 trainable parameters are too few: bridges of rank 1 have 37"):
        choose_bridges(heat, "alignment", bridges=3, parameters=36, count=count)
    for count_of in (lambda rank: 5, lambda rank: min(rank, 3)):
        with pytest.raises(ValueError, match="do not grow with the rank"):
            rank_for(10, count_of)
    asked: list[int] = []
    assert rank_for(10_000, lambda rank: asked.append(rank) or 3 * rank + 7) == 3331
    assert len(asked) <= 4  # each may build a model
    for fields in ({}, {"count": count, "rank": 4}):
        with pytest.raises(ValueError, match="pass count, and no rank"):
            choose_bridges(heat, bridges=3, parameters=100, **fields)


@pytest.mark.parametrize("seed", range(6))
def test_alignment_is_the_best_of_all_plans(seed):
    g = np.random.default_rng(seed)
    values = g.standard_normal((5, 6)) if seed % 2 else g.integers(0, 3, (6, 4)).astype(float)
    for bridges in range(1, min(values.shape) + 1):
        plan = choose_bridges(heat_of(values), "alignment", bridges=bridges)
        best = max(sum(values[p] for p in pairs) for pairs in plans(len(values), values.shape[1], bridges))
        assert plan.score == pytest.approx(best)
        assert sum(values[p] for p in plan.pairs) == pytest.approx(best)
        assert len(plan.pairs) == bridges


def test_embeddings_are_never_bridged():
    values = np.full((4, 5), 0.1)
    values[0], values[:, 0] = 9, 9
    values[2, 3] = 0.5
    plan = choose_bridges(heat_of(values, embeddings=True), "alignment", bridges=1)
    assert plan.pairs == ((1, 2),)
    assert (plan.understanding_layers, plan.generation_layers) == (3, 4)


def test_real_map_carries_its_evidence(tmp_path):
    g = np.random.default_rng(0)
    heat = similarity_map(g.standard_normal((4, 20, 5)), g.standard_normal((6, 20, 5)), "cka")
    plan = choose_bridges(heat, "alignment", bridges=2, stream="both")
    assert plan.evidence["metric"] == "cka"
    assert plan.evidence["samples"] == 20
    plan.save(tmp_path / "plan.json")
    assert BridgePlan.load(tmp_path / "plan.json") == plan
    assert plan.score == pytest.approx(score_plan(plan, heat))


def test_depths_tell_of_blocks_that_were_not_measured():
    heat = heat_of(np.ones((3, 3)), embeddings=True)
    heat.attrs = {"x_depths": [0, 0.5, 1], "y_depths": [0, 1 / 3, 2 / 3]}
    assert count_blocks(heat) == (2, 3)
    last = choose_bridges(heat, "last", bridges=1)
    assert last.pairs == ((1, 2),)
    assert np.isnan(score_plan(last, heat))
    sparse = pd.DataFrame(np.eye(2), index=["1", "3"], columns=["0", "5"])
    assert choose_bridges(sparse, "alignment", bridges=2).pairs == ((1, 0), (3, 5))
    assert count_blocks(sparse) == (4, 6)


def test_layers_without_a_score_are_left_out():
    values = np.full((3, 3), np.nan)
    values[1, 1] = -5
    assert choose_bridges(heat_of(values), "alignment", bridges=1).pairs == ((1, 1),)
    with pytest.raises(ValueError, match="too few finite values for 2 bridges"):
        choose_bridges(heat_of(values), "alignment", bridges=2)


@pytest.mark.parametrize("shape", [(12, 16), (16, 12), (6, 6), (7, 30)])
@pytest.mark.parametrize("rule", list(FIXED))
def test_fixed_plans_are_plans_of_the_right_size(rule, shape):
    for bridges in (1, 4, min(shape)):
        plan = choose_bridges(heat_of(np.zeros(shape)), rule, bridges, seed=3)
        assert len(plan.pairs) == (min(shape) if rule == "all" else bridges)
        assert plan.score is None
        assert plan.evidence == ({"seed": 3} if rule == "random" else {})


def test_fixed_plans():
    def pairs(rule: str, shape: tuple[int, int], bridges: int):
        return choose_bridges(heat_of(np.zeros(shape)), rule, bridges).pairs

    assert pairs("all", (3, 3), 1) == ((0, 0), (1, 1), (2, 2))
    assert pairs("all", (3, 6), 1) == ((0, 1), (1, 3), (2, 5))
    assert pairs("all", (6, 3), 1) == ((1, 0), (3, 1), (5, 2))
    assert pairs("middle", (28, 28), 16) == tuple((i, i) for i in range(6, 22))
    assert pairs("middle", (4, 8), 2) == ((1, 3), (2, 5))
    assert pairs("shallow", (16, 13), 4) == ((0, 4), (1, 5), (2, 6), (3, 7))
    assert pairs("middle", (16, 13), 4) == ((5, 4), (6, 5), (8, 6), (9, 7))
    assert pairs("deep", (16, 13), 4) == ((12, 4), (13, 5), (14, 6), (15, 7))
    assert pairs("shallow", (4, 8), 2) == ((0, 3), (1, 5))
    assert pairs("deep", (4, 8), 2) == ((2, 3), (3, 5))
    assert pairs("shallow", (28, 28), 16) == tuple((i, i + 6) for i in range(16))
    assert pairs("deep", (28, 28), 16) == tuple((i + 6, i) for i in range(6, 22))
    assert pairs("uniform", (8, 8), 4) == ((1, 1), (3, 3), (5, 5), (7, 7))
    assert pairs("first", (4, 8), 2) == ((0, 0), (1, 1))
    assert pairs("early", (30, 13), 4) == ((3, 0), (11, 1), (18, 2), (26, 3))
    assert pairs("early", (4, 8), 2) == ((1, 0), (3, 1))
    assert pairs("last", (4, 8), 2) == ((2, 6), (3, 7))
    for rule, shape, count in (
        ("middle", (28, 28), 16),
        ("middle", (16, 13), 7),
        ("shallow", (16, 13), 7),
        ("deep", (28, 28), 16),
        ("shallow", (3, 2), 2),
        ("all", (3, 2), 2),
        ("first", (6, 5), 4),
        ("early", (6, 5), 4),
        ("last", (6, 5), 4),
    ):
        by_itself = choose_bridges(None, rule, layers=shape)
        assert by_itself.pairs == pairs(rule, shape, count)


def test_the_default_is_depth_and_a_map_that_it_leaves_unread_is_said():
    heat = heat_of(np.arange(208.0).reshape(16, 13))
    early = choose_bridges(bridges=4, layers=(16, 13))
    assert (early.rule, early.pairs, early.score) == ("early", ((2, 0), (6, 1), (10, 2), (14, 3)), None)
    with pytest.warns(UserWarning, match="the default rule, 'early', reads only the depths of this evidence"):
        assert choose_bridges(heat, bridges=4) == early
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert choose_bridges(heat, "early", bridges=4) == early
    with pytest.raises(ValueError, match=r"draws measure the rules alignment and complementarity, .* not 'early'"):
        choose_bridges(heat, bridges=4, draws=20, features=(0, 0))


@pytest.mark.parametrize("shape", [(16, 13), (12, 16), (6, 6), (7, 30), (1, 5)])
def test_shallow_and_deep_have_the_generation_blocks_of_the_middle(shape):
    for bridges in range(1, min(shape) + 1):
        shallow, middle, deep = (
            tuple(zip(*choose_bridges(None, rule, bridges, layers=shape).pairs, strict=True))
            for rule in ("shallow", "middle", "deep")
        )
        assert shallow[1] == middle[1] == deep[1]
        assert shallow[0] == tuple(range(bridges))
        assert deep[0] == tuple(range(shape[0] - bridges, shape[0]))
        if bridges == shape[0]:  # with all blocks of the understanding tower, the three are one plan
            assert shallow == middle == deep


def test_random_plans_are_uniform():
    heat = heat_of(np.zeros((4, 3)))
    drawn = Counter(choose_bridges(heat, "random", 2, seed).pairs for seed in range(1800))
    count = comb(4, 2) * comb(3, 2)
    assert set(drawn) == set(plans(4, 3, 2))
    # chi-squared with 17 degrees of freedom: 40.8 is its .999 quantile
    assert sum((n - 100) ** 2 / 100 for n in drawn.values()) < 40.8
    assert count == 18
    assert choose_bridges(heat, "random", 2, 5) == choose_bridges(heat, "random", 2, 5)


def test_score_of_any_plan():
    values = np.arange(16.0).reshape(4, 4)
    heat = heat_of(values)
    plan = choose_bridges(heat, "last", 2)
    assert score_plan(plan, heat) == values[2, 2] + values[3, 3]
    with pytest.raises(ValueError, match="unknown rule 'middle': expected one of alignment"):
        score_plan(plan, heat, "middle")
    with pytest.raises(ValueError, match="towers of 4 and 4 blocks, the map of 3 and 4"):
        score_plan(plan, heat.iloc[:3])


def test_a_distance_is_no_gain():
    g = np.random.default_rng(0)
    heat = similarity_map(g.standard_normal((4, 20, 5)), g.standard_normal((6, 20, 5)), "modality_gap")
    with pytest.raises(ValueError, match="modality_gap is a distance, and the largest would be bridged"):
        choose_bridges(heat, "alignment", bridges=2)


@pytest.mark.parametrize("metric", ["svcca", "pwcca", "procrustes", "cka_biased", "cka_rbf"])
def test_a_map_that_is_high_for_strangers_chooses_only_when_scaled(metric):
    g = np.random.default_rng(0)
    common = g.standard_normal((60, 6))
    x, y = ([g.standard_normal((60, 40)), np.hstack([common, g.standard_normal((60, 2))])] for _ in range(2))
    heat = similarity_map(x, y, metric)
    for choose in (
        partial(choose_bridges, rule="alignment"),
        lambda heat, bridges: lay_out("dense", 2, 2, matching="optimal", heat=heat),
    ):
        with pytest.raises(ValueError, match=rf"{metric} is high for strangers too, .* choose from scaled_map\(x, y,"):
            choose(heat, bridges=1)
    scaled = scaled_map(x, y, metric, permutations=39)
    assert scaled.attrs["scaled"] and scaled.attrs["metric"] == metric and scaled.attrs["chance"] == 0
    assert choose_bridges(scaled, "alignment", bridges=1).pairs == ((1, 1),)
    assert choose_bridges(scaled, "alignment", bridges=1).evidence["permutations"] == 39
    assert scaled.iloc[1, 1] > 0.1 > scaled.iloc[0, 0]


def test_bad_input_is_told():
    heat = heat_of(np.zeros((3, 5)))
    for bad, told in [
        (lambda: choose_bridges(heat, "best"), "unknown rule 'best': expected one of alignment, .*, all, middle"),
        (
            lambda: choose_bridges(heat, "alignment", bridges=4),
            r"from 1 to 3, the blocks of the shallower tower .*3 and 5\), got 4",
        ),
        (lambda: choose_bridges(heat, "alignment", bridges=0), "bridges is 0"),
        (lambda: choose_bridges(heat, "alignment", bridges=1, stream="x"), "unknown stream"),
        (lambda: choose_bridges(heat_of([[1.0]], embeddings=True), "alignment"), "no blocks to bridge"),
        (
            lambda: choose_bridges(heat.rename(index={"1": "head"}), "alignment"),
            "must be 'embeddings' or block numbers",
        ),
        (lambda: choose_bridges(heat.rename(index={"1": "0"}), "alignment"), "named once each"),
    ]:
        with pytest.raises(ValueError, match=told):
            bad()
