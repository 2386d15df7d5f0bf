from __future__ import annotations

from itertools import pairwise

import pytest
from matplotlib.colors import to_hex
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from bridgework.figures import architecture, architectures
from bridgework.probes.plans.bridge_plan import BridgePlan

BRIDGED = ((4, 5), (6, 9), (8, 9))


def plan_of(layout="H", pairs=None, towers=(12, 16), **options):
    if pairs is None:
        pairs = {
            "shared": [(i, i) for i in range(12)],
            "Y": [(i, i) for i in range(5)],
            "X": [(i, i) for i in range(3, 9)],
            "last": [(11, 2), (11, 9)],
            "soft": [(11, 2), (11, 9)],
        }.get(layout, BRIDGED)
    towers = (12, 12) if layout in ("shared", "Y", "X") else towers
    options = {"stream": "image", "rule": "alignment", "evidence": {}, **options}
    return BridgePlan(
        pairs=tuple(pairs), understanding_layers=towers[0], generation_layers=towers[1], layout=layout, **options
    )


LAYOUTS = ("shared", "Y", "X", "dense", "H", "double fusion", "last", "soft")
TOWERS = LAYOUTS[3:7]  # whose bridges join two blocks each


def patches(figure, kind):
    return [patch for patch in figure.axes[0].patches if isinstance(patch, kind)]


def columns(figure):
    """Three dicts, block -> face colour: left, middle and right column of numbered blocks."""
    found = {"left": {}, "middle": {}, "right": {}}
    for box in patches(figure, FancyBboxPatch):
        if box.get_gid().isdigit():
            middle = box.get_x() + box.get_width() / 2
            where = "middle" if abs(middle - 0.5) < 0.1 else "left" if middle < 0.5 else "right"
            found[where][int(box.get_gid())] = to_hex(box.get_facecolor())
    return found["left"], found["middle"], found["right"]


def rows(figure):
    """(column, block) -> the height of its middle."""
    found = {}
    for box in patches(figure, FancyBboxPatch):
        if box.get_gid().isdigit():
            side = round(box.get_x() + box.get_width() / 2, 1)
            found[side < 0.5, int(box.get_gid())] = box.get_y() + box.get_height() / 2
    return found


def arrows(figure, name=None):
    """(first point, last point, head style) of the arrows of one name, or of every bridge."""
    found = []
    for arrow in patches(figure, FancyArrowPatch):
        gid = arrow.get_gid()
        if gid is not None and (gid == name or (name is None and "-" in gid)):
            points = arrow._path_original.vertices
            found.append((tuple(points[0]), tuple(points[-1]), type(arrow.get_arrowstyle()).__name__))
    return found


def gates(figure):
    return [line for line in figure.axes[0].lines if (line.get_gid() or "").startswith("gate")]


@pytest.mark.parametrize("layout", TOWERS)
def test_towers_and_colours_follow_the_plan(layout):
    plan = plan_of(layout)
    left, middle, right = columns(architecture(plan))
    assert (sorted(left), middle, sorted(right)) == (list(range(12)), {}, list(range(16)))
    for side, tower in enumerate((left, right)):
        joined = {pair[side] for pair in plan.pairs}
        plain = {colour for block, colour in tower.items() if block not in joined}
        assert len(plain) == 1 and not plain & {tower[block] for block in joined}


@pytest.mark.parametrize("layout", TOWERS)
@pytest.mark.parametrize("lifted", [False, True])
def test_every_pair_is_joined_from_its_block_to_its_block(layout, lifted):
    pairs = [(11, 15)] if lifted and layout == "last" else [(2, 6), (5, 9)] if lifted else None
    plan = plan_of(layout, pairs)
    figure = architecture(plan)
    heights = rows(figure)
    assert (heights[True, 0] - heights[False, 0] == 4) == lifted
    assert len(arrows(figure)) == len(plan.pairs) * (2 if layout == "double fusion" else 1)
    behind = 0.5 if layout == "double fusion" else 0
    for understanding, generation in plan.pairs:
        first, *_, last = arrows(figure, f"{understanding}-{generation}") * 2
        assert first[0][0] < 0.5 < last[1][0]
        assert first[0][1] == pytest.approx(heights[True, understanding] + behind)
        assert last[1][1] == pytest.approx(heights[False, generation] + behind)


