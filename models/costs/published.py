"""Build experts from their configs alone, without weights, on tensors that have shapes and no data.

`published_configs/` holds the configs of public experts as published, each with the repository that it is from.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText
from transformers.initialization import no_init_weights
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
)

from ...probes.stimuli.stimulus_set import Stimulus
from ...probes.subjects.subject import ForwardPass
from ..experts.downloads import weights
from ..experts.downloads.expert_sources import CHECKPOINTS, OWN
from ..experts.weight_files import loading
from ..towers.token_layout import Place, TokenLayout
from ..towers.tower import SelfAttention, Tower
from .cost_options import PUBLISHED

# The generation experts that can be planned, by class and channels of what they denoise: pixels per latent, and tokens
# of their own text input (our own: `DitExpert`; SD 3: CLIP's 77 and T5's 256; Wan: UMT5's 512).
_GENERATORS = {
    ("SD3Transformer2DModel", 3): (1, 20),
    ("SD3Transformer2DModel", 16): (8, 333),
    ("WanTransformer3DModel", 16): (8, 512),
    ("WanTransformer3DModel", 48): (16, 512),
}


class Unplanned(ValueError):
    """An expert is of a family that is not built from its config."""


@dataclass
class PlannedReader:
    """An understanding expert without weights.

    Attributes
    ----------
    name : str
        Name of the expert.
    model : transformers.PreTrainedModel
        The model, without data.
    blocks : tuple of str
        Paths of the language model's blocks, in depth order.
    tokens : int
        Tokens of each caption.
    modalities : tuple of str
        What it is shown: captions alone.
    """

    name: str
    model: Any
    blocks: tuple[str, ...]
    tokens: int
    modalities: tuple[str, ...] = ("text",)

    def show(
        self, stimuli: Sequence[Stimulus], modalities: tuple[str, ...], task: str, timestep: float | None
    ) -> ForwardPass:
        """Return the pass over as many captions as there are stimuli, whatever these show."""
        ids = torch.zeros(len(stimuli), self.tokens, dtype=torch.long)
        mask = torch.ones_like(ids)
        return ForwardPass(
            lambda: self.model(input_ids=ids, attention_mask=mask, use_cache=False),
            {"text": mask.bool()},
            special={"text": torch.zeros_like(mask, dtype=torch.bool)},
        )

    def tower(self, stream: str | None = None) -> Tower:
        """Return the tower of a language model's blocks: every token of their one sequence."""
        return _sequence(self.model, self.blocks)


@dataclass
class PlannedGenerator:
    """A generation expert without weights.

    Attributes
    ----------
    name : str
        Name of the expert.
    model : diffusers.ModelMixin
        The model, without data.
    blocks : tuple of str
        Paths of its blocks, in depth order.
    size : tuple of int
        What it denoises, (channel, row, column): an image, or the one latent frame of a still.
    text : int
        Number of tokens of its own text input.
    """

    name: str
    model: Any
    blocks: tuple[str, ...]
    size: tuple[int, int, int]
    text: int

    def encode(self, texts: Sequence[str]) -> Tensor:
        """Return zeros in place of the null caption's states, (batch, token, dim), which training computes before."""
        config = self.model.config
        return torch.zeros(len(texts), self.text, config.get("text_dim") or config["joint_attention_dim"])

    def predict(self, noisy: Tensor, text: Tensor, time: Tensor) -> Tensor:
        """Return what the model predicts, (batch, channel, row, column), the shape of `noisy`."""
        inputs = {"encoder_hidden_states": text, "timestep": time * 1000}
        if self.video:
            return self.model(noisy[:, :, None], **inputs).sample[:, :, 0]
        pooled = text.new_zeros(len(text), self.model.config["pooled_projection_dim"])
        return self.model(noisy, pooled_projections=pooled, **inputs).sample

    @property
    def video(self) -> bool:
        """Whether the model draws frames of a video."""
        return isinstance(self.model, diffusers.WanTransformer3DModel)

    def tower(self, stream: str) -> Tower:
        """Return the tower of the stream that bridges enter.

        Parameters
        ----------
        stream : str
            "image", "text" or "both".

        Returns
        -------
        Tower
            The blocks, and where the stream's tokens stand in them.

        Raises
        ------
        ValueError
            For a stream that the blocks do not have.
        """
        count = len(self.blocks)
        if self.video:  # one stream: a second attention reads the text
            if stream != "image":
                raise ValueError(f"the blocks of {self.name} hold no {stream} tokens: plan for the stream 'image'")
            return _sequence(self.model, self.blocks)
        layouts: dict[str | None, TokenLayout] = {
            name: TokenLayout() for name in (("image", "text") if stream == "both" else (stream,))
        }
        given: dict[str | None, str] = {"image": "hidden_states", "text": "encoder_hidden_states"}
        both: dict[str | None, Place] = {"text": 0, "image": 1}
        last: dict[str | None, Place] = {"image": 1}  # SD 3 drops the text after its last block
        places = [both] * (count - 1) + [last]
        attention = [SelfAttention(0, ("image", "text"))] * count
        return Tower(self.model, self.blocks, stream, layouts, given, places, attention)


