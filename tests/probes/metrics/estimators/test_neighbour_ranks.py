"""Information imbalance says who contains whom, and ranks are those of exact arithmetic."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import rankdata

from bridgework.probes.metrics.estimators import neighbour_ranks
from bridgework.probes.metrics.metric import unit_rows
from bridgework.probes.plans.choosing import choose_bridges
from bridgework.probes.similarity.scaled_maps import scaled_map
from bridgework.probes.similarity.scoring import similarity, similarity_map


def test_what_contains_the_other_knows_its_neighbours():
    g = np.random.default_rng(0)
    whole = g.standard_normal((400, 4))
    part = whole[:, :2]
    forth, back = (similarity(x, y, "information_imbalance", 1) for x, y in ((whole, part), (part, whole)))
    assert forth < back - 0.1
    assert similarity(whole, whole, "information_imbalance", 1) == pytest.approx(2 / 400)
    assert similarity(whole, g.standard_normal((400, 4)), "information_imbalance", 1) == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize(("k", "forth", "back"), [(1, 0.42, 0.46944444444444444), (10, 0.5447222222, 0.5665555556)])
def test_gives_what_dadapy_gives(k, forth, back):
    # DADApy's return_inf_imb_two_selected_coords of the same unit rows
    g = np.random.default_rng(0)
    x = g.standard_normal((60, 12))
    y = np.concatenate([x[:, :5], g.standard_normal((60, 4))], 1)
    assert similarity(x, y, "information_imbalance", k) == pytest.approx(forth)
    assert similarity(y, x, "information_imbalance", k) == pytest.approx(back)


def test_ranks_of_ties_are_their_mean(monkeypatch):
    monkeypatch.setattr(neighbour_ranks, "ROWS", 7 * 50)
    words = (np.random.default_rng(0).random((50, 30)) < 0.2).astype(float)
    words[5] = 0
    found = torch.cat([table for _, table in neighbour_ranks.ranks(unit_rows(torch.from_numpy(words)))]).numpy()
    lengths = np.linalg.norm(words, axis=1, keepdims=True)
    cosines = np.round(words @ words.T / np.maximum(lengths * lengths.T, 1e-9), 12)
    np.fill_diagonal(cosines, -np.inf)
    np.testing.assert_array_equal(found, rankdata(-cosines, axis=1))


def test_a_scaled_map_chooses_bridges_and_a_map_of_distances_does_not():
    g = np.random.default_rng(0)
    x = g.standard_normal((3, 40, 6))
    y = x + 0.5 * g.standard_normal((3, 40, 6))
    with pytest.raises(ValueError, match=r"is a distance.*scaled_map"):
        choose_bridges(similarity_map(x, y, "information_imbalance"), "alignment", bridges=2)
    plan = choose_bridges(scaled_map(x, y, "information_imbalance", permutations=40), "alignment", bridges=3)
    assert [tuple(pair) for pair in plan.pairs] == [(0, 0), (1, 1), (2, 2)]
