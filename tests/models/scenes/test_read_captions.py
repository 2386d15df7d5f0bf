"""Captions that must be read: true of their scenes, of their part, and beyond what a bag of their words tells."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from scipy.sparse import csr_array
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression

from bridgework.models.scenes.checker import matches_caption
from bridgework.models.scenes.read_captions import KINDS, ReadCaption, compose_read, read_captions
from bridgework.models.scenes.rendering import render_scene
from bridgework.models.scenes.scene import HELD_OUT, PARTS, PLURAL, SHAPES

SAME_WORDS = ("coreference", "ordinals", "negation", "relations", "relative clauses", "absence")
SINGULAR = {plural: shape for shape, plural in PLURAL.items()} | {shape: shape for shape in SHAPES}


@pytest.fixture(scope="module")
def captions() -> dict[str, list[ReadCaption]]:
    return {part: read_captions(part, 12) for part in PARTS}


@pytest.fixture(scope="module")
def everything(captions) -> list[ReadCaption]:
    return [read for found in captions.values() for read in found]


def test_every_kind_has_captions_of_every_part(captions):
    for part, found in captions.items():
        assert [read.kind for read in found] == [kind for kind in KINDS for _ in range(12)]
        assert {read.scene.part for read in found} == {part}


def test_the_canonical_caption_is_true_of_the_scene_alone(everything):
    rng = np.random.default_rng(0)
    for read, other in zip(everything[::2], everything[1::2], strict=True):
        image = render_scene(read.scene, rng)
        assert matches_caption(image, read.skill, read.canonical), read.caption
        if other.canonical != read.canonical and other.skill == read.skill:
            assert not matches_caption(image, other.skill, other.canonical), other.caption


def test_plain_captions_have_as_many_words_and_where_it_can_be_had_the_same(everything):
    for read in everything:
        words, plain = read.caption.split(), read.plain.split()
        assert len(words) == len(plain), read
        assert read.kind not in SAME_WORDS or Counter(words) == Counter(plain), read


def test_no_held_out_combination_is_in_a_caption_of_another_part(captions):
    """Of shapes and colours not even apart from each other; of numbers where one stands before its shape."""
    for part, found in captions.items():
        for read in found:
            said = f"{read.caption} , {read.plain} , {read.canonical}"
            words = [SINGULAR.get(word, word) for word in said.split()]
            held = {h for h in HELD_OUT if h[0] != "count" and set(words) >= set(h[1:])}
            held |= {("count", *pair) for pair in pairwise(words)} & HELD_OUT
            assert bool(held) == (part == "new"), read


def test_the_same_seed_gives_the_same_captions(captions):
    assert read_captions("test", 12) == captions["test"]
    assert read_captions("test", 12, seed=1) != captions["test"]
    assert [read.kind for read in read_captions("test", 2, kinds=["sums", "absence"])] == ["sums"] * 2 + ["absence"] * 2


def test_unknown_kinds_and_parts_are_refused():
    with pytest.raises(ValueError, match="unknown kind 'riddles': expected one of coreference, ordinals, negation, "):
        read_captions("train", 1, kinds=["riddles"])
    with pytest.raises(ValueError, match="unknown part 'dev': expected one of train, evidence"):
        compose_read(np.random.default_rng(0), "sums", "dev")
    with pytest.raises(ValueError, match="0 captions of every kind leave nothing to score"):
        read_captions("train", 0)


# ---- what a bag of words tells


def colours_in_order(read: ReadCaption) -> bool:
    one, other = sorted(read.scene.things)
    return one.colour < other.colour


def places_in_order(read: ReadCaption) -> bool:
    one, other = sorted(read.scene.things)
    return one.quarter < other.quarter


def first_is_there(read: ReadCaption) -> bool:
    return read.scene.things[0].shape == min(word for word in read.caption.split() if word in SHAPES)


QUESTIONS = {kind: [colours_in_order, places_in_order] for kind in SAME_WORDS} | {"selection": [first_is_there]}


def test_a_bag_of_words_tells_neither_binding_nor_place_nor_what_is_there():
    """Two answers, each as likely; by pairs of neighbouring words a linear probe sees colours where they stand by."""
    found = read_captions("train", 600, kinds=list(QUESTIONS))
    scores: dict[tuple[str, str, int], float] = {}
    for kind, questions in QUESTIONS.items():
        captions = [read for read in found if read.kind == kind]
        for words in (1, 2):
            vectorizer = CountVectorizer(ngram_range=(words, words), token_pattern=r"\S+")
            bags = csr_array(vectorizer.fit_transform([read.caption for read in captions])).toarray()
            for question in questions:
                answers = np.array([question(read) for read in captions])
                probe = LogisticRegression(max_iter=500).fit(bags[:300], answers[:300])
                scores[kind, question.__name__, words] = probe.score(bags[300:], answers[300:])
    by_bag = {key: score for key, score in scores.items() if key[2] == 1}
    assert len(by_bag) == 13
    assert max(by_bag.values()) < 0.62, by_bag  # four standard deviations of guessing
    assert abs(np.mean(list(by_bag.values())) - 0.5) < 0.03, by_bag
    assert scores["relations", "colours_in_order", 2] > 0.75  # the probe can learn
