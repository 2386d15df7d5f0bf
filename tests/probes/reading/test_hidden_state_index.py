"""Indices of hidden states: what each family returns where, found by running it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers as tf

from bridgework.probes import hidden_states_index, layer_of_hidden_states

SIZE = {"vocab_size": 40, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 3, "num_attention_heads": 2}
PIXELS = {"image_size": 16, "patch_size": 8}
PLAIN = ["embeddings", "0", "1", "2"]
NORMED = ["embeddings", "0", "1", "final_norm"]
FAMILIES: dict[str, tuple[Any, list[str]]] = {
    "Llama": (lambda: tf.LlamaForCausalLM(tf.LlamaConfig(**SIZE)), NORMED),
    "Gemma 2": (lambda: tf.Gemma2Model(tf.Gemma2Config(**SIZE, num_key_value_heads=2, head_dim=8)), NORMED),
    "GPT-2": (lambda: tf.GPT2Model(tf.GPT2Config(vocab_size=40, n_embd=16, n_layer=3, n_head=2)), NORMED),
    "BLOOM": (lambda: tf.BloomModel(tf.BloomConfig(vocab_size=40, hidden_size=16, n_layer=3, n_head=2)), NORMED),
    "Mamba": (
        lambda: tf.MambaModel(tf.MambaConfig(vocab_size=40, hidden_size=16, num_hidden_layers=3)),
        ["0", "1", "2", "final_norm"],
    ),
    "BERT": (lambda: tf.BertModel(tf.BertConfig(**SIZE)), PLAIN),
    "T5 encoder": (
        lambda: tf.T5EncoderModel(tf.T5Config(vocab_size=40, d_model=16, d_kv=8, d_ff=16, num_layers=3, num_heads=2)),
        NORMED,
    ),
    "DINOv2": (lambda: tf.Dinov2Model(tf.Dinov2Config(**SIZE, **PIXELS)), PLAIN),
    "SigLIP": (lambda: tf.SiglipVisionModel(tf.SiglipVisionConfig(**SIZE, **PIXELS)), PLAIN),
    "ALBERT": (lambda: tf.AlbertModel(tf.AlbertConfig(**SIZE, embedding_size=8)), ["embeddings", "0@1", "0@2", "0@3"]),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_each_index_is_its_layer(family):
    build, layers = FAMILIES[family]
    torch.manual_seed(0)
    model = build()
    assert [layer_of_hidden_states(model, index) for index in range(4)] == layers
    assert [hidden_states_index(model, layer) for layer in layers] == [0, 1, 2, 3]


def test_what_hidden_states_do_not_hold():
    model = tf.LlamaModel(tf.LlamaConfig(**SIZE))
    with pytest.raises(ValueError, match=r"do not hold layer 2: they are 0: embeddings, .*, 3: final_norm\. extract"):
        hidden_states_index(model, 2)
    assert hidden_states_index(model, 1) == 2
    with pytest.raises(ValueError, match="returns 4 hidden states: there is no index 4"):
        layer_of_hidden_states(model, 4)
    with pytest.raises(ValueError, match="several stacks: say which, as stack="):
        hidden_states_index(tf.CLIPModel(tf.CLIPConfig(text_config=SIZE, vision_config=SIZE | PIXELS)), 0)
