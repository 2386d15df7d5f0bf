"""Runs of the testbed: rows say what was run, a run repeats to the bit, and nothing of two testbeds is mixed."""

import math

import numpy as np
import pandas as pd
import pytest

from bridgework.models import open_expert
from bridgework.models.evaluation.scene_facts import facts_held
from bridgework.models.scenes.composing import compose
from bridgework.models.scenes.read_captions import read_captions
from bridgework.models.scenes.rendering import render_scene
from bridgework.studies.settings import RESULTS
from bridgework.studies.verdict import bridge_runs, caption_pool, outcomes, rule_maps, testbed, trained_maps
from bridgework.studies.verdict.bridge_runs import Cell, run_cell
from bridgework.studies.verdict.caption_knowledge import EXPERTS, kept_kinds

READER = testbed.PAIRS["scenes-reader x scenes-dit"]


@pytest.fixture
def small(monkeypatch):
    """Shrink the testbed: two steps, few captions."""
    pool = {"train": 8, "evidence": 8, "validation": 2, "test": 2}
    monkeypatch.setattr(testbed, "POOL", pool)
    for module in (bridge_runs, caption_pool):
        monkeypatch.setattr(module, "POOL", pool)
    monkeypatch.setattr(bridge_runs, "STEPS", 2)
    monkeypatch.setattr(bridge_runs, "DRAWN", 1)
    monkeypatch.setattr(bridge_runs, "SAMPLING", {"steps": 1, "guidance": 1.0})
    caption_pool.pool.cache_clear()
    yield
    caption_pool.pool.cache_clear()


def test_kinds_are_those_that_an_inner_layer_reads_better_than_the_embeddings():
    table = pd.read_csv(RESULTS / "verdict" / "kinds.csv", dtype={"layer": str})
    assert tuple(kept_kinds(table)) == testbed.KINDS
    assert set(table["source"]) == {*EXPERTS, "bag of words", "word pairs"}
    bags = table[(table["source"] == "bag of words") & table["kind"].isin(testbed.KINDS)]
    assert (bags["accuracy"] < 0.6).all()  # the words do not say it


def test_grids_lie_in_the_experts_and_cover_six_by_five_blocks():
    for pair in testbed.PAIRS.values():
        assert len(pair.understanding_blocks) >= 6
        assert len(pair.generation_blocks) >= 5
    assert READER.understanding_blocks[-1] == len(open_expert("scenes-reader").blocks) - 1
    assert READER.generation_blocks[-1] == len(open_expert("scenes-dit").blocks) - 1


def test_any_two_experts_are_a_pair_with_a_grid_from_first_to_last_block():
    pair = testbed.pair_named("scenes-vlm x scenes-dit")
    assert pair.understanding_blocks == (0, 3, 6, 9, 12, 15)
    assert pair.generation_blocks == (0, 3, 6, 9, 12)
    assert len(outcomes.grid_cells(pair)) == 1 + 2 * (2 + 30)
    with pytest.raises(ValueError, match="'scenes-vlm' is no pair of experts: expected 'UNDERSTANDING x GENERATION'"):
        testbed.pair_named("scenes-vlm")
    with pytest.raises(ValueError, match="unknown expert 'a'"):
        testbed.pair_named("a x b")


def test_rows_say_what_was_run_and_repeat_to_the_bit(small, tmp_path):
    cell = Cell(READER, ((9, 3),), 1, ("grid",))
    first = run_cell(cell, tmp_path)
    shared = run_cell(cell._replace(labels=("descent",)), tmp_path)
    assert shared == first | {"labels": '["descent", "grid"]'}  # rules that choose one plan share its run
    second = run_cell(cell, tmp_path, again=True)
    timed = {"seconds"}
    assert {k: v for k, v in first.items() if k not in timed} == {k: v for k, v in second.items() if k not in timed}
    assert (first["pair"], first["pairs"], first["bridges"], first["seed"]) == (READER.name, "[[9, 3]]", 1, 1)
    assert math.isfinite(first["loss"])
    assert first["loss"] == pytest.approx(sum(first[f"loss of {kind}"] for kind in testbed.KINDS) / len(testbed.KINDS))
    assert not list((tmp_path / "training").iterdir())
    ceiling = run_cell(Cell(READER, (), 0, (testbed.CEILING,)), tmp_path)
    assert (ceiling["bridges"], ceiling["steps"]) == (0, 0)
    floor = run_cell(cell._replace(labels=(testbed.FLOOR,)), tmp_path)
    assert floor["loss"] != first["loss"]  # the same plan, taught with the captions of other images


def test_other_settings_are_another_configuration(small, monkeypatch):
    was = bridge_runs.config(READER)
    assert was != bridge_runs.config(testbed.PAIRS["minilm-l6 x scenes-dit"])
    monkeypatch.setattr(bridge_runs, "STEPS", 3)
    assert bridge_runs.config(READER) != was


