"""What is measured of the fused emoji generator, on models that know the answer; and that the results are whole."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from bridgework.models.training.recipe import Recipe
from bridgework.models.training.scene_batches import emoji_part
from bridgework.probes.plans.bridge_plan import BridgePlan
from bridgework.probes.stimuli.images import to_pixels
from bridgework.probes.stimuli.stimulus_set import Stimuli
from bridgework.studies import smollm2_emoji


@pytest.fixture(autouse=True)
def few(monkeypatch):
    monkeypatch.setattr(smollm2_emoji, "BATCHES", 2)
    monkeypatch.setattr(smollm2_emoji, "NAMES", 8)


def knowing(part: str, answers: bool) -> SimpleNamespace:
    """A generator that knows what every name looks like, or draws the same for all."""
    known = {s.text: to_pixels([s.image], 32)[0] for s in emoji_part(part)} if answers else {}
    grey = torch.zeros(3, 32, 32)

    def predict(noisy, names, time):
        return torch.stack([known.get(name, grey) for name in names])

    return SimpleNamespace(device=torch.device("cpu"), condition=list, predict=predict)


def test_losses_tell_whether_names_are_read():
    table = smollm2_emoji.losses(knowing("validation", True), "validation").set_index("names")
    assert table.loss["own"] == 0
    assert (table.low[["others'", "none"]] > 0).all()
    assert (table.low <= table.more).all()
    blind = smollm2_emoji.losses(knowing("validation", False), "validation").set_index("names")
    assert blind.loss["own"] > 0
    assert (blind.more == 0).all()


def test_likeness_tells_whether_images_are_of_their_names(monkeypatch):
    def features(images, expert, layer):
        assert layer == "11"
        return to_pixels(images, 8).flatten(1).double().numpy()

    monkeypatch.setattr(smollm2_emoji, "image_features", features)
    seer, shown = SimpleNamespace(blocks=("block",) * 12), smollm2_emoji.some("validation")
    images = [s.image for s in shown]
    found = smollm2_emoji.likeness(images, shown, seer)
    assert found["first"] == 1
    assert found["low"] > 0.5
    others = smollm2_emoji.likeness(images[1:] + images[:1], shown, seer)
    assert others["first"] == 0
    assert others["nearer"] < 0


def test_some_are_spread_over_the_part():
    shown, whole = smollm2_emoji.some("validation"), emoji_part("validation")
    assert isinstance(shown, Stimuli)
    assert len(set(shown.ids)) == 8
    places = [whole.ids.index(id) for id in shown.ids]
    assert np.diff(places).min() >= len(whole) // 8


def test_grid_keeps_rows_and_columns():
    rows = [[Image.new("RGB", (2, 2), (row, column, 0)) for column in range(3)] for row in range(2)]
    drawn = smollm2_emoji.grid(rows)
    assert drawn.size == (3 * smollm2_emoji.SIDE, 2 * smollm2_emoji.SIDE)
    assert drawn.getpixel((2 * smollm2_emoji.SIDE + 5, smollm2_emoji.SIDE + 5)) == (1, 2, 0)


def test_the_recipe_is_one_of_the_two_plans(monkeypatch):
    monkeypatch.chdir(smollm2_emoji.ROOT.parent)  # a recipe names its plan from here
    recipe = Recipe.load(smollm2_emoji.RECIPE)
    assert recipe.plan is not None
    plans = {name: BridgePlan.load(smollm2_emoji.RESULTS / f"{name}.json") for name in smollm2_emoji.PLANS}
    assert BridgePlan.load(recipe.plan) == plans["alignment"]
    for name, plan in plans.items():
        assert (plan.rule, len(plan.pairs), plan.rank) == (name, smollm2_emoji.BRIDGES, smollm2_emoji.RANK)
        assert (plan.understanding_layers, plan.generation_layers) == (30, 13)


def test_committed_results_are_whole():
    learning = pd.read_csv(smollm2_emoji.RESULTS / "learning.csv")
    assert set(learning.plan) == set(smollm2_emoji.PLANS)
    assert learning.groupby("plan").step.max().tolist() == [Recipe.load(smollm2_emoji.RECIPE).steps - 1] * 2
    models = ["emoji-dit, its own text", *smollm2_emoji.PLANS]
    losses, likeness = (pd.read_csv(smollm2_emoji.RESULTS / f"{name}.csv") for name in ("losses", "likeness"))
    assert losses.groupby(["model", "part"], sort=False).size().to_dict() == {
        (model, part): 3 for model in models for part in smollm2_emoji.PARTS
    }
    assert list(zip(likeness.model, likeness.part, strict=True)) == [
        (m, p) for m in models for p in smollm2_emoji.PARTS
    ]
    with Image.open(smollm2_emoji.RESULTS / "samples.png") as samples:
        assert samples.size == (2 * smollm2_emoji.SHOWN * smollm2_emoji.SIDE, (1 + len(models)) * smollm2_emoji.SIDE)
    assert (smollm2_emoji.RESULTS / "samples.png").stat().st_size <= 200_000
