"""Every layout from one recipe: resumed where stopped, compared with others' captions batch by batch."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from bridgework.models.training.recipe import Recipe, run_recipe
from bridgework.probes.plans.layout_table import LAYOUTS
from bridgework.studies import layout_training
from bridgework.studies.layout_training import ORDER, RECIPE, compare

FEW = {"steps": 2, "batch_size": 4, "validate": 0}


def test_the_recipe_is_of_all_layouts():
    assert set(ORDER) == set(LAYOUTS)
    assert Recipe.load(RECIPE).layout in LAYOUTS
    lines = [line for line in RECIPE.read_text().splitlines() if line.startswith("layout:")]
    assert len(lines) == 1


def test_a_table_of_two_layouts_resumed(tmp_path, monkeypatch):
    recipe, out, results = Recipe(layout="H", **FEW), tmp_path / "runs", tmp_path / "layouts.csv"
    trained = []

    def watched(run, folder, **options):
        if len(trained) == 3:
            raise KeyboardInterrupt
        trained.append((run.layout, run.shuffled))
        return run_recipe(run, folder, **options)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(layout_training, "run_recipe", watched)
        compare(recipe, out, results, ("dense", "last"), batches=3)
    assert trained == [("dense", False), ("last", False), ("dense", True)]
    before = pd.read_csv(results)
    assert before["floor"].notna().tolist() == [True, False]

    table = compare(recipe, out, results, ("dense", "last"), batches=3)
    pd.testing.assert_frame_equal(pd.read_csv(results), table, check_exact=False)
    assert table["layout"].tolist() == ["dense", "last"]
    assert table["floor"].notna().all()
    pd.testing.assert_series_equal(table["difference"], table["shuffled"] - table["loss"], check_names=False)
    pd.testing.assert_series_equal(table["above"], table["floor"] - table["loss"], check_names=False)
    assert (table["low"] <= table["difference"]).all() and (table["difference"] <= table["high"]).all()
    assert (table["parameters"] > 100_000).all() and (table["step_seconds"] > 0).all()
    losses = json.loads((out / "dense" / "losses-3.json").read_text())["losses"]
    assert len(losses) == 3
    assert table["loss"][0] == pytest.approx(np.mean(losses))


def test_every_layout_is_drawn(tmp_path):
    layout_training.draw(tmp_path)
    with Image.open(tmp_path / "layouts.png") as image:
        assert min(image.size) > 500
    assert set(layout_training.ORDER) == set(LAYOUTS)
