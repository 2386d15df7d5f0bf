"""Stacks: found by structure, outermost only."""

from __future__ import annotations

import pytest
from diffusers import SD3Transformer2DModel
from torch import nn
from transformers import LlavaConfig, LlavaForConditionalGeneration

from bridgework.probes.hooks.block_stacks import find_block, find_stacks


@pytest.fixture(scope="module")
def llava():
    tower = {"hidden_size": 8, "intermediate_size": 8, "num_attention_heads": 2}
    return LlavaForConditionalGeneration(
        LlavaConfig(
            vision_config={**tower, "model_type": "siglip_vision_model", "num_hidden_layers": 3, "image_size": 16},
            text_config={**tower, "model_type": "llama", "num_hidden_layers": 4, "vocab_size": 16},
            image_token_index=4,
        )
    )


def test_stacks_in_depth_order(llava):
    stacks = find_stacks(llava)
    assert sorted(len(blocks) for blocks in stacks.values()) == [3, 4]
    assert stacks["model.language_model.layers"] == [f"model.language_model.layers.{i}" for i in range(4)]
    (vision,) = set(stacks) - {"model.language_model.layers"}
    for index, path in enumerate(stacks[vision]):
        assert llava.get_submodule(path) is llava.get_submodule(vision)[index]


def test_only_the_outermost_stack():
    model = SD3Transformer2DModel(
        sample_size=8, patch_size=4, in_channels=3, num_layers=12, attention_head_dim=4, num_attention_heads=2,
        joint_attention_dim=8, caption_projection_dim=8, pooled_projection_dim=8, pos_embed_max_size=4,
    )  # fmt: skip
    inner = [m for b in model.transformer_blocks for m in b.modules() if isinstance(m, nn.ModuleList)]
    assert inner
    assert find_stacks(model) == {"transformer_blocks": [f"transformer_blocks.{i}" for i in range(12)]}


def test_lists_that_are_no_stacks():
    model = nn.Module()
    model.leaves = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])
    model.single = nn.ModuleList([nn.Sequential(nn.Linear(2, 2))])
    model.mixed = nn.ModuleList([nn.Sequential(nn.Linear(2, 2)), nn.TransformerEncoderLayer(2, 1)])
    with pytest.raises(ValueError, match=r"Module has no stack of blocks .* name the layers yourself"):
        find_stacks(model)


def test_unknown_layers_are_named_with_what_there_is(llava):
    assert find_block(llava, "model.language_model.layers.2") is llava.model.language_model.layers[2]
    with pytest.raises(ValueError, match=r"unknown layer 'model.layers.9': .*model.language_model.layers \(4 blocks\)"):
        find_block(llava, "model.layers.9")
    with pytest.raises(ValueError, match="unknown layer"):
        find_block(llava, "model.language_model.layers.4")


def test_a_list_of_whole_models_is_no_stack(llava):
    both = nn.ModuleDict({"one": llava, "other": llava.__class__(llava.config)})
    assert len(find_stacks(both)) == 4
