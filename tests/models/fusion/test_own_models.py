"""A model of one's own, wrapped as `AnyModel`, is the understanding expert of a fused model."""

from __future__ import annotations

import pytest
import torch
import transformers as t

from bridgework.models.fusion.fused_model import FusedModel
from bridgework.models.generation.sampling import generate
from bridgework.models.training.train_model import train
from bridgework.probes.plans.choosing import choose_bridges
from bridgework.probes.subjects.any_model import AnyModel
from bridgework.tests.models.tiny_folders import TEXT, tokenizer


def reader(front: str) -> AnyModel:
    torch.manual_seed(0)
    words, model = tokenizer(), t.LlamaForCausalLM(t.LlamaConfig(**TEXT)).eval()

    def inputs(stimuli):
        return dict(words([f"{front}{s.text}" for s in stimuli], padding=True, return_tensors="pt"))

    return AnyModel(model, inputs)


def test_it_trains_is_saved_and_draws(tiny_dit, tmp_path):
    plan = choose_bridges(bridges=2, layers=(4, 3))
    log = train(FusedModel(reader("<s> "), tiny_dit, plan), tmp_path, steps=2, batch_size=2)
    assert len(log) == 2
    again = FusedModel.load(tmp_path, reader("<s> "), tiny_dit)
    with torch.no_grad():
        for bridge in again.bridges.parameters():
            bridge += 0.1
    red, blue = generate(again, ["red circle", "blue ring"], ["a", "a"], steps=2)
    assert red.tobytes() != blue.tobytes()


def test_without_a_token_for_the_null_caption_it_is_refused_at_the_door(tiny_dit):
    with pytest.raises(ValueError, match=r"LlamaForCausalLM cannot be shown the null caption, .* put a begin token"):
        FusedModel(reader(""), tiny_dit, choose_bridges(bridges=2, layers=(4, 3)))
