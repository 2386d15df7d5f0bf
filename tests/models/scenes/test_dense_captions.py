"""Dense captions: true of their scenes, of their part, short enough to be read; scored fact by fact."""

from __future__ import annotations

import pytest
from PIL import Image

from bridgework.models.evaluation import reporting
from bridgework.models.evaluation.reporting import evaluate_dense
from bridgework.models.experts.pixel_dit import DitExpert
from bridgework.models.scenes import dense_captions
from bridgework.models.scenes.checker import detect_things
from bridgework.models.scenes.dense_captions import Described, Fact, dense_score, holds
from bridgework.models.scenes.rendering import render_scene
from bridgework.models.scenes.scene import COLOURS, HELD_OUT, QUARTERS, Scene, Thing

EACH = 8
BLANK = Image.new("RGB", (32, 32), "white")


@pytest.fixture(scope="module")
def described() -> dict[str, list[Described]]:
    return {part: dense_captions.dense_captions(part, EACH) for part in ("train", "test", "new")}


@pytest.fixture(scope="module")
def everything(described) -> list[Described]:
    return [d for captions in described.values() for d in captions]


def scene(*things: str) -> Scene:
    """From "red circle top left" and the like."""
    words = [thing.split(" ", 2) for thing in things]
    return Scene(tuple(Thing(shape, colour, QUARTERS.index(quarter)) for colour, shape, quarter in words))


# ---- what is asked


def test_facts_are_true_of_the_scene_and_said_in_the_caption(everything):
    for drawn, caption, facts in everything:
        place = {t.shape: divmod(t.quarter, 2) for t in drawn.things}
        for fact in facts:
            (thing,) = [t for t in drawn.things if t.shape == fact.shape]
            if fact.category == "relation":
                down, right = (a - b for a, b in zip(place[fact.shape], place[fact.other], strict=True))
                assert {"above": (-1, 0), "below": (1, 0), "left of": (0, -1), "right of": (0, 1)}[fact.value] == (
                    down,
                    right,
                )
                assert f"{fact.shape} {fact.value} {fact.other}" in caption
            elif fact.category == "attribute":
                assert fact.value in (thing.colour, QUARTERS[thing.quarter])
                assert f"{fact.value} {fact.shape}" in caption or f"{fact.shape} {fact.value}" in caption
            else:
                assert fact == Fact("entity", thing.shape)


def test_every_thing_is_there_with_its_colour_and_a_place(everything):
    for drawn, _, facts in everything:
        shapes = [t.shape for t in drawn.things]
        named = [f.shape for f in facts if f.category == "entity"]
        assert sorted(shapes) == sorted(named)
        assert len(set(shapes)) == len(shapes)
        colours = {f.shape: f.value for f in facts if f.value in COLOURS}
        assert colours == {t.shape: t.colour for t in drawn.things}
        assert sum(f.category == "relation" for f in facts) == len(shapes) - 1
        assert sum(f.value in QUARTERS for f in facts) == (len(shapes) < 4)


def test_captions_have_two_three_and_four_things(described):
    for captions in described.values():
        assert [len(d.scene.things) for d in captions] == [2] * EACH + [3] * EACH + [4] * EACH


def test_captions_are_of_their_part(described):
    for part, captions in described.items():
        assert {d.scene.part for d in captions} == {part}
    held = {f"{colour} {shape}" for kind, colour, shape in HELD_OUT if kind == "colour"}
    pairs = [{one, two} for kind, one, two in HELD_OUT if kind == "pair"]
    for d in (d for captions in described.values() for d in captions):
        named = {t.shape for t in d.scene.things}
        new = any(phrase in d.caption for phrase in held) or any(pair <= named for pair in pairs)
        assert new == (d.scene.part == "new"), d.caption


def test_an_example():
    rng = dense_captions.np.random.default_rng(0)
    drawn = scene("red circle top left", "blue square top right", "green cross bottom right")
    described = dense_captions._describe(rng, drawn, list(drawn.things))
    assert described is not None
    assert described.caption == "red circle top left , blue square right of circle , green cross below square"
    assert dense_captions._describe(rng, drawn, [drawn.things[i] for i in (0, 2, 1)]) is None  # a diagonal


def test_our_experts_read_whole_captions_word_by_word(everything, tokenizer):
    longest = 0
    for d in everything:
        ids = tokenizer(d.caption).input_ids
        assert tokenizer.unk_token_id not in ids
        assert len(ids) == len(d.caption.split()) + 1
        longest = max(longest, len(ids))
    assert longest <= dense_captions.WORDS + 1 == DitExpert.text_tokens


def test_same_seed_same_captions():
    first, again, other = (dense_captions.dense_captions("train", 2, seed) for seed in (3, 3, 4))
    assert first == again != other


# ---- what holds


SCENE = scene("red circle top left", "blue square top right", "green cross bottom right")
FACTS = (
    *(Fact("entity", shape) for shape in ("circle", "square", "cross")),
    Fact("attribute", "circle", "red"),
    Fact("attribute", "circle", "top left"),
    Fact("attribute", "square", "blue"),
    Fact("attribute", "cross", "green"),
    Fact("relation", "square", "right of", "circle"),
    Fact("relation", "cross", "below", "square"),
)


