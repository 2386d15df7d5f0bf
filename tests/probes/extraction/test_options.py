"""Options of `extract`: declared once, checked for a subject, and recorded in one order."""

from __future__ import annotations

import inspect
from dataclasses import fields
from typing import get_type_hints

import pytest
import torch

from bridgework.probes.extraction.extracting import extract
from bridgework.probes.extraction.jobs import prepare_job
from bridgework.probes.extraction.options import fitted, layer_paths
from bridgework.probes.extraction_options import ExtractionOptions
from bridgework.tests.probes.toys import letters, open_toy

RECORDED = "task timesteps noise pass layers pooling tokens special sinks cleaned dtype precision batch_size"


def test_they_are_the_keywords_of_extract():
    keywords = {name: p for name, p in inspect.signature(extract).parameters.items() if p.kind is p.KEYWORD_ONLY}
    assert [field.name for field in fields(ExtractionOptions)] == list(keywords)
    assert {field.name: field.default for field in fields(ExtractionOptions)} == {
        name: parameter.default for name, parameter in keywords.items()
    }
    asked, declared = get_type_hints(extract), get_type_hints(ExtractionOptions)
    torch_alone_names = {"dtype", "tokens"}
    assert {name: asked[name] for name in declared.keys() - torch_alone_names}.items() <= declared.items()


def test_checked_options_name_what_was_left_open():
    toy = open_toy()
    options = fitted(ExtractionOptions(), toy)
    assert options.task == toy.tasks[0]
    assert options.layers == tuple(layer_paths(toy, None))
    assert fitted(options, toy) == options
    assert fitted(ExtractionOptions(layers=[toy.blocks[1], "embeddings"]), toy).layers == ("embeddings", "1")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"task": "dance"}, "unknown task 'dance'"),
        ({"timesteps": (0.5,)}, "takes no timesteps"),
        ({"pooling": "grid:0"}, "unknown pooling 'grid:0'"),
        ({"dtype": torch.float64}, "dtype is torch.float64: expected torch.float32, float16 or bfloat16"),
        ({"precision": "int8"}, "unknown precision 'int8': expected one of bf16, fp16"),
        ({"dtype": "int8"}, "dtype is int8: expected torch.float32, float16 or bfloat16"),
        ({"timesteps": (1.5,)}, "timesteps .* must lie in 0 .clean image, excluded. to 1"),
        ({"generate": 3, "joint": True}, "written tokens have no joint pass"),
        ({"batch_size": 0}, "batch_size is 0: expected a whole number of at least 1"),
        ({"tokens": {"sound": [0]}}, "tokens of 'sound' are chosen"),
        ({"special": True, "pooling": "grid:2"}, "special tokens have no place on a patch grid"),
        ({"layers": ["99"]}, "has no layer '99'"),
        ({"layers": "0"}, "layers is '0': expected a list of names"),
        ({"timesteps": 0.5}, "timesteps is 0.5: expected a sequence of numbers"),
        ({"timesteps": ("noon",)}, "timesteps is .*: expected a sequence of numbers"),
        ({"device": "gpu"}, "device is 'gpu': expected 'auto'"),
        ({"device": "cuda:99"}, "device is 'cuda:99', but torch finds no GPU"),
    ],
)
def test_what_does_not_fit_a_subject(given, message, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match=message):
        fitted(ExtractionOptions(**given), open_toy())


def test_a_model_is_no_subject_and_a_list_no_set_of_stimuli():
    toy = open_toy()
    with pytest.raises(TypeError, match=r"the subject is a Stack: expected what open_expert returns, or AnyModel"):
        extract(toy.model, letters("a"))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"stimuli is a list: expected what load_stimuli returns"):
        extract(toy, list(letters("a")))  # type: ignore[arg-type]


def test_a_store_records_them_in_one_order():
    stimuli = letters("a", "bb")
    provenance = prepare_job(open_toy(), stimuli, ExtractionOptions(tokens={"text": slice(1, None)})).provenance
    names = ["subject", "stimuli", "stimuli_digest", *RECORDED.split(), "order", "batches_per_shard", "versions"]
    assert list(provenance) == names
    assert provenance["tokens"] == {"text": "slice(1, None, None)"}
    assert provenance["dtype"] == "float32"