def test_only_missing_runs_are_run_and_gathered_rows_are_kept_once(small, tmp_path, monkeypatch):
    monkeypatch.setattr(outcomes, "OUTCOMES", tmp_path / "outcomes.parquet")
    cells = [Cell(READER, ((u, 3),), 0, ("grid",)) for u in (0, 9)]
    monkeypatch.setattr(outcomes, "cells_of", lambda pair, folder: cells)
    outcomes.run_missing(tmp_path, [READER.name], share=1, shares=2)
    assert list(outcomes.gather(tmp_path)["pairs"]) == ["[[9, 3]]"]
    (tmp_path / "outcomes.parquet").rename(tmp_path / "committed.parquet")
    monkeypatch.setattr(outcomes, "OUTCOMES", tmp_path / "committed.parquet")
    assert outcomes.missing_cells(cells, outcomes.committed()) == cells[:1]
    outcomes.run_missing(tmp_path, [READER.name])
    for _ in range(2):
        table = outcomes.gather(tmp_path)
        assert list(table["pairs"]) == ["[[0, 3]]", "[[9, 3]]"]
    assert not outcomes.missing_cells(cells, table)
    monkeypatch.setattr(bridge_runs, "STEPS", 3)
    with pytest.raises(ValueError, match="holds runs of scenes-reader x scenes-dit by another protocol"):
        outcomes.run_missing(tmp_path, [READER.name])


def test_thirty_plans_of_four_bridges_are_run_beside_the_grid(small, tmp_path, monkeypatch):
    rules = {f"rule {n}": ((0, n), (1, n + 1), (2, n + 2), (3, n + 3)) for n in range(8)}
    monkeypatch.setattr(outcomes, "rule_maps", lambda pair, folder: None)
    monkeypatch.setattr(outcomes, "rule_plans", lambda maps: rules)
    cells = outcomes.cells_of(READER, tmp_path)
    for seed in testbed.SEEDS:
        own = [cell for cell in cells if cell.seed == seed]
        assert sum(cell.labels == ("grid",) for cell in own) == 30
        plans = [cell for cell in own if cell.labels[0] not in ("grid", testbed.FLOOR, testbed.CEILING)]
        assert len(plans) >= 30
    assert [cell.labels for cell in cells].count((testbed.FLOOR,)) == 2 * len(testbed.SEEDS)


def test_maps_of_rules_read_the_evidence_alone(small, tmp_path, monkeypatch):
    monkeypatch.setattr(rule_maps, "ALIGNMENT", ("cka", "svcca"))
    for name, value in (("BATCHES", 4), ("BATCH", 2), ("BROKEN", 4)):
        monkeypatch.setattr(trained_maps, name, value)
    blocks = (3, 9)
    pair = READER._replace(understanding_blocks=blocks, generation_blocks=blocks)
    table = rule_maps.rule_maps(pair, tmp_path)
    everywhere = ["alignment, cka", "alignment, svcca", "complementarity", "descent"]
    assert list(table["rule"].unique()) == [*everywhere, "gradient_conflict", "causal", "soft"]
    for rule, cells in table.groupby("rule"):
        gains = cells.pivot(index="understanding", columns="generation", values="gain")
        assert gains.shape == (16, 13)
        known = gains if rule in (*everywhere, "soft") else gains.loc[[3, 9], [3, 9]]
        assert gains.notna().sum().sum() == known.notna().sum().sum() == known.size
        assert known.nunique().sum() > known.shape[1]  # no constant map
    untrained = table[table["rule"].isin(everywhere)]
    assert all(len(pairs) == 4 for pairs in rule_maps.rule_plans(untrained).values())
    stimuli = caption_pool.evidence()
    scenes = {read.scene.caption for read in read_captions("evidence", 8, kinds=testbed.KINDS)}
    assert set(stimuli.ids) == scenes
    pd.testing.assert_frame_equal(rule_maps.rule_maps(pair, tmp_path), table)
    table.to_parquet(tmp_path / "rule_maps.parquet")
    monkeypatch.setattr(rule_maps, "MAPS", tmp_path / "rule_maps.parquet")
    monkeypatch.setattr(rule_maps, "_cells", None)  # committed maps are not measured again
    pd.testing.assert_frame_equal(rule_maps.rule_maps(pair, tmp_path / "another"), table)


def test_facts_of_a_true_picture_hold_and_of_another_do_not():
    rng = np.random.default_rng(0)
    scene = compose(rng, "two objects", "test").scene
    assert facts_held(render_scene(scene, rng), scene) == 1
    one = compose(rng, "counting", "test").scene
    with pytest.raises(ValueError, match="has two things of one shape"):
        facts_held(render_scene(one, rng), one)
