"""A plan holds together, whatever its layout, and survives its file."""

from __future__ import annotations

import json

import numpy as np
import pytest

from bridgework.probes.plans.bridge_plan import BridgePlan


def plan_of(**changes) -> BridgePlan:
    given = {
        "pairs": ((0, 1), (2, 3)),
        "stream": "image",
        "rule": "alignment",
        "evidence": {"metric": "cka", "k": None, "depths": [0.5, 1.0]},
        "understanding_layers": 3,
        "generation_layers": 4,
        "score": 1.25,
    }
    return BridgePlan(**(given | changes))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"pairs": ()}, "at least one pair"),
        ({"pairs": ((0, 2), (1, 1))}, r"\(0, 2\) and \(1, 1\) cross or repeat"),
        ({"pairs": ((0, 1), (0, 1))}, "cross or repeat"),
        ({"pairs": ((0, 4),)}, r"\(0, 4\) is out of range: the towers have 3 and 4 blocks"),
        ({"pairs": ((-1, 0),)}, "out of range"),
        ({"pairs": ((0.5, 1),)}, "whole numbers"),
        ({"pairs": (3,)}, "whole numbers"),
        ({"pairs": 3}, "whole numbers"),
        ({"stream": "sound"}, "unknown stream 'sound': expected one of image, text, both"),
    ],
)
def test_invalid_plans_are_refused(changes, told):
    with pytest.raises(ValueError, match=told):
        plan_of(**changes)


def test_plan_file(tmp_path):
    plan_of().save(tmp_path / "plan.json")
    assert BridgePlan.load(tmp_path / "plan.json") == plan_of()
    assert [p.name for p in tmp_path.iterdir()] == ["plan.json"]
    told = json.loads((tmp_path / "plan.json").read_text())
    assert told["pairs"] == [[0, 1], [2, 3]]
    del told["seal"]
    with pytest.raises(FileNotFoundError, match="no bridge plan"):
        BridgePlan.load(tmp_path / "none.json")
    for broken in ("", "[]", "{}", "7", json.dumps(told | {"more": 1}), json.dumps(told | {"pairs": [[0, 9]]})):
        (tmp_path / "broken.json").write_text(broken)
        with pytest.raises(ValueError, match="is not a bridge plan"):
            BridgePlan.load(tmp_path / "broken.json")


def test_every_flipped_bit_of_a_saved_plan_is_noticed(tmp_path):
    file = tmp_path / "plan.json"
    plan_of().save(file)
    whole = file.read_bytes()
    for bit in range(8 * len(whole)):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        file.write_bytes(damaged)
        with pytest.raises(
            ValueError, match=r"plan.json is (not a bridge plan|not the bridge plan|a bridge plan of format)"
        ):
            BridgePlan.load(file)


def test_a_plan_that_was_edited_is_taken_without_its_seal(tmp_path):
    file = tmp_path / "plan.json"
    plan_of().save(file)
    told = json.loads(file.read_text())
    told["pairs"] = [[0, 2], [2, 3]]
    file.write_text(json.dumps(told))
    with pytest.raises(ValueError, match=r'plan.json is not the bridge plan that was saved: .* take its "seal" out'):
        BridgePlan.load(file)
    del told["seal"]
    file.write_text(json.dumps(told))
    assert BridgePlan.load(file) == plan_of(pairs=((0, 2), (2, 3)))


def one_trunk(layout: str, shared: range, **changes) -> BridgePlan:
    return plan_of(pairs=tuple((i, i) for i in shared), layout=layout, generation_layers=3, **changes)


@pytest.mark.parametrize(
    ("made", "told"),
    [
        (
            lambda: plan_of(layout="Z"),
            "unknown layout 'Z': expected one of shared, Y, X, dense, H, double fusion, last, soft",
        ),
        (lambda: plan_of(rank=0), "rank is 0: expected a whole number of at least 1 or None: leave it out"),
        (lambda: plan_of(semantic_tokens=-1), "semantic_tokens is -1: expected a whole number of at least 0"),
        (lambda: plan_of(layout="last"), r"bridge \(0, 1\) of the layout 'last' must read the last .* block, 2"),
        (lambda: plan_of(layout="last", pairs=((2, 0),), both_ways=True), "runs one way"),
        (lambda: plan_of(layout="Y", pairs=((0, 0),)), "one trunk has one depth, got 3 and 4 blocks"),
        (lambda: one_trunk("Y", range(2), rank=2), "the layout 'Y' has no bridges"),
        (lambda: one_trunk("shared", range(2)), "'shared' shares all 3 blocks, got 2"),
        (lambda: one_trunk("Y", range(3)), "'Y' shares the first blocks, fewer than 3"),
        (lambda: one_trunk("Y", range(1, 2)), "'Y' shares the first blocks"),
        (lambda: one_trunk("X", range(2)), "'X' leaves blocks at both ends of 3 apart"),
        (lambda: plan_of(layout="X", generation_layers=3, pairs=((0, 0), (2, 2))), "without a gap"),
    ],
)
def test_a_layout_allows_its_own_pairs_alone(made, told):
    with pytest.raises(ValueError, match=told):
        made()


def soft(**changes) -> BridgePlan:
    return plan_of(**({"layout": "soft", "pairs": ((2, 0), (2, 3))} | changes))


def test_taps_are_one_set_for_all_bridges_or_one_each(tmp_path):
    assert [soft().mixed_blocks(number) for number in (0, 1)] == [(0, 1, 2)] * 2
    assert [soft(taps=[0, 2]).mixed_blocks(number) for number in (0, 1)] == [(0, 2)] * 2
    each = soft(taps=((0, 1), (np.int64(2),)))
    assert [each.mixed_blocks(number) for number in (0, 1)] == [(0, 1), (2,)]
    each.save(tmp_path / "plan.json")
    assert BridgePlan.load(tmp_path / "plan.json") == each


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (
            {"pairs": ((1, 0),)},
            r"bridge \(1, 0\) of the layout 'soft' must be paired with the last .* block, 2: .* taps",
        ),
        ({"both_ways": True}, "the layout 'soft' runs one way"),
        ({"layout": "last", "taps": (0,)}, "the layout 'last' reads the blocks of its pairs: taps are of soft"),
        ({"taps": ()}, r"taps \(\) must name understanding blocks from 0 to 2"),
        ({"taps": (1, 0)}, r"taps \(1, 0\) must name .*, ascending and each once"),
        ({"taps": (1, 3)}, r"taps \(1, 3\) must name understanding blocks from 0 to 2"),
        ({"taps": (-1, 1)}, r"taps \(-1, 1\) must name"),
        ({"taps": ((0,), (1,), (2,))}, "taps of 3 bridges for a plan of 2: give one for all, or one each"),
        ({"taps": (0.5,)}, r"taps must be blocks, whole numbers, or such blocks for each pair: \(0.5,\)"),
        ({"taps": "all"}, "taps must be blocks"),
        ({"taps": 3}, "taps must be blocks"),
    ],
)
def test_taps_that_do_not_hold(changes, told):
    with pytest.raises(ValueError, match=told):
        soft(**changes)


def test_layouts_that_hold():
    for plan in (one_trunk("shared", range(3)), one_trunk("Y", range(1)), one_trunk("X", range(1, 2))):
        assert plan.layout
    assert plan_of(layout="last", pairs=((2, 0), (2, 3))).pairs == ((2, 0), (2, 3))
    assert plan_of(layout="double fusion", pairs=((0, 0), (1, 1), (2, 2), (2, 3))).both_ways is False
