"""Experts known by their config alone: built without weights, on tensors that have shapes and no data.

`published/` holds the configs of public experts as they are published, each with the repository that it is from.
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
from ..experts import loading
from ..experts.downloads import weights
from ..experts.opening import CHECKPOINTS, OWN
from ..towers.token_layout import Place, TokenLayout
from ..towers.tower import SelfAttention, Tower

PUBLISHED = Path(__file__).parent / "published_configs"

# Of the generation experts that can be planned, by channels of what they denoise: pixels a latent, and the tokens of
# their own text input (our own: `DitExpert`; SD 3: CLIP's 77 and T5's 256; Wan: UMT5's 512).
_DRAWN = {
    ("SD3Transformer2DModel", 3): (1, 20),
    ("SD3Transformer2DModel", 16): (8, 333),
    ("WanTransformer3DModel", 16): (8, 512),
    ("WanTransformer3DModel", 48): (16, 512),
}


@dataclass
class PlannedReader:
    """An understanding expert without weights, which reads captions of `tokens` tokens each."""

    name: str
    model: Any
    blocks: tuple[str, ...]
    tokens: int
    modalities: tuple[str, ...] = ("text",)

    def show(
        self, stimuli: Sequence[Stimulus], modalities: tuple[str, ...], task: str, timestep: float | None
    ) -> ForwardPass:
        ids = torch.zeros(len(stimuli), self.tokens, dtype=torch.long)
        mask = torch.ones_like(ids)
        return ForwardPass(
            lambda: self.model(input_ids=ids, attention_mask=mask, use_cache=False),
            {"text": mask.bool()},
            special={"text": torch.zeros_like(mask, dtype=torch.bool)},
        )

    def tower(self, stream: str | None = None) -> Tower:
        """Every token of the one sequence that the blocks of a language model hand on."""
        return _sequence(self.model, self.blocks)


@dataclass
class PlannedGenerator:
    """A generation expert without weights.

    What it denoises is `size`, (channel, row, column), of an image or of the one latent frame of a still; `text` is how
    many tokens its own text input has.
    """

    name: str
    model: Any
    blocks: tuple[str, ...]
    size: tuple[int, int, int]
    text: int

    def encode(self, texts: Sequence[str]) -> Tensor:
        """What stands in for the null caption's states (batch, token, dim): they are computed once, before training."""
        config = self.model.config
        return torch.zeros(len(texts), self.text, config.get("text_dim") or config["joint_attention_dim"])

    def predict(self, noisy: Tensor, text: Tensor, time: Tensor) -> Tensor:
        """(batch, channel, row, column), as `noisy` is."""
        given = {"encoder_hidden_states": text, "timestep": time * 1000}
        if self.video:
            return self.model(noisy[:, :, None], **given).sample[:, :, 0]
        pooled = text.new_zeros(len(text), self.model.config["pooled_projection_dim"])
        return self.model(noisy, pooled_projections=pooled, **given).sample

    @property
    def video(self) -> bool:
        return isinstance(self.model, diffusers.WanTransformer3DModel)

    def tower(self, stream: str) -> Tower:
        """The stream that bridges enter. Raises ValueError for one that the blocks do not have."""
        count = len(self.blocks)
        if self.video:  # one stream; the text is read by a second attention
            if stream != "image":
                raise ValueError(f"the blocks of {self.name} hold no {stream} tokens: plan for the stream 'image'")
            return _sequence(self.model, self.blocks)
        layouts: dict[str | None, TokenLayout] = {
            name: TokenLayout() for name in (("image", "text") if stream == "both" else (stream,))
        }
        given: dict[str | None, str] = {"image": "hidden_states", "text": "encoder_hidden_states"}
        both: dict[str | None, Place] = {"text": 0, "image": 1}
        last: dict[str | None, Place] = {"image": 1}  # SD 3 drops the text behind its last block
        places = [both] * (count - 1) + [last]
        attention = [SelfAttention(0, ("image", "text"))] * count
        return Tower(self.model, self.blocks, stream, layouts, given, places, attention)


def _sequence(model: Any, blocks: tuple[str, ...]) -> Tower:
    """The tower of blocks that hand one sequence on, and whose first call of SDPA is their self-attention."""
    attention = [SelfAttention(0, (None,))] * len(blocks)
    return Tower(
        model, blocks, None, {None: TokenLayout()}, {None: "hidden_states"}, [{None: None}] * len(blocks), attention
    )


def config_of(name: str | Path) -> dict[str, Any]:
    """The config of a published expert, one of ours, a fetched one or a local folder; no weights are read.

    A folder has a config.json, or one in transformer/ (a pipeline). Raises ValueError for an unknown name,
    FileNotFoundError for a folder without a config.
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
        raise ValueError(f"no expert {str(name)!r} to plan with: expected one of {names}, or a folder with its config")
    for path in (folder / "config.json", folder / "transformer" / "config.json"):
        if path.is_file():
            return json.loads(path.read_text(encoding="utf-8"))
    raise FileNotFoundError(f"expert folder {folder} has neither a config.json nor a transformer/config.json")


def build_planned_reader(name: str | Path, tokens: int, dtype: torch.dtype) -> PlannedReader:
    """The understanding expert of a config: a language model, or the language model of a vision-language model.

    Call it under `FakeTensorMode`: elsewhere weights are drawn and fill memory. Raises ValueError for another family.
    """
    config = config_of(name)
    kind = config.pop("model_type", None)
    if kind in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
        auto: Any = AutoModelForImageTextToText
    elif kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        auto = AutoModelForCausalLM
    else:
        raise ValueError(
            f"{str(name)!r} ({kind or config.get('_class_name')}) is no language or vision-language model: "
            "the first expert is the understanding expert"
        )
    settings = loading.load("config", lambda source: AutoConfig.for_model(kind, **config), str(name))
    with no_init_weights():
        model = auto.from_config(settings, dtype=dtype, attn_implementation="sdpa").eval()
    model.tie_weights()
    return PlannedReader(Path(name).name, model, loading.language_stack(model), tokens)


def build_planned_generator(name: str | Path, resolution: int | None, dtype: torch.dtype) -> PlannedGenerator:
    """The generation expert of a config, drawing square stills of `resolution` pixels a side; None is its own size.

    Call it under `FakeTensorMode`. Raises ValueError for a family that is not known here, and for a resolution that
    is no whole number of patches.
    """
    config = config_of(name)
    family = str(config.get("_class_name")), int(config.get("in_channels", 0))
    if family not in _DRAWN:
        known = ", ".join(f"{each} of {channels} channels" for each, channels in _DRAWN)
        raise ValueError(
            f"{str(name)!r} ({family[0]} of {family[1]} channels) cannot be planned as the generation expert: "
            f"expected one of {known}"
        )
    stride, text = _DRAWN[family]
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
