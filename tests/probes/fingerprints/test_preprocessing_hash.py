"""Preprocessing: what changes inputs is noticed and named, and the same made again is the same."""

from __future__ import annotations

import functools
import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from diffusers import FlowMatchEulerDiscreteScheduler as Flow
from PIL import Image
from transformers import BertTokenizer, CLIPImageProcessorPil, CLIPProcessor

from bridgework.probes.extraction.extracting import extract
from bridgework.probes.extraction.provenance import made_of
from bridgework.probes.fingerprints.preprocessing_hash import preprocessing_of
from bridgework.tests.models.tiny_folders import tokenizer
from bridgework.tests.probes import toys
from bridgework.tests.probes.toys import letters, open_toy

LENGTHS = {"most": 4}


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


class Reader:
    """Reads by a processor of its own, into a cache."""

    side = 32

    def __init__(self, longest: int) -> None:
        self.longest, self.cache = longest, {}

    def __call__(self, stimuli, *_):
        for stimulus in stimuli:
            self.cache.setdefault(stimulus.id, len(stimulus.text[: self.longest]))
        return self.cache

    def inputs(self, stimuli, *_):
        return self(stimuli)


def holds(content: Any) -> Any:
    return lambda stimuli, *_: [content for _ in stimuli]


def templated(template: str) -> Any:
    both = CLIPProcessor(images(), tokenizer())
    both.chat_template = template
    return both


def from_memory(number: int) -> Any:
    names: dict[str, Any] = {}
    exec(f"def inputs(stimuli, *_):\n    return [{number} for _ in stimuli]", names)
    return names["inputs"]


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
    "attribute of an object": ("inputs.longest", lambda: Reader(4), lambda: Reader(8)),
    "object of a method": ("inputs.self.longest", lambda: Reader(4).inputs, lambda: Reader(8).inputs),
    "step of a transform": (
        "inputs.content.0.longest", lambda: holds([Reader(4)]), lambda: holds([Reader(8)]),
    ),
    "tensor": ("inputs.content", lambda: holds(torch.zeros(3)), lambda: holds(torch.ones(3))),
    "array": ("inputs.content.mean", lambda: holds({"mean": np.zeros(3)}), lambda: holds({"mean": np.ones(3)})),
    "picture": ("inputs.content", lambda: holds(Image.new("L", (2, 2))), lambda: holds(Image.new("L", (2, 2), 9))),
    "module": ("inputs.content", lambda: holds(linear(0)), lambda: holds(linear(1))),
    "format of numbers": ("inputs.content", lambda: holds(torch.float16), lambda: holds(torch.bfloat16)),
    "setting of the user's own": (
        "inputs.content", lambda: holds(SimpleNamespace(size=1)), lambda: holds(SimpleNamespace(size=2)),
    ),
    "code that was typed": ("inputs", lambda: from_memory(1), lambda: from_memory(2)),
    "template of a processor": ("processor", lambda: templated("{{a}}"), lambda: templated("{{b}}")),
    "side that is cut": ("tokenizer", tokenizer, lambda: tokenizer(truncation_side="left")),
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


def linear(seed: int) -> torch.nn.Module:
    torch.manual_seed(seed)
    return torch.nn.Linear(2, 2)


def test_globals_in_comprehensions_class_attributes_and_other_modules_of_the_user_count(monkeypatch):
    def uses(stimuli, *_):
        return [LENGTHS["most"] * toys.DIM + Reader.side for _ in stimuli]

    def described() -> dict[str, str]:
        return preprocessing_of(SimpleNamespace(inputs=uses))

    found = [described()]
    for change in (lambda: LENGTHS.update(most=8), lambda: setattr(toys, "DIM", 7), lambda: setattr(Reader, "side", 1)):
        monkeypatch.setitem(LENGTHS, "most", 4)
        monkeypatch.setattr(toys, "DIM", 6)
        monkeypatch.setattr(Reader, "side", 32)
        change()
        found.append(described())
    assert len({json.dumps(each) for each in found}) == 4


def test_what_reading_leaves_behind_is_no_change(tmp_path):
    toy: Any = open_toy()
    toy.reader = Reader(4)
    shown = toy.show
    toy.show = lambda stimuli, *args: (toy.reader(stimuli), shown(stimuli, *args))[1]
    extract(toy, letters("a", "b"), store=tmp_path)
    assert toy.reader.cache
    extract(toy, letters("a", "b"), store=tmp_path)
    toy.reader.cache["another"] = 1
    with pytest.raises(ValueError, match=r"preprocessing\.reader\.cache"):
        extract(toy, letters("a", "b"), store=tmp_path)


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
    with pytest.raises(ValueError, match=r"\(another processor, which makes the inputs \[subject\.preprocessing\.proc"):
        extract(toy, letters("a", "b"), store=tmp_path)


def test_it_is_plain():
    toy: Any = open_toy()
    toy.processor, toy.tokenizer, toy.inputs = images(), tokenizer(), reads(images())
    made = made_of(toy, letters("a"), {})
    assert json.loads(json.dumps(made)) == made
    assert all(len(text) < 100 for text in made["subject"]["preprocessing"].values())
