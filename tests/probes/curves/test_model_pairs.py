"""Every pair of models is scored at its best or at stated layers, beside the null of the best of as many layers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from bridgework.probes.curves.model_pairs import alignment_matrix
from bridgework.probes.features.features import Features
from bridgework.probes.features.layer_features import LayerFeatures
from bridgework.probes.similarity.nulls import map_null
from bridgework.probes.similarity.scoring import similarity
from bridgework.tests.probes.curves.test_curve import features


def models(samples: int = 40) -> list[LayerFeatures]:
    """Two models with a layer in common, block 1 of the one and the embeddings of the other, and a stranger."""
    g = np.random.default_rng(0)
    common = g.standard_normal((samples, 5))
    one, other, stranger = (g.standard_normal((count, samples, 5)) for count in (4, 3, 3))
    one[2] += 3 * common
    other[0] += 3 * common
    names = (("one", "image", one), ("other", "text", other), ("stranger", "text", stranger))
    return [features(values, modality, subject=name) for name, modality, values in names]


def test_the_best_layers_are_held_against_the_best_of_as_many():
    one, other, stranger = models()
    table = alignment_matrix([one, other, stranger], k=5, permutations=99)
    assert table[["subject", "reference"]].to_numpy().tolist() == [
        ["one", "other"], ["one", "stranger"], ["other", "stranger"],
    ]  # fmt: skip
    first = table.iloc[0]
    assert (first["layer"], first["reference_layer"], first["compared"]) == ("1", "embeddings", 12)
    assert (first["depth"], first["reference_depth"]) == (pytest.approx(2 / 3), 0)
    assert first["score"] == pytest.approx(similarity(one.values[2], other.values[0], "mutual_knn", 5))
    assert (first["k"], first["samples"], first["chance"]) == (5, 40, 5 / 39)
    assert table["p"].tolist()[0] == pytest.approx(1 / 100)
    null = map_null(one, stranger, "mutual_knn", 5, 99)
    assert table["p"].iloc[1] == null.peak_p > 0.05
    assert table["null95"].iloc[1] == null.peak95 > null.top95.mean()  # the best of twelve, not one of twelve


def test_the_best_of_unrelated_layers_is_no_finding():
    g = np.random.default_rng(1)
    ps = []
    for _ in range(40):
        pair = [features(g.standard_normal((5, 24, 4)), "text", subject=name) for name in "ab"]
        ps.append(alignment_matrix(pair, metric="cka", permutations=19)["p"].iloc[0])
    assert np.mean(np.array(ps) <= 0.05) <= 0.15
    assert 0.3 < np.median(ps) < 0.7


def test_stated_layers():
    one, other, _ = models()
    table = alignment_matrix([one, other], "last", metric="cka", permutations=19)
    assert table[["layer", "reference_layer", "compared"]].to_numpy().tolist() == [["2", "1", 1]]
    assert table["score"].iloc[0] == pytest.approx(similarity(one.values[3], other.values[2], "cka"))
    assert table["k"].isna().all()
    each = alignment_matrix([one, other], ["1", 0.0], k=5, permutations=19)
    assert each[["layer", "reference_layer"]].to_numpy().tolist() == [["1", "embeddings"]]
    assert each["p"].iloc[0] == 1 / 20


def test_a_metric_with_a_direction_has_both():
    table = alignment_matrix(models()[:2], metric="information_imbalance", k=1, permutations=19)
    assert table[["subject", "reference"]].to_numpy().tolist() == [["one", "other"], ["other", "one"]]
    assert (table["score"] < table["null95"]).all()  # a distance: the best is the smallest
    assert table["p"].tolist() == [1 / 20] * 2


def test_what_is_no_list_of_models_is_named():
    one, other, _ = models()
    swept = features(np.stack([one.values.numpy()] * 2), "image")
    for given, error, message in (
        ([one], ValueError, "two models at least, got 1"),
        (one, TypeError, "must be a list of LayerFeatures, .*: LayerFeatures"),
        ([one, Features({"text": other})], TypeError, "features 1 hold text: name one, such as features"),
        ([one, other.values], TypeError, "features 1 must be LayerFeatures, .*: Tensor"),
        ([one, one], ValueError, "the image features of 'one' are given twice"),
        ([one, swept], ValueError, r"'expert' hold a sweep over timesteps 0.2, 0.5: select one with .at\(t\)"),
        (
            [one, replace(other, samples=other.samples[::-1])],
            ValueError,
            "different stimuli: sample 0 is 's0' in 'one'",
        ),
    ):
        with pytest.raises(error, match=message):
            alignment_matrix(given, k=5)
    with pytest.raises(ValueError, match="1 layers are named for 2 models"):
        alignment_matrix([one, other], ["last"], k=5)
    with pytest.raises(ValueError, match="no layer '9' of 'other': there are embeddings, 0, 1"):
        alignment_matrix([one, other], ["1", "9"], k=5)
