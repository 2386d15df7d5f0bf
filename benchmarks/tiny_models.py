"""41 tiny random-weight multimodal and diffusion models, built from configs alone: no weights, no hub, no torchvision.

`ZOO[name] = (family, build)`; `build()` returns `Built(model, inputs, vision)`: `model(**inputs)` is one forward pass at
batch 2, `vision()` is the call that exposes the vision tower's hidden states natively, where there is one. Every model
here was seen to build, run, repeat bit for bit and backpropagate on transformers 5.23, diffusers 0.42 and torch 2.13.

Source: the project's shared `tiny_zoo.py`.
"""
# One model is a few long lines of numbers, easier to compare with its neighbours than as pages of one number a line.
# fmt: off
# ruff: noqa: C408, E501, E702, E741

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import diffusers as D
import torch
import transformers as t
from torch import nn

H, I, L, NH, NKV, V = 32, 64, 4, 4, 2, 256       # hidden, mlp, text layers, heads, kv heads, vocab
VL = 3                                            # vision layers (!= L so stacks cannot be confused)
IMG = 200                                         # image placeholder token id everywhere
B = 2


@dataclass
class Built:
    model: nn.Module
    inputs: dict[str, Any]
    vision: Callable[[], Any] | None = None       # call that should natively expose vision hidden states


ZOO: dict[str, tuple[str, Callable[[], Built]]] = {}


def zoo(name: str, family: str):
    def deco(fn):
        ZOO[name] = (family, fn)
        return fn
    return deco


# ------------------------------------------------------------------------------------------------ helpers
def qwen2_text(**kw):
    return dict(dict(model_type="qwen2", vocab_size=V, hidden_size=H, intermediate_size=I, num_hidden_layers=L,
                num_attention_heads=NH, num_key_value_heads=NKV, max_position_embeddings=256,
                bos_token_id=1, eos_token_id=2, pad_token_id=0), **kw)


def llama_text(**kw):
    return qwen2_text(model_type="llama", **kw)


def siglip_vision(**kw):
    return dict(dict(model_type="siglip_vision_model", hidden_size=24, intermediate_size=48, num_hidden_layers=VL,
                num_attention_heads=4, image_size=32, patch_size=8), **kw)


def clip_vision(**kw):
    return siglip_vision(model_type="clip_vision_model", projection_dim=24, **kw)


def pix(b=B, s=32):
    return torch.randn(b, 3, s, s)


def feats_len(out) -> int:
    """number of projected image tokens (all images together) in get_image_features' result"""
    f = out.pooler_output if hasattr(out, "pooler_output") else out
    if isinstance(f, (list, tuple)):
        return sum(x.reshape(-1, x.shape[-1]).shape[0] for x in f)
    return f.reshape(-1, f.shape[-1]).shape[0]


def vlm(model, vision_kwargs, image_id=IMG, extra=None, prefix=3, suffix=5, feat_model=None) -> Built:
    """make input_ids with exactly as many placeholders as the model's own vision path gives"""
    model.eval()
    with torch.no_grad():
        n = feats_len((feat_model or model).get_image_features(**vision_kwargs))
    assert n % B == 0, n
    n //= B
    ids = torch.randint(5, 100, (B, prefix + n + suffix))
    ids[:, prefix:prefix + n] = image_id
    inputs = dict(input_ids=ids, attention_mask=torch.ones_like(ids), **vision_kwargs)
    if extra:
        inputs.update(extra(ids))
    return Built(model, inputs, vision=lambda: (feat_model or model).get_image_features(
        **vision_kwargs, output_hidden_states=True))


def mm_types(ids, image_id=IMG):
    return dict(mm_token_type_ids=(ids == image_id).int())


