"""How the shipped experts are trained: what a few steps of the same function leave opens as an expert."""

from __future__ import annotations

import json
from functools import partial

import pytest
import torch
from safetensors.torch import load_file

from bridgework.models.experts.opening import CHECKPOINTS, open_expert
from bridgework.models.experts.pixel_dit import DitExpert
from bridgework.models.experts.vision_language import LlavaExpert
from bridgework.models.training import pretraining
from bridgework.models.training.batches import stimuli_batch
from bridgework.models.training.pretraining import SEED, pretrain
from bridgework.probes.stimuli.sources import load_stimuli


@pytest.fixture(autouse=True)
def cheap(monkeypatch, tokenizer):
    monkeypatch.setattr(pretraining, "emoji_part", lambda part: load_stimuli("noto", limit=8))
    monkeypatch.setattr(pretraining, "build_tokenizer", lambda: tokenizer)
    for name in ("dit_batch", "vlm_batch"):
        monkeypatch.setattr(pretraining, name, partial(getattr(pretraining, name), size=6))
    monkeypatch.setattr(pretraining, "stimuli_batch", partial(stimuli_batch, size=6))


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("scenes-vlm", LlavaExpert),
        ("scenes-reader", LlavaExpert),
        ("scenes-dit", DitExpert),
        ("scenes-dit-wide", DitExpert),
        ("emoji-dit", DitExpert),
    ],
)
def test_a_trained_expert_opens_and_is_not_trained_again(name, family, tmp_path, monkeypatch):
    final = pretrain(name, tmp_path, steps=4)
    expert = open_expert(final)
    assert isinstance(expert, family)
    shipped = open_expert(name, random_weights=True)
    assert expert.blocks == shipped.blocks
    assert {k: v.shape for k, v in expert.model.state_dict().items()} == {
        k: v.shape for k, v in shipped.model.state_dict().items()
    }
    files = sorted(path.relative_to(final) for path in final.rglob("*.*"))
    assert {str(path) for path in files} >= {
        str(path.relative_to(CHECKPOINTS / name)) for path in (CHECKPOINTS / name).rglob("*.safetensors")
    }
    training = json.loads((final / "training.json").read_text())
    assert (training["steps"], training["seed"]) == (4, SEED)
    assert training["log"][0]["step"] == 0

    def must_not_run(*_, **__):
        raise AssertionError("trained again")

    weights = {path: load_file(final / path) for path in files if path.suffix == ".safetensors"}
    monkeypatch.setattr(pretraining, "dit_batch", must_not_run)
    monkeypatch.setattr(pretraining, "vlm_batch", must_not_run)
    monkeypatch.setattr(pretraining, "stimuli_batch", must_not_run)
    monkeypatch.setattr(pretraining, "build_tokenizer", must_not_run)  # a second one numbers its pieces differently
    pretrain(name, tmp_path, steps=4)
    for path, tensors in weights.items():
        again = load_file(final / path)
        assert all(torch.equal(tensor.float(), again[key].float()) for key, tensor in tensors.items())


def test_words_in_and_words_out_are_tied():
    for twin in (False, True):
        model = open_expert("scenes-vlm", random_weights=twin).model
        assert torch.equal(model.get_input_embeddings().weight, model.get_output_embeddings().weight)


def test_another_name_is_refused(tmp_path):
    with pytest.raises(ValueError, match="unknown expert 'scenes-llm': expected one of scenes-vlm, scenes-reader"):
        pretrain("scenes-llm", tmp_path / "run")
    assert not (tmp_path / "run").exists()
