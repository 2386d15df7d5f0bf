"""Tiny random-weight pipelines of each diffusers family, with tokenizers and text encoders of their own kind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors

TINY: dict[str, Callable[[], Any]] = {}
SIDES = {"Sana": 32, "SD 3.5": 16, "PixArt": 16, "Flux": 16, "Flux 2": 16, "LTX": 64}  # pixels that images are shown in
VOCABULARY = 300


def tiny(family: str) -> Callable[[Callable[[], Any]], Callable[[], Any]]:
    def named(build: Callable[[], Any]) -> Callable[[], Any]:
        TINY[family] = build
        return build

    return named


def save(family: str, folder: Path) -> Path:
    """Build a family's pipeline, always with the same weights, and save it as its publisher would."""
    torch.manual_seed(7)
    pipe = TINY[family]()
    for part in pipe.components.values():
        if isinstance(part, torch.nn.Module):
            part.eval()
    pipe.save_pretrained(folder)
    return folder


# ---- tokenizers: one token a letter, so that prompts of one number of letters have one number of tokens


CHAT = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }} {{ message['content'] }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant {% endif %}"
)


def tokenizer(
    ends: tuple[str | None, str | None] = (None, "</s>"), pad: str = "<pad>", piece: str = r"[\s\S]", **settings: Any
) -> Any:
    """Letters as tokens between a begin and an end token, as CLIP and BERT (both), T5 (end) or Gemma (begin) have.

    Pieces of more than one letter are all unknown.
    """
    special = ["<pad>", "<s>", "</s>", "<unk>", "<|im_start|>", "<|im_end|>", "<|vision_start|>"]
    vocabulary = {piece: i for i, piece in enumerate([*special, *map(chr, range(32, 127))])}
    built = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    built.pre_tokenizer = pre_tokenizers.Split(Regex(piece), "isolated")
    begin, end = ends
    single = " ".join(filter(None, [begin, "$A", end]))
    built.post_processor = processors.TemplateProcessing(
        single=single, special_tokens=[(token, vocabulary[token]) for token in ends if token]
    )
    tokens = {"pad_token": pad, "bos_token": begin or "<s>", "eos_token": end or "</s>", "unk_token": "<unk>"}
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=built, additional_special_tokens=special[4:], **tokens, **settings
    )


def clip_tokenizer() -> Any:
    return tokenizer(("<s>", "</s>"), pad="</s>", model_max_length=77)


def t5_tokenizer() -> Any:
    return tokenizer((None, "</s>"), model_max_length=77)


def chat_tokenizer(**settings: Any) -> Any:
    return tokenizer((None, None), model_max_length=1024, chat_template=CHAT, **settings)


# ---- parts


def clip(width: int = 16, projection: int | None = None) -> Any:
    config = transformers.CLIPTextConfig(
        vocab_size=VOCABULARY, hidden_size=width, intermediate_size=24, num_hidden_layers=3, num_attention_heads=2,
        max_position_embeddings=77, projection_dim=projection or width, bos_token_id=1, eos_token_id=2, pad_token_id=2,
    )  # fmt: skip
    return (transformers.CLIPTextModelWithProjection if projection else transformers.CLIPTextModel)(config)


def t5(width: int = 16) -> Any:
    return transformers.T5EncoderModel(
        transformers.T5Config(vocab_size=VOCABULARY, d_model=width, d_kv=8, d_ff=24, num_layers=2, num_heads=2)
    )


LANGUAGE = {
    "vocab_size": VOCABULARY, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 3, "head_dim": 8,
    "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 1024, "pad_token_id": 0,
}  # fmt: skip


def kl(levels: int = 2, channels: int = 4, **settings: Any) -> Any:
    return diffusers.AutoencoderKL(
        block_out_channels=(8,) * levels, down_block_types=("DownEncoderBlock2D",) * levels, norm_num_groups=4,
        up_block_types=("UpDecoderBlock2D",) * levels, latent_channels=channels, sample_size=16, **settings,
    )  # fmt: skip


def wan_vae(kind: Any, channels: int = 16) -> Any:
    return kind(
        base_dim=4, z_dim=channels, dim_mult=[1, 1, 1, 1], num_res_blocks=1, temperal_downsample=[False, True, True],
        latents_mean=[0.1] * channels, latents_std=[2.0] * channels,
    )  # fmt: skip


def flow(**settings: Any) -> Any:
    return diffusers.FlowMatchEulerDiscreteScheduler(**settings)


# ---- families


def unet(**settings: Any) -> Any:
    return diffusers.UNet2DConditionModel(
        sample_size=16, block_out_channels=(8, 16), norm_num_groups=4, layers_per_block=1, attention_head_dim=4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        **settings,
    )  # fmt: skip


