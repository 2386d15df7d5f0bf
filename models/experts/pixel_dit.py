"""Open our generation expert as a subject: an MMDiT over pixels with its text encoder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...probes.notebook_views import SubjectView
from ...probes.stimuli.stimulus_set import Stimulus
from ...probes.subjects.subject import ForwardPass
from ..generation.flow import noisy_images
from ..generation.sampling import Generator
from .token_rows import cut_texts
from .weight_files import loading

# Both take longer to import than torch, and every expert is opened by a module that imports this one.
if TYPE_CHECKING:
    from diffusers import SD3Transformer2DModel
    from transformers import T5EncoderModel


@dataclass
class DitExpert(SubjectView, Generator):
    """An MMDiT over pixels with its text encoder: image and text streams in every block, no text after the last.

    Image alone is the noisy image with the null caption; text alone is the caption with pure noise. The pooled vector
    is zero. The model predicts the clean image; `t` is 0 at the clean image and 1 at noise (see
    models/experts/shipped_architectures.py).

    Attributes
    ----------
    name : str
        What the expert is called.
    model : SD3Transformer2DModel
        The denoiser.
    text_encoder : T5EncoderModel
        What reads its captions.
    tokenizer : PreTrainedTokenizerFast
        Of the text encoder.
    blocks : tuple of str
        Paths of the denoiser's blocks in depth order.
    text_tokens : int
        The length that every caption is padded or cut to.
    tasks, modalities, timed_tasks : tuple of str
        What can be probed, as every `Subject` says.
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
        """Return the text encoder's states, zero at padding.

        Parameters
        ----------
        texts : sequence of str
            The empty text is the null caption.

        Returns
        -------
        Tensor
            (batch, token, dim).
        """
        tokens = self._tokens(texts).to(self.model.device)
        encoder = self.text_encoder.to(self.model.device)  # whoever moves the model need not know of it
        states = encoder(input_ids=tokens.input_ids, attention_mask=tokens.attention_mask).last_hidden_state
        return states * tokens.attention_mask[..., None]

    @property
    def device(self) -> torch.device:
        """Where the denoiser is."""
        return self.model.device

    @property
    def size(self) -> tuple[int, int, int]:
        """Channel, row, column of the images."""
        side = self.model.config["sample_size"]
        return self.model.config["in_channels"], side, side

    def condition(self, captions: Sequence[str]) -> Tensor:
        """Return what `predict` takes as text: the same as `encode`.

        Parameters
        ----------
        captions : sequence of str
            The empty caption is the null caption.

        Returns
        -------
        Tensor
            (batch, token, dim).
        """
        return self.encode(captions)

    def _tokens(self, texts: Sequence[str]) -> Any:
        return self.tokenizer(
            list(texts), padding="max_length", truncation=True, max_length=self.text_tokens, return_tensors="pt"
        )

    def predict(self, noisy: Tensor, text: Tensor, time: Tensor) -> Tensor:
        """Predict the clean image that the model sees in a noisy one.

        Parameters
        ----------
        noisy : Tensor
            (batch, channel, row, column).
        text : Tensor
            Text states (batch, token, dim).
        time : Tensor
            (batch,), 0 is the clean image and 1 is noise.

        Returns
        -------
        Tensor
            (batch, channel, row, column) in -1..1.
        """
        pooled = text.new_zeros(len(text), self.model.config["pooled_projection_dim"])
        return self.model(noisy, encoder_hidden_states=text, pooled_projections=pooled, timestep=time * 1000).sample

    def show(
        self, stimuli: Sequence[Stimulus], modalities: tuple[str, ...], task: str, timestep: float | None
    ) -> ForwardPass:
        """Prepare one pass that shows these modalities of the stimuli.

        Parameters
        ----------
        stimuli : sequence of Stimulus
            What is shown.
        modalities : tuple of str
            "image", "text" or both.
        task
            Not used: there is one.
        timestep : float or None
            0 is the clean image, 1 is noise; None is noise.

        Returns
        -------
        ForwardPass
        """
        texts = [s.text if "text" in modalities else "" for s in stimuli]
        side, device = self.model.config["sample_size"], self.model.device
        noisy, time = noisy_images(stimuli, "image" in modalities, timestep, side)
        given = self._tokens(texts)
        ids = given.input_ids
        end = ids == self.tokenizer.eos_token_id
        words = (ids != self.tokenizer.pad_token_id) & ~end
        patches = side // self.model.config["patch_size"]
        image = torch.ones(len(texts), patches**2, dtype=torch.bool)
        tokens, special = {"image": image, "text": words}, {"image": ~image, "text": end}
        return ForwardPass(
            lambda: self.predict(noisy.to(device), self.encode(texts), time.to(device)),
            {m: tokens[m] for m in modalities},
            {"image": "image", "text": "text"},
            {m: special[m] for m in modalities},
            grids={"image": [(patches, patches)] * len(texts)},
            cut=cut_texts(self.tokenizer, texts, dict(given), words),
            limit=self.text_tokens,
        )


def is_dit(checkpoint: loading.Checkpoint) -> bool:
    """Return whether a local folder holds a denoiser with its text encoder, a folder each, as our experts' do.

    Parameters
    ----------
    checkpoint : Checkpoint
        What is to be opened.

    Returns
    -------
    bool

    Raises
    ------
    ValueError
        If the folder's config.json is not valid JSON.
    FileNotFoundError
        If the folder holds neither of the two kinds of checkpoint.
    """
    folder = checkpoint.folder
    if folder is None:
        return False
    parts = (folder / "transformer").is_dir()
    if not checkpoint.config_file and not parts:
        raise FileNotFoundError(f"expert folder {folder} has neither a config.json nor a transformer/ folder")
    return parts


def open_dit(checkpoint: loading.Checkpoint) -> DitExpert:
    """Open an MMDiT over pixels with its text encoder and tokenizer, a folder each.

    Parameters
    ----------
    checkpoint : Checkpoint
        A local folder.

    Returns
    -------
    DitExpert

    Raises
    ------
    ValueError
        If a part cannot be read.
    """
    from diffusers import SD3Transformer2DModel
    from transformers import AutoConfig, T5EncoderModel

    checkpoint.placement.refuse(
        checkpoint.label, "a pixel MMDiT is small, and read in float32", "dtype", "device_map", "quantization"
    )
    model_source, encoder_source, tokenizer_source = (
        f"{checkpoint.source}/{part}" for part in ("transformer", "text_encoder", "tokenizer")
    )
    if checkpoint.random_weights:
        config = loading.load("config", SD3Transformer2DModel.load_config, model_source)
        model = SD3Transformer2DModel.from_config(config)
        encoder = T5EncoderModel(loading.load("config", AutoConfig.from_pretrained, encoder_source))
    else:
        model = loading.weights(SD3Transformer2DModel, model_source, torch_dtype=torch.float32)
        encoder = loading.weights(T5EncoderModel, encoder_source, dtype=torch.float32)
    tokenizer = loading.tokenizer(tokenizer_source)
    return DitExpert(checkpoint.label, model.eval(), encoder.eval(), tokenizer, loading.longest_stack(model))
