"""The study of scenes end to end on a tiny budget: every file is there, and a second run repeats nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
import torch

from bridgework.models import open_expert, scene_stimuli
from bridgework.probes import BridgePlan
from bridgework.probes.extraction.extracting import extract_cached
from bridgework.studies.alignment_curves import measure, read_map
from bridgework.studies.effect import demo_page
from bridgework.studies.fused_models import fuse, gap, probe_again, summarise
from bridgework.studies.runs import collect
from bridgework.studies.settings import EXPERTS, FLOOR, METRICS, PLANS
from bridgework.tests.studies.tiny_runs import TINY, make_cheap


@pytest.fixture(scope="module")
def ran(tmp_path_factory) -> Path:
    """A whole run, made cheap where the tests below do not look."""
    folder = tmp_path_factory.mktemp("study")
    with pytest.MonkeyPatch.context() as patch:
        make_cheap(patch)
        run(folder)
    return folder


def run(folder: Path) -> None:
    measure(folder, TINY)
    fuse(folder, TINY)
    gap(folder, TINY)
    probe_again(folder, TINY)
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
    numbers = demo_page.committed_headline(ran)
    assert [name for name in numbers if "gap closed" in name] == [
        f"committed run: share of the gap closed, {p}" for p in PLANS[:-1]
    ]
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
    )
    before = [(ran / name).stat().st_mtime_ns for name in kept]
    run(ran)
    assert [(ran / name).stat().st_mtime_ns for name in kept] == before


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