# ------------------------------------------------------------------------------------------------ transformers
@zoo("CLIPModel", "dual")
def _():
    c = t.CLIPConfig(text_config=dict(vocab_size=V, hidden_size=H, intermediate_size=I, num_hidden_layers=L,
        num_attention_heads=NH, max_position_embeddings=32, eos_token_id=2, bos_token_id=1), vision_config=clip_vision(),
        projection_dim=16)
    m = t.CLIPModel(c).eval(); ids = torch.randint(5, 100, (B, 9)); ids[:, -1] = 2
    px = pix()
    return Built(m, dict(input_ids=ids, pixel_values=px), vision=lambda: m.get_image_features(px, output_hidden_states=True))


@zoo("SiglipModel", "dual")
def _():
    c = t.SiglipConfig(text_config=dict(vocab_size=V, hidden_size=24, intermediate_size=I, num_hidden_layers=L,
        num_attention_heads=NH, max_position_embeddings=32, projection_size=24), vision_config=siglip_vision())
    m = t.SiglipModel(c).eval(); px = pix()
    return Built(m, dict(input_ids=torch.randint(5, 100, (B, 9)), pixel_values=px),
                 vision=lambda: m.get_image_features(px, output_hidden_states=True))


@zoo("Dinov2Model", "vision")
def _():
    m = t.Dinov2Model(t.Dinov2Config(hidden_size=24, num_hidden_layers=VL, num_attention_heads=4,
                                              image_size=32, patch_size=8)).eval()
    return Built(m, dict(pixel_values=pix()))


@zoo("DINOv3ViTModel", "vision")
def _():
    m = t.DINOv3ViTModel(t.DINOv3ViTConfig(hidden_size=32, intermediate_size=48, num_hidden_layers=VL,
        num_attention_heads=4, image_size=32, patch_size=8, num_register_tokens=2)).eval()
    return Built(m, dict(pixel_values=pix()))


@zoo("Qwen2Model (text LM)", "text")
def _():
    m = t.Qwen2ForCausalLM(t.Qwen2Config(**{k: v for k, v in qwen2_text().items() if k != "model_type"})).eval()
    return Built(m, dict(input_ids=torch.randint(5, 100, (B, 9))))


@zoo("Qwen3ForCausalLM (text LM)", "text")
def _():
    m = t.Qwen3ForCausalLM(t.Qwen3Config(**{k: v for k, v in qwen2_text(head_dim=8).items() if k != "model_type"})).eval()
    return Built(m, dict(input_ids=torch.randint(5, 100, (B, 9))))


@zoo("T5EncoderModel (text enc)", "text")
def _():
    m = t.T5EncoderModel(t.T5Config(vocab_size=V, d_model=H, d_ff=I, d_kv=8, num_layers=L, num_heads=NH)).eval()
    return Built(m, dict(input_ids=torch.randint(5, 100, (B, 9))))


@zoo("LlavaForConditionalGeneration", "vlm")
def _():
    c = t.LlavaConfig(vision_config=clip_vision(), text_config=llama_text(), image_token_index=IMG,
                               image_seq_length=16, vision_feature_layer=-2, vision_feature_select_strategy="default")
    m = t.LlavaForConditionalGeneration(c)
    return vlm(m, dict(pixel_values=pix()))


@zoo("LlavaOnevisionForConditionalGeneration", "vlm")
def _():
    c = t.LlavaOnevisionConfig(vision_config=siglip_vision(), text_config=qwen2_text(), image_token_index=IMG,
        video_token_index=IMG + 1, image_grid_pinpoints=[[32, 32], [32, 64]], vision_aspect_ratio="anyres_max_9")
    m = t.LlavaOnevisionForConditionalGeneration(c)
    px = torch.randn(B, 2, 3, 32, 32)
    return vlm(m, dict(pixel_values=px, image_sizes=torch.tensor([[32, 32]] * B)))


def _idefics(cls, cfg, **vis):
    c = getattr(t, cfg)(vision_config=dict(hidden_size=24, intermediate_size=48, num_hidden_layers=VL,
        num_attention_heads=4, image_size=32, patch_size=8), text_config=llama_text(), image_token_id=IMG, scale_factor=2)
    m = getattr(t, cls)(c)
    return vlm(m, dict(pixel_values=torch.randn(B, 1, 3, 32, 32)))


