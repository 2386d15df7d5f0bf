"""Build tiny random-weight pipelines of diffusers that the tests have no room for, and some that are refused."""
# As in tiny_diffusers: one pipeline is a few long lines of numbers.
# fmt: off
# ruff: noqa: E501

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from types import SimpleNamespace
from typing import Any

import diffusers as D
import torch
import transformers as T

from ...tests.models.tiny_pipelines import (
    LANGUAGE,
    TINY,
    VOCABULARY,
    chat_tokenizer,
    clip,
    clip_tokenizer,
    flow,
    kl,
    t5,
    t5_tokenizer,
    tokenizer,
    unet,
    wan_vae,
)

for _name in ("prx.pipeline_prx", "skyreels_v2.pipeline_skyreels_v2", "skyreels_v2.pipeline_skyreels_v2_diffusion_forcing", "anyflow.pipeline_anyflow"):
    _module = import_module(f"diffusers.pipelines.{_name}")
    if not hasattr(_module, "ftfy"):  # a library that mends broken characters, of which there are none here
        setattr(_module, "ftfy", SimpleNamespace(fix_text=str))  # noqa: B010

RARE: dict[str, Callable[[], Any]] = {}


def rare(name: str) -> Callable[[Callable[[], Any]], Callable[[], Any]]:
    """Return a decorator that puts a builder into the table.

    Parameters
    ----------
    name : str
        The family.

    Returns
    -------
    callable
    """

    def enter(build: Callable[[], Any]) -> Callable[[], Any]:
        RARE[name] = build
        return build

    return enter


def _umt5() -> Any:
    return T.UMT5EncoderModel(T.UMT5Config(vocab_size=VOCABULARY, d_model=16, d_kv=8, d_ff=24, num_layers=2, num_heads=2))


def _unipc() -> Any:
    return D.UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)


def _skyreels() -> Any:
    return D.SkyReelsV2Transformer3DModel(patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=12, in_channels=16, out_channels=16, text_dim=16, freq_dim=32, ffn_dim=32, num_layers=2, rope_max_seq_len=32)


def _vq() -> Any:
    return D.VQModel(block_out_channels=(8, 16), down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2, norm_num_groups=4, latent_channels=4, num_vq_embeddings=8)


@rare("Z-Image")
def _() -> Any:
    m = D.ZImageTransformer2DModel(all_patch_size=(2,), all_f_patch_size=(1,), in_channels=16, dim=32, n_layers=2, n_refiner_layers=1, n_heads=2, n_kv_heads=2, cap_feat_dim=16, axes_dims=[8, 4, 4], axes_lens=[512, 32, 32])
    for n, p in m.named_parameters():
        if "pad_token" in n:
            torch.nn.init.normal_(p)
    e = T.Qwen3Model(T.Qwen3Config(**LANGUAGE))
    return D.ZImagePipeline(flow(shift=3.), kl(4, channels=16, shift_factor=.1, scaling_factor=.36), e, chat_tokenizer(), m)


@rare("HunyuanVideo")
def _() -> Any:
    m = D.HunyuanVideoTransformer3DModel(in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=10, num_layers=2, num_single_layers=2, num_refiner_layers=1, patch_size=1, patch_size_t=1, guidance_embeds=True, text_embed_dim=16, pooled_projection_dim=16, rope_axes_dim=(2, 4, 4))
    v = D.AutoencoderKLHunyuanVideo(latent_channels=4, block_out_channels=(8,)*4, layers_per_block=1, norm_num_groups=4)
    e = T.LlamaModel(T.LlamaConfig(**LANGUAGE))
    return D.HunyuanVideoPipeline(e, tokenizer(("<s>", None), model_max_length=1024, padding_side="right"), m, v, flow(shift=7.), clip(), clip_tokenizer())


@rare("Allegro")
def _() -> Any:
    m = D.AllegroTransformer3DModel(num_attention_heads=2, attention_head_dim=12, in_channels=4, out_channels=4, num_layers=2, cross_attention_dim=24, sample_width=8, sample_height=8, sample_frames=8, caption_channels=16)
    v = D.AutoencoderKLAllegro(block_out_channels=(8,)*4, latent_channels=4, layers_per_block=1, norm_num_groups=2, sample_size=16)
    return D.AllegroPipeline(t5_tokenizer(), t5(), v, m, D.EulerAncestralDiscreteScheduler())


