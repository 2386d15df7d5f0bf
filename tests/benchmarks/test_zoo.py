"""The zoo: where a model gives out hidden states of its own, ours are those, bit for bit, at every layer."""

from __future__ import annotations

import pandas as pd
import pytest
import torch

from bridgework.benchmarks import architectures
from bridgework.benchmarks.support.tiny_models import ZOO
from bridgework.benchmarks.zoo import survey
from bridgework.probes.hooks.block_stacks import find_stacks


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    return survey(rounds=0).fillna("")


def test_every_model_is_there(table):
    assert list(dict.fromkeys(table["model"])) == list(ZOO)
    assert len(ZOO) == 41


def test_native_hidden_states_are_ours(table):
    native = table[table["native"] != ""]
    assert len(native) >= 38
    for row in native.itertuples():
        assert row.native == f"{row.blocks + 1} of {row.blocks + 1}", row


def test_every_transformers_stack_with_tokens_is_compared(table):
    """But for those whose states the model does not give out: a Q-Former, a fusion encoder, a pixel tokenizer."""
    kinds = ("dual", "vision", "text", "vlm", "fusion-enc", "omni")
    there = table[table["family"].isin(kinds) & (table["tokens"] != "does not run in this pass")]
    assert list(there[there["native"] == ""]["stack"]) == ["qformer.encoder.layer", "multimodal_model.encoder.layer"]


def test_what_a_model_does_between_blocks(table):
    deepstack = table[(table["model"] == "Qwen3VLForConditionalGeneration") & (table["blocks"] == 4)]
    assert list(deepstack["between"]) == ["1, 2"]
    others = table[(table["between"] != "") & ~table.index.isin(deepstack.index)]
    assert list(others["stack"]) == ["model.vision_tower.blocks"]  # Florence-2's stages, with a patch embedding each


UNUSUAL = {
    "jamba": {"layers": 32},  # blocks of two classes
    "zamba": {"layers": 76},
    "olmo_hybrid": {"layers": 32},
    "glpn": {"encoder.block": 8},  # a list of lists
    "qwen3_vl_vision": {"blocks": 27},  # beside a list of mergers
    "mgp-str": {"mgp_str.encoder.blocks": 12},  # a Sequential
    "bridgetower": {
        "vision_model.visual.transformer.resblocks": 12,
        "text_model.encoder.layer": 12,
        "cross_modal_image_layers": 6,
        "cross_modal_text_layers": 6,
    },
    "UNet2DConditionModel": {"down_blocks": 4, "mid_block": 1, "up_blocks": 4},
    "AutoencoderKLCogVideoX": {
        "encoder.down_blocks": 4,
        "encoder.mid_block": 1,
        "decoder.mid_block": 1,
        "decoder.up_blocks": 4,
    },
}


@pytest.fixture(scope="module")
def builders():
    return {name: build for _, name, build in architectures.architectures()}


@pytest.mark.parametrize("name", UNUSUAL)
def test_stacks_of_unusual_architectures(name, builders):
    with torch.device("meta"):
        model, _ = builders[name]()
    assert {path: len(blocks) for path, blocks in find_stacks(model).items()} == UNUSUAL[name]