@zoo("SmolVLMForConditionalGeneration", "vlm")
def _():
    return _idefics("SmolVLMForConditionalGeneration", "SmolVLMConfig")


@zoo("Idefics3ForConditionalGeneration", "vlm")
def _():
    return _idefics("Idefics3ForConditionalGeneration", "Idefics3Config")


@zoo("PaliGemmaForConditionalGeneration", "vlm")
def _():
    c = t.PaliGemmaConfig(vision_config=siglip_vision(vision_use_head=False, projection_dim=H),
        text_config=qwen2_text(model_type="gemma", head_dim=8), image_token_index=IMG, projection_dim=H, vocab_size=V)
    m = t.PaliGemmaForConditionalGeneration(c)
    return vlm(m, dict(pixel_values=pix()), extra=lambda ids: dict(token_type_ids=torch.zeros_like(ids)))


@zoo("Qwen2VLForConditionalGeneration", "vlm")
def _():
    c = t.Qwen2VLConfig(vision_config=dict(depth=VL, embed_dim=32, hidden_size=H, num_heads=4, mlp_ratio=2,
        patch_size=8, spatial_merge_size=2, temporal_patch_size=2, in_channels=3),
        text_config=dict(qwen2_text(model_type="qwen2_vl_text"), rope_parameters=dict(rope_type="default", rope_theta=1e4, mrope_section=[1, 1, 2])),
        image_token_id=IMG, video_token_id=IMG + 1, vision_start_token_id=IMG + 2, vision_end_token_id=IMG + 3)
    m = t.Qwen2VLForConditionalGeneration(c)
    return vlm(m, dict(pixel_values=torch.randn(B * 16, 3 * 2 * 64), image_grid_thw=torch.tensor([[1, 4, 4]] * B)), extra=mm_types)


@zoo("Qwen2_5_VLForConditionalGeneration", "vlm")
def _():
    c = t.Qwen2_5_VLConfig(vision_config=dict(depth=VL, hidden_size=32, intermediate_size=48, out_hidden_size=H,
        num_heads=4, patch_size=8, spatial_merge_size=2, temporal_patch_size=2, in_channels=3, window_size=32,
        fullatt_block_indexes=[1], tokens_per_second=2),
        text_config=dict(qwen2_text(model_type="qwen2_5_vl_text"), rope_parameters=dict(rope_type="default", rope_theta=1e4, mrope_section=[1, 1, 2])),
        image_token_id=IMG, video_token_id=IMG + 1, vision_start_token_id=IMG + 2, vision_end_token_id=IMG + 3)
    m = t.Qwen2_5_VLForConditionalGeneration(c)
    return vlm(m, dict(pixel_values=torch.randn(B * 16, 3 * 2 * 64), image_grid_thw=torch.tensor([[1, 4, 4]] * B)), extra=mm_types)


def _qwen3vl(cfg, cls, text_type, **text):
    c = getattr(t, cfg)(vision_config=dict(depth=VL, hidden_size=32, intermediate_size=48, out_hidden_size=H,
        num_heads=4, patch_size=8, spatial_merge_size=2, temporal_patch_size=2, in_channels=3,
        num_position_embeddings=16, deepstack_visual_indexes=[0, 1]),
        text_config=dict(qwen2_text(model_type=text_type, head_dim=8, **text), rope_parameters=dict(rope_type="default", rope_theta=1e4, mrope_section=[2, 1, 1], mrope_interleaved=True)),
        image_token_id=IMG, video_token_id=IMG + 1, vision_start_token_id=IMG + 2, vision_end_token_id=IMG + 3)
    m = getattr(t, cls)(c)
    return vlm(m, dict(pixel_values=torch.randn(B * 16, 3 * 2 * 64), image_grid_thw=torch.tensor([[1, 4, 4]] * B)), extra=mm_types)


