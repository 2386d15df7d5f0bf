"""Capture on models of transformers and diffusers: the states are the model's own, bit for bit."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from accelerate import cpu_offload
from diffusers import SD3Transformer2DModel
from torch import Tensor
from transformers import (
    AlbertConfig,
    AlbertModel,
    BertConfig,
    BertModel,
    Dinov2Config,
    Dinov2Model,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
    Qwen2Config,
    Qwen2ForCausalLM,
    Swinv2Config,
    Swinv2Model,
)

from bridgework.probes.hooks.block_stacks import find_stacks
from bridgework.probes.hooks.capturing import EMBEDDINGS, capture
from bridgework.tests.probes.hooks.test_capturing import hooks

TEXT = {
    "vocab_size": 40, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
VISION = {"hidden_size": 12, "num_hidden_layers": 3, "num_attention_heads": 2, "image_size": 16, "patch_size": 8}


def ids() -> Tensor:
    return torch.randint(5, 30, (2, 9), generator=torch.Generator().manual_seed(0))


def llama():
    return LlamaForCausalLM(LlamaConfig(**TEXT)).eval(), {"input_ids": ids()}, "model.layers", "model.norm"


def qwen2():
    return Qwen2ForCausalLM(Qwen2Config(**TEXT)).eval(), {"input_ids": ids()}, "model.layers", "model.norm"


def bert():
    small = {key: value for key, value in TEXT.items() if key != "num_key_value_heads"}
    return BertModel(BertConfig(**small)).eval(), {"input_ids": ids()}, "encoder.layer", None


def dinov2():
    return Dinov2Model(Dinov2Config(**VISION)).eval(), {"pixel_values": torch.randn(2, 3, 16, 16)}, None, None


def llava():
    config = LlavaConfig(
        vision_config={**VISION, "model_type": "siglip_vision_model", "intermediate_size": 24},
        text_config={**TEXT, "model_type": "llama"}, image_token_index=35, image_seq_length=4,
        vision_feature_layer=-1, vision_feature_select_strategy="full",
    )  # fmt: skip
    tokens = ids()
    tokens[:, 2:6] = 35
    inputs = {"input_ids": tokens, "pixel_values": torch.randn(2, 3, 16, 16)}
    return (
        LlavaForConditionalGeneration(config).eval(),
        inputs,
        "model.language_model.layers",
        "model.language_model.norm",
    )


def sd3() -> tuple[SD3Transformer2DModel, dict[str, Tensor]]:
    torch.manual_seed(0)
    model = SD3Transformer2DModel(
        sample_size=8, patch_size=2, in_channels=4, num_layers=3, attention_head_dim=8, num_attention_heads=2,
        joint_attention_dim=12, caption_projection_dim=16, pooled_projection_dim=8, pos_embed_max_size=8,
        qk_norm="rms_norm", dual_attention_layers=(0,),
    )  # fmt: skip
    inputs = {"hidden_states": torch.randn(2, 4, 8, 8), "encoder_hidden_states": torch.randn(2, 7, 12)}
    inputs |= {"pooled_projections": torch.randn(2, 8), "timestep": torch.tensor([3.0, 700.0])}
    return model.eval(), inputs


@pytest.mark.parametrize("build", [llama, qwen2, bert, dinov2, llava])
@torch.no_grad()
def test_the_models_own_hidden_states(build: Callable):
    torch.manual_seed(0)
    model, inputs, stack, norm = build()
    native = model(**inputs, output_hidden_states=True).hidden_states
    stacks = find_stacks(model)
    blocks = stacks[stack] if stack else next(iter(stacks.values()))
    layers = [EMBEDDINGS, *blocks]
    before = hooks(model)
    with capture(model, layers) as taps:
        model(**inputs)
    assert list(taps) == layers
    assert len(native) == len(layers)
    for layer, theirs in zip(layers[:-1], native[:-1], strict=True):
        assert torch.equal(taps[layer], theirs), layer
    last = taps[layers[-1]]
    if norm:  # their last hidden state is after the final norm, the block's own is before it
        assert not torch.equal(last, native[-1])
        last = model.get_submodule(norm)(last)
    assert torch.equal(last, native[-1])
    assert hooks(model) == before


@torch.no_grad()
def test_dual_streams_equal_the_blocks_run_by_hand():
    model, inputs = sd3()
    layers = [EMBEDDINGS, *find_stacks(model)["transformer_blocks"]]
    with capture(model, layers, stop=False) as taps:
        predicted = model(**inputs).sample
    image = model.pos_embed(inputs["hidden_states"])
    text = model.context_embedder(inputs["encoder_hidden_states"])
    temb = model.time_text_embed(inputs["timestep"], inputs["pooled_projections"])
    assert torch.equal(taps[EMBEDDINGS]["image"], image)
    assert torch.equal(taps[EMBEDDINGS]["text"], text)
    for number, block in enumerate(model.transformer_blocks):
        text, image = block(hidden_states=image, encoder_hidden_states=text, temb=temb)
        tap = taps[f"transformer_blocks.{number}"]
        assert torch.equal(tap["image"], image)
        if number < 2:
            assert torch.equal(tap["text"], text)
    assert set(taps["transformer_blocks.2"]) == {"image"}  # the last block gives no text
    assert torch.equal(predicted, model(**inputs).sample)


@torch.no_grad()
def test_keep_is_told_the_stream():
    model, inputs = sd3()
    with capture(model, ["transformer_blocks.1", "transformer_blocks.2"], keep=lambda *call: call[:2]) as taps:
        model(**inputs)
    assert taps["transformer_blocks.1"] == {
        "image": ("transformer_blocks.1", "image"),
        "text": ("transformer_blocks.1", "text"),
    }
    assert taps["transformer_blocks.2"] == {"image": ("transformer_blocks.2", "image")}


@torch.no_grad()
@pytest.mark.parametrize("layers", [[0, 1, 2], [0, 1], [1], [1, 2]])
def test_streams_of_one_shape_are_told_apart_while_the_model_runs(layers):
    model, inputs = sd3()
    inputs["encoder_hidden_states"] = torch.randn(2, 16, 12)  # as many text tokens as image tokens
    paths = [f"transformer_blocks.{i}" for i in layers]
    with capture(model, [EMBEDDINGS, *paths]) as taps:
        model(**inputs)
    image = model.pos_embed(inputs["hidden_states"])
    text = model.context_embedder(inputs["encoder_hidden_states"])
    temb = model.time_text_embed(inputs["timestep"], inputs["pooled_projections"])
    for number, block in enumerate(model.transformer_blocks):
        if number == layers[0]:
            assert torch.equal(taps[EMBEDDINGS]["image"], image) and torch.equal(taps[EMBEDDINGS]["text"], text)
        text, image = block(hidden_states=image, encoder_hidden_states=text, temb=temb)
        if number in layers:
            assert torch.equal(taps[f"transformer_blocks.{number}"]["image"], image)
            assert number == 2 or torch.equal(taps[f"transformer_blocks.{number}"]["text"], text)
    assert hooks(model) == 0


def test_a_stage_that_hands_on_the_first_of_two():
    torch.manual_seed(0)
    config = Swinv2Config(
        image_size=32, patch_size=4, embed_dim=8, depths=[1, 1, 1], num_heads=[2, 2, 2], window_size=4
    )
    model = Swinv2Model(config).eval()
    pixels = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        native = model(pixels, output_hidden_states=True).hidden_states
        with capture(model, [EMBEDDINGS, *find_stacks(model)["encoder.layers"]]) as taps:
            model(pixels)
    for ours, theirs in zip(taps.values(), native, strict=True):
        assert torch.equal(ours, theirs)


def test_a_shared_block_runs_several_times_in_one_pass():
    torch.manual_seed(0)
    small = {"vocab_size": 30, "embedding_size": 8, "hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 8}
    model = AlbertModel(AlbertConfig(num_hidden_layers=3, **small)).eval()
    ((_, blocks),) = find_stacks(model).items()
    with torch.no_grad():
        with (
            pytest.raises(RuntimeError, match=r"ran twice.*within one call.*calls='all'"),
            capture(model, blocks, stop=False),
        ):
            model(ids())
        native = model(ids(), output_hidden_states=True).hidden_states
        for calls in (3, "all"):
            with capture(model, blocks, calls=calls) as taps:
                model(ids())
            assert all(torch.equal(ours, theirs) for ours, theirs in zip(taps[blocks[0]], native[1:], strict=True))


@torch.no_grad()
def test_an_offloaded_model_is_left_offloaded():
    torch.manual_seed(0)
    model, inputs, *_ = llama()
    layers = [EMBEDDINGS, "model.layers.0", "model.layers.1"]
    with capture(model, layers) as taps:
        model(**inputs)
    cpu_offload(model, execution_device=torch.device("cpu"))
    places = {name: p.device.type for name, p in model.named_parameters()}
    assert "meta" in places.values()
    with capture(model, layers) as again:
        model(**inputs)
    assert {name: p.device.type for name, p in model.named_parameters()} == places
    assert all(torch.equal(taps[layer], again[layer]) for layer in layers)