@rare("CogVideoX DPM")
def _() -> Any:
    p = TINY["CogVideoX"]()
    p.scheduler = D.CogVideoXDPMScheduler(rescale_betas_zero_snr=True, prediction_type="v_prediction", timestep_spacing="trailing")
    return p


@rare("EasyAnimate")
def _() -> Any:
    m = D.EasyAnimateTransformer3DModel(num_attention_heads=2, attention_head_dim=16, in_channels=4, out_channels=4, patch_size=2, sample_width=16, sample_height=16, num_layers=2, mmdit_layers=1, time_embed_dim=2, text_embed_dim=16)
    v = D.AutoencoderKLMagvit(latent_channels=4, block_out_channels=(8,)*4, layers_per_block=1, norm_num_groups=2, spatial_group_norm=False)
    e = T.Qwen2VLForConditionalGeneration(T.Qwen2VLConfig(text_config=LANGUAGE | {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]}}, vision_config={"depth": 1, "embed_dim": 16, "hidden_size": 16, "num_heads": 2}))
    return D.EasyAnimatePipeline(v, e, chat_tokenizer(), m, flow())


@rare("Ovis-Image")
def _() -> Any:
    m = D.OvisImageTransformer2DModel(patch_size=1, in_channels=16, out_channels=16, num_layers=2, num_single_layers=2, attention_head_dim=16, num_attention_heads=2, joint_attention_dim=16, axes_dims_rope=(4, 4, 8))
    e = T.Qwen3Model(T.Qwen3Config(**LANGUAGE))
    return D.OvisImagePipeline(flow(use_dynamic_shifting=True), kl(4, shift_factor=.1, scaling_factor=.36), e, chat_tokenizer(), m)


@rare("PRX")
def _() -> Any:
    m = D.PRXTransformer2DModel(in_channels=4, patch_size=1, context_in_dim=16, hidden_size=8, mlp_ratio=2., num_heads=2, depth=2, axes_dim=[2, 2])
    c = T.T5GemmaConfig(encoder=LANGUAGE, decoder=LANGUAGE, is_encoder_decoder=False, vocab_size=VOCABULARY).encoder
    e = T.models.t5gemma.modeling_t5gemma.T5GemmaEncoder(c)
    return D.PRXPipeline(m, flow(), e, tokenizer(("<s>", None), model_max_length=256, padding_side="right"), kl(4, shift_factor=0., scaling_factor=.2))


@rare("SkyReels V2")
def _() -> Any:
    return D.SkyReelsV2Pipeline(t5_tokenizer(), _umt5(), _skyreels(), wan_vae(D.AutoencoderKLWan), _unipc())


@rare("SkyReels V2 DF")
def _() -> Any:
    return D.SkyReelsV2DiffusionForcingPipeline(t5_tokenizer(), _umt5(), _skyreels(), wan_vae(D.AutoencoderKLWan), _unipc())


@rare("Sana Video")
def _() -> Any:
    m = D.SanaVideoTransformer3DModel(in_channels=16, out_channels=16, num_attention_heads=2, attention_head_dim=12, num_layers=2, num_cross_attention_heads=2, cross_attention_head_dim=12, cross_attention_dim=24, caption_channels=16, rope_max_seq_len=32, sample_size=8)
    e = T.Gemma2Model(T.Gemma2Config(**LANGUAGE))
    return D.SanaVideoPipeline(tokenizer(("<s>", None), model_max_length=1024, padding_side="right", piece=r"\w+"), e, wan_vae(D.AutoencoderKLWan), m, D.DPMSolverMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0))


@rare("PixArt alpha")
def _() -> Any:
    m = D.PixArtTransformer2DModel(num_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=8, num_layers=3, patch_size=2, cross_attention_dim=16, sample_size=8, caption_channels=16, use_additional_conditions=False)
    return D.PixArtAlphaPipeline(t5_tokenizer(), t5(), kl(), m, D.DPMSolverMultistepScheduler())


@rare("DiT")
def _() -> Any:
    m = D.DiTTransformer2DModel(num_attention_heads=4, attention_head_dim=8, in_channels=4, out_channels=8, num_layers=2, sample_size=8, patch_size=2)
    return D.DiTPipeline(m, kl(), D.DDIMScheduler())