@zoo("Qwen3VLForConditionalGeneration", "vlm")
def _():
    return _qwen3vl("Qwen3VLConfig", "Qwen3VLForConditionalGeneration", "qwen3_vl_text")


@zoo("Qwen3_5ForConditionalGeneration", "vlm")
def _():
    c = t.Qwen3_5Config(vision_config=dict(depth=VL, hidden_size=32, intermediate_size=48, out_hidden_size=H,
        num_heads=4, patch_size=8, spatial_merge_size=2, temporal_patch_size=2, in_channels=3, num_position_embeddings=16),
        text_config=dict(qwen2_text(model_type="qwen3_5_text", head_dim=16), layer_types=["linear_attention", "full_attention"] * 2,
            linear_key_head_dim=8, linear_value_head_dim=8, linear_num_key_heads=2, linear_num_value_heads=4, linear_conv_kernel_dim=2,
            rope_parameters=dict(rope_type="default", rope_theta=1e4, mrope_section=[1, 1, 0], mrope_interleaved=True, partial_rotary_factor=0.25)),
        image_token_id=IMG, video_token_id=IMG + 1, vision_start_token_id=IMG + 2, vision_end_token_id=IMG + 3)
    m = t.Qwen3_5ForConditionalGeneration(c)
    return vlm(m, dict(pixel_values=torch.randn(B * 16, 3 * 2 * 64), image_grid_thw=torch.tensor([[1, 4, 4]] * B)), extra=mm_types)


@zoo("Gemma3ForConditionalGeneration", "vlm")
def _():
    c = t.Gemma3Config(vision_config=siglip_vision(vision_use_head=False), text_config=qwen2_text(model_type="gemma3_text", head_dim=8,
        sliding_window=16), mm_tokens_per_image=4, image_token_index=IMG, boi_token_index=IMG + 1, eoi_token_index=IMG + 2)
    m = t.Gemma3ForConditionalGeneration(c)
    return vlm(m, dict(pixel_values=pix()), extra=lambda ids: dict(token_type_ids=(ids == IMG).long()))


@zoo("Blip2ForConditionalGeneration", "vlm")
def _():
    c = t.Blip2Config(vision_config=dict(hidden_size=24, intermediate_size=48, num_hidden_layers=VL, num_attention_heads=4, image_size=32, patch_size=8),
        qformer_config=dict(vocab_size=V, hidden_size=24, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48, encoder_hidden_size=24, cross_attention_frequency=1),
        text_config=dict(model_type="opt", vocab_size=V, hidden_size=H, ffn_dim=I, num_hidden_layers=L, num_attention_heads=NH, max_position_embeddings=128, word_embed_proj_dim=H),
        num_query_tokens=4, image_token_index=IMG)
    m = t.Blip2ForConditionalGeneration(c).eval()
    ids = torch.randint(5, 100, (B, 10)); ids[:, :4] = IMG
    px = pix()
    return Built(m, dict(input_ids=ids, attention_mask=torch.ones_like(ids), pixel_values=px),
                 vision=lambda: m.get_image_features(px, output_hidden_states=True))


@zoo("Florence2ForConditionalGeneration (enc-dec)", "vlm")
def _():
    c = t.Florence2Config(vision_config=dict(embed_dim=[8, 16], depths=[1, 1], patch_size=[7, 3], patch_stride=[4, 2], patch_padding=[3, 1],
        patch_prenorm=[False, True], num_heads=[2, 2], num_groups=[2, 2], window_size=4, projection_dim=H),
        text_config=dict(model_type="bart", vocab_size=V, d_model=H, encoder_layers=L, decoder_layers=VL, encoder_attention_heads=NH, decoder_attention_heads=NH,
        encoder_ffn_dim=I, decoder_ffn_dim=I, max_position_embeddings=128, bos_token_id=0, eos_token_id=2, pad_token_id=1, decoder_start_token_id=2, is_encoder_decoder=True), image_token_id=IMG)
    m = t.Florence2ForConditionalGeneration(c)
    b = vlm(m, dict(pixel_values=pix(s=64)))
    b.inputs["decoder_input_ids"] = torch.randint(5, 100, (B, 6))
    return b