@tiny("SD 1.5")
def _() -> Any:
    return diffusers.StableDiffusionPipeline(
        kl(), clip(), clip_tokenizer(), unet(cross_attention_dim=16),
        diffusers.PNDMScheduler(skip_prk_steps=True, steps_offset=1), None, None, requires_safety_checker=False,
    )  # fmt: skip


@tiny("SDXL")
def _() -> Any:
    more = {"addition_embed_type": "text_time", "addition_time_embed_dim": 8, "use_linear_projection": True}
    denoiser = unet(cross_attention_dim=32, projection_class_embeddings_input_dim=64, **more)
    return diffusers.StableDiffusionXLPipeline(
        kl(scaling_factor=0.13025), clip(), clip(projection=16), clip_tokenizer(), clip_tokenizer(), denoiser,
        diffusers.EulerDiscreteScheduler(timestep_spacing="leading", steps_offset=1), add_watermarker=False,
    )  # fmt: skip


@tiny("PixArt")
def _() -> Any:
    denoiser = diffusers.PixArtTransformer2DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=8, num_layers=3, patch_size=2,
        cross_attention_dim=16, sample_size=8, caption_channels=16, use_additional_conditions=False,
    )  # fmt: skip
    return diffusers.PixArtSigmaPipeline(t5_tokenizer(), t5(), kl(), denoiser, diffusers.DPMSolverMultistepScheduler())


@tiny("Sana")
def _() -> Any:
    denoiser = diffusers.SanaTransformer2DModel(
        in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=8, num_layers=3, patch_size=1,
        num_cross_attention_heads=2, cross_attention_head_dim=8, cross_attention_dim=16, caption_channels=16,
        sample_size=8,
    )  # fmt: skip
    vae = diffusers.AutoencoderDC(
        latent_channels=4, attention_head_dim=2, encoder_block_types=("ResBlock", "EfficientViTBlock"),
        decoder_block_types=("ResBlock", "EfficientViTBlock"), encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8), encoder_qkv_multiscales=((), (5,)), decoder_qkv_multiscales=((), (5,)),
        encoder_layers_per_block=(1, 1), decoder_layers_per_block=(1, 1), downsample_block_type="conv",
        upsample_block_type="interpolate", decoder_norm_types="rms_norm", decoder_act_fns="silu",
        scaling_factor=0.41407,
    )  # fmt: skip
    scheduler = diffusers.DPMSolverMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
    )
    encoder = transformers.Gemma2Model(transformers.Gemma2Config(**LANGUAGE))
    tokens = tokenizer(("<s>", None), model_max_length=1024, padding_side="right", piece=r"\w+")
    return diffusers.SanaPipeline(tokens, encoder, vae, denoiser, scheduler)


@tiny("SD 3.5")
def _() -> Any:
    denoiser = diffusers.SD3Transformer2DModel(
        sample_size=8, patch_size=2, in_channels=4, out_channels=4, num_layers=3, attention_head_dim=8,
        num_attention_heads=2, joint_attention_dim=32, caption_projection_dim=16, pooled_projection_dim=32,
        pos_embed_max_size=8, qk_norm="rms_norm", dual_attention_layers=(0,),
    )  # fmt: skip
    vae = kl(shift_factor=0.0609, scaling_factor=1.5305, use_quant_conv=False, use_post_quant_conv=False)
    return diffusers.StableDiffusion3Pipeline(
        denoiser, flow(shift=3.0), vae, clip(projection=16), clip_tokenizer(), clip(projection=16), clip_tokenizer(),
        t5(32), t5_tokenizer(),
    )  # fmt: skip


@tiny("Flux")
def _() -> Any:
    denoiser = diffusers.FluxTransformer2DModel(
        patch_size=1, in_channels=16, num_layers=2, num_single_layers=3, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=32, pooled_projection_dim=16, axes_dims_rope=(4, 4, 8), guidance_embeds=True,
    )  # fmt: skip
    vae = kl(shift_factor=0.1159, scaling_factor=0.3611)
    scheduler = flow(use_dynamic_shifting=True, shift=3.0)
    return diffusers.FluxPipeline(scheduler, vae, clip(), clip_tokenizer(), t5(32), t5_tokenizer(), denoiser)


