from __future__ import annotations

import pytest
from matplotlib.colors import to_hex
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from bridgework.figures import architecture


def towers(figure):
    """Two dicts, block -> face colour, told apart by their left edge."""
    left, right = {}, {}
    for patch in figure.axes[0].patches:
        if isinstance(patch, FancyBboxPatch):
            (left if patch.get_x() < 0.5 else right)[int(patch.get_y())] = to_hex(patch.get_facecolor())
    return left, right


def bridges(figure):
    arrows = [p for p in figure.axes[0].patches if isinstance(p, FancyArrowPatch) and p.get_linewidth() > 1]
    # The shaft is a curve of three points; the arrow head's follow it.
    shafts = [arrow.get_path().vertices[:3] for arrow in arrows]
    assert all(shaft[0][0] < 0.5 < shaft[2][0] for shaft in shafts)
    return sorted((int(shaft[0][1]), int(shaft[2][1])) for shaft in shafts)


def test_towers_bridges_and_colours_follow_the_plan(make_plan):
    plan = make_plan([(4, 5), (6, 9)])
    figure = architecture(plan)
    left, right = towers(figure)
    assert (sorted(left), sorted(right)) == (list(range(12)), list(range(16)))
    for tower, joined in ((left, {4, 6}), (right, {5, 9})):
        plain = {colour for block, colour in tower.items() if block not in joined}
        assert len(plain) == 1 and not plain & {tower[block] for block in joined}
    assert bridges(figure) == [(4, 5), (6, 9)]


@pytest.mark.parametrize(
    ("stream", "told"), [("image", "the image stream"), ("text", "the text stream"), ("both", "both streams")]
)
def test_the_drawing_tells_count_rule_stream_and_what_is_trained(make_plan, words, stream, told):
    text = words(architecture(make_plan(stream=stream, rule="middle"), names=("my vlm", "my dit"))).replace("\n", " ")
    for part in (
        "K = 3 bridges",
        "rule “middle”",
        told,
        "my vlm 12 blocks, frozen",
        "my dit 16 blocks, frozen",
        "trained",
    ):
        assert part in text


@pytest.mark.parametrize("blocks", [(1, 1), (2, 4), (12, 16), (28, 32), (8, 40)])
def test_every_depth_is_readable(make_plan, assert_readable, blocks):
    plan = make_plan([(0, 0)], *blocks, stream="both")
    names = ("some-organisation/Some-Model-3B-Instruct", "a generation expert with a long name")
    assert_readable(architecture(plan, names))


def test_a_plan_that_cannot_be_drawn_is_refused(make_plan):
    with pytest.raises(ValueError, match="generation block 16, the tower has 0 to 15"):
        architecture(make_plan([(0, 16)]))
    with pytest.raises(ValueError, match="no bridges"):
        architecture(make_plan([]))
    with pytest.raises(ValueError, match="unknown stream 'audio': expected one of image, text, both"):
        architecture(make_plan(stream="audio"))