@zoo("FlavaModel (uni + fusion encoder)", "fusion-enc")
def _():
    k = dict(hidden_size=24, num_attention_heads=4, intermediate_size=48)
    c = t.FlavaConfig(image_config=dict(k, num_hidden_layers=VL, image_size=32, patch_size=8), text_config=dict(k, num_hidden_layers=L, vocab_size=V, max_position_embeddings=32),
        multimodal_config=dict(k, num_hidden_layers=2), hidden_size=24, projection_dim=16, init_codebook=False)
    m = t.FlavaModel(c).eval()
    return Built(m, dict(input_ids=torch.randint(5, 100, (B, 9)), pixel_values=pix()))


@zoo("JanusForConditionalGeneration", "unified")
def _():
    c = t.JanusConfig(vision_config=dict(hidden_size=32, num_hidden_layers=VL, num_attention_heads=4, image_size=32, patch_size=8,
        projection_dim=H, num_image_tokens=16, depth=2, mlp_ratio=2.0, hidden_dropout_rate=0.0, attention_dropout=0.0),
        text_config=llama_text(), vq_config=dict(embed_dim=8, num_embeddings=32, latent_channels=32, in_channels=3, base_channels=32,
        channel_multiplier=[1, 1], num_patches=16, projection_dim=H, image_token_embed_dim=H), image_token_id=IMG)
    m = t.JanusForConditionalGeneration(c)
    return vlm(m, dict(pixel_values=pix()), feat_model=m.model)


@zoo("ChameleonForConditionalGeneration", "unified")
def _():
    n = 12; vm = {"IMGIMG" + "".join(chr(ord("A") + int(ch)) for ch in str(i)) + "Z": i for i in range(10, 10 + n)}
    vm["<image>"] = IMG
    c = t.ChameleonConfig(vocab_size=V, hidden_size=H, intermediate_size=I, num_hidden_layers=L, num_attention_heads=NH, num_key_value_heads=NKV,
        max_position_embeddings=256, vocabulary_map=vm, vq_config=dict(embed_dim=12, num_embeddings=n, latent_channels=12, in_channels=3,
        base_channels=32, channel_multiplier=[1, 4], resolution=32))
    m = t.ChameleonForConditionalGeneration(c)
    return vlm(m, dict(pixel_values=pix(s=8)))


@zoo("Emu3ForConditionalGeneration", "unified")
def _():
    vm = {chr(1000 + i): i for i in range(V)}
    inv = {v: k for k, v in vm.items()}
    for i in range(10, 30):
        inv[i] = f"<|visual token {i - 10:06d}|>"
    inv[IMG] = "<image>"; inv[41] = "<|extra_200|>"
    c = t.Emu3Config(vq_config=dict(codebook_size=20, temporal_downsample_factor=1, base_channels=32, channel_multiplier=[1, 1], hidden_size=32, num_attention_heads=1),
        text_config=dict(vocab_size=V, hidden_size=H, intermediate_size=I, num_hidden_layers=L, num_attention_heads=NH, num_key_value_heads=NKV,
        max_position_embeddings=512, pad_token_id=0, bos_token_id=1, eos_token_id=2), vocabulary_map={v: k for k, v in inv.items()})
    m = t.Emu3ForConditionalGeneration(c)
    return vlm(m, dict(pixel_values=pix(s=8), image_sizes=torch.tensor([[8, 8]] * B)), feat_model=m.model)


