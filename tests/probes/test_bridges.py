"""Plans hold together and survive their file; rules find what an exhaustive search finds, fixed plans are fair."""

from __future__ import annotations

import json
from collections import Counter
from itertools import combinations
from math import comb

import numpy as np
import pandas as pd
import pytest

from bridgework.probes.bridges import FIXED, RULES, BridgePlan, choose_bridges, count_blocks, score
from bridgework.probes.similarity import similarity_map


def heat_of(values, embeddings: bool = False) -> pd.DataFrame:
    values = np.asarray(values, float)
    names = [["embeddings", *map(str, range(n - 1))] if embeddings else [*map(str, range(n))] for n in values.shape]
    return pd.DataFrame(values, index=names[0], columns=names[1])


def plan_of(**changes) -> BridgePlan:
    given = {
        "pairs": ((0, 1), (2, 3)),
        "stream": "image",
        "rule": "alignment",
        "evidence": {"metric": "cka", "k": None, "depths": [0.5, 1.0]},
        "understanding_layers": 3,
        "generation_layers": 4,
        "score": 1.25,
    }
    return BridgePlan(**(given | changes))


def plans(understanding: int, generation: int, bridges: int):
    for left in combinations(range(understanding), bridges):
        for right in combinations(range(generation), bridges):
            yield tuple(zip(left, right))


@pytest.mark.parametrize("seed", range(6))
def test_alignment_is_the_best_of_all_plans(seed):
    g = np.random.default_rng(seed)
    values = g.standard_normal((5, 6)) if seed % 2 else g.integers(0, 3, (6, 4)).astype(float)
    for bridges in range(1, min(values.shape) + 1):
        plan = choose_bridges(heat_of(values), bridges=bridges)
        best = max(sum(values[p] for p in pairs) for pairs in plans(len(values), values.shape[1], bridges))
        assert plan.score == pytest.approx(best)
        assert sum(values[p] for p in plan.pairs) == pytest.approx(best)
        assert len(plan.pairs) == bridges


def test_embeddings_are_never_bridged():
    values = np.full((4, 5), 0.1)
    values[0], values[:, 0] = 9, 9
    values[2, 3] = 0.5
    plan = choose_bridges(heat_of(values, embeddings=True), bridges=1)
    assert plan.pairs == ((1, 2),)
    assert (plan.understanding_layers, plan.generation_layers) == (3, 4)


def test_real_map_carries_its_evidence(tmp_path):
    g = np.random.default_rng(0)
    heat = similarity_map(g.standard_normal((4, 20, 5)), g.standard_normal((6, 20, 5)))
    plan = choose_bridges(heat, bridges=2, stream="both")
    assert plan.evidence["metric"] == "cka"
    assert plan.evidence["samples"] == 20
    plan.save(tmp_path / "plan.json")
    assert BridgePlan.load(tmp_path / "plan.json") == plan
    assert plan.score == pytest.approx(score(plan, heat))


def test_depths_tell_of_blocks_that_were_not_measured():
    heat = heat_of(np.ones((3, 3)), embeddings=True)
    heat.attrs = {"x_depths": [0, 0.5, 1], "y_depths": [0, 1 / 3, 2 / 3]}
    assert count_blocks(heat) == (2, 3)
    last = choose_bridges(heat, "last", bridges=1)
    assert last.pairs == ((1, 2),)
    assert np.isnan(score(last, heat))
    sparse = pd.DataFrame(np.eye(2), index=["1", "3"], columns=["0", "5"])
    assert choose_bridges(sparse, bridges=2).pairs == ((1, 0), (3, 5))
    assert count_blocks(sparse) == (4, 6)


def test_layers_without_a_score_are_left_out():
    values = np.full((3, 3), np.nan)
    values[1, 1] = -5
    assert choose_bridges(heat_of(values), bridges=1).pairs == ((1, 1),)
    with pytest.raises(ValueError, match="too few finite values for 2 bridges"):
        choose_bridges(heat_of(values), bridges=2)


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
    assert pairs("uniform", (8, 8), 4) == ((1, 1), (3, 3), (5, 5), (7, 7))
    assert pairs("last", (4, 8), 2) == ((2, 6), (3, 7))


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
    assert score(plan, heat) == values[2, 2] + values[3, 3]
    with pytest.raises(ValueError, match="no score for rule 'middle': expected one of alignment"):
        score(plan, heat, "middle")
    with pytest.raises(ValueError, match="towers of 4 and 4 blocks, the map of 3 and 4"):
        score(plan, heat.iloc[:3])
    assert list(RULES) == ["alignment"]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"pairs": ()}, "at least one pair"),
        ({"pairs": ((0, 2), (1, 1))}, r"\(0, 2\) and \(1, 1\) cross or repeat"),
        ({"pairs": ((0, 1), (0, 1))}, "cross or repeat"),
        ({"pairs": ((0, 4),)}, r"\(0, 4\) is out of range: the towers have 3 and 4 blocks"),
        ({"pairs": ((-1, 0),)}, "out of range"),
        ({"pairs": ((0.5, 1),)}, "whole numbers"),
        ({"pairs": (3,)}, "whole numbers"),
        ({"pairs": 3}, "whole numbers"),
        ({"stream": "sound"}, "unknown stream 'sound': expected one of image, text, both"),
    ],
)
def test_invalid_plans_are_refused(changes, told):
    with pytest.raises(ValueError, match=told):
        plan_of(**changes)


def test_plan_file(tmp_path):
    plan_of().save(tmp_path / "plan.json")
    assert BridgePlan.load(tmp_path / "plan.json") == plan_of()
    assert [p.name for p in tmp_path.iterdir()] == ["plan.json"]
    told = json.loads((tmp_path / "plan.json").read_text())
    assert told["pairs"] == [[0, 1], [2, 3]]
    with pytest.raises(FileNotFoundError, match="no bridge plan"):
        BridgePlan.load(tmp_path / "none.json")
    for broken in ("", "[]", "{}", "7", json.dumps(told | {"more": 1}), json.dumps(told | {"pairs": [[0, 9]]})):
        (tmp_path / "broken.json").write_text(broken)
        with pytest.raises(ValueError, match="is not a bridge plan"):
            BridgePlan.load(tmp_path / "broken.json")


def test_a_distance_is_no_gain():
    g = np.random.default_rng(0)
    heat = similarity_map(g.standard_normal((4, 20, 5)), g.standard_normal((6, 20, 5)), "modality_gap")
    with pytest.raises(ValueError, match="modality_gap is a distance, and the largest would be bridged"):
        choose_bridges(heat, bridges=2)


def test_bad_input_is_told():
    heat = heat_of(np.zeros((3, 5)))
    for bad, told in [
        (lambda: choose_bridges(heat, "best"), "unknown rule 'best': expected one of alignment, all, middle"),
        (lambda: choose_bridges(heat, bridges=4), r"from 1 to 3, the blocks of the shallower tower .*3 and 5\), got 4"),
        (lambda: choose_bridges(heat, bridges=0), "got 0"),
        (lambda: choose_bridges(heat, bridges=1, stream="x"), "unknown stream"),
        (lambda: choose_bridges(heat_of([[1.0]], embeddings=True)), "no blocks to bridge"),
        (lambda: choose_bridges(heat.rename(index={"1": "head"})), "must be 'embeddings' or block numbers"),
        (lambda: choose_bridges(heat.rename(index={"1": "0"})), "named once each"),
    ]:
        with pytest.raises(ValueError, match=told):
            bad()