@tiny("Flux 2")
def _() -> Any:
    denoiser = diffusers.Flux2Transformer2DModel(
        patch_size=1, in_channels=16, num_layers=2, num_single_layers=3, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=48, timestep_guidance_channels=32, axes_dims_rope=(4, 4, 4, 4), guidance_embeds=False,
    )  # fmt: skip
    vae = diffusers.AutoencoderKLFlux2(
        block_out_channels=(8, 8), down_block_types=("DownEncoderBlock2D",) * 2, norm_num_groups=4, latent_channels=4,
        up_block_types=("UpDecoderBlock2D",) * 2, sample_size=16,
    )  # fmt: skip
    vae.bn.running_mean.fill_(0.2)
    vae.bn.running_var.fill_(3.0)
    deep = {"num_hidden_layers": 28, "num_attention_heads": 1}  # the pipeline reads its blocks 9, 18 and 27
    encoder = transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**LANGUAGE | deep))
    return diffusers.Flux2KleinPipeline(flow(use_dynamic_shifting=True), vae, encoder, chat_tokenizer(), denoiser)


@tiny("Qwen-Image")
def _() -> Any:
    denoiser = diffusers.QwenImageTransformer2DModel(
        patch_size=2, in_channels=16, out_channels=4, num_layers=3, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=16, axes_dims_rope=(4, 4, 8),
    )  # fmt: skip
    vae = wan_vae(diffusers.AutoencoderKLQwenImage, 4)
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]}
    config = transformers.Qwen2_5_VLConfig(
        text_config=LANGUAGE | {"rope_parameters": rope},
        vision_config={"depth": 1, "hidden_size": 16, "intermediate_size": 24, "num_heads": 2, "out_hidden_size": 16,
                       "fullatt_block_indexes": [0]},
    )  # fmt: skip
    encoder = transformers.Qwen2_5_VLForConditionalGeneration(config)
    scheduler = flow(use_dynamic_shifting=True)
    return diffusers.QwenImagePipeline(scheduler, vae, encoder, chat_tokenizer(), denoiser)


@tiny("Lumina 2")
def _() -> Any:
    denoiser = diffusers.Lumina2Transformer2DModel(
        sample_size=8, patch_size=2, in_channels=4, hidden_size=24, num_layers=3, num_refiner_layers=2,
        num_attention_heads=3, num_kv_heads=1, multiple_of=16, axes_dim_rope=(4, 2, 2), axes_lens=(300, 64, 64),
        cap_feat_dim=16,
    )  # fmt: skip
    encoder = transformers.Gemma2Model(transformers.Gemma2Config(**LANGUAGE))
    tokens = tokenizer(("<s>", None), model_max_length=1024, padding_side="right")
    vae = kl(4, shift_factor=0.1159, scaling_factor=0.3611)
    return diffusers.Lumina2Pipeline(denoiser, flow(shift=6.0), vae, encoder, tokens)


@tiny("HunyuanDiT")
def _() -> Any:
    denoiser = diffusers.HunyuanDiT2DModel(
        sample_size=4, patch_size=2, in_channels=4, num_layers=4, attention_head_dim=8, num_attention_heads=2,
        cross_attention_dim=16, cross_attention_dim_t5=16, pooled_projection_dim=4, hidden_size=16, text_len=77,
        text_len_t5=256, activation_fn="gelu-approximate", mlp_ratio=2.0,
    )  # fmt: skip
    settings = {"vocab_size": VOCABULARY, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
    encoder = transformers.BertModel(transformers.BertConfig(num_attention_heads=2, **settings))
    return diffusers.HunyuanDiTPipeline(
        kl(4), encoder, tokenizer(("<s>", "</s>"), model_max_length=77), denoiser, diffusers.DDPMScheduler(), None,
        None, requires_safety_checker=False, text_encoder_2=t5(), tokenizer_2=tokenizer(model_max_length=256),
    )  # fmt: skip


@tiny("Wan")
def _() -> Any:
    denoiser = diffusers.WanTransformer3DModel(
        patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=12, in_channels=16, out_channels=16,
        text_dim=16, freq_dim=32, ffn_dim=32, num_layers=3, rope_max_seq_len=32,
    )  # fmt: skip
    encoder = transformers.UMT5EncoderModel(
        transformers.UMT5Config(vocab_size=VOCABULARY, d_model=16, d_kv=8, d_ff=24, num_layers=2, num_heads=2)
    )
    scheduler = diffusers.UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
    )
    return diffusers.WanPipeline(
        t5_tokenizer(), encoder, wan_vae(diffusers.AutoencoderKLWan), scheduler, transformer=denoiser
    )


