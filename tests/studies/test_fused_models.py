"""The main job end to end on a tiny budget: every file is there, a second run repeats nothing, the page is whole."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import nn

from bridgework.models import open_expert, scene_stimuli
from bridgework.models.experts import opening
from bridgework.models.towers import finding
from bridgework.models.towers.tower import Tower
from bridgework.models.training.recipe import Recipe
from bridgework.probes import BridgePlan
from bridgework.probes.curves import curve
from bridgework.probes.extraction.extracting import extract_cached
from bridgework.studies import alignment_curves, demo_page, fused_models, layout_training
from bridgework.studies.alignment_curves import measure, read_map
from bridgework.studies.demo_page import write_page
from bridgework.studies.fused_models import fuse, gap, probe_again, summarise
from bridgework.studies.layout_training import compare_layouts
from bridgework.studies.runs import collect
from bridgework.studies.settings import DEMO_LAYOUTS, EXPERTS, FLOOR, METRICS, PLANS, Budget

TINY = Budget(
    samples=32, bridges=2, steps=2, seeds=1, each=1, batch_size=4, sampling_steps=2,
    layouts=Recipe(layout="H", parameters=60_000, steps=2, batch_size=2, validate=0),
)  # fmt: skip


@pytest.fixture(scope="module")
def ran(tmp_path_factory) -> Path:
    """A whole run, made cheap where the tests below do not look.

    Experts are opened and their towers found once, nulls and intervals rest on few draws, and training steps are timed
    for layout_costs.csv alone.
    """
    folder = tmp_path_factory.mktemp("study")
    find, towers = finding.find_tower, {}

    def find_once(model: nn.Module, run: Callable[[], Any], **where: Any) -> Tower:
        key = (id(model), *sorted(where.items()))
        if key not in towers:
            towers[key] = find(model, run, **where)
        return towers[key]

    with pytest.MonkeyPatch.context() as patch:
        replace_everywhere(patch, opening.open_expert, cache(opening.open_expert))
        replace_everywhere(patch, find, find_once)
        patch.setattr(curve, "curve_draws", partial(curve.curve_draws, splits=4))
        for module in (alignment_curves, fused_models):
            patch.setattr(module, "alignment_curve", partial(curve.alignment_curve, permutations=20))
        patch.setattr(layout_training, "step_seconds", lambda model, recipe: 0.1)
        run(folder)
    return folder


def replace_everywhere(patch: pytest.MonkeyPatch, function: Callable, other: Callable) -> None:
    """Put another function in place of one in every module that has imported it."""
    for name, module in list(sys.modules.items()):
        if name.startswith("bridgework.") and vars(module).get(function.__name__) is function:
            patch.setattr(module, function.__name__, other)


def run(folder: Path) -> None:
    measure(folder, TINY)
    fuse(folder, TINY)
    gap(folder, TINY)
    probe_again(folder, TINY)
    compare_layouts(folder, TINY)
    collect(folder)


def test_curves_hold_every_control(ran):
    curves = pd.read_parquet(ran / "curves.parquet")
    assert set(curves["control"]) == {"none", "random weights", "mismatched captions", "pixel mean x bag of words"}
    assert set(curves["subject"]) == set(EXPERTS)
    assert set(curves["metric"]) == set(METRICS)
    joint = curves[curves["pass"] == "joint"]
    assert set(joint["control"]) == {"none", "mismatched captions"}
    assert (curves["samples"] == TINY.samples).all()


def test_plan_is_the_best_of_the_map(ran):
    plan, heat = BridgePlan.load(ran / "plan.json"), read_map(ran)
    assert len(plan.pairs) == TINY.bridges
    assert plan.score == pytest.approx(sum(heat.loc[str(u), str(g)] for u, g in plan.pairs), abs=1e-6)


def test_gap_is_measured_from_floor_to_ceiling(ran):
    table = pd.read_csv(ran / "gap.csv")
    assert list(table["plan"]) == list(PLANS)
    floor = table[table["plan"] == FLOOR]["score"].mean()
    assert (table["floor"] == floor).all()
    assert all(len(json.loads(pairs)) == TINY.bridges for pairs in table["pairs"])
    pairs = {row.plan: json.loads(row.pairs) for row in table.itertuples()}
    assert pairs["shallow"] == [[0, 5], [1, 6]]
    assert pairs["middle"] == [[6, 5], [8, 6]]
    assert pairs["deep"] == [[14, 5], [15, 6]]
    assert pairs[FLOOR] == pairs["alignment"]


def test_summary_is_mean_and_student_interval():
    table = pd.DataFrame({"plan": ["middle"] * 3, "seed": [0, 1, 2], "share": [0.1, 0.2, 0.3]})
    row = summarise(table).loc["middle"]
    assert row["share"] == pytest.approx(0.2)
    assert row["high"] - row["share"] == pytest.approx(4.302653 * 0.1 / 3**0.5, abs=1e-5)
    assert row["seeds"] == 3


def test_summary_keeps_the_order_of_the_plans():
    names = ["random", "mine", "deep", FLOOR, "alignment", "shallow"]
    summary = summarise(pd.DataFrame({"plan": names, "seed": 0, "share": 0.5}))
    assert list(summary.index) == ["alignment", "shallow", "deep", "random", FLOOR, "mine"]
    assert summary[["low", "high"]].isna().all(axis=None)


def test_the_headline_leaves_out_the_floor(ran):
    numbers = demo_page.headline(ran)
    assert [name for name in numbers if name.startswith("gap closed")] == [f"gap closed, {p}" for p in PLANS[:-1]]
    assert PLANS[-1] == FLOOR


def test_fused_model_is_probed_on_both_tasks_and_its_understanding_stays(ran):
    again = pd.read_parquet(ran / "fused.parquet")
    scores = {key: rows["score"].to_numpy() for key, rows in again.groupby(["task", "when"])}
    assert set(scores) == {(task, when) for task in ("understanding", "generation") for when in ("before", "after")}
    assert (scores["understanding", "before"] == scores["understanding", "after"]).all()


def test_second_run_repeats_nothing(ran):
    kept = (
        "curves.parquet",
        "plan.json",
        "fused.parquet",
        "fused/middle-0/scores.csv",
        "fused/middle-0/bridges.safetensors",
        "layouts/dense/bridges.safetensors",
        "layout_costs.csv",
    )
    before = [(ran / name).stat().st_mtime_ns for name in kept]
    run(ran)
    assert [(ran / name).stat().st_mtime_ns for name in kept] == before


def test_layouts_stand_beside_each_other_with_as_many_parameters(ran):
    table, costs = pd.read_csv(ran / "layouts.csv"), pd.read_csv(ran / "layout_costs.csv")
    assert list(table["layout"]) == list(costs["layout"]) == list(DEMO_LAYOUTS)
    assert list(table["parameters"]) == list(costs["trainable_parameters"])
    assert table["parameters"].between(40_000, 60_000).all()
    assert (costs["step_flops"] > costs["forward_flops"]).all()
    learning = pd.read_csv(ran / "layout_learning.csv")
    assert [list(rows["step"]) for _, rows in learning.groupby("name")] == [[0, 1]] * 3


def test_page_shows_every_figure(ran, tmp_path, monkeypatch):
    monkeypatch.setattr(demo_page, "RESULTS", tmp_path / "none")
    page = write_page(ran, tmp_path / "gallery")
    html = page.read_text()
    images = re.findall(r'<img[^>]*src="([^"]+)"', html)
    assert len(images) >= 11
    assert {"layouts.png", "layouts-compared.png", "layouts-learning.png"} <= set(images)
    assert images[0] == "plans-and-outcomes.png"
    assert all((page.parent / image).is_file() for image in images)


def test_features_are_kept_apart_by_what_they_were_made_of(tmp_path):
    stimuli, expert = scene_stimuli("test", 6), open_expert("scenes-vlm", random_weights=True)
    first = extract_cached(tmp_path, expert, stimuli, layers=["0"])
    assert "values" not in vars(first["text"])
    again = extract_cached(tmp_path, expert, stimuli, layers=["0"])
    assert torch.equal(first["text"].values, again["text"].values)
    assert len(list((tmp_path / "features").iterdir())) == 1
    with torch.no_grad():
        next(expert.model.parameters()).add_(1)
    other = extract_cached(tmp_path, expert, stimuli, layers=["0"])
    assert not torch.equal(first["image"].values, other["image"].values)
    assert len(list((tmp_path / "features").iterdir())) == 2
