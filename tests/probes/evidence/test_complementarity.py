"""Complementarity finds what one tower knows and the other lacks, where that is known; and nothing where nothing is."""

from __future__ import annotations

import json

import numpy as np
import pytest
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import KFold

from bridgework.probes.evidence.complementarity import complementarity_map
from bridgework.probes.metrics.probe import FOLDS, PENALTIES
from bridgework.probes.plans.choosing import choose_bridges

G = np.random.default_rng(0)
FACTS = G.standard_normal((240, 4))


def knows(*facts: int, dims: int = 12) -> np.ndarray:
    """A layer (sample, dim) from which these facts can be read almost without error."""
    return FACTS[:, facts] @ G.standard_normal((len(facts), dims)) + 0.01 * G.standard_normal((240, dims))


def test_it_is_the_share_of_the_target_that_generation_lacks():
    nothing = G.standard_normal((240, 12))
    heat = complementarity_map([knows(0, 1, 2), knows(2), nothing], [knows(2, 3), knows(0), nothing], FACTS)
    # of four facts of one variance each
    truth = [[0.5, 0.5, 0.75], [0, 0.25, 0.25], [0, 0, 0]]
    assert heat.to_numpy() == pytest.approx(np.array(truth), abs=0.03)
    assert heat.attrs["alone"] == pytest.approx([0.5, 0.25, 0], abs=0.03)
    plan = choose_bridges(heat, "complementarity", 1)
    assert plan.pairs == ((0, 2),)
    assert json.loads(json.dumps(plan.evidence)) == plan.evidence
    assert set(plan.evidence["cost"]) == {"seconds"}


def test_knowledge_that_only_both_hold_is_found():
    mixed = (FACTS[:, :1] + FACTS[:, 1:2]) @ np.ones((1, 3))
    heat = complementarity_map([mixed], [FACTS[:, 1:2]], FACTS[:, 0])
    assert heat.iloc[0, 0] == pytest.approx(1, abs=0.01)
    assert heat.attrs["alone"][0] == pytest.approx(0, abs=0.03)


def test_chance_is_nothing():
    for seed in range(3):
        g = np.random.default_rng(seed)
        heat = complementarity_map(g.standard_normal((2, 100, 60)), g.standard_normal((2, 100, 60)), FACTS[:100])
        assert heat.to_numpy() == pytest.approx(0, abs=0.03)
        assert (heat.to_numpy() < 0.01).all()


def test_it_is_scikit_learns_ridge():
    u, g, target = (G.standard_normal((40, dims)) for dims in (6, 9, 2))
    target += u[:, :2] + g[:, :2]
    errors, alone, deviations = 0.0, 0.0, 0.0
    for train, test in KFold(FOLDS, shuffle=True, random_state=0).split(u):
        parts = []
        for layer in (u, g):
            shifted = layer - layer[train].mean(0)
            parts.append(shifted / np.sqrt((shifted[train] ** 2).sum() / len(train)))
        found = []
        for x, count in ((parts[0], 1), (parts[1], 1), (np.hstack(parts), 2)):
            grid = PENALTIES * len(train) * count / x.shape[1]
            ridge = RidgeCV(grid, scoring="neg_mean_squared_error").fit(x[train], target[train])
            found.append((-ridge.best_score_, ((ridge.predict(x[test]) - target[test]) ** 2).sum()))
        errors, alone = errors + min(found)[1], alone + found[1][1]
        deviations += ((target[test] - target[train].mean(0)) ** 2).sum()
    heat = complementarity_map([u], [g], target)
    assert heat.iloc[0, 0] == pytest.approx((alone - errors) / deviations, abs=1e-10)


def test_size_shift_and_rotation_of_a_layer_do_not_matter():
    u, g = FACTS[:, :2] + 0.5 * G.standard_normal((240, 2)), FACTS[:, 1:]
    turn = np.linalg.qr(G.standard_normal((2, 2)))[0]
    plain = complementarity_map([u], [g], FACTS)
    assert complementarity_map([u @ turn * 1e4 + 3], [g], FACTS).iloc[0, 0] == pytest.approx(plain.iloc[0, 0])
    assert complementarity_map([g], [u], FACTS).iloc[0, 0] != pytest.approx(plain.iloc[0, 0], abs=0.05)


def test_labels_and_constant_layers():
    labels = np.where(FACTS[:, 0] > 0, "red", "blue")
    heat = complementarity_map([knows(0), np.ones((240, 3))], [np.zeros((240, 2))], labels.tolist())
    assert heat.iloc[0, 0] > 0.5
    assert heat.iloc[1, 0] == 0


def test_bad_input_is_told():
    layers = FACTS[None]
    for bad, told in [
        (lambda: complementarity_map(layers, layers[:, :100], FACTS), "understanding has 240 samples, generation 100"),
        (lambda: complementarity_map(layers, layers, FACTS[:9]), "240 samples, target 9"),
        (lambda: complementarity_map(layers[:, :9], layers[:, :9], FACTS[:9]), "needs 10 samples or more, got 9"),
        (lambda: complementarity_map(layers, layers, np.ones(240)), "target is the same for all samples"),
        (lambda: complementarity_map(layers, layers, FACTS[..., None]), r"\(sample,\) or \(sample, dim\), got shape"),
        (lambda: complementarity_map(layers, layers, FACTS * np.inf), "target"),
    ]:
        with pytest.raises(ValueError, match=told):
            bad()


def test_groups_are_held_out_together():
    """What a layer knows of a group alone says nothing of others."""
    g = np.random.default_rng(1)
    groups = np.repeat(np.arange(30), 6)
    understanding = np.repeat(g.standard_normal((30, 10)), 6, axis=0) + 0.1 * g.standard_normal((180, 10))
    target = np.repeat(g.standard_normal((30, 3)), 6, axis=0)
    generation = g.standard_normal((1, 180, 4))
    alone = complementarity_map(understanding[None], generation, target).to_numpy().item()
    grouped = complementarity_map(understanding[None], generation, target, groups=groups).to_numpy().item()
    assert alone > 0.15
    assert grouped < 0.05