def held(drawn: Scene, rng) -> list[str]:
    things = detect_things(render_scene(drawn, rng))
    return [" ".join(fact).strip() for fact in FACTS if holds(fact, things, FACTS)]


def test_all_holds_in_the_scene_itself(rng):
    assert len(held(SCENE, rng)) == len(FACTS)


def test_a_wrong_colour_costs_one_fact(rng):
    found = held(scene("black circle top left", "blue square top right", "green cross bottom right"), rng)
    assert len(found) == len(FACTS) - 1
    assert "attribute circle red" not in found


def test_a_thing_that_is_not_there_takes_its_attributes_and_relations_along(rng):
    assert held(scene("red circle top left", "green cross bottom right"), rng) == [
        "entity circle",
        "entity cross",
        "attribute circle red",
        "attribute circle top left",
        "attribute cross green",
    ]


def test_a_wrong_place_costs_the_relations_that_it_breaks(rng):
    found = held(scene("red circle top left", "green cross top right", "blue square bottom right"), rng)
    lost = {"relation square right of circle", "relation cross below square"}
    assert not lost & set(found)
    assert len(found) == len(FACTS) - 2


def test_of_two_of_a_shape_the_one_described_is_meant(rng):
    crowd = [*SCENE.things, Thing("circle", "black", 2)]
    assert len(held(Scene(tuple(crowd)), rng)) == len(FACTS)
    assert len(held(Scene(tuple(crowd[::-1])), rng)) == len(FACTS)


def test_attributes_belong_to_one_thing(rng):
    """A red circle elsewhere and a black one in its place are not a red circle there."""
    names = ("black circle top left", "red circle bottom left", "blue square top right", "green cross bottom right")
    found = held(scene(*names), rng)
    assert len({"attribute circle red", "attribute circle top left"} & set(found)) == 1


# ---- scores


def test_truth_scores_one_beside_what_needs_no_caption(described, rng):
    wanted = described["test"]
    table = dense_score(wanted, [render_scene(d.scene, rng) for d in wanted])
    assert list(table.category) == [*dense_captions.CATEGORIES, "all"]
    assert (table[["score", "low", "high"]] == 1).all(axis=None)
    assert (table.blank == 0).all()
    assert (table.images == 3 * EACH).all()
    assert table.facts.iloc[:3].sum() == table.facts.iloc[3] == sum(len(d.facts) for d in wanted)
    assert table.shuffled.to_numpy() == pytest.approx(table.unrelated.to_numpy(), abs=0.01)  # true pictures too
    chance = table.set_index("category").unrelated
    assert 0.5 < chance["entity"] < 0.8  # three of four usable shapes
    assert max(chance["attribute"], chance["relation"]) < chance["entity"] / 2


def test_the_score_is_the_mean_over_images_of_the_share_that_holds(described, rng):
    wanted = described["train"]
    images = [render_scene(d.scene, rng) if number % 2 else BLANK for number, d in enumerate(wanted)]
    table = dense_score(wanted, images)
    n = len(wanted)
    assert table.score.to_numpy() == pytest.approx(0.5)
    reach = 2.0687 * (0.25 * n / (n - 1)) ** 0.5 / n**0.5  # Student's t, 23 degrees of freedom
    assert table.low.to_numpy() == pytest.approx(0.5 - reach, abs=1e-4)
    assert table.high.to_numpy() == pytest.approx(0.5 + reach, abs=1e-4)
    # half of the other captions' pictures are blank, of a drawn one as of a blank one
    assert table.shuffled.to_numpy() == pytest.approx(table.unrelated.to_numpy() / 2, rel=0.25)


def test_a_generator_is_scored(monkeypatch, tiny_dit, rng):
    asked = []

    def draw_truth(model, captions, ids, **sampling):
        asked.append((captions, ids, sampling))
        return [render_scene(d.scene, rng) for d in dense_captions.dense_captions("train", 2)]

    monkeypatch.setattr(reporting, "generate", draw_truth)
    assert (evaluate_dense(tiny_dit, "train", 2, steps=3).score == 1).all()
    captions, ids, sampling = asked[0]
    assert captions == [d.caption for d in dense_captions.dense_captions("train", 2)]
    assert len(set(ids)) == 6
    assert sampling == {"steps": 3}
    monkeypatch.undo()
    assert (evaluate_dense(tiny_dit, "train", 1, steps=1).score <= 0.5).all()


def test_what_cannot_be_scored(described):
    with pytest.raises(ValueError, match="unknown part 'dev': expected one of train"):
        dense_captions.dense_captions("dev")
    with pytest.raises(ValueError, match="0 captions of every number of things"):
        dense_captions.dense_captions("test", 0)
    with pytest.raises(ValueError, match="got 1 for 24"):
        dense_score(described["test"], [BLANK])
    with pytest.raises(ValueError, match="at least two captions, got 1 for 1"):
        dense_score(described["test"][:1], [BLANK])
