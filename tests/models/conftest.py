"""Tiny experts of the same families as ours, random weights: four text blocks (grouped queries), three MMDiT blocks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import SD3Transformer2DModel
from transformers import (
    AutoImageProcessor,
    AutoTokenizer,
    LlavaConfig,
    LlavaForConditionalGeneration,
    T5Config,
    T5EncoderModel,
)

from bridgework.models.experts.diffusion.latent_generator import LatentGenerator
from bridgework.models.experts.diffusion.opening_pipelines import open_pipeline
from bridgework.models.experts.opening import CHECKPOINTS
from bridgework.models.experts.pixel_dit import DitExpert
from bridgework.models.experts.vision_language import LlavaExpert
from bridgework.models.fusion import expert_passes
from bridgework.models.fusion.fused_model import FusedModel
from bridgework.models.scenes.composing import scene_stimuli
from bridgework.models.towers.finding import find_tower
from bridgework.models.towers.tower import Tower
from bridgework.probes.plans.bridge_plan import BridgePlan
from bridgework.probes.plans.layouts import lay_out
from bridgework.probes.stimuli.stimulus_set import Stimuli
from bridgework.tests.models.tiny_pipelines import SIDES, save


@pytest.fixture(scope="session")
def tokenizer():
    return AutoTokenizer.from_pretrained(CHECKPOINTS / "scenes-vlm")


def build_vlm(tokenizer) -> LlavaExpert:
    vision = {"model_type": "siglip_vision_model", "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
        "num_attention_heads": 2, "image_size": 32, "patch_size": 8, "vision_use_head": False}  # fmt: skip
    text = {"model_type": "llama", "vocab_size": len(tokenizer), "hidden_size": 16, "intermediate_size": 24,
        "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128,
        "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "initializer_range": 0.2}  # fmt: skip
    config = LlavaConfig(
        vision_config=vision, text_config=text, image_token_index=4, image_seq_length=16, vision_feature_layer=-1,
        vision_feature_select_strategy="full",
    )  # fmt: skip
    torch.manual_seed(0)
    model = LlavaForConditionalGeneration(config).eval()
    processor = AutoImageProcessor.from_pretrained(CHECKPOINTS / "scenes-vlm", backend="pil")
    blocks = tuple(f"model.language_model.layers.{i}" for i in range(4))
    return LlavaExpert("tiny-vlm", model, tokenizer, processor, blocks)


def build_dit(tokenizer) -> DitExpert:
    torch.manual_seed(1)
    model = SD3Transformer2DModel(
        sample_size=32, patch_size=8, in_channels=3, out_channels=3, num_layers=3, attention_head_dim=6,
        num_attention_heads=2, joint_attention_dim=16, caption_projection_dim=12, pooled_projection_dim=8,
        pos_embed_max_size=4, qk_norm="rms_norm",
    )  # fmt: skip
    encoder = T5EncoderModel(
        T5Config(
            vocab_size=len(tokenizer), d_model=16, d_kv=8, d_ff=24, num_layers=2, num_heads=2, dropout_rate=0.0,
            pad_token_id=0, eos_token_id=2, is_encoder_decoder=False,
        )
    )  # fmt: skip
    blocks = tuple(f"transformer_blocks.{i}" for i in range(3))
    return DitExpert("tiny-dit", model.eval(), encoder.eval(), tokenizer, blocks)


@pytest.fixture(scope="session")
def tiny_vlm(tokenizer) -> LlavaExpert:
    return build_vlm(tokenizer)


@pytest.fixture(scope="session")
def tiny_dit(tokenizer) -> DitExpert:
    return build_dit(tokenizer)


@pytest.fixture
def plan() -> BridgePlan:
    return BridgePlan(((0, 0), (2, 1), (3, 2)), "image", "alignment", {}, 4, 3)


@pytest.fixture
def make_experts(tokenizer) -> Callable[[], tuple[LlavaExpert, DitExpert]]:
    """New experts for every call, so that no test can spoil them for the next; always the same weights."""
    return lambda: (build_vlm(tokenizer), build_dit(tokenizer))


TOWERS: dict[Any, Tower] = {}


def find_once(model: Any, inputs: Any, **options: Any) -> Tower:
    """As `find_tower`, once for all models that differ in nothing but weights."""
    attention = getattr(model.config, "_attn_implementation", None)
    key = repr(model), str(model.config), attention, *sorted(options.items())
    if key not in TOWERS:
        TOWERS[key] = find_tower(model, inputs, **options)
    return replace(TOWERS[key], model=model)


@pytest.fixture
def fuse(make_experts, monkeypatch) -> Callable[[BridgePlan], FusedModel]:
    """A new model of new experts for every call; the towers of all fused models of the test are found once."""
    monkeypatch.setattr(expert_passes, "find_tower", find_once)

    def build(plan: BridgePlan) -> FusedModel:
        understanding, generation = make_experts()
        torch.manual_seed(2)
        return FusedModel(understanding, generation, plan)

    return build


@pytest.fixture(scope="session")
def pipeline(tmp_path_factory) -> Callable[[str], LatentGenerator]:
    """A tiny pipeline of a family as a generation expert, opened once: nothing trains it."""
    opened: dict[str, LatentGenerator] = {}

    def get(family: str) -> LatentGenerator:
        if family not in opened:
            folder = save(family, tmp_path_factory.mktemp("pipeline"))
            opened[family] = LatentGenerator(open_pipeline(folder, side=SIDES.get(family, 32)))
        return opened[family]

    return get


@pytest.fixture
def fuse_pipeline(pipeline, tokenizer) -> Callable[..., FusedModel]:
    """A new understanding expert and bridges on a pipeline that all models share."""

    def build(family: str, **fields: Any) -> FusedModel:
        generation = pipeline(family)
        torch.manual_seed(2)
        return FusedModel(build_vlm(tokenizer), generation, lay_out("H", 4, len(generation.blocks), **fields))

    return build


@pytest.fixture(scope="session")
def stimuli() -> Stimuli:
    return scene_stimuli("train", 5)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)
