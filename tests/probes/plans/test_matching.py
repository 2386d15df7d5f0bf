"""Matchings pair towers of unequal depth as they say; the optimal one is the best of all."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pandas as pd
import pytest

from bridgework.probes.plans.layout_table import MATCHINGS
from bridgework.probes.plans.matching import match


def heat_of(values) -> pd.DataFrame:
    return pd.DataFrame(values, index=[*map(str, range(len(values)))], columns=[*map(str, range(len(values[0])))])


def test_hbridge_leaves_the_surplus_as_a_prelude():
    assert match(28, 32, "prelude") == tuple((i, i + 4) for i in range(28))
    assert match(4, 2, "prelude") == ((2, 0), (3, 1))


def test_lightfusion_repeats_the_last_output():
    assert match(28, 30, "repeat") == (*((i, i) for i in range(28)), (27, 28), (27, 29))
    assert match(4, 2, "repeat") == ((0, 0), (1, 1), (2, 1), (3, 1))


def test_proportional_pairs_the_nearest_in_depth():
    assert match(2, 4) == ((0, 1), (1, 3))
    assert match(16, 13)[:4] == ((0, 0), (1, 1), (3, 2), (4, 3))
    assert match(3, 7) == tuple((g, u) for u, g in match(7, 3))
    for fewer, more in ((3, 7), (5, 8), (12, 30)):
        for u, g in match(fewer, more):
            off = [abs((u + 1) / fewer - (j + 1) / more) for j in range(more)]
            assert off[g] == pytest.approx(min(off))


@pytest.mark.parametrize("shape", [(3, 6), (6, 3), (4, 5), (1, 4), (3, 3)])
def test_optimal_is_the_best_of_all_matchings(shape):
    values = np.random.default_rng(sum(shape)).standard_normal(shape)
    found = match(shape[0], shape[1], "optimal", heat_of(values))
    turned = values if shape[0] <= shape[1] else values.T
    chains = [tuple(enumerate(chosen)) for chosen in combinations(range(turned.shape[1]), len(turned))]
    assert sum(values[pair] for pair in found) == pytest.approx(max(sum(turned[p] for p in chain) for chain in chains))
    assert len(found) == min(shape)
    for side in zip(*found, strict=True):
        assert list(side) == sorted(set(side))


@pytest.mark.parametrize("how", MATCHINGS)
def test_towers_of_one_depth_pair_one_to_one(how):
    assert match(4, 4, how, heat_of(np.random.default_rng(0).random((4, 4)))) == ((0, 0), (1, 1), (2, 2), (3, 3))


def test_bad_input_is_told():
    holes = heat_of(np.full((2, 3), np.nan))
    for bad, told in [
        (
            lambda: match(2, 3, "nearest"),
            "unknown matching 'nearest': expected one of prelude, repeat, proportional, opt",
        ),
        (lambda: match(0, 3), "understanding_layers is 0: expected a whole number from 1"),
        (lambda: match(2, 3, "optimal"), "needs a layer map: pass heat=similarity_map"),
        (lambda: match(3, 3, "optimal", holes), "towers of 3 and 3 blocks, the map of 2 and 3"),
        (lambda: match(2, 3, "optimal", holes), "holds NaN alone"),
    ]:
        with pytest.raises(ValueError, match=told):
            bad()