@zoo("Qwen2_5OmniThinkerForConditionalGeneration", "omni")
def _():
    c = t.Qwen2_5OmniThinkerConfig(
        vision_config=dict(depth=VL, hidden_size=32, intermediate_size=48, out_hidden_size=H, num_heads=4, patch_size=8, spatial_merge_size=2,
            temporal_patch_size=2, in_channels=3, window_size=32, fullatt_block_indexes=[1]),
        audio_config=dict(d_model=H, encoder_layers=VL, encoder_attention_heads=NH, encoder_ffn_dim=I, num_mel_bins=16, max_source_positions=100, n_window=20, output_dim=H),
        text_config=dict(qwen2_text(model_type="qwen2_5_omni_text"), rope_parameters=dict(rope_type="default", rope_theta=1e4, mrope_section=[1, 1, 2])),
        image_token_id=IMG, video_token_id=IMG + 1, audio_token_id=IMG + 2, image_token_index=IMG, video_token_index=IMG + 1, audio_token_index=IMG + 2,
        vision_start_token_id=IMG + 3, vision_end_token_id=IMG + 4, audio_start_token_id=IMG + 5, audio_end_token_id=IMG + 6)
    m = t.Qwen2_5OmniThinkerForConditionalGeneration(c)
    return vlm(m, dict(pixel_values=torch.randn(B * 16, 3 * 2 * 64), image_grid_thw=torch.tensor([[1, 4, 4]] * B)))


