"""Tiny random-weight pipelines whose conventions differ from their neighbours': time, sign, scale, prompts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import diffusers
import torch
import transformers

from .tiny_pipelines import (
    LANGUAGE,
    TINY,
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

ODD: dict[str, Callable[[], Any]] = {}


def odd(family: str) -> Callable[[Callable[[], Any]], Callable[[], Any]]:
    def named(build: Callable[[], Any]) -> Callable[[], Any]:
        ODD[family] = build
        return build

    return named


def build(family: str) -> Any:
    """Build a family's pipeline, always with the same weights."""
    torch.manual_seed(7)
    pipe = ODD[family]()
    for part in pipe.components.values():
        if isinstance(part, torch.nn.Module):
            part.eval()
    return pipe


def qwen_vl() -> Any:
    return TINY["Qwen-Image"]().text_encoder


class Processor:
    """A chat tokenizer under the name of a processor."""

    def __init__(self) -> None:
        self.tokenizer = chat_tokenizer()

    def __call__(self, text: Any = None, images: Any = None, videos: Any = None, **settings: Any) -> Any:
        return self.tokenizer(text, **settings)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["tokenizer"], name)


class Unchecked(torch.nn.Module):
    """Let every prompt pass: Cosmos asks for a safety checker."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    device = property(lambda self: self.weight.device)
    dtype = property(lambda self: self.weight.dtype)

    def check_text_safety(self, prompt: str) -> bool:
        return True


@odd("Mochi")
def _() -> Any:
    denoiser = diffusers.MochiTransformer3DModel(
        patch_size=2, num_attention_heads=2, attention_head_dim=8, num_layers=3, pooled_projection_dim=16,
        in_channels=4, text_embed_dim=16, time_embed_dim=4, max_sequence_length=16,
    )  # fmt: skip
    vae = diffusers.AutoencoderKLMochi(
        latent_channels=4, out_channels=3, encoder_block_out_channels=(32,) * 4, decoder_block_out_channels=(32,) * 4,
        layers_per_block=(1,) * 5, latents_mean=(0.1,) * 4, latents_std=(1.5,) * 4,
    )  # fmt: skip
    return diffusers.MochiPipeline(flow(invert_sigmas=True), vae, t5(), t5_tokenizer(), denoiser)


@odd("Cosmos 2")
def _() -> Any:
    denoiser = diffusers.CosmosTransformer3DModel(
        in_channels=16, out_channels=16, num_attention_heads=2, attention_head_dim=16, num_layers=3, mlp_ratio=2,
        text_embed_dim=16, adaln_lora_dim=4, max_size=(4, 32, 32), concat_padding_mask=False, extra_pos_embed_type=None,
    )  # fmt: skip
    vae, scheduler = wan_vae(diffusers.AutoencoderKLWan), flow(use_karras_sigmas=True)
    return diffusers.Cosmos2TextToImagePipeline(t5(), t5_tokenizer(), denoiser, vae, scheduler, Unchecked())


@odd("LongCat-Image")
def _() -> Any:
    denoiser = diffusers.LongCatImageTransformer2DModel(
        patch_size=1, in_channels=64, num_layers=2, num_single_layers=2, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=16, pooled_projection_dim=16, axes_dims_rope=[4, 4, 8],
    )  # fmt: skip
    vae, scheduler = kl(4, channels=16, shift_factor=0.1, scaling_factor=0.36), flow(use_dynamic_shifting=True)
    return diffusers.LongCatImagePipeline(scheduler, vae, qwen_vl(), chat_tokenizer(), Processor(), denoiser)


@odd("Bria")
def _() -> Any:
    denoiser = diffusers.BriaTransformer2DModel(
        patch_size=1, in_channels=16, num_layers=2, num_single_layers=2, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=32, axes_dims_rope=[4, 4, 8],
    )  # fmt: skip
    vae = kl(4, shift_factor=0, scaling_factor=0.13)
    return diffusers.BriaPipeline(denoiser, flow(use_dynamic_shifting=True), vae, t5(32), t5_tokenizer())


@odd("Lumina")
def _() -> Any:
    denoiser = diffusers.LuminaNextDiT2DModel(
        sample_size=4, patch_size=2, in_channels=4, hidden_size=24, num_layers=2, num_attention_heads=3,
        num_kv_heads=1, multiple_of=16, cross_attention_dim=16,
    )  # fmt: skip
    encoder = transformers.GemmaModel(transformers.GemmaConfig(**LANGUAGE))
    tokens = tokenizer(("<s>", None), model_max_length=256, padding_side="right")
    return diffusers.LuminaPipeline(denoiser, flow(), kl(4), encoder, tokens)


@odd("CogView3+")
def _() -> Any:
    denoiser = diffusers.CogView3PlusTransformer2DModel(
        patch_size=2, in_channels=4, num_layers=2, attention_head_dim=4, num_attention_heads=2, out_channels=4,
        text_embed_dim=16, time_embed_dim=8, condition_dim=2, pos_embed_max_size=8, sample_size=8,
    )  # fmt: skip
    scheduler = diffusers.CogVideoXDPMScheduler(
        prediction_type="v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing"
    )
    return diffusers.CogView3PlusPipeline(tokenizer(model_max_length=224), t5(), kl(4), denoiser, scheduler)


@odd("Latte")
def _() -> Any:
    denoiser = diffusers.LatteTransformer3DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=8, num_layers=2,
        cross_attention_dim=16, sample_size=8, patch_size=2, num_embeds_ada_norm=1000, norm_type="ada_norm_single",
        norm_elementwise_affine=False, caption_channels=16, video_length=1, attention_bias=True,
    )  # fmt: skip
    return diffusers.LattePipeline(t5_tokenizer(), t5(), kl(4), denoiser, diffusers.DDIMScheduler())


@odd("Kandinsky 5")
def _() -> Any:
    denoiser = diffusers.Kandinsky5Transformer3DModel(
        in_visual_dim=4, in_text_dim=16, in_text_dim2=16, time_dim=8, out_visual_dim=4, model_dim=16, ff_dim=24,
        num_text_blocks=1, num_visual_blocks=2, axes_dims=(4, 6, 6),
    )  # fmt: skip
    return diffusers.Kandinsky5T2IPipeline(
        denoiser, kl(4), qwen_vl(), Processor(), clip(), clip_tokenizer(), flow(shift=5.0)
    )


@odd("HiDream")
def _() -> Any:
    denoiser = diffusers.HiDreamImageTransformer2DModel(
        patch_size=2, in_channels=4, out_channels=4, num_layers=1, num_single_layers=1, attention_head_dim=8,
        num_attention_heads=4, caption_channels=[32, 16], text_emb_dim=32, num_routed_experts=2,
        num_activated_experts=1, axes_dims_rope=(4, 2, 2), max_resolution=(32, 32), llama_layers=[0, 1],
    )  # fmt: skip
    encoders = [clip(projection=16) for _ in range(2)]
    for encoder in encoders:
        encoder.text_model.embeddings.position_embedding = torch.nn.Embedding(128, 16)
        encoder.text_model.embeddings.position_ids = torch.arange(128)[None]
        encoder.config.max_position_embeddings = 128
    reader = transformers.LlamaForCausalLM(transformers.LlamaConfig(**LANGUAGE))
    tokens = tokenizer(("<s>", None), model_max_length=128, padding_side="right")
    return diffusers.HiDreamImagePipeline(
        flow(), kl(4), encoders[0], clip_tokenizer(), encoders[1], clip_tokenizer(), t5(32), t5_tokenizer(), reader,
        tokens, denoiser,
    )  # fmt: skip


@odd("Krea 2")
def _() -> Any:
    denoiser = diffusers.Krea2Transformer2DModel(
        in_channels=16, num_layers=2, attention_head_dim=16, num_attention_heads=2, num_key_value_heads=1,
        intermediate_size=32, timestep_embed_dim=16, text_hidden_dim=16, num_text_layers=2, text_num_attention_heads=2,
        text_num_key_value_heads=1, text_intermediate_size=24, num_layerwise_text_blocks=1, num_refiner_text_blocks=1,
        axes_dims_rope=(4, 4, 8),
    )  # fmt: skip
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1], "mrope_interleaved": True}
    vision = {"depth": 1, "hidden_size": 16, "intermediate_size": 24, "num_heads": 2, "out_hidden_size": 16}
    config = transformers.Qwen3VLConfig(
        text_config=LANGUAGE | {"rope_parameters": rope}, vision_config=vision | {"deepstack_visual_indexes": [0]}
    )
    vae = wan_vae(diffusers.AutoencoderKLQwenImage, 4)
    return diffusers.Krea2Pipeline(
        flow(use_dynamic_shifting=True), vae, transformers.Qwen3VLModel(config), chat_tokenizer(), denoiser,
        text_encoder_select_layers=[1, 2],
    )  # fmt: skip


@odd("Sana Sprint")
def _() -> Any:
    plain = TINY["Sana"]()
    denoiser = diffusers.SanaTransformer2DModel(
        in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=8, num_layers=2, patch_size=1,
        num_cross_attention_heads=2, cross_attention_head_dim=8, cross_attention_dim=16, caption_channels=16,
        sample_size=8, guidance_embeds=True,
    )  # fmt: skip
    scheduler = diffusers.SCMScheduler()
    return diffusers.SanaSprintPipeline(plain.tokenizer, plain.text_encoder, plain.vae, denoiser, scheduler)


@odd("Kandinsky 2.2")
def _() -> Any:
    vae = diffusers.VQModel(
        block_out_channels=(8, 16), down_block_types=("DownEncoderBlock2D",) * 2, norm_num_groups=4, latent_channels=4,
        up_block_types=("UpDecoderBlock2D",) * 2, num_vq_embeddings=8,
    )  # fmt: skip
    return diffusers.KandinskyV22Pipeline(unet(cross_attention_dim=16), diffusers.DDPMScheduler(), vae)


@odd("Wan 2.2")
def _() -> Any:
    low, high = TINY["Wan"](), TINY["Wan"]()
    return diffusers.WanPipeline(
        high.tokenizer, high.text_encoder, high.vae, high.scheduler, transformer=high.transformer,
        transformer_2=low.transformer, boundary_ratio=0.875,
    )  # fmt: skip
