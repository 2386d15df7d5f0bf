"""The companions of a curve, side by side: every table a panel, with its numbers."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from bridgework import figures
from bridgework.figures.publishing.drawn import drawn_into

DEPTHS = [0.0, 0.5, 1.0]
LAYERS = ["embeddings", "0", "1"]


@pytest.fixture
def tables() -> dict[str, pd.DataFrame]:
    along = pd.DataFrame({"layer": LAYERS, "depth": DEPTHS})
    sizes = [32, 64, 128]
    scores = pd.concat([along.assign(samples=size, score=[0.2, 0.5, 0.3], chance=10 / size) for size in sizes])
    return {
        "scores by samples": scores.assign(metric="mutual_knn", k=10, deviation=0.01),
        "ceiling of halves": along.assign(metric="mutual_knn", score=0.3, ceiling=0.6),
        "effective rank": pd.concat(
            [along.assign(side="understanding", modality=name, effective_rank=4.0, samples=128) for name in "ab"]
        ),
        "spatial similarity": along.assign(
            side="generation", score=[0.1, 0.2, 0.3], rows=8, columns=8, distance=3, samples=64
        ),
    }


@pytest.mark.parametrize("venue", [None, "cvpr"])
def test_every_table_has_a_panel(tables, venue, assert_readable):
    page = figures.paper(venue) if venue else None
    try:
        figure = figures.companions(tables)
    finally:
        if page is not None:
            page.close()
    assert len(figure.axes) == 4
    assert_readable(figure)
    titles = " ".join(ax.get_title(loc="left") for ax in figure.axes)
    assert "score against samples" in titles.replace("\n", " ") and "patch contrast" in titles.replace("\n", " ")
    patches = figure.axes[3].lines[0]
    assert np.allclose(patches.get_xydata(), np.column_stack([DEPTHS, [0.1, 0.2, 0.3]]))
    (drawn,) = drawn_into(figure)
    assert set(drawn.tables) == set(tables)


def test_some_tables_are_enough_and_others_are_named(tables):
    assert len(figures.companions({"effective rank": tables["effective rank"]}).axes) == 1
    with pytest.raises(ValueError, match="unknown table 'ranks': expected scores by samples, ceiling of halves"):
        figures.companions({"ranks": tables["effective rank"]})
    with pytest.raises(ValueError, match="companions: missing columns ceiling"):
        figures.companions({"ceiling of halves": tables["ceiling of halves"].drop(columns="ceiling")})
