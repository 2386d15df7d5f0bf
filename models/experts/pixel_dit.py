"""Our generation expert as a subject: an MMDiT over pixels with its text encoder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...probes.stimuli.stimulus_set import Stimulus
from ...probes.subjects.subject import ForwardPass
from ..generation.flow import noisy_images
from . import loading

# Both take longer to import than torch, and every expert is opened by a module that imports this one.
if TYPE_CHECKING:
    from diffusers import SD3Transformer2DModel
    from transformers import T5EncoderModel


@dataclass
class DitExpert:
    """An MMDiT over pixels with its text encoder: image and text streams in every block, no text after the last.

    Image alone is the noisy image with the null caption; text alone is the caption with pure noise. The pooled vector
    is zero. The model predicts the clean image; `t` is 0 at the clean image and 1 at noise (see models/experts/shipped_architectures.py).
    """

    name: str
    model: SD3Transformer2DModel
    text_encoder: T5EncoderModel
    tokenizer: Any
    blocks: tuple[str, ...]
    text_tokens: int = 20
    tasks: tuple[str, ...] = ("generation",)
    modalities: tuple[str, ...] = ("image", "text")
    timed_tasks: tuple[str, ...] = ("generation",)

    def encode(self, texts: Sequence[str]) -> Tensor:
        """Text states (batch, token, dim), zero at padding; the empty text is the null caption."""
        tokens = self._tokens(texts).to(self.model.device)
        encoder = self.text_encoder.to(self.model.device)  # whoever moves the model need not know of it
        states = encoder(input_ids=tokens.input_ids, attention_mask=tokens.attention_mask).last_hidden_state
        return states * tokens.attention_mask[..., None]

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def size(self) -> tuple[int, int, int]:
        """What it draws: channel, row, column."""
        side = self.model.config["sample_size"]
        return self.model.config["in_channels"], side, side

    def condition(self, captions: Sequence[str]) -> Tensor:
        """What `predict` takes as text; the empty caption is the null caption."""
        return self.encode(captions)

    def _tokens(self, texts: Sequence[str]) -> Any:
        return self.tokenizer(
            list(texts), padding="max_length", truncation=True, max_length=self.text_tokens, return_tensors="pt"
        )

    def predict(self, noisy: Tensor, text: Tensor, time: Tensor) -> Tensor:
        """The clean image (batch, channel, row, column) in -1..1 that the model sees in `noisy` at `time` (batch,)."""
        pooled = text.new_zeros(len(text), self.model.config["pooled_projection_dim"])
        return self.model(noisy, encoder_hidden_states=text, pooled_projections=pooled, timestep=time * 1000).sample

    def show(
        self, stimuli: Sequence[Stimulus], modalities: tuple[str, ...], task: str, timestep: float | None
    ) -> ForwardPass:
        texts = [s.text if "text" in modalities else "" for s in stimuli]
        side, device = self.model.config["sample_size"], self.model.device
        noisy, time = noisy_images(stimuli, "image" in modalities, timestep, side)
        ids = self._tokens(texts).input_ids
        end = ids == self.tokenizer.eos_token_id
        words = (ids != self.tokenizer.pad_token_id) & ~end
        patches = (side // self.model.config["patch_size"]) ** 2
        image = torch.ones(len(texts), patches, dtype=torch.bool)
        tokens, special = {"image": image, "text": words}, {"image": ~image, "text": end}
        return ForwardPass(
            lambda: self.predict(noisy.to(device), self.encode(texts), time.to(device)),
            {m: tokens[m] for m in modalities},
            {"image": "image", "text": "text"},
            {m: special[m] for m in modalities},
        )


def open_dit(label: str, folder: Path, random_weights: bool) -> DitExpert:
    """Open an MMDiT over pixels with its text encoder and tokenizer, a folder each."""
    from diffusers import SD3Transformer2DModel
    from transformers import AutoConfig, T5EncoderModel

    if random_weights:
        config = loading.load("config", SD3Transformer2DModel.load_config, str(folder / "transformer"))
        model = SD3Transformer2DModel.from_config(config)
        encoder = T5EncoderModel(loading.load("config", AutoConfig.from_pretrained, str(folder / "text_encoder")))
    else:
        model = loading.weights(SD3Transformer2DModel, str(folder / "transformer"), torch_dtype=torch.float32)
        encoder = loading.weights(T5EncoderModel, str(folder / "text_encoder"), dtype=torch.float32)
    tokenizer = loading.tokenizer(str(folder / "tokenizer"))
    return DitExpert(label, model.eval(), encoder.eval(), tokenizer, loading.longest_stack(model))