def _sequence(model: Any, blocks: tuple[str, ...]) -> Tower:
    """Return the tower of blocks that pass on one sequence, and whose first call of SDPA is their self-attention."""
    attention = [SelfAttention(0, (None,))] * len(blocks)
    return Tower(
        model, blocks, None, {None: TokenLayout()}, {None: "hidden_states"}, [{None: None}] * len(blocks), attention
    )


def config_of(name: str | Path) -> dict[str, Any]:
    """Read the config of an expert, without its weights.

    Parameters
    ----------
    name : str or Path
        A published expert (published_configs/), one of ours, a fetched one, or a local folder with a config.json, its
        own or one in transformer/ (a pipeline).

    Returns
    -------
    dict
        The config.

    Raises
    ------
    ValueError
        For an unknown name.
    FileNotFoundError
        For a folder without a config.
    """
    known = {path.stem: path for path in sorted(PUBLISHED.glob("*.json"))}
    if str(name) in known:
        return json.loads(known[str(name)].read_text(encoding="utf-8"))
    if str(name) in OWN:
        folder = CHECKPOINTS / str(name)
    elif str(name) in weights.WEIGHTS:
        folder = weights.verify(str(name))
    else:
        folder = Path(name)
    if not folder.is_dir():
        names = ", ".join((*known, *OWN, *weights.WEIGHTS))
        raise Unplanned(f"no expert {str(name)!r} to plan with: expected one of {names}, or a folder with its config")
    for path in (folder / "config.json", folder / "transformer" / "config.json"):
        if path.is_file():
            return json.loads(path.read_text(encoding="utf-8"))
    raise FileNotFoundError(f"expert folder {folder} has neither a config.json nor a transformer/config.json")


def build_planned_reader(name: str | Path, tokens: int, dtype: torch.dtype) -> PlannedReader:
    """Build an understanding expert from its config: a language model, or that of a vision-language model.

    Call it under `FakeTensorMode`: otherwise weights fill memory.

    Parameters
    ----------
    name : str or Path
        The expert, as `config_of` takes it.
    tokens : int
        Tokens of each caption.
    dtype : torch.dtype
        Precision of the weights.

    Returns
    -------
    PlannedReader
        The expert.

    Raises
    ------
    ValueError
        For another family of models.
    """
    config = config_of(name)
    kind = config.pop("model_type", None)
    if kind in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
        auto: Any = AutoModelForImageTextToText
    elif kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        auto = AutoModelForCausalLM
    else:
        raise Unplanned(
            f"{str(name)!r} ({kind or config.get('_class_name')}) is no language or vision-language model: "
            "the first expert is the understanding expert"
        )
    settings = loading.load("config", lambda source: AutoConfig.for_model(kind, **config), str(name))
    with no_init_weights():
        model = auto.from_config(settings, dtype=dtype, attn_implementation="sdpa").eval()
    model.tie_weights()
    return PlannedReader(Path(name).name, model, loading.language_stack(model), tokens)


def build_planned_generator(name: str | Path, resolution: int | None, dtype: torch.dtype) -> PlannedGenerator:
    """Build a generation expert from its config.

    Call it under `FakeTensorMode`: otherwise weights fill memory.

    Parameters
    ----------
    name : str or Path
        The expert, as `config_of` takes it.
    resolution : int, optional
        Pixels per side of the square stills that it draws; None stands for its own size.
    dtype : torch.dtype
        Precision of the weights.

    Returns
    -------
    PlannedGenerator
        The expert.

    Raises
    ------
    ValueError
        For a family that cannot be planned, or a resolution that is no whole number of patches.
    """
    config = config_of(name)
    family = str(config.get("_class_name")), int(config.get("in_channels", 0))
    if family not in _GENERATORS:
        known = ", ".join(f"{kind} of {channels} channels" for kind, channels in _GENERATORS)
        raise Unplanned(
            f"{str(name)!r} ({family[0]} of {family[1]} channels) cannot be planned as the generation expert: "
            f"expected one of {known}"
        )
    stride, text = _GENERATORS[family]
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        model = getattr(diffusers, family[0]).from_config(config).eval()
    finally:
        torch.set_default_dtype(before)
    patch = config["patch_size"]
    step = stride * (patch if isinstance(patch, int) else patch[-1])
    side = resolution or config.get("sample_size", 1024 // stride) * stride
    if side < step or side % step:
        raise ValueError(f"{str(name)!r} draws in patches of {step} pixels: resolution {side} is no multiple of it")
    if side > (most := config.get("pos_embed_max_size", side) * step):
        raise ValueError(f"{str(name)!r} has places for {most} pixels a side, not for {side}")
    size = (family[1], side // stride, side // stride)
    return PlannedGenerator(Path(name).name, model, loading.longest_stack(model), size, text)
