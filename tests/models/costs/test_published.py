"""Experts out of their configs: the published number of parameters, and errors that say what to do."""

from __future__ import annotations

import json

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from bridgework.models.costs.published import build_planned_generator, build_planned_reader, config_of
from bridgework.models.experts.opening import open_expert
from bridgework.models.towers.finding import find_tower


def size(model) -> int:
    return sum(p.numel() for p in model.parameters())


def test_qwen_has_as_many_parameters_as_published():
    with FakeTensorMode():
        reader = build_planned_reader("qwen2.5-vl-7b", 16, torch.bfloat16)
    assert size(reader.model) == 8_292_166_656  # as the Hub states for Qwen/Qwen2.5-VL-7B-Instruct
    assert len(reader.blocks) == 28
    assert {p.dtype for p in reader.model.parameters()} == {torch.bfloat16}


def test_wan_has_as_many_parameters_as_published():
    with FakeTensorMode():
        drawer = build_planned_generator("wan2.2-ti2v-5b", 512, torch.bfloat16)
    assert size(drawer.model) == 4_999_787_712  # of the 825 tensors of Wan-AI/Wan2.2-TI2V-5B-Diffusers
    assert len(drawer.blocks) == 30
    assert drawer.size == (48, 32, 32)  # its autoencoder makes a latent of 16 x 16 pixels


def test_stable_diffusion_has_as_many_parameters_as_published():
    with FakeTensorMode():
        drawer = build_planned_generator("sd3.5-medium", None, torch.float32)
    stored = size(drawer.model) + drawer.model.pos_embed.pos_embed.numel()  # the table of places is in the checkpoint
    assert stored / 1e9 == pytest.approx(2.5, abs=0.05)  # "2.5 billion parameters", its model card
    assert drawer.size == (16, 128, 128)  # 1,024 pixels, its own size


@pytest.mark.parametrize("stream", ["image", "text", "both"])
def test_towers_of_our_experts_are_those_that_are_measured(stream):
    expert = open_expert("scenes-dit")

    def run():
        noisy = torch.zeros(2, *expert.size)
        return expert.predict(noisy, expert.encode(["", "a red circle"]), torch.ones(2))

    found = find_tower(expert.model, run, stream=stream)
    with FakeTensorMode():
        known = build_planned_generator("scenes-dit", None, torch.float32).tower(stream)
    assert list(known.blocks) == list(found.blocks)
    assert list(known.layouts) == list(found.layouts)
    assert dict(known.given) == dict(found.given)
    assert [dict(places) for places in known.places] == [dict(places) for places in found.places]
    assert list(known.attention) == list(found.attention)


def test_a_folder_needs_no_more_than_its_config(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(config_of("scenes-vlm")))
    with FakeTensorMode():
        assert len(build_planned_reader(tmp_path, 8, torch.float32).blocks) == 16


def test_unknown_names():
    with pytest.raises(ValueError, match=r"no expert 'qwen' to plan with: expected one of qwen2\.5-vl-7b"):
        config_of("qwen")


def test_a_folder_without_a_config(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"neither a config\.json nor a transformer/config\.json"):
        config_of(tmp_path)


def test_experts_of_the_other_task():
    with FakeTensorMode():
        with pytest.raises(ValueError, match="is no language or vision-language model: the first expert"):
            build_planned_reader("sd3.5-medium", 8, torch.float32)
        with pytest.raises(ValueError, match="cannot be planned as the generation expert"):
            build_planned_generator("qwen2.5-vl-7b", None, torch.float32)


@pytest.mark.parametrize(
    ("side", "message"), [(500, "500 is no multiple of it"), (8192, "places for 6144 pixels a side")]
)
def test_a_resolution_that_cannot_be_drawn(side, message):
    with FakeTensorMode(), pytest.raises(ValueError, match=message):
        build_planned_generator("sd3.5-medium", side, torch.float32)
