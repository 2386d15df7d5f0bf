"""How stable a plan is: planted bridges are kept, noise is called noise, ties are shared, bad input is named."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest
import torch

from bridgework.probes.evidence.complementarity import complementarity_map
from bridgework.probes.features.features import Features
from bridgework.probes.features.layer_features import LayerFeatures
from bridgework.probes.plans.bridge_plan import BridgePlan
from bridgework.probes.plans.choice_options import ChoiceOptions
from bridgework.probes.plans.choosing import choose_bridges
from bridgework.probes.plans.measured_evidence import choose_from_features
from bridgework.probes.similarity.scaled_maps import scaled_map
from bridgework.probes.similarity.scoring import similarity_map


def stacks(seed, samples: int = 80, layers: int = 4, signal=(), dims: int = 6):
    """Layers of two towers (layer, sample, dim); `signal` is the correlation of dims of a pair of layers."""
    g = np.random.default_rng(seed)
    x, y = g.standard_normal((2, layers, samples, dims))
    for (u, v), r in dict(signal).items():
        y[v] = r * x[u] + np.sqrt(1 - r**2) * y[v]
    return x, y


PLANTED = {(1, 0): 0.95, (2, 3): 0.95}


@pytest.mark.parametrize("metric", ["mutual_knn", "cka"])
def test_planted_bridges_are_kept_in_every_half_and_settled(metric, tmp_path):
    x, y = stacks(0, signal=PLANTED)
    heat = similarity_map(x, y, metric)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plan = choose_bridges(heat, "alignment", bridges=2, draws=20, features=(x, y))
    found = plan.evidence["stability"]
    assert plan.pairs == tuple(PLANTED)
    assert found["kept"] == {"1-0": 1.0, "2-3": 1.0}
    assert (found["settled"], found["plans"], found["same_plan"], found["draws"]) == (True, 1, 1.0, 20)
    assert (found["samples"], found["k"]) == (40, 5 if metric == "mutual_knn" else None)
    assert all(rival["low"] > 0 and rival["chosen"] == 0 for rival in found["runners_up"])
    assert found["metrics"].pop("rsa") == [[1, 0], [2, 3]] and metric not in found["metrics"]
    assert sorted(found["near_best"]) == [[1, 0], [2, 3]]
    assert "settled by 80 samples" in str(plan) and f"metric {metric}" in str(plan)
    plan.save(tmp_path / "plan.json")
    assert BridgePlan.load(tmp_path / "plan.json") == plan
    bare = choose_bridges(heat, "alignment", bridges=2)
    assert (bare.pairs, bare.score) == (plan.pairs, plan.score) and "stability" not in bare.evidence


def test_a_plan_of_noise_says_so():
    x, y = stacks(1, layers=5)
    with pytest.warns(UserWarning, match=r"not settled by 80 samples: its lead over [-\d ]+ is .*, which is noise\."):
        plan = choose_bridges(similarity_map(x, y, "cka"), "alignment", bridges=2, draws=20, features=(x, y))
    found = plan.evidence["stability"]
    assert not found["settled"] and found["plans"] > 5 and len(found["near_best"]) > 5
    first = found["runners_up"][0]
    assert first["low"] < 0 < first["margin"] < first["high"]
    with pytest.warns(UserWarning, match="not settled"):
        again = choose_bridges(similarity_map(x, y, "cka"), "alignment", bridges=2, draws=20, features=(x, y))
        other = choose_bridges(similarity_map(x, y, "cka"), "alignment", bridges=2, draws=20, seed=1, features=(x, y))
    assert again == plan != other


@pytest.mark.filterwarnings("ignore:The plan is not settled")
def test_two_equal_candidates_are_chosen_in_half_of_the_draws_each():
    x, y = stacks(2, 60, 2, {(0, 0): 0.6, (1, 1): 0.6})
    # what is one pair's in the first half of the rows is the other's in the second: their scores are the same
    x, y = (np.concatenate([side, side[::-1]], 1) for side in (x, y))
    heat = similarity_map(x, y, "cka")
    assert heat.iloc[0, 0] == pytest.approx(heat.iloc[1, 1], abs=1e-12)
    found = choose_bridges(heat, "alignment", bridges=1, draws=200, features=(x, y)).evidence["stability"]
    rival = found["runners_up"][0]
    assert rival["pairs"] in ([[0, 0]], [[1, 1]])
    assert 0.4 < rival["chosen"] < 0.6 and 0.4 < found["same_plan"] < 0.6
    assert rival["margin"] == pytest.approx(0, abs=1e-9) and not found["settled"]
    assert found["near_best"] == [[0, 0], [1, 1]]


@pytest.mark.filterwarnings("ignore:The plan is not settled")
def test_what_is_within_noise_covers_the_truth():
    """Of two equally good pairs either is within noise of the best, and neither settles more than 5 % of the time."""
    near, settled, worse = [], [], []
    for seed in range(60):
        x, y = stacks([seed, 9], 64, 3, {(0, 0): 0.6, (1, 1): 0.6, (2, 2): 0.25})
        plan = choose_bridges(similarity_map(x, y, "cka"), "alignment", bridges=1, draws=40, features=(x, y))
        found = plan.evidence["stability"]
        near.append([0, 0] in found["near_best"])
        settled.append(found["settled"])
        worse.append([2, 2] in found["near_best"])
    # 95 % and 5 % up to what 60 repetitions scatter; half the error would cover four in five and settle a third
    assert np.mean(near) > 0.88
    assert np.mean(settled) < 0.13
    assert np.mean(worse) < 0.2


def test_rows_of_one_picture_stay_in_one_half():
    x, y = (np.repeat(side, 3, axis=1) for side in stacks(0, 30, signal=PLANTED))
    with pytest.warns(UserWarning, match="repeated"):
        heat = similarity_map(x, y, "cka")
    with pytest.raises(ValueError, match=r"a margin needs rows that could be exchanged.*by block="):
        choose_bridges(heat, "alignment", bridges=2, draws=10, features=(x, y))
    found = choose_bridges(heat, "alignment", bridges=2, draws=10, features=(x, y), block=3).evidence["stability"]
    assert (found["samples"], found["block"]) == (45, 3)


def test_a_scaled_map_is_drawn_again_and_scaled():
    x, y = stacks(0, 60, 3, {(0, 1): 0.99}, dims=4)
    heat = scaled_map(x, y, "svcca", permutations=20)
    plan = choose_bridges(heat, "alignment", bridges=1, draws=10, features=(x, y))
    assert plan.pairs == ((0, 1),) and plan.evidence["stability"]["kept"] == {"0-1": 1.0}


def test_complementarity_is_drawn_with_its_target_and_groups():
    x, y = stacks(0, 60, 2)
    target, groups = x[1, :, :2], np.arange(60) // 2
    y[1, :, :2] = target  # which generation layer 1 knows already
    heat = complementarity_map(x, y, target, groups)
    plan = choose_bridges(heat, "complementarity", 1, draws=10, features=(x, y, torch.from_numpy(target), groups))
    assert plan.evidence["stability"]["kept"] == {"1-0": 1.0} and plan.evidence["stability"]["settled"]
    with pytest.raises(ValueError, match="do not give this map by complementarity"):
        choose_bridges(heat, "complementarity", 1, draws=10, features=(x, y, target))


def stored(seed: int = 0) -> tuple[Features, Features]:
    x, y = (torch.from_numpy(side).float() for side in stacks(seed, 60, 4, PLANTED))
    ids = tuple(map(str, range(60)))

    def one(values, modality, task, times):
        return LayerFeatures(
            values, tuple("0123"), (0.25, 0.5, 0.75, 1), modality, "toy", task, "separate", "mean", times, ids
        )

    sides = [
        {name: one(values, name, task, times) for name in ("image", "text")}
        for values, task, times in ((x, "understanding", ()), (y, "generation", (0.5,)))
    ]
    return Features(sides[0], {}), Features(sides[1], {})


@pytest.mark.parametrize("rule", ["alignment", "complementarity"])
@pytest.mark.filterwarnings("ignore:The plan is not settled")
def test_a_plan_from_features_says_how_it_was_measured(rule):
    plan, _ = choose_from_features(*stored(), ChoiceOptions(rule=rule, bridges=2, k=8, draws=10))
    evidence = json.loads(json.dumps(plan.evidence))
    assert evidence["samples"] == 60 and evidence["y"]["timestep"] == 0.5
    assert (evidence["metric"], evidence["k"]) == (("mutual_knn", 8) if rule == "alignment" else (rule, None))
    assert evidence["stability"]["draws"] == 10


def test_bad_input_is_named():
    x, y = stacks(0, 60)
    heat = similarity_map(x, y, "cka")

    def plan(heat=heat, rule="alignment", features=(x, y), draws=10, **options):
        return choose_bridges(heat, rule, 2, draws=draws, features=features, **options)

    few = [side[:, :18] for side in (x, y)]
    unnamed = heat.copy()
    unnamed.attrs = {}
    for call, message in (
        (lambda: plan(draws=9), "draws is 9: expected a whole number from 10"),
        (lambda: plan(draws=True), "draws is True: expected a whole number from 10"),
        (lambda: plan(draws=None), "features are for draws"),
        (
            lambda: plan(features=None),
            r"cannot be drawn again: pass features=\(understanding, gen",
        ),
        (lambda: plan(features=(x,)), r"must be \(understanding, generation\)"),
        (lambda: plan(features=x), r"must be \(understanding, generation\)"),
        (lambda: plan(features=stored()), "such as understanding.* got a store of image and text"),
        (lambda: plan(rule="middle"), "draws measure the rules alignment and complementarity.*not 'middle'"),
        (lambda: plan(features=(x, y[::-1])), "the features do not give this map by cka"),
        (lambda: plan(features=(x[:3], y)), "the features do not give this map by cka"),
        (lambda: plan(features=(x, y[:, :50])), "x has 60 samples, y has 50"),
        (lambda: plan(unnamed), "does not say which metric"),
        (lambda: plan(similarity_map(*few, metric="cka"), features=few), "halves of 18 samples .* at least 20 samples"),
        (lambda: plan(block=4), "halves of 15 blocks of 4 samples .* at least 20 blocks"),
        (lambda: plan(block=7), "60 samples are not whole blocks of 7"),
    ):
        with pytest.raises((ValueError, TypeError), match=message):
            call()
    with pytest.raises(ValueError, match=r"draws measure the rules .*not 'published'"):
        choose_from_features(*stored(), ChoiceOptions(rule="published", draws=10))
