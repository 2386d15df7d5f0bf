"""The benchmark of bridges compares like with like: no-op bridges change nothing, both ways to sample draw the same.

Tiny experts stand in for the shipped ones: nothing here depends on what an expert has learnt.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from transformers import AutoTokenizer

from bridgework.benchmarks import fusion
from bridgework.models import FusedModel
from bridgework.models.experts.opening import CHECKPOINTS
from bridgework.models.generation.sampling import generate
from bridgework.probes.plans.layouts import lay_out
from bridgework.tests.models.conftest import build_dit, build_vlm

DEPTHS = 4, 3


@pytest.fixture(scope="module")
def experts():
    tokenizer = AutoTokenizer.from_pretrained(CHECKPOINTS / "scenes-vlm")
    return build_vlm(tokenizer), build_dit(tokenizer)


@pytest.fixture
def opened(experts, monkeypatch):
    """Lets the benchmark open the tiny experts; the names that it has opened."""
    names = []

    def open_expert(name):
        names.append(name)
        return experts[name == fusion.GENERATION]

    monkeypatch.setattr(fusion, "open_expert", open_expert)
    return names


@pytest.mark.parametrize("both_ways", [False, True])
@pytest.mark.parametrize("layout", fusion.LEVELS.values())
def test_no_op_bridges_hand_over_and_change_nothing(experts, layout, both_ways):
    plan = lay_out(layout, *DEPTHS, matching="repeat", both_ways=True, rank=1)
    fused = FusedModel(experts[0], experts[1], plan).eval()
    handed = []

    class Counted(fusion.Nothing):
        def keys_values(self, side, own):
            handed.append(side)
            return super().keys_values(side, own)

    fused.bridges = nn.ModuleList(Counted() for _ in fused.plan.pairs)
    with torch.inference_mode():
        understand, generate_, words = fusion.passes(experts, 3)
        bridged = fusion.bridged(fused, (understand, generate_), words, both_ways)
        hooked = fusion.hooked(fused, (understand, generate_))
        for result in (bridged, hooked):
            assert torch.equal(result[0].logits, understand().logits)
            assert torch.equal(result[1], generate_())
    assert min(handed.count(0), handed.count(1)) >= len(plan.pairs) == 4


def test_states_computed_once_and_at_every_step_draw_the_same(experts):
    fused = FusedModel(experts[0], experts[1], lay_out("H", *DEPTHS, gated=False)).eval()
    samples = [generate(model, ["a red circle"], ["0"], steps=2) for model in (fused, fusion.Again(fused))]
    assert np.array_equal(*(np.asarray(images[0]) for images in samples))


def test_tables_hold_what_is_compared(opened):
    table = fusion.overhead("scenes-vlm", 2, rounds=3)
    assert len(table) == 1 + 2 * 5 + 1 and table["over_bare"].iloc[0] == 1 and (table["over_bare"] > 0.5).all()
    assert set(table["what"]) == {"nothing", "hooks", "no-op bridges", "gated bridges"}
    (row,) = fusion.sampling("scenes-vlm", 2, steps=2, rounds=1).to_dict("records")
    assert row["times_as_long"] == pytest.approx(row["again_seconds"] / row["once_seconds"])
    assert opened == ["scenes-vlm", "scenes-dit"] * 2


def test_layouts_are_compared_with_the_experts_alone(opened):
    table = fusion.layouts(2, rounds=1).set_index(["pairs", "layout"])
    assert list(table["bridges"]) == [0, 1, 3, 4, 1, 1]
    assert (table["over_bare_attention"].iloc[1:] > 1).all() and table["over_first"].iloc[1] == 1
    published = table.loc["published"]
    assert published.loc["dense", "over_bare_attention"] > published.loc["H", "over_bare_attention"]


def test_the_first_round_does_not_count():
    calls = {"a": 0, "b": 0}

    def run(name, first):
        calls[name] += 1
        total, work = 0, 300_000 if calls[name] == 1 and first else 10
        for number in range(work):
            total += number

    seconds = fusion.take_turns({"a": lambda: run("a", True), "b": lambda: run("b", False)}, rounds=2)
    assert calls == {"a": 3, "b": 3} and seconds["a"] < 0.005
