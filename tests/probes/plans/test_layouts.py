"""Every layout has the pairs that its paper has, and scales to other depths."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from bridgework.probes.plans.layout_table import LAYOUTS, TRUNKS
from bridgework.probes.plans.layouts import lay_out


def diagonal(start: int, stop: int, prelude: int = 0) -> tuple:
    return tuple((i, i + prelude) for i in range(start, stop))


def test_published_plans():
    assert lay_out("H", 28, 32).pairs == diagonal(6, 22, prelude=4)  # HBridge: 16 of 28 are bridged
    assert lay_out("double fusion", 28, 30).pairs == (*diagonal(0, 28), (27, 28), (27, 29))  # LightFusion
    assert lay_out("Y", 24, 24).pairs == diagonal(0, 12)  # UniFork
    assert lay_out("X", 36, 36).pairs == diagonal(12, 30)  # Uni-X, 12 and 6 of Qwen2.5-3B's 36 apart
    assert lay_out("dense", 28, 28).pairs == diagonal(0, 28)  # BAGEL
    assert lay_out("last", 28, 3).pairs == ((27, 0), (27, 1), (27, 2))  # MetaQuery
    soft = lay_out("soft", 3, 2)  # Semantic Routing
    assert (soft.pairs, soft.taps, soft.mixed_blocks(1)) == (((2, 0), (2, 1)), None, (0, 1, 2))
    assert lay_out("shared", 32, 32).pairs == diagonal(0, 32)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_scales(layout):
    for blocks in range(3, 40):
        plan = lay_out(layout, blocks, blocks + 5, stream="both")
        assert (plan.layout, plan.rule, plan.stream, plan.score) == (layout, "published", "both", None)
        assert plan.understanding_layers == blocks
        assert plan.generation_layers == (blocks if layout in TRUNKS else blocks + 5)


def test_one_trunk_is_as_deep_as_the_understanding_expert():
    for layout in TRUNKS:
        for generation in (3, 12, 40):
            assert lay_out(layout, 12, generation) == lay_out(layout, 12, 12)


def test_the_table_names_every_layout_once_and_in_order():
    assert list(LAYOUTS) == ["shared", "Y", "X", "dense", "H", "double fusion", "last", "soft"]
    assert TRUNKS == ("shared", "Y", "X")
    assert all(name == layout.name for name, layout in LAYOUTS.items())
    assert "H" in LAYOUTS and "T" not in LAYOUTS
    assert [name for name, layout in LAYOUTS.items() if layout.one_way] == ["last", "soft"]
    assert [name for name, layout in LAYOUTS.items() if layout.reads_all] == ["soft"]
    matchings = {name: layout.matching for name, layout in LAYOUTS.items() if layout.matching}
    assert matchings == {"dense": "proportional", "H": "prelude", "double fusion": "repeat"}


def test_the_middle_of_h_stays_in_proportion_and_never_empties():
    assert [len(lay_out("H", n, n).pairs) for n in (1, 2, 3, 4, 13, 14, 16, 28, 56)] == [1, 2, 1, 2, 7, 8, 10, 16, 32]
    for n in range(1, 60):
        pairs = lay_out("H", n, n).pairs
        assert pairs[0][0] == n - 1 - pairs[-1][0]


def test_choices():
    heat = pd.DataFrame(np.eye(4)[:2], index=["0", "1"], columns=list("0123"))
    heat.attrs = {"metric": "cka"}
    plan = lay_out("dense", 2, 4, matching="optimal", heat=heat, rank=4)
    assert (plan.pairs, plan.rank) == (((0, 0), (1, 1)), 4)
    assert plan.evidence == {"matching": "optimal", "metric": "cka"}
    assert lay_out("dense", 2, 4).pairs == ((0, 1), (1, 3))
    assert lay_out("dense", 2, 4, matching="prelude").pairs == ((0, 2), (1, 3))
    assert lay_out("Y", 6, 6, fork=1).pairs == ((0, 0),)
    assert lay_out("X", 6, 6, ends=(1, 4)).pairs == ((1, 1),)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"layout": "T"}, "unknown layout 'T'"),
        ({"layout": "Y", "matching": "repeat"}, "'Y' takes no matching: only dense, H, double fusion does"),
        ({"layout": "H", "fork": 2}, "'H' takes no fork: only Y does"),
        ({"layout": "Y", "ends": (1, 1)}, "'Y' takes no ends: only X does"),
        ({"layout": "Y", "fork": 6}, "fork 6 must leave blocks on both sides: from 1 to 5"),
        ({"layout": "X", "ends": (3, 3)}, r"ends \(3, 3\) of 6 blocks"),
        ({"layout": "X", "ends": (0, 3)}, r"ends is \(0, 3\): expected a sequence of 2"),
        (
            {"layout": "X", "understanding_layers": 2, "generation_layers": 2},
            "needs a trunk of 3 blocks or more, got 2",
        ),
        ({"layout": "Y", "understanding_layers": 1}, "needs a trunk of 2 blocks or more, got 1"),
        ({"layout": "last", "both_ways": True}, "the layout 'last' runs one way"),
        ({"layout": "shared", "rank": 2}, "has no bridges"),
        ({"layout": "H", "matching": "best"}, "unknown matching 'best'"),
    ],
)
def test_bad_input_is_told(options, told):
    with pytest.raises(ValueError, match=told):
        lay_out(**({"understanding_layers": 6, "generation_layers": 6} | options))
