"""Sites: what each of them is, by an identity of the parts of a block."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
import transformers as tf
from torch import Tensor

from bridgework.probes.curves.curve import alignment_curve
from bridgework.probes.extraction.extracting import extract
from bridgework.probes.reading.sites import find_site
from bridgework.probes.stimuli.stimulus_set import Stimulus
from bridgework.probes.subjects.any_model import AnyModel
from bridgework.tests.probes.toys import letters

STIMULI = letters("abc", "cde", "efg", "hij")
SIZE = {"vocab_size": 40, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
SIZE |= {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "initializer_range": 0.3}
HEADS = {"num_key_value_heads": 2}
GPT2 = {"vocab_size": 40, "n_embd": 16, "n_layer": 2, "n_head": 2, "bos_token_id": 1, "eos_token_id": 2}
T5 = {"vocab_size": 40, "d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 2, "num_heads": 2}
EXPERTS = HEADS | {"num_local_experts": 4, "num_experts_per_tok": 2}
OPT = {"word_embed_proj_dim": 16, "ffn_dim": 24, "do_layer_norm_before": True}
PRE_NORM: dict[str, Any] = {
    "Llama": lambda: tf.LlamaModel(tf.LlamaConfig(**SIZE)),
    "Qwen3": lambda: tf.Qwen3Model(tf.Qwen3Config(**SIZE, **HEADS, head_dim=8)),
    "Mixtral": lambda: tf.MixtralModel(tf.MixtralConfig(**SIZE, **EXPERTS)),
    "GPT-2": lambda: tf.GPT2Model(tf.GPT2Config(**GPT2)),
    "OPT": lambda: tf.OPTModel(tf.OPTConfig(**SIZE, **OPT)),
    "BLOOM": lambda: tf.BloomModel(tf.BloomConfig(vocab_size=40, hidden_size=16, n_layer=2, n_head=2)),
    "T5": lambda: tf.T5EncoderModel(tf.T5Config(**T5)),
    "SigLIP": lambda: tf.SiglipVisionModel(tf.SiglipVisionConfig(**SIZE, image_size=16, patch_size=8)),
    "ViT": lambda: tf.ViTModel(tf.ViTConfig(**SIZE, image_size=16, patch_size=8)),
}


def inputs(stimuli: Sequence[Stimulus], modalities: tuple[str, ...], *_: Any) -> dict[str, Tensor]:
    if modalities == ("image",):
        tones = [ord(s.id.removeprefix("id ")[0]) / 50 - 2 for s in stimuli]
        return {"pixel_values": torch.stack([torch.full((3, 16, 16), tone) for tone in tones])}
    ids = torch.tensor([[8 + ord(letter) % 30 for letter in s.text] for s in stimuli])
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def probe(model: Any, layers: Sequence[str] | None, **options: Any) -> Any:
    kind = "image" if model.main_input_name == "pixel_values" else "text"
    return extract(AnyModel(model.eval(), inputs, modalities=(kind,)), STIMULI, layers=layers, **options)[kind]


@pytest.mark.parametrize("family", PRE_NORM)
def test_a_state_is_the_sum_of_its_parts(family):
    torch.manual_seed(0)
    sites = ["1.attention", "1.middle", "1.mlp"] if family != "BLOOM" else ["1.attention", "1.mlp"]
    features = probe(PRE_NORM[family](), ["0", "1", *sites])
    before, after, parts = features.layer("0"), features.layer("1"), {site: features.layer(site) for site in sites}
    assert all(part.abs().max() > 1e-3 for part in parts.values())
    total = before + parts["1.attention"] + parts["1.mlp"]
    torch.testing.assert_close(after, total, rtol=1e-4, atol=1e-5)
    if "1.middle" in parts:
        torch.testing.assert_close(parts["1.middle"], before + parts["1.attention"], rtol=1e-4, atol=1e-5)
    assert features.layers == ("0", *sites, "1")
    assert list(features.depths) == sorted(features.depths)
    assert features.depths[1] == 0.625  # block 1 of 2, at a quarter


def test_a_block_that_norms_behind_its_parts():
    """BERT: the state between is the normed sum, and so is the block's output."""
    torch.manual_seed(0)
    model = tf.BertModel(tf.BertConfig(**SIZE))
    features = probe(model, ["0", "1", "1.attention", "1.middle", "1.mlp"], pooling="none")
    parts = {name: features.layer(name) for name in features.layers}
    block = model.encoder.layer[1]
    between = block.attention.output.LayerNorm(parts["0"] + parts["1.attention"])
    torch.testing.assert_close(parts["1.middle"], between, rtol=1e-4, atol=1e-5)
    after = block.output.LayerNorm(parts["1.middle"] + parts["1.mlp"])
    torch.testing.assert_close(parts["1"], after, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match=r"BertModel has no norm behind 'encoder.layer.1'"):
        probe(model, ["final_norm"])


