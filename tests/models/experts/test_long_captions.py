"""Captions that are longer than what an expert reads are cut, counted, said once, and kept with the features."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import pytest
import torch
import transformers as t
from PIL import Image

from bridgework.models.experts.opening import open_expert
from bridgework.probes.extraction.extracting import extract
from bridgework.probes.features.features import Features
from bridgework.probes.stimuli.stimulus_set import Stimuli, Stimulus
from bridgework.probes.subjects.any_model import AnyModel
from bridgework.tests.models.tiny_folders import BERT, TEXT, tokenizer, write


def captions(*lengths: int) -> Stimuli:
    """A caption of so many words for each number, of words that every tokenizer here has as one token."""
    words = ["red", "blue", "green", "circle", "ring", "cross"]
    texts = [" ".join(words[place % 6] for place in range(length)) for length in lengths]
    images = [Image.new("RGB", (32, 32), (place * 9, 90, 20)) for place in range(len(texts))]
    return Stimuli([Stimulus(i, s, f"{n} words") for i, s, n in zip(images, texts, lengths, strict=True)], "lengths")


def said(call: Any) -> tuple[Features, list[str]]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        features = call()
    return features, [str(w.message) for w in caught if "were cut" in str(w.message)]


def test_a_text_encoder_says_how_many_captions_it_cut(tmp_path):
    """MiniLM's kind: the tokenizer cuts at 16 tokens, two of them special, and the model has more positions."""
    model = t.BertModel(t.BertConfig(**BERT))
    model.save_pretrained(tmp_path / "bert")
    tokenizer(begins=True, ends=True, model_max_length=16).save_pretrained(tmp_path / "bert")
    expert, stimuli = open_expert(tmp_path / "bert"), captions(3, 14, 15, 40)
    features, warned = said(lambda: extract(expert, stimuli, batch_size=2))
    assert warned == [
        "2 of 4 captions are longer than what bert reads, and were cut at 16 tokens, such as that of '15 words': "
        "features.provenance['truncated'] names them"
    ]
    cut = {"15 words": 16, "40 words": 16}
    assert features.provenance["truncated"] == cut
    store = tmp_path / "store"
    stored, warned = said(lambda: extract(expert, stimuli, batch_size=2, store=store))
    assert len(warned) == 1
    assert stored.provenance["truncated"] == Features.load(store).provenance["truncated"] == cut
    again, warned = said(lambda: extract(expert, stimuli, batch_size=2, store=store))  # nothing is shown again
    assert len(warned) == 1 and again.provenance["truncated"] == cut
    whole, warned = said(lambda: extract(expert, stimuli[:2]))
    assert not warned and "truncated" not in whole.provenance


@pytest.mark.parametrize(("joint", "whole"), [(False, 127), (True, 127 - 16)])
def test_our_vlm_reads_no_more_than_its_positions(joint, whole):
    """128 positions: one token in front, and 16 of an image in a joint pass."""
    expert = open_expert("scenes-vlm")
    stimuli = captions(2, whole, whole + 1, 2000)
    features, warned = said(lambda: extract(expert, stimuli, joint=joint, batch_size=4, layers=["embeddings", "0"]))
    assert len(warned) == 1 and warned[0].startswith("2 of 4 captions")
    assert features.provenance["truncated"] == {f"{whole + 1} words": 128, "2000 words": 128}
    shown = expert.show(list(stimuli), ("image", "text") if joint else ("text",), "understanding", None)
    words = shown.tokens["text"]
    assert words is not None and words.sum(1).tolist() == [2, whole, whole, whole]
    assert words.shape[1] == 128


def test_our_dit_reads_twenty_tokens():
    features, warned = said(
        lambda: extract(open_expert("scenes-dit"), captions(3, 19, 20), timesteps=(0.5, 0.9), layers=["0"])
    )
    assert len(warned) == 1 and "1 of 3 captions" in warned[0] and "cut at 20 tokens" in warned[0]
    assert features.provenance["truncated"] == {"20 words": 20}


@pytest.mark.parametrize("task", ["understanding", "generation"])
def test_a_native_unified_model(task, tmp_path):
    write("JanusForConditionalGeneration", tmp_path)
    expert = open_expert(tmp_path)
    features, _ = said(lambda: extract(expert, captions(3, 254, 400), task=task, layers=["0"]))
    assert features.provenance["truncated"] == {"400 words": 256}
    with pytest.raises(ValueError, match="positions that the model has, and nothing is left for the caption"):
        expert.model.config.get_text_config().max_position_embeddings = 18
        extract(expert, captions(3), task=task, joint=True, layers=["0"])


def test_a_dual_encoders_text_tower(tmp_path):
    write("SiglipModel", tmp_path)
    features, _ = said(lambda: extract(open_expert(tmp_path).text, captions(3, 15, 16)))
    assert features.provenance["truncated"] == {"16 words": 16}


def test_any_model_whose_inputs_cut():
    model = t.BertModel(t.BertConfig(**BERT)).eval()
    given = tokenizer(begins=True, ends=True)

    def inputs(stimuli: Sequence[Stimulus], *_: Any) -> dict[str, torch.Tensor]:
        found = given([s.text for s in stimuli], padding=True, truncation=True, max_length=16, return_tensors="pt")
        return {"input_ids": found["input_ids"], "attention_mask": found["attention_mask"]}

    subject = AnyModel(model, inputs, modalities=("text",))
    features, warned = said(lambda: extract(subject, captions(3, 14, 15, 40)))
    assert warned == [
        "2 of 4 captions are longer than what BertModel reads, and were cut, such as that of '15 words': "
        "features.provenance['truncated'] names them"
    ]
    assert features.provenance["truncated"] == {"15 words": None, "40 words": None}


def test_any_model_that_is_given_more_than_its_positions():
    given = tokenizer()
    model = t.LlamaModel(t.LlamaConfig(**TEXT | {"max_position_embeddings": 32})).eval()
    subject = AnyModel(
        model, lambda stimuli, *_: dict(given([s.text for s in stimuli], padding=True, return_tensors="pt")),
        modalities=("text",),
    )  # fmt: skip
    with pytest.warns(UserWarning, match="inputs of LlamaModel hold up to 40 tokens, and its config says 32 positions"):
        extract(subject, captions(3, 40))
