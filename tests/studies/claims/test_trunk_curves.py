"""The six curves: their shapes are those of the committed curves, and twins with random weights stand beside them."""

from __future__ import annotations

import pandas as pd
import pytest

from bridgework.studies.claims import trunk_curves
from bridgework.studies.settings import RESULTS


@pytest.fixture(scope="module")
def curves():
    return pd.read_parquet(RESULTS / "claims" / trunk_curves.CURVES)


def test_the_committed_shapes_are_those_of_the_committed_curves(curves):
    committed = pd.read_csv(RESULTS / "claims" / trunk_curves.SHAPES)
    pd.testing.assert_frame_equal(trunk_curves.shape_table(curves), committed, check_dtype=False, rtol=1e-12)


def test_twins_with_random_weights_are_drawn_as_controls(curves):
    panels = trunk_curves.draw_curves(curves).axes
    assert "control: random weights" in [text.get_text() for ax in panels for text in ax.findobj(type(ax.title))]
    # a legend has lines without data
    broken = {tuple(line.get_ydata()) for line in panels[0].lines if line.get_linestyle() not in ("-", "None")}
    twins = curves[(curves["model"] == trunk_curves.UNTRAINED) & (curves["metric"] == "mutual_knn")]
    assert broken - {()} == {tuple(twin["score"]) for _, twin in twins.groupby("task")}
    trained = curves[(curves["model"] == trunk_curves.APART) & (curves["metric"] == "mutual_knn")]
    assert twins["score"].max() < trained.groupby("task")["score"].max().min()
