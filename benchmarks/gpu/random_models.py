"""Build models of published sizes with random weights, on the device itself: nothing is fetched, nothing is copied."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from diffusers import SanaTransformer2DModel, SD3Transformer2DModel
from torch import Tensor
from transformers import (
    Dinov2Config,
    Dinov2Model,
    LlavaForConditionalGeneration,
    Qwen3Config,
    Qwen3ForCausalLM,
    SiglipImageProcessorPil,
)

from ...models.experts.language import TextExpert
from ...models.experts.opening import CHECKPOINTS
from ...models.experts.pixel_dit import DitExpert
from ...models.experts.shipped_architectures import build_dit, build_text_encoder, build_vlm
from ...models.experts.vision import VisionExpert
from ...models.experts.weight_files import loading
from ...models.generation.flow import add_noise
from ...models.scenes.composing import scene_stimuli
from ...probes.private_names import build_from_config
from ...probes.stimuli.controls import noise_for
from ...probes.stimuli.images import to_pixels
from ...probes.stimuli.stimulus_set import Stimuli, Stimulus
from ...probes.subjects.any_model import AnyModel
from .sizes import Config

LONGEST = 1024  # tokens of a text


def shipped_tokenizer() -> Any:
    """Open the tokenizer of the shipped experts."""
    return loading.tokenizer(str(CHECKPOINTS / "scenes-vlm"))


def long_texts(count: int, joined: int) -> Stimuli:
    """Compose texts, each of several captions of scenes."""
    captions = scene_stimuli("evidence", count * joined)
    rows = (captions[start : start + joined] for start in range(0, count * joined, joined))
    return Stimuli([Stimulus(row[0].image, " , ".join(row.texts), row[0].id) for row in rows], "long texts")


def text_expert(config: Config, device: str, dtype: torch.dtype) -> TextExpert:
    """Build a Qwen3 with random weights as an understanding expert that reads with the shipped tokenizer.

    Parameters
    ----------
    config : mapping
        Keywords of `Qwen3Config`.
    device : str
        Where it is built.
    dtype : torch.dtype
        Of its weights.

    Returns
    -------
    TextExpert
    """
    torch.manual_seed(0)
    tokenizer = shipped_tokenizer()
    tokenizer.model_max_length = LONGEST
    with torch.device(device):
        model = build_from_config(Qwen3ForCausalLM, Qwen3Config(**config), dtype=dtype).eval()
    blocks = loading.language_stack(model)
    return TextExpert("Qwen3, random weights", model, tokenizer, blocks, True, front=tokenizer.bos_token)


def vision_expert(config: Config, device: str) -> VisionExpert:
    """Build a DINOv2 with random weights in float32 as an expert, as `text_expert` does."""
    torch.manual_seed(0)
    with torch.device(device):
        model = Dinov2Model(Dinov2Config(**config)).eval()
    side = {"height": config["image_size"], "width": config["image_size"]}
    processor = SiglipImageProcessorPil(size=side)
    return VisionExpert("DINOv2, random weights", model, processor, loading.longest_stack(model))


def undescribed(expert: VisionExpert) -> AnyModel:
    """Return a vision expert's model as one that nobody described."""

    def inputs(stimuli: Sequence[Stimulus], *_: Any) -> dict[str, Any]:
        return dict(expert.processor([s.image for s in stimuli], return_tensors="pt").to(expert.model.device))

    return AnyModel(expert.model, inputs, expert.blocks[0].rpartition(".")[0], modalities=("image",))


def denoiser(config: Config, device: str) -> AnyModel:
    """Build SANA's denoiser with random weights in bfloat16 as a model that nobody described.

    Its latents are the pixels of each picture, mixed at random into as many channels, and noise by the picture's id.

    Parameters
    ----------
    config : mapping
        Keywords of `SanaTransformer2DModel`.
    device : str
        Where it is built.

    Returns
    -------
    AnyModel
        Of pictures, denoised.
    """
    torch.manual_seed(0)
    with torch.device(device):
        model = SanaTransformer2DModel(**config).to(torch.bfloat16).eval()
    side, channels = model.config["sample_size"], model.config["in_channels"]
    mixing = torch.randn(channels, 3, generator=torch.Generator().manual_seed(0))
    words = torch.randn(1, 16, model.config["caption_channels"], generator=torch.Generator().manual_seed(1))

    def inputs(stimuli: Sequence[Stimulus], modalities: Any, task: str, timestep: float | None) -> dict[str, Tensor]:
        time = 1.0 if timestep is None else timestep
        latents = torch.einsum("cp,npij->ncij", mixing, to_pixels([s.image for s in stimuli], side))
        noisy = add_noise(latents, noise_for([s.id for s in stimuli], tuple(latents.shape[1:])), time)
        return {
            "hidden_states": noisy.to(device, torch.bfloat16),
            "encoder_hidden_states": words.expand(len(stimuli), -1, -1).to(device, torch.bfloat16),
            "timestep": torch.full((len(stimuli),), 1000 * time, device=device),
        }

    return AnyModel(
        model, inputs, "transformer_blocks", modalities=("image",), tasks=("generation",),
        timed_tasks=("generation",), kinds={"hidden_states": "image"}, name="SANA, random weights",
    )  # fmt: skip


def pixel_generator(config: Config, device: str) -> DitExpert:
    """Build a generation expert as scenes-dit is, but larger, with random weights.

    Parameters
    ----------
    config : mapping
        Keywords of `SD3Transformer2DModel` that differ from those of scenes-dit.
    device : str
        Where it is built.

    Returns
    -------
    DitExpert
        In float32.
    """
    torch.manual_seed(0)
    tokenizer = shipped_tokenizer()
    with torch.device(device):
        model = SD3Transformer2DModel.from_config(dict(build_dit().config), **config)
        encoder = build_text_encoder(tokenizer)
    blocks = loading.longest_stack(model)
    return DitExpert("pixel DiT, random weights", model.eval(), encoder.eval(), tokenizer, blocks)


def reader(vision: Config, text: Config, device: str) -> LlavaForConditionalGeneration:
    """Build an understanding expert as scenes-vlm is, but larger, with random weights.

    Parameters
    ----------
    vision, text : mapping
        What differs from its two configurations.
    device : str
        Where it is built.

    Returns
    -------
    LlavaForConditionalGeneration
        In float32.
    """
    torch.manual_seed(0)
    config = build_vlm(shipped_tokenizer()).config
    config.vision_config.update(dict(vision))
    config.text_config.update(dict(text))
    with torch.device(device):
        return LlavaForConditionalGeneration(config)
