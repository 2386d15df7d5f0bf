"""Build tiny random-weight models of transformers (`tiny_models` lists all)."""
# One model is a few long lines of numbers, easier to compare with its neighbours than as pages of one number a line.
# fmt: off
# ruff: noqa: C408, E501, E702

from __future__ import annotations

import torch
import transformers as t

from .tiny_built import IMG, NH, NKV, VL, B, Built, H, I, L, Table, V, into, pix

TRANSFORMERS: Table = {}
zoo = into(TRANSFORMERS)


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


def feats_len(out) -> int:
    """Count the projected image tokens, of all images together, in the result of get_image_features."""
    f = out.pooler_output if hasattr(out, "pooler_output") else out
    if isinstance(f, (list, tuple)):
        return sum(x.reshape(-1, x.shape[-1]).shape[0] for x in f)
    return f.reshape(-1, f.shape[-1]).shape[0]


def vlm(model, vision_kwargs, image_id=IMG, extra=None, prefix=3, suffix=5, feat_model=None) -> Built:
    """Make input_ids with exactly as many placeholders as the model's vision path returns tokens."""
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
