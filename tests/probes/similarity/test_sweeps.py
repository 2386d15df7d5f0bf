"""A sweep over timesteps has a map of each, and a map can hold its null."""

from __future__ import annotations

import json
from functools import partial

import numpy as np
import pandas as pd
import pytest

from bridgework.probes.features.layer_features import LayerFeatures
from bridgework.probes.plans.bridge_plan import BridgePlan
from bridgework.probes.plans.choosing import choose_bridges
from bridgework.probes.similarity.nulls import map_null
from bridgework.probes.similarity.ray_maps import similarity_map_on_ray
from bridgework.probes.similarity.scaled_maps import scaled_map
from bridgework.probes.similarity.scoring import similarity_map
from bridgework.tests.probes.curves.test_curve import features


def sweep() -> tuple[LayerFeatures, LayerFeatures]:
    """Texts of an expert of three blocks, and images of one of two at three timesteps, alike at the second one."""
    g = np.random.default_rng(0)
    text, image = g.standard_normal((4, 40, 5)), g.standard_normal((3, 3, 40, 5))
    image[1, 2] += 2 * text[3]
    return features(text, "text", subject="vlm"), features(image, "image", subject="dit", task="generation")


def test_a_sweep_has_a_map_of_each_timestep(tmp_path):
    text, image = sweep()
    heats = similarity_map(text, image, k=5, store=tmp_path)
    assert list(heats) == [0.2, 0.5, 0.8]
    for time, heat in heats.items():
        single = similarity_map(text, image.at(time), k=5)
        pd.testing.assert_frame_equal(heat, single)
        assert heat.attrs == single.attrs and heat.attrs["y"]["timestep"] == time
    turned = similarity_map(image, text, k=5)
    assert turned[0.5].to_numpy() == pytest.approx(heats[0.5].to_numpy().T)
    other = features(image.values.numpy()[:2], "image", timesteps=(0.1, 0.9))
    with pytest.raises(ValueError, match=r"x was swept over timesteps \(0.2, 0.5, 0.8\), y over \(0.1, 0.9\): select"):
        similarity_map(image, other, k=5)
    with pytest.raises(ValueError, match=r"a map on a cluster is of one timestep.*\.at\(t\)"):
        similarity_map_on_ray(text, image, tmp_path)


def test_a_map_holds_its_null_as_plain_json():
    text, image = sweep()
    image.values[1, 1] = 1.0  # a constant layer has no score
    heat = similarity_map(text, image.at(0.5), k=5, permutations=99)
    null = map_null(text, image.at(0.5), k=5, permutations=99)
    assert json.loads(json.dumps(heat.attrs, allow_nan=False)) == heat.attrs
    assert (heat.attrs["permutations"], heat.attrs["peak_p"]) == (99, null.peak_p)
    for name, table in (("null95", null.top95), ("p", null.p), ("adjusted_p", null.adjusted_p)):
        np.testing.assert_array_equal(np.array(heat.attrs[name], float), table)
    assert np.isnan(np.array(heat.attrs["p"], float)[:, 1]).all()
    with pytest.raises(ValueError, match="a null permutes all samples in one process: leave batches"):
        similarity_map([(text.values, image.values[0])], metric="cka", permutations=9)


def test_a_plan_from_a_map_of_noise_says_so(tmp_path):
    text, image = sweep()
    found, noise = (similarity_map(text, image.at(time), k=5, permutations=99) for time in (0.5, 0.2))
    plan = choose_bridges(found, "alignment", bridges=2)
    assert (2, 1) in plan.pairs
    assert plan.evidence["peak_p"] == 1 / 100
    single = np.array(found.attrs["p"], float)[1:, 1:]
    assert plan.evidence["within_null"] == [[u, g] for u, g in plan.pairs if single[u, g] > 0.05] != []
    assert "has p = 0.01, among the best of each permutation. Within the null by themselves: " in str(plan)
    with pytest.warns(UserWarning, match="no more than unrelated features give, so that the plan is drawn from noise"):
        lost = choose_bridges(noise, "alignment", bridges=2)
    assert lost.evidence["peak_p"] > 0.05
    assert not {"p", "adjusted_p", "null95"} & set(lost.evidence)
    lost.save(tmp_path / "plan.json")
    assert BridgePlan.load(tmp_path / "plan.json") == lost
    assert not choose_bridges(similarity_map(text, image.at(0.2), k=5), "alignment", bridges=2).null_sentence


def test_unrelated_features_are_seldom_called_more_than_noise():
    g = np.random.default_rng(3)
    map_of = partial(similarity_map, metric="cka", permutations=19)
    named = [f"{block}" for block in range(3)]
    ps = []
    for _ in range(40):
        heat = map_of(g.standard_normal((3, 20, 4)), g.standard_normal((3, 20, 4)))
        assert [str(name) for name in heat.index] == named
        ps.append(np.array(heat.attrs["adjusted_p"]).min())
    assert np.mean(np.array(ps) <= 0.05) <= 0.15


def test_a_scaled_map_holds_the_null_that_scaled_it():
    text, image = sweep()
    heat = scaled_map(text, image.at(0.5), "svcca", permutations=19)
    assert heat.attrs["peak_p"] == map_null(text, image.at(0.5), "svcca", permutations=19).peak_p
    assert heat.attrs["scaled"] and heat.attrs["chance"] == 0
