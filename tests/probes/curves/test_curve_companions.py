"""The companions of a curve: scores against N, effective rank, the ceiling of a layer's own halves."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bridgework.probes.curves.curve_companions import effective_rank, halves_ceiling, score_by_samples
from bridgework.probes.features.layer_features import LayerFeatures
from bridgework.probes.similarity.scoring import similarity


def of(*layers: np.ndarray, modality: str = "image", timesteps: tuple[float, ...] = ()) -> LayerFeatures:
    values = torch.from_numpy(np.stack(layers)).float()
    names = tuple(map(str, range(len(layers))))
    samples = tuple(f"s{number}" for number in range(values.shape[-2]))
    depths = tuple((number + 1) / len(layers) for number in range(len(layers)))
    return LayerFeatures(
        values, names, depths, modality, "toy", "understanding", "separate", "mean", timesteps, samples
    )


@pytest.fixture(scope="module")
def pair() -> tuple[LayerFeatures, LayerFeatures]:
    """Two models whose second layers see the same 12 directions, and whose first have nothing in common."""
    g = np.random.default_rng(0)
    shared = g.standard_normal((240, 12))
    sides = [
        of(g.standard_normal((240, 40)), shared @ g.standard_normal((12, 40)), modality=name)
        for name in ("image", "text")
    ]
    return sides[0], sides[1]


def test_scores_of_neighbours_fall_with_samples_and_debiased_ones_do_not(pair):
    near = score_by_samples(*pair).set_index(["layer", "samples"])
    assert sorted(near.index.unique("samples")) == [30, 60, 120, 240]
    assert near.loc[("0", 30), "chance"] == pytest.approx(10 / 29)
    strangers = near.loc["0"]
    assert (strangers["score"] - strangers["chance"]).abs().max() < 0.04
    assert strangers["score"].is_monotonic_decreasing
    assert near.loc[("1", 240), "score"] == pytest.approx(
        similarity(pair[0].layer("1"), pair[1].layer("1"), "mutual_knn")
    )
    assert np.isnan(near.loc[("1", 240), "deviation"]) and near.loc[("1", 30), "deviation"] > 0
    debiased = score_by_samples(*pair, metric="cka").set_index(["layer", "samples"])["score"]
    assert debiased["0"].abs().max() < 0.06 and np.ptp(debiased["1"]) < 0.06
    assert debiased["1"].min() > 0.7


def test_parts_that_are_too_small_for_k_are_left_out(pair):
    assert set(score_by_samples(*pair, k=50)["samples"]) == {120, 240}


def test_effective_rank_counts_directions(pair):
    g = np.random.default_rng(1)
    low = np.outer(g.standard_normal(240), np.ones(40))
    equal = np.linalg.qr(g.standard_normal((240, 41)))[0]
    equal -= equal.mean(0)
    table = effective_rank(of(low, equal[:, :40])).set_index("layer")
    assert table.loc["0", "effective_rank"] == pytest.approx(1, abs=1e-3)
    assert 39 < table.loc["1", "effective_rank"] <= 40
    assert table["dims"].eq(40).all() and table["samples"].eq(240).all()
    assert effective_rank(pair[0]).set_index("layer")["effective_rank"]["1"] < 12.001


def test_halves_of_a_layer_with_shared_directions_are_alike_and_of_noise_are_not(pair):
    table = halves_ceiling(*pair, metric="cka").set_index("layer")
    assert table.loc["1", "ceiling"] > table.loc["1", "score"] - 0.15 and table.loc["1", "ceiling"] > 0.6
    assert table.loc["0", "ceiling"] < 0.15
    assert table.loc["1", "ceiling"] == pytest.approx(np.sqrt(table.loc["1", "own_x"] * table.loc["1", "own_y"]))


def test_a_layer_of_another_model_is_a_reference(pair):
    last = pair[1].at_layer("last")
    assert list(halves_ceiling(pair[0], last)["layer"]) == ["0", "1"]
    assert set(score_by_samples(pair[0], last, parts=(1.0,))["layer"]) == {"0", "1"}


def test_what_cannot_be_measured_is_said(pair):
    swept = of(np.zeros((2, 20, 4)), np.zeros((2, 20, 4)), timesteps=(0.2, 0.8))
    with pytest.raises(ValueError, match=r"hold the timesteps 0.2, 0.8: choose one, as features.at\(0.2\)"):
        effective_rank(swept)
    other = of(np.zeros((30, 4)), np.zeros((30, 4)))
    with pytest.raises(ValueError, match="of different stimuli"):
        halves_ceiling(pair[0], other)
    with pytest.raises(ValueError, match="information_imbalance is a distance, which has no ceiling"):
        halves_ceiling(*pair, metric="information_imbalance")
    with pytest.raises(ValueError, match="a layer of one dim has no halves"):
        halves_ceiling(of(np.zeros((30, 1))), of(np.zeros((30, 1)), modality="text"))