def test_a_block_of_double_fusion_stands_between_the_towers_behind_each_pair():
    """The deeper tower's surplus blocks meet the last output again, each in a block of its own."""
    pairs = [(i, i) for i in range(12)] + [(11, i) for i in range(12, 16)]
    figure = architecture(plan_of("double fusion", pairs))
    heights = rows(figure)
    boxes = {
        box.get_gid(): (box.get_y(), box.get_y() + box.get_height())
        for box in patches(figure, FancyBboxPatch)
        if not box.get_gid().isdigit()
    }
    assert list(boxes) == [f"{u}-{g}" for u, g in pairs]
    spans = list(boxes.values())
    assert all(below[1] < above[0] for below, above in pairwise(spans))
    for u, g in pairs:
        low, high = sorted((heights[True, u], heights[False, g]))
        assert low < sum(boxes[f"{u}-{g}"]) / 2 <= high + 0.5


def test_arrows_of_last_leave_the_last_block():
    figure = architecture(plan_of("last"))
    assert {start for start, _, _ in arrows(figure)} == {arrows(figure, "11-2")[0][0]}


@pytest.mark.parametrize("taps", [None, (1, 4), ((1, 4), (4, 7))])
def test_a_mix_gathers_its_blocks_and_enters_every_bridged_one(taps):
    plan = plan_of("soft", taps=taps)
    figure = architecture(plan)
    left, _, right = columns(figure)
    mixed = range(12) if taps is None else (1, 4) if taps == (1, 4) else (1, 4, 7)
    assert {block for block, colour in left.items() if colour == left[4]} == set(mixed)
    assert {block for block, colour in right.items() if colour == right[2]} == {2, 9}
    heights = rows(figure)
    lines = {name: [line for line in figure.axes[0].lines if line.get_gid() == name] for name in ("mixed", "mix")}
    assert [line.get_ydata()[0] for line in lines["mixed"]] == pytest.approx([heights[True, block] for block in mixed])
    (gathered,) = lines["mix"]
    for _, block in plan.pairs:
        ((start, end, _),) = arrows(figure, f"11-{block}")
        assert start[0] == gathered.get_xdata()[0] == 0.5 < end[0]
        assert min(gathered.get_ydata()) <= start[1] == end[1] == pytest.approx(heights[False, block])
    assert len(gates(figure)) == 2


@pytest.mark.parametrize("layout", ["dense", "H", "double fusion"])
def test_arrows_have_a_head_at_every_side_that_reads(layout):
    for both_ways in (False, True):
        found = arrows(architecture(plan_of(layout, both_ways=both_ways)))
        reading_back = [start[0] for start, _, style in found if style == "CurveFilledAB" and start[0] < 0.4]
        assert len(reading_back) == (3 if both_ways else 0)


@pytest.mark.parametrize("layout", TOWERS)
def test_a_gate_at_every_side_that_reads(layout):
    assert not gates(architecture(plan_of(layout, gated=False)))
    assert len(gates(architecture(plan_of(layout)))) == len(plan_of(layout).pairs)
    if layout != "last":
        assert len(gates(architecture(plan_of(layout, both_ways=True)))) == 6


def test_one_trunk_has_its_shared_blocks_in_the_middle_and_the_others_on_both_sides():
    for layout, shared in (("shared", range(12)), ("Y", range(5)), ("X", range(3, 9))):
        figure = architecture(plan_of(layout))
        left, middle, right = columns(figure)
        assert sorted(middle) == list(shared)
        assert sorted(left) == sorted(right) == [i for i in range(12) if i not in shared]
        assert len(arrows(figure, "fork")) == (0 if layout == "shared" else 2)
        assert len(arrows(figure, "meet")) == (2 if layout == "X" else 0)
        heights = rows(figure)
        ascending = [max(heights.get((left, i), 0) for left in (True, False)) for i in range(12)]
        assert ascending == sorted(ascending) and len(set(ascending)) == 12


