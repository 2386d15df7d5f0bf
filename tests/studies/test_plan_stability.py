"""How far a plan depends on its scenes: the same rule on other sets of them, and the committed table."""

from __future__ import annotations

import json
from dataclasses import replace

import pandas as pd
import pytest
import torch

from bridgework.probes.features.features import Features
from bridgework.probes.features.layer_features import LayerFeatures
from bridgework.probes.plans.bridge_plan import BridgePlan
from bridgework.studies import RESULTS, plan_stability


def features(modality: str, task: str, layers: int, samples: int, seed: int) -> Features:
    names = ("embeddings", *map(str, range(layers)))
    depths = tuple(index / layers for index in range(layers + 1))
    values = torch.randn(layers + 1, samples, 6, generator=torch.Generator().manual_seed(seed))
    times = (0.5,) if task == "generation" else ()
    ids = tuple(map(str, range(samples)))
    return Features(
        {modality: LayerFeatures(values, names, depths, modality, "toy", task, "separate", "mean", times, ids)}, {}
    )


def test_every_set_of_scenes_has_a_plan_and_nothing_is_measured_twice(tmp_path, monkeypatch):
    made = [features("text", "understanding", 6, 40, 0), features("image", "generation", 5, 40, 1)]
    monkeypatch.setattr(plan_stability, "open_expert", lambda name: name)
    monkeypatch.setattr(plan_stability, "scene_stimuli", lambda part, count: part)
    monkeypatch.setattr(plan_stability, "extract_cached", lambda *args, **options: made.pop(0))
    monkeypatch.setattr(plan_stability, "SCENES", 40)
    monkeypatch.setattr(plan_stability, "FIRST", (20, 40))
    monkeypatch.setattr(plan_stability, "DRAWS", 3)
    monkeypatch.setattr(plan_stability, "COMMITTED", replace(plan_stability.COMMITTED, samples=20, bridges=2))
    table = plan_stability.measure_plan_stability(tmp_path)
    assert list(table["scenes"]) == ["first", "first", "drawn", "drawn", "drawn"] * 2
    assert list(table["samples"]) == [20, 40, 20, 20, 20] * 2
    assert all(len(json.loads(pairs)) == 2 for pairs in table["pairs"])
    again = plan_stability.measure_plan_stability(tmp_path)  # there are no features left to measure
    pd.testing.assert_frame_equal(again, table, check_dtype=False)


@pytest.mark.parametrize("metric", ["mutual_knn", "cka"])
def test_the_committed_table_is_whole(metric):
    table = pd.read_csv(RESULTS / plan_stability.FILE)
    table = table[table["metric"] == metric]
    first = table[table["scenes"] == "first"].set_index("samples")["pairs"].map(json.loads)
    assert tuple(first.index) == plan_stability.FIRST
    assert len(table) - len(first) == plan_stability.DRAWS
    committed = [list(pair) for pair in BridgePlan.load(RESULTS / "plan.json").pairs]
    assert (first[plan_stability.COMMITTED.samples] == committed) == (metric == "mutual_knn")
