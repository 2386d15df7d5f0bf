"""The committed causal evidence: questions are asked as stimuli, and the tables are what the functions return."""

from __future__ import annotations

import pandas as pd
import pytest

from bridgework.models.scenes.scene import SKILLS
from bridgework.probes.plans.bridge_plan import BridgePlan
from bridgework.studies import causal


def test_questions_end_with_their_answers():
    asked, answers = causal.questions(2)
    assert len(asked) == 2 * len(SKILLS) == len(answers)
    assert all(s.text.endswith(f"? {answers[s.id]}") for s in asked)
    assert asked.digest == causal.questions(2)[0].digest
    assert asked.digest != causal.questions(2, part="test")[0].digest


@pytest.fixture
def table(request) -> pd.DataFrame:
    return pd.read_csv(causal.RESULTS / f"{request.param}.csv")


@pytest.mark.parametrize("table", ["attribution"], indirect=True)
def test_committed_attributions_are_complete_within_their_error(table):
    along = table[table["method"] != "ablation"]
    sums = along.groupby(["subject", "method", "layer"])[["attribution", "gain", "error"]].agg(
        {"attribution": "sum", "gain": "first", "error": "first"}
    )
    assert (abs(sums["attribution"] - sums["gain"]) <= sums["error"] + 1e-4).all()
    blocks = table.groupby("subject")["layer"].nunique()
    assert blocks.to_dict() == {"scenes-dit": 14, "scenes-vlm": 17}


@pytest.mark.parametrize("table", ["attention"], indirect=True)
def test_committed_attention_sums_to_one(table):
    sums = table.groupby(["subject", "timestep", "layer", "query"], dropna=False)[["mass", "expected"]].sum()
    assert sums.to_numpy() == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("table", ["links"], indirect=True)
def test_committed_links_are_those_of_the_plan(table):
    plan = BridgePlan.load(causal.RESULTS / "plan.json")
    for _, rows in table.groupby("seed"):
        assert rows["link"].tolist() == [*(f"{u}-{g}" for u, g in plan.pairs), "all"]