def test_the_deeper_towers_prelude_stands_below(words):
    pairs = [(i, i + 4) for i in range(2, 10)]
    assert "prelude" in words(architecture(plan_of("H", pairs)))
    assert "prelude" not in words(architecture(plan_of("H", BRIDGED)))
    upside_down = architecture(plan_of("H", [(g, u) for u, g in pairs], towers=(16, 12)))
    assert "prelude" in words(upside_down)
    assert rows(upside_down)[False, 0] == rows(upside_down)[True, 4]


@pytest.mark.parametrize(
    ("stream", "told"), [("image", "the image stream"), ("text", "the text stream"), ("both", "both streams")]
)
def test_the_drawing_tells_count_rule_stream_and_what_is_trained(words, stream, told):
    plan = plan_of(stream=stream, rule="middle")
    text = words(architecture(plan, names=("my vlm", "my dit"))).replace("\n", " ")
    for part in (
        "K = 3 bridges",
        "rule “middle”",
        told,
        "my vlm 12 blocks, frozen",
        "my dit 16 blocks, frozen",
        "trained, one way",
    ):
        assert part in text


@pytest.mark.parametrize("draw", [architecture, lambda plan: architectures([plan])])
def test_the_drawing_tells_every_option(words, draw):
    text = words(draw(plan_of("dense", both_ways=True, rank=8, semantic_tokens=16, gated=False)))
    for part in ("dense", "both ways", "rank 8", "no gates", "16 semantic tokens", "its features"):
        assert part in text
    text = words(draw(plan_of("double fusion")))
    for part in ("double fusion", "one way", "full rank", "gates ○ start at 0"):
        assert part in text


@pytest.mark.parametrize("layout", ["Y", "X"])
def test_a_trunk_tells_what_is_shared(words, layout):
    text = words(architecture(plan_of(layout)))
    assert f"{len(plan_of(layout).pairs)} of 12 blocks shared" in text and "frozen" not in text


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_is_readable(assert_readable, layout):
    options = {} if layout in LAYOUTS[:3] else {"semantic_tokens": 16, "both_ways": layout in TOWERS[:3], "rank": 8}
    names = ("some-organisation/Some-Model-3B-Instruct", "a generation expert with a long name")
    assert_readable(architecture(plan_of(layout, **options), names))


@pytest.mark.parametrize("blocks", [(1, 1), (2, 4), (12, 16), (28, 32), (8, 40)])
def test_every_depth_is_readable(assert_readable, blocks):
    plan = plan_of("H", [(0, 0)], blocks, stream="both", semantic_tokens=4)
    names = ("some-organisation/Some-Model-3B-Instruct", "a generation expert with a long name")
    assert_readable(architecture(plan, names))


def test_layouts_beside_each_other_are_readable_and_all_there(assert_readable, words):
    figure = architectures([plan_of(layout) for layout in LAYOUTS])
    assert len(figure.axes) == len(LAYOUTS)
    assert [ax.get_title(loc="left") for ax in figure.axes] == list(LAYOUTS)
    assert_readable(figure)
    told = {"rule": "gradient_conflict", "evidence": {"matching": "proportional"}, "stream": "both", "both_ways": True}
    figure = architectures([plan_of("H", [(0, 0)], towers, **told) for towers in ((28, 32), (4, 6), (1, 1))])
    assert_readable(figure)
    assert all(ax.get_position().width > 0.28 for ax in figure.axes)  # no heading has squeezed a drawing


def test_nothing_to_draw_is_refused():
    with pytest.raises(ValueError, match="no plans"):
        architectures([])


@pytest.mark.parametrize("draw", [architecture, lambda plan: architectures([plan])])
def test_the_matching_of_the_towers_is_told(words, draw):
    assert "matching “prelude”" in words(draw(plan_of(evidence={"matching": "prelude"})))