@rare("Amused")
def _() -> Any:
    m = D.UVit2DModel(hidden_size=16, cond_embed_dim=16, micro_cond_encode_dim=2, micro_cond_embed_dim=10, encoder_hidden_size=16, vocab_size=32, codebook_size=8, in_channels=16, block_out_channels=16, num_res_blocks=1, block_num_heads=1, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, sample_size=8)
    v = _vq()
    return D.AmusedPipeline(v, clip_tokenizer(), clip(projection=16), m, D.AmusedScheduler(mask_token_id=31))


@rare("LCM")
def _() -> Any:
    return D.LatentConsistencyModelPipeline(kl(), clip(), clip_tokenizer(), unet(cross_attention_dim=16, time_cond_proj_dim=32), D.LCMScheduler(beta_start=.00085, beta_end=.012, beta_schedule="scaled_linear"), None, None, requires_safety_checker=False)


@rare("DeepFloyd IF")
def _() -> Any:
    u = D.UNet2DConditionModel(sample_size=16, in_channels=3, out_channels=6, block_out_channels=(8, 16), norm_num_groups=4, layers_per_block=1, attention_head_dim=4, cross_attention_dim=16, down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"), up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"), mid_block_type="UNetMidBlock2DSimpleCrossAttn", encoder_hid_dim=16, encoder_hid_dim_type="text_proj", addition_embed_type="text", addition_embed_type_num_heads=2, class_embed_type=None, resnet_time_scale_shift="scale_shift", act_fn="gelu", time_embedding_type="positional")
    return D.IFPipeline(t5_tokenizer(), t5(), u, D.DDPMScheduler(variance_type="learned_range", beta_schedule="squaredcos_cap_v2", thresholding=True, dynamic_thresholding_ratio=.95, sample_max_value=1.5), None, None, None, requires_safety_checker=False)


@rare("SD img2img")
def _() -> Any:
    return D.StableDiffusionImg2ImgPipeline(**TINY["SD 1.5"]().components, requires_safety_checker=False)


@rare("SD PAG")
def _() -> Any:
    return D.StableDiffusionPAGPipeline(**TINY["SD 1.5"]().components, requires_safety_checker=False)


@rare("AnyFlow")
def _() -> Any:
    m = D.AnyFlowTransformer3DModel(patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=12, in_channels=16, out_channels=16, text_dim=16, freq_dim=32, ffn_dim=32, num_layers=2, rope_max_seq_len=32)
    return D.AnyFlowPipeline(t5_tokenizer(), _umt5(), m, wan_vae(D.AutoencoderKLWan), D.FlowMapEulerDiscreteScheduler())


@rare("Helios")
def _() -> Any:
    m = D.HeliosTransformer3DModel(patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=12, in_channels=16, out_channels=16, text_dim=16, freq_dim=32, ffn_dim=32, num_layers=2, rope_dim=(4, 4, 4))
    return D.HeliosPipeline(t5_tokenizer(), _umt5(), wan_vae(D.AutoencoderKLWan), D.HeliosScheduler(), m)


@rare("ModelScope T2V")
def _() -> Any:
    u = D.UNet3DConditionModel(block_out_channels=(8, 8), layers_per_block=1, sample_size=16, in_channels=4, out_channels=4, down_block_types=("CrossAttnDownBlock3D", "DownBlock3D"), up_block_types=("UpBlock3D", "CrossAttnUpBlock3D"), cross_attention_dim=16, attention_head_dim=4, norm_num_groups=2)
    return D.TextToVideoSDPipeline(kl(), clip(), clip_tokenizer(), u, D.DDIMScheduler())


@rare("AnimateDiff")
def _() -> Any:
    u = unet(cross_attention_dim=16)
    a = D.MotionAdapter(block_out_channels=(8, 16), motion_layers_per_block=1, motion_norm_num_groups=2, motion_num_attention_heads=4)
    return D.AnimateDiffPipeline(kl(), clip(), clip_tokenizer(), u, a, D.DDIMScheduler(beta_schedule="linear", clip_sample=False))


@rare("Kandinsky 3")
def _() -> Any:
    v = _vq()
    u = D.Kandinsky3UNet(in_channels=4, time_embedding_dim=4, groups=2, attention_head_dim=4, layers_per_block=3, block_out_channels=(32, 64), cross_attention_dim=4, encoder_hid_dim=16)
    return D.Kandinsky3Pipeline(t5_tokenizer(), t5(), u, D.DDPMScheduler(beta_start=.00085, beta_end=.012, steps_offset=1, beta_schedule="squaredcos_cap_v2", clip_sample=True, thresholding=False), v)
