"""Preprocessing: what changes inputs is noticed and named, and the same made again is the same."""

from __future__ import annotations

import functools
import json
from types import SimpleNamespace
from typing import Any

import pytest
from diffusers import DDIMScheduler
from diffusers import FlowMatchEulerDiscreteScheduler as Flow
from transformers import BertTokenizer, CLIPImageProcessorPil, CLIPProcessor

from bridgework.probes.extraction.extracting import extract
from bridgework.probes.extraction.provenance import made_of
from bridgework.probes.fingerprints.preprocessing_hash import preprocessing_of
from bridgework.tests.models.tiny_folders import tokenizer
from bridgework.tests.probes.toys import letters, open_toy


def images(**settings: Any) -> CLIPImageProcessorPil:
    return CLIPImageProcessorPil(size={"shortest_edge": 32}, **settings)


def reads(processor: Any, scale: float = 1.0) -> Any:
    def inputs(stimuli, *_):
        return {"pixel_values": scale * processor([s.image for s in stimuli], return_tensors="pt").pixel_values}

    return inputs


def reads_anew(processor: Any, scale: float = 1.0) -> Any:
    def inputs(stimuli, *_):
        return {"pixel_values": processor([s.image for s in stimuli], return_tensors="pt").pixel_values - scale}

    inputs.__qualname__ = reads(processor).__qualname__
    return inputs


def bigger(tokenizer: Any) -> Any:
    tokenizer.add_tokens(["another"])
    return tokenizer


def pipe(kind: Any = DDIMScheduler, **settings: Any) -> SimpleNamespace:
    return SimpleNamespace(components={"scheduler": kind(**settings), "vae": None})


def slow(*words: str) -> Any:
    return SimpleNamespace(init_kwargs={}, get_vocab=lambda: {word: i for i, word in enumerate(words)})


CHANGES = {
    "mean of an image processor": ("processor", images, lambda: images(image_mean=[0.1, 0.2, 0.3])),
    "size of an image processor": ("processor", images, lambda: images(do_center_crop=False)),
    "a word of a tokenizer": ("tokenizer", tokenizer, lambda: bigger(tokenizer())),
    "template of a tokenizer": ("tokenizer", tokenizer, lambda: tokenizer(ends=True)),
    "special token of a tokenizer": ("tokenizer", tokenizer, lambda: tokenizer(boi_token="<boi>")),
    "longest text of a tokenizer": ("tokenizer", tokenizer, lambda: tokenizer(model_max_length=7)),
    "vocabulary of a slow tokenizer": ("tokenizer", lambda: slow("a", "b"), lambda: slow("b", "a")),
    "processor within a processor": (
        "both.image_processor",
        lambda: CLIPProcessor(images(), tokenizer()),
        lambda: CLIPProcessor(images(image_std=[1, 1, 1]), tokenizer()),
    ),
    "scheduler of a pipeline": ("pipe.scheduler", pipe, lambda: pipe(beta_end=0.5)),
    "shift of a flow": ("pipe.scheduler", lambda: pipe(Flow), lambda: pipe(Flow, shift=3.0)),
    "kind of a scheduler": ("pipe.scheduler", pipe, lambda: pipe(Flow)),
    "plain dict": ("kinds", lambda: {"x": "image"}, lambda: {"x": "text"}),
    "source of a function": ("inputs", lambda: reads(1), lambda: reads_anew(1)),
    "what a function closes over": (
        "inputs.processor", lambda: reads(images()), lambda: reads(images(image_mean=[0.1, 0.2, 0.3])),
    ),
    "a number that a function closes over": ("inputs.scale", lambda: reads(1), lambda: reads(1, 2.0)),
    "argument of a partial": (
        "inputs.keywords", lambda: functools.partial(reads, scale=1), lambda: functools.partial(reads, scale=2),
    ),
}  # fmt: skip


@pytest.mark.parametrize(("name", "make", "change"), CHANGES.values(), ids=CHANGES)
def test_a_change_is_named_and_the_same_made_again_is_not(name, make, change):
    attribute = name.split(".")[0]
    once, again, changed = (
        preprocessing_of(SimpleNamespace(**{attribute: each})) for each in (make(), make(), change())
    )
    assert once == again
    assert {part for part in once.keys() | changed.keys() if once.get(part) != changed.get(part)} == {name}


def test_calls_and_places_change_nothing(tmp_path):
    subject = SimpleNamespace(tokenizer=tokenizer(), processor=images())
    before = preprocessing_of(subject)
    subject.tokenizer.padding_side = "left"
    subject.tokenizer(["a ring", "a"], padding=True, truncation=True, max_length=4)
    assert preprocessing_of(subject) == before
    subject.processor.save_pretrained(tmp_path)
    subject.tokenizer.save_pretrained(tmp_path)
    subject.processor = type(subject.processor).from_pretrained(tmp_path)
    assert preprocessing_of(subject)["processor"] == before["processor"]


def test_a_fast_tokenizer_of_a_family():
    def make(*words: str) -> BertTokenizer:
        return BertTokenizer(vocab={word: i for i, word in enumerate(("[UNK]", "[PAD]", *words))})

    one, again, other = (preprocessing_of(SimpleNamespace(t=make(*w))) for w in (("a", "b"), ("a", "b"), ("b", "a")))
    assert one == again != other


def test_functions_that_call_each_other_end():
    def even(n: int) -> bool:
        return n == 0 or odd(n - 1)

    def odd(n: int) -> bool:
        return n > 0 and even(n - 1)

    assert {"inputs", "inputs.odd"} <= preprocessing_of(SimpleNamespace(inputs=even)).keys()


def test_a_store_does_not_go_on_with_other_preprocessing(tmp_path):
    toy: Any = open_toy()
    toy.processor = images()
    extract(toy, letters("a", "b"), store=tmp_path)
    extract(toy, letters("a", "b"), store=tmp_path)
    toy.processor = images(image_mean=[0.1, 0.2, 0.3])
    with pytest.raises(ValueError, match=r"made differently \(subject\.preprocessing\.processor: expected"):
        extract(toy, letters("a", "b"), store=tmp_path)


def test_it_is_plain():
    toy: Any = open_toy()
    toy.processor, toy.tokenizer, toy.inputs = images(), tokenizer(), reads(images())
    made = made_of(toy, letters("a"), {})
    assert json.loads(json.dumps(made)) == made
    assert all(len(text) < 100 for text in made["subject"]["preprocessing"].values())
