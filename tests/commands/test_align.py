"""`bridgework align`: the alignment curve of two stores, printed with its null and written."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from bridgework.__main__ import main
from bridgework.probes.features.features import Features
from bridgework.tests.probes.curves.test_curve import features as toy_features


@pytest.fixture
def two_stores(tmp_path):
    """The stores of a model with three layers of images and one with two layers of texts, whose last ones are alike."""
    g = np.random.default_rng(0)
    image, text = g.standard_normal((3, 40, 5)), g.standard_normal((2, 40, 5))
    text[1] = image[2] + 0.3 * text[1]
    for subject, modality, values in (("dino", "image", image), ("minilm", "text", text)):
        Features({modality: toy_features(values, modality, subject=subject)}).save(tmp_path / subject)
    return tmp_path / "dino", tmp_path / "minilm"


def test_two_stores_are_aligned(two_stores, tmp_path, capsys):
    for layer, name in (((), "0"), (("--text-layer", "last"), "0"), (("--text-layer", ".1"), "embeddings")):
        main([str(part) for part in ("align", *two_stores, *layer, "--k", 5, "--out", tmp_path / "curve.csv")])
        said = capsys.readouterr().out
        assert f"curve.csv: mutual_knn of 40 stimuli, dino (image) x minilm (text), layer {name}\n" in said
        curve = pd.read_csv(tmp_path / "curve.csv", dtype={"reference_layer": str})
        assert curve[["subject", "reference", "reference_layer"]].drop_duplicates().to_numpy().tolist() == [
            ["dino", "minilm", name]
        ]
    assert "draws" not in curve
    main(["align", str(two_stores[0]), str(two_stores[1]), "--k", "5", "--out", str(tmp_path / "curve.parquet")])
    said = capsys.readouterr().out
    whole = pd.read_parquet(tmp_path / "curve.parquet")
    assert len(whole["draws"].iloc[0]) == 200
    best = whole.loc[whole["score"].idxmax()]
    assert best["layer"] == "1" and f"best: {best['score']:.3f} in layer 1; the best of unrelated features" in said
    assert f"in 5 of 100 cases (p = {whole.attrs['peak_p']:.2g})" in said
    assert "null95" in said and "timestep" not in said
