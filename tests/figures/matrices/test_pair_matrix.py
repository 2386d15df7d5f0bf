from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from bridgework.figures import model_matrix


@pytest.fixture
def table():
    """As alignment_matrix returns it, of three models; the last pair is chance."""
    names = [("dinov2-s", "image"), ("clip", "image"), ("minilm-l6", "text")]
    pairs = [(0, 1), (0, 2), (1, 2)]
    rows = [
        dict(zip(("subject", "modality", "reference", "reference_modality"), (*names[i], *names[j]), strict=True))
        for i, j in pairs
    ]
    known = {"layer": ["8", "9", "10"], "reference_layer": ["7", "5", "embeddings"], "p": [0.005, 0.005, 0.4]}
    known |= {
        "score": [0.3, 0.2, 0.05],
        "metric": "mutual_knn",
        "k": 10,
        "samples": 512,
        "chance": 0.02,
        "compared": 91,
    }
    return pd.DataFrame(rows).assign(**known, timestep=np.nan)


def test_every_pair_has_a_cell_with_its_layers_and_chance_is_hatched(table, words, assert_readable):
    figure = model_matrix(table)
    ax = figure.axes[0]
    drawn = np.ma.filled(ax.collections[0].get_array().reshape(2, 2).astype(float), np.nan)
    np.testing.assert_array_equal(drawn, [[0.3, np.nan], [0.2, 0.05]])
    text = words(figure)
    for part in ("dinov2-s\nimage", "minilm-l6\ntext", "0.300", "8 × 7", "9 × 5", "10 × emb.", "p = 0.4", "k = 10"):
        assert part in text
    (hatched,) = [patch for patch in ax.patches if patch.get_gid() == "chance"]
    assert hatched.get_xy() == (1, 1)
    assert_readable(figure)


def test_two_directions_fill_the_square(table):
    turned = table.rename(columns={"subject": "reference", "reference": "subject"})
    turned = turned.rename(columns={"modality": "reference_modality", "reference_modality": "modality"})
    turned["score"] /= 2
    drawn = model_matrix(pd.concat([table, turned])).axes[0].collections[0].get_array().reshape(3, 3)
    assert (drawn[0, 1], drawn[1, 0]) == (0.3, 0.15)


def test_what_is_no_matrix_is_named(table):
    with pytest.raises(ValueError, match="model_matrix: missing columns p: pass a table from alignment_matrix"):
        model_matrix(table.drop(columns="p"))
    with pytest.raises(ValueError, match="several metrics"):
        model_matrix(pd.concat([table, table.assign(metric="cka")]))
    with pytest.raises(ValueError, match="a pair of models has several scores"):
        model_matrix(pd.concat([table, table]))