# ------------------------------------------------------------------------------------------------ diffusers
@zoo("UNet2DConditionModel", "unet")
def _():
    m = D.UNet2DConditionModel(sample_size=16, block_out_channels=(16, 32), norm_num_groups=8, layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"), cross_attention_dim=H, attention_head_dim=8)
    return Built(m, dict(sample=torch.randn(B, 4, 16, 16), timestep=torch.tensor([10] * B), encoder_hidden_states=torch.randn(B, 7, H)))


@zoo("Transformer2DModel", "dit")
def _():
    m = D.Transformer2DModel(num_attention_heads=4, attention_head_dim=8, in_channels=32, num_layers=L, norm_num_groups=8, cross_attention_dim=24, sample_size=8)
    return Built(m, dict(hidden_states=torch.randn(B, 32, 8, 8), encoder_hidden_states=torch.randn(B, 7, 24)))


@zoo("DiTTransformer2DModel", "dit")
def _():
    m = D.DiTTransformer2DModel(num_attention_heads=4, attention_head_dim=8, in_channels=4, out_channels=8, num_layers=L, sample_size=8, patch_size=2, num_embeds_ada_norm=8)
    return Built(m, dict(hidden_states=torch.randn(B, 4, 8, 8), timestep=torch.tensor([3] * B), class_labels=torch.tensor([1] * B)))


@zoo("PixArtTransformer2DModel", "dit")
def _():
    m = D.PixArtTransformer2DModel(num_attention_heads=4, attention_head_dim=8, in_channels=4, out_channels=8, num_layers=L, cross_attention_dim=H, sample_size=8,
        patch_size=2, caption_channels=24, use_additional_conditions=False, num_embeds_ada_norm=1000)
    return Built(m, dict(hidden_states=torch.randn(B, 4, 8, 8), encoder_hidden_states=torch.randn(B, 7, 24), timestep=torch.tensor([3] * B),
                         added_cond_kwargs=dict(resolution=None, aspect_ratio=None)))


@zoo("SanaTransformer2DModel", "dit")
def _():
    m = D.SanaTransformer2DModel(in_channels=4, out_channels=4, num_attention_heads=4, attention_head_dim=8, num_layers=L, num_cross_attention_heads=4,
        cross_attention_head_dim=8, cross_attention_dim=H, caption_channels=24, mlp_ratio=2.0, sample_size=8, patch_size=1)
    return Built(m, dict(hidden_states=torch.randn(B, 4, 8, 8), encoder_hidden_states=torch.randn(B, 7, 24), timestep=torch.tensor([3] * B)))


@zoo("SD3Transformer2DModel", "mmdit")
def _():
    m = D.SD3Transformer2DModel(sample_size=8, patch_size=2, in_channels=4, out_channels=4, num_layers=L, attention_head_dim=8, num_attention_heads=4,
        joint_attention_dim=24, caption_projection_dim=H, pooled_projection_dim=16, pos_embed_max_size=16, qk_norm="rms_norm", dual_attention_layers=(0,))
    return Built(m, dict(hidden_states=torch.randn(B, 4, 8, 8), encoder_hidden_states=torch.randn(B, 7, 24), pooled_projections=torch.randn(B, 16), timestep=torch.tensor([3] * B)))


def ids3(n, d=3):
    x = torch.zeros(n, d); s = int(n ** 0.5); x[:, 1] = torch.arange(n) // max(s, 1); x[:, 2] = torch.arange(n) % max(s, 1); return x


@zoo("FluxTransformer2DModel", "mmdit")
def _():
    m = D.FluxTransformer2DModel(patch_size=1, in_channels=4, num_layers=2, num_single_layers=3, attention_head_dim=16, num_attention_heads=2, joint_attention_dim=24,
        pooled_projection_dim=16, axes_dims_rope=(4, 4, 8))
    return Built(m, dict(hidden_states=torch.randn(B, 16, 4), encoder_hidden_states=torch.randn(B, 7, 24), pooled_projections=torch.randn(B, 16),
        timestep=torch.tensor([0.5] * B), img_ids=ids3(16), txt_ids=torch.zeros(7, 3)))


@zoo("Flux2Transformer2DModel", "mmdit")
def _():
    m = D.Flux2Transformer2DModel(patch_size=1, in_channels=4, num_layers=2, num_single_layers=3, attention_head_dim=16, num_attention_heads=2, joint_attention_dim=24,
        timestep_guidance_channels=32, axes_dims_rope=(4, 4, 4, 4))
    return Built(m, dict(hidden_states=torch.randn(B, 16, 4), encoder_hidden_states=torch.randn(B, 7, 24), timestep=torch.tensor([0.5] * B),
        img_ids=ids3(16, 4), txt_ids=torch.zeros(7, 4), guidance=torch.tensor([1.0] * B)))


@zoo("QwenImageTransformer2DModel", "mmdit")
def _():
    m = D.QwenImageTransformer2DModel(patch_size=2, in_channels=16, out_channels=4, num_layers=L, attention_head_dim=16, num_attention_heads=2, joint_attention_dim=24, axes_dims_rope=(4, 4, 8))
    return Built(m, dict(hidden_states=torch.randn(B, 16, 16), encoder_hidden_states=torch.randn(B, 7, 24), encoder_hidden_states_mask=torch.ones(B, 7, dtype=torch.long),
        timestep=torch.tensor([0.5] * B), img_shapes=[(1, 4, 4)] * B))


@zoo("Lumina2Transformer2DModel", "single-stream")
def _():
    m = D.Lumina2Transformer2DModel(sample_size=8, patch_size=2, in_channels=4, hidden_size=24, num_layers=L, num_refiner_layers=2, num_attention_heads=3, num_kv_heads=1,
        multiple_of=16, axes_dim_rope=(4, 2, 2), axes_lens=(64, 64, 64), cap_feat_dim=24)
    return Built(m, dict(hidden_states=torch.randn(B, 4, 8, 8), encoder_hidden_states=torch.randn(B, 7, 24), timestep=torch.rand(B), encoder_attention_mask=torch.ones(B, 7, dtype=torch.bool)))


@zoo("HunyuanDiT2DModel", "dit")
def _():
    m = D.HunyuanDiT2DModel(sample_size=16, patch_size=2, in_channels=4, num_layers=L, attention_head_dim=8, num_attention_heads=2, cross_attention_dim=8, cross_attention_dim_t5=8,
        pooled_projection_dim=4, hidden_size=16, text_len=4, text_len_t5=4, activation_fn="gelu-approximate", mlp_ratio=2.0)
    rope = D.models.embeddings.get_2d_rotary_pos_embed(8, ((0, 0), (8, 8)), (8, 8), output_type="pt")
    return Built(m, dict(hidden_states=torch.randn(B, 4, 16, 16), encoder_hidden_states=torch.randn(B, 4, 8), text_embedding_mask=torch.ones(B, 4), encoder_hidden_states_t5=torch.randn(B, 4, 8),
        text_embedding_mask_t5=torch.ones(B, 4), timestep=torch.tensor([3.0] * B), image_meta_size=torch.tensor([[16., 16, 16, 16, 0, 0]] * B), style=torch.zeros(B, dtype=torch.long), image_rotary_emb=list(rope)))


@zoo("WanTransformer3DModel", "video")
def _():
    m = D.WanTransformer3DModel(patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=12, in_channels=4, out_channels=4, text_dim=24, freq_dim=256, ffn_dim=32, num_layers=L, rope_max_seq_len=32)
    return Built(m, dict(hidden_states=torch.randn(B, 4, 2, 8, 8), timestep=torch.tensor([3] * B), encoder_hidden_states=torch.randn(B, 7, 24)))


@zoo("CogVideoXTransformer3DModel", "video")
def _():
    m = D.CogVideoXTransformer3DModel(num_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=4, time_embed_dim=2, text_embed_dim=24, num_layers=L, sample_width=8, sample_height=8,
        sample_frames=8, patch_size=2, temporal_compression_ratio=4, max_text_seq_length=7)
    return Built(m, dict(hidden_states=torch.randn(B, 2, 4, 8, 8), encoder_hidden_states=torch.randn(B, 7, 24), timestep=torch.tensor([3] * B)))


@zoo("LTXVideoTransformer3DModel", "video")
def _():
    m = D.LTXVideoTransformer3DModel(in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=8, cross_attention_dim=16, num_layers=L, caption_channels=24)
    return Built(m, dict(hidden_states=torch.randn(B, 32, 4), encoder_hidden_states=torch.randn(B, 7, 24), timestep=torch.tensor([3] * B), encoder_attention_mask=torch.ones(B, 7, dtype=torch.bool), num_frames=2, height=4, width=4))


@zoo("Cosmos3OmniTransformer (MoT)", "unified")
def _():
    m = D.Cosmos3OmniTransformer(hidden_size=H, intermediate_size=I, head_dim=8, num_attention_heads=NH, num_key_value_heads=NKV, num_hidden_layers=L, vocab_size=V, latent_channel=4,
        patch_latent_dim=16, dtype="float32", rope_axes_dim=[2, 1, 1])
    nt, nv = 7, 16; n = nt + nv
    return Built(m, dict(input_ids=torch.randint(5, 100, (nt,)), text_indexes=torch.arange(nt), position_ids=torch.arange(n)[None].repeat(3, 1), und_len=nt, sequence_length=n,
        vision_tokens=[torch.randn(1, 4, 1, 8, 8)], vision_token_shapes=[(1, 4, 4)], vision_sequence_indexes=torch.arange(nt, n), vision_mse_loss_indexes=torch.arange(nt, n),
        vision_timesteps=torch.full((nv,), 500.0), vision_noisy_frame_indexes=[torch.tensor([0])]))


@zoo("AutoencoderKL", "vae")
def _():
    m = D.AutoencoderKL(block_out_channels=(8, 16), down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2, norm_num_groups=4, sample_size=16)
    return Built(m, dict(sample=pix(s=16)))


@zoo("VQModel", "vae")
def _():
    m = D.VQModel(block_out_channels=(8, 16), down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2, norm_num_groups=4, latent_channels=3, num_vq_embeddings=32)
    return Built(m, dict(sample=pix(s=16)))