def test_gates_and_scales_come_behind_a_site():
    torch.manual_seed(0)
    model = tf.Dinov2Model(tf.Dinov2Config(**SIZE, image_size=16, patch_size=8, layerscale_value=0.5))
    features = probe(model, ["0", "1.attention", "1.middle"])
    scaled = features.layer("0") + 0.5 * features.layer("1.attention")
    torch.testing.assert_close(features.layer("1.middle"), scaled, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", ["Llama", "GPT-2", "T5", "OPT", "ViT"])
@torch.no_grad()
def test_the_final_norm_is_the_last_hidden_state(family):
    torch.manual_seed(0)
    model = PRE_NORM[family]().eval()
    kind = "image" if family == "ViT" else "text"
    native = model(**inputs(list(STIMULI), (kind,))).last_hidden_state
    ours = probe(model, ["final_norm"], pooling="none", tokens={kind: slice(None)})
    assert torch.equal(ours.layer("final_norm"), native[:, -ours.values.shape[2] :])
    assert ours.depths == (1.0,)


def test_a_connector_gives_what_enters_the_language_model():
    torch.manual_seed(0)
    vision = {"hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 16, "patch_size": 8}
    config = tf.LlavaConfig(
        vision_config={**vision, "model_type": "siglip_vision_model", "intermediate_size": 24},
        text_config={**SIZE, "model_type": "llama"}, image_token_index=35, image_seq_length=4,
        vision_feature_layer=-1, vision_feature_select_strategy="full",
    )  # fmt: skip
    model = tf.LlavaForConditionalGeneration(config).eval()

    def both(stimuli: Sequence[Stimulus], modalities: tuple[str, ...], *_: Any) -> dict[str, Tensor]:
        if modalities == ("text",):
            return inputs(stimuli, modalities)
        return inputs(stimuli, ("image",)) | {"input_ids": torch.tensor([[8, 35, 35, 35, 35, 9]] * len(stimuli))}

    subject = AnyModel(model, both, stack="model.language_model.layers")
    features = extract(subject, STIMULI, layers=["connector", "embeddings", "0.mlp"], pooling="mean")
    projected: list[Tensor] = []
    model.model.multi_modal_projector.register_forward_hook(lambda module, given, output: projected.append(output))
    model(**both(list(STIMULI), ("image",)))
    torch.testing.assert_close(features["image"].layer("connector"), projected[0].mean(1), rtol=1e-5, atol=1e-6)
    assert features["image"].layers == ("connector", "embeddings", "0.mlp")
    assert features["text"].layers == ("embeddings", "0.mlp")
    with pytest.raises(ValueError, match="LlamaModel has no connector"):
        probe(PRE_NORM["Llama"](), ["connector"])


def test_any_module_by_its_path(tmp_path):
    torch.manual_seed(0)
    model = PRE_NORM["Llama"]()
    path = "layers.1.mlp.down_proj"
    features = probe(model, [path, "layers.1.mlp:input", "1.mlp", "0"], store=tmp_path)
    assert torch.equal(features.layer(path), features.layer("1.mlp"))
    hidden = probe(model, ["layers.1.post_attention_layernorm"])
    assert torch.equal(features.layer("layers.1.mlp:input"), hidden.values[0])
    curve = alignment_curve(features, features, metric="cka")
    assert list(curve["layer"]) == list(features.layers)


def test_what_has_no_such_site_is_refused_before_the_first_pass():
    parallel = tf.GPTNeoXModel(tf.GPTNeoXConfig(**SIZE, use_parallel_residual=True))
    for model, layer, message in (
        (parallel, "1.middle", r"block 'layers.1' has no middle .* it has the parts layers.1.input_layernorm, "),
        (parallel, "1.moe", r"no layer '1.moe': expected embeddings, 0 to 1"),
        (tf.MambaModel(tf.MambaConfig(**SIZE, state_size=4)), "1.attention", r"'layers.1' has no attention .*mixer"),
    ):
        ran: list[int] = []
        model.register_forward_pre_hook(lambda *_: ran.append(1))  # noqa: B023
        with pytest.raises(ValueError, match=message):
            probe(model, [layer])
        assert not ran
    sequential = tf.GPTNeoXModel(tf.GPTNeoXConfig(**SIZE, use_parallel_residual=False))
    assert find_site(sequential, ["layers.0", "layers.1"], "1.middle").path == "layers.1.post_attention_layernorm:input"
