"""The companions of a curve: scores against N, effective rank, patches near and far, the ceiling of own halves."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bridgework.probes.curves.curve_companions import (
    effective_rank,
    halves_ceiling,
    score_by_samples,
    spatial_similarity,
)
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


def grid_of(values: np.ndarray) -> LayerFeatures:
    """Features of one layer: (sample, row, column, dim)."""
    samples = tuple(f"s{number}" for number in range(len(values)))
    tensor = torch.from_numpy(values)[None].float()
    return LayerFeatures(
        tensor, ("0",), (1.0,), "image", "toy", "understanding", "separate", "grid:4", (), samples
    )  # fmt: skip


def test_patches_near_and_far_are_counted_pair_by_pair():
    values = np.random.default_rng(0).standard_normal((3, 4, 5, 6))
    row = spatial_similarity(grid_of(values), distance=3).iloc[0]
    unit = values / np.linalg.norm(values, axis=-1, keepdims=True)
    places = [(r, c) for r in range(4) for c in range(5)]
    sides: dict[str, list[float]] = {"near": [], "far": []}
    for n, (r, c) in enumerate(places):
        for other, (s, d) in enumerate(places):
            steps = abs(r - s) + abs(c - d)
            name = "near" if steps == 1 else "far" if steps >= 3 else ""
            if name and n != other:
                sides[name].append(float(np.mean([image[r, c] @ image[s, d] for image in unit])))
    assert row["near"] == pytest.approx(np.mean(sides["near"])) and row["far"] == pytest.approx(np.mean(sides["far"]))
    assert row["score"] == pytest.approx(row["near"] - row["far"])
    assert (row["rows"], row["columns"], row["distance"], row["samples"]) == (4, 5, 3, 3)


def test_smooth_patches_are_more_alike_nearby_and_shuffled_ones_are_not():
    angle = np.arange(16) / 16 * np.pi
    smooth = np.stack([np.cos(angle), np.sin(angle)], -1)[None, :, None].repeat(16, 2)  # turns from row to row
    mixed = np.random.default_rng(0).permutation(smooth.reshape(256, 2)).reshape(1, 16, 16, 2)
    found, none = (spatial_similarity(grid_of(values)).iloc[0] for values in (smooth, mixed))
    assert found["distance"] == 6  # as published for 16 rows
    assert found["score"] > 0.5 and abs(none["score"]) < 0.1


def test_what_has_no_patches_is_refused(pair):
    with pytest.raises(ValueError, match="pooled by mean: extract them with a patch grid, as pooling='grid:8'"):
        spatial_similarity(pair[0])
    with pytest.raises(ValueError, match="distance 7 is not between 1 and 6, the most steps on 4 x 4 cells"):
        spatial_similarity(grid_of(np.ones((1, 4, 4, 2))), distance=7)
    with pytest.raises(ValueError, match="a grid of 1 x 9 cells has no rows and columns"):
        spatial_similarity(grid_of(np.ones((1, 1, 9, 2))))