@tiny("CogVideoX")
def _() -> Any:
    denoiser = diffusers.CogVideoXTransformer3DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=4, time_embed_dim=2, text_embed_dim=32,
        num_layers=3, sample_width=2, sample_height=2, sample_frames=9, patch_size=2, temporal_compression_ratio=4,
        max_text_seq_length=226,
    )  # fmt: skip
    vae = diffusers.AutoencoderKLCogVideoX(
        down_block_types=("CogVideoXDownBlock3D",) * 4, up_block_types=("CogVideoXUpBlock3D",) * 4, norm_num_groups=2,
        block_out_channels=(8, 8, 8, 8), latent_channels=4, layers_per_block=1, temporal_compression_ratio=4,
    )  # fmt: skip
    scheduler = diffusers.CogVideoXDDIMScheduler(rescale_betas_zero_snr=True, prediction_type="v_prediction")
    return diffusers.CogVideoXPipeline(tokenizer(model_max_length=226), t5(32), vae, denoiser, scheduler)


@tiny("LTX")
def _() -> Any:
    denoiser = diffusers.LTXVideoTransformer3DModel(
        in_channels=8, out_channels=8, num_attention_heads=2, attention_head_dim=8, cross_attention_dim=16,
        num_layers=3, caption_channels=32,
    )  # fmt: skip
    vae = diffusers.AutoencoderKLLTXVideo(
        latent_channels=8, block_out_channels=(8, 8, 8, 8), decoder_block_out_channels=(8, 8, 8, 8), patch_size=1,
        layers_per_block=(1, 1, 1, 1, 1), decoder_layers_per_block=(1, 1, 1, 1, 1), patch_size_t=1,
        spatio_temporal_scaling=(True, True, False, False), decoder_spatio_temporal_scaling=(True, True, False, False),
        decoder_inject_noise=(False,) * 5, upsample_residual=(False,) * 4, upsample_factor=(1,) * 4,
        encoder_causal=True, timestep_conditioning=False, decoder_causal=False,
    )  # fmt: skip
    vae.latents_mean.fill_(0.3)
    vae.latents_std.fill_(1.5)
    scheduler = flow(use_dynamic_shifting=True, shift_terminal=0.1)
    return diffusers.LTXPipeline(scheduler, vae, t5(32), tokenizer(model_max_length=128), denoiser)


@tiny("Cosmos3")
def _() -> Any:
    denoiser = diffusers.Cosmos3OmniTransformer(
        hidden_size=16, intermediate_size=24, head_dim=8, num_attention_heads=2, num_key_value_heads=1,
        num_hidden_layers=3, vocab_size=VOCABULARY, latent_channel=16, patch_latent_dim=64, rope_axes_dim=[2, 1, 1],
        dtype="float32",
    )  # fmt: skip
    scheduler = diffusers.UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
    )
    vae = wan_vae(diffusers.AutoencoderKLWan)
    return diffusers.Cosmos3OmniPipeline(denoiser, chat_tokenizer(), vae, scheduler, enable_safety_checker=False)


@tiny("Chroma")
def _() -> Any:
    denoiser = diffusers.ChromaTransformer2DModel(
        patch_size=1, in_channels=16, num_layers=2, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=32, axes_dims_rope=(4, 4, 8), approximator_hidden_dim=32, approximator_layers=1,
        approximator_num_channels=16,
    )  # fmt: skip
    return diffusers.ChromaPipeline(
        flow(), kl(shift_factor=0.1159, scaling_factor=0.3611), t5(32), t5_tokenizer(), denoiser
    )


@tiny("CogView4")
def _() -> Any:
    denoiser = diffusers.CogView4Transformer2DModel(
        patch_size=2, in_channels=4, out_channels=4, num_layers=3, attention_head_dim=4, num_attention_heads=4,
        text_embed_dim=16, time_embed_dim=8, condition_dim=4,
    )  # fmt: skip
    encoder = transformers.GlmModel(transformers.GlmConfig(**LANGUAGE))
    scheduler = flow(
        base_shift=0.25, max_shift=0.75, base_image_seq_len=256, use_dynamic_shifting=True, time_shift_type="linear"
    )
    tokens = tokenizer(("<s>", None), model_max_length=1024, padding_side="left")
    return diffusers.CogView4Pipeline(tokens, encoder, kl(4), denoiser, scheduler)


@tiny("AuraFlow")
def _() -> Any:
    denoiser = diffusers.AuraFlowTransformer2DModel(
        sample_size=8, patch_size=2, in_channels=4, out_channels=4, num_mmdit_layers=2, num_single_dit_layers=1,
        attention_head_dim=8, num_attention_heads=2, caption_projection_dim=16, joint_attention_dim=32,
        pos_embed_max_size=64,
    )  # fmt: skip
    return diffusers.AuraFlowPipeline(t5_tokenizer(), t5(32), kl(4), denoiser, flow(shift=1.73))
