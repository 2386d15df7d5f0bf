"""Build tiny random-weight models of diffusers (`tiny_models` lists all)."""
# One model is a few long lines of numbers, easier to compare with its neighbours than as pages of one number a line.
# fmt: off
# ruff: noqa: C408, E501, E702

from __future__ import annotations

import diffusers as D
import torch

from .tiny_built import NH, NKV, B, Built, H, I, L, Table, V, into, pix

DIFFUSERS: Table = {}
zoo = into(DIFFUSERS)


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
