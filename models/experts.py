"""Experts, opened by name: ours, the real ones out of registry packages, a local folder or Hub id of their families.

Every expert is a `Subject` (probes/extraction.py): an ordinary transformers or diffusers model in `.model`, its block
paths in `.blocks`, and `show`, which turns stimuli into one forward pass.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, overload

import torch
from diffusers import SD3Transformer2DModel
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForCausalLM,
    AutoTokenizer,
    LlavaForConditionalGeneration,
    T5EncoderModel,
    set_seed,
)

from ..probes.stacks import find_stacks
from ..probes.stimuli import Stimulus
from ..probes.subjects import Shown
from . import weights
from .pixels import noisy_images
from .tokens import pad, tokenize

CHECKPOINTS = Path(__file__).parent / "checkpoints"
OWN = ("scenes-vlm", "scenes-dit")


@dataclass
class TextExpert:
    """A language model or text encoder; its text tokens are all but padding and special tokens.

    A causal model makes its first token a sink of huge norm: it gets a begin-of-sequence token for that.
    """

    name: str
    model: Any
    tokenizer: Any
    blocks: tuple[str, ...]
    causal: bool = False
    tasks: tuple[str, ...] = ("understanding",)
    modalities: tuple[str, ...] = ("text",)
    timed_tasks: tuple[str, ...] = ()

    def show(
        self, stimuli: Sequence[Stimulus], modalities: tuple[str, ...], task: str, timestep: float | None
    ) -> Shown:
        bos = self.tokenizer.bos_token_id if self.causal else None
        begin = "" if bos is None or self.tokenizer("a").input_ids[0] == bos else self.tokenizer.bos_token
        inputs, words = tokenize(self.tokenizer, [begin + s.text for s in stimuli], self.model.device)
        if bos is not None:  # a token written into the text is not among the tokenizer's special ones
            words &= inputs["input_ids"].cpu() != bos
        return Shown(lambda: self.model(**inputs), {"text": words}, {})


@dataclass
class VisionExpert:
    """A vision transformer; its image tokens are the patches, without the class and register tokens before them."""

    name: str
    model: Any
    processor: Any
    blocks: tuple[str, ...]
    tasks: tuple[str, ...] = ("understanding",)
    modalities: tuple[str, ...] = ("image",)
    timed_tasks: tuple[str, ...] = ()

    def show(
        self, stimuli: Sequence[Stimulus], modalities: tuple[str, ...], task: str, timestep: float | None
    ) -> Shown:
        pixels = self.processor([s.image for s in stimuli], return_tensors="pt").pixel_values.to(self.model.device)
        config = self.model.config
        patches = (pixels.shape[-2] // config.patch_size) * (pixels.shape[-1] // config.patch_size)
        before = 1 + getattr(config, "num_register_tokens", 0)
        mask = torch.zeros(len(stimuli), before + patches, dtype=torch.bool)
        mask[:, before:] = True
        return Shown(lambda: self.model(pixel_values=pixels), {"image": mask}, {})


@dataclass
class LlavaExpert:
    """A vision tower and a causal language model; blocks are the language model's.

    Text alone is the caption after the begin-of-sequence token; image alone is the image tokens after it; together,
    the image comes first, so that the caption's tokens have read it and not the reverse.
    """

    name: str
    model: LlavaForConditionalGeneration
    tokenizer: Any
    processor: Any
    blocks: tuple[str, ...]
    tasks: tuple[str, ...] = ("understanding",)
    modalities: tuple[str, ...] = ("image", "text")
    timed_tasks: tuple[str, ...] = ()

    def show(
        self, stimuli: Sequence[Stimulus], modalities: tuple[str, ...], task: str, timestep: float | None
    ) -> Shown:
        config, device = self.model.config, self.model.device
        image_tokens = config.image_seq_length if "image" in modalities else 0
        texts = [s.text if "text" in modalities else "" for s in stimuli]
        words = self.tokenizer(texts, add_special_tokens=False).input_ids
        begin = self.tokenizer.bos_token_id
        rows = [[begin] + [config.image_token_index] * image_tokens + ids for ids in words]
        ids, mask = pad(rows, self.tokenizer.pad_token_id, device)
        at = torch.arange(ids.shape[1], device=device)[None]
        tokens = {"image": (ids == config.image_token_index), "text": (at > image_tokens) & mask.bool()}
        inputs: dict[str, Tensor] = {"input_ids": ids, "attention_mask": mask}
        if image_tokens:
            pixels = self.processor([s.image for s in stimuli], return_tensors="pt").pixel_values
            inputs["pixel_values"] = pixels.to(device, self.model.dtype)
        return Shown(lambda: self.model(**inputs), {m: tokens[m] for m in modalities}, {})


@dataclass
class DitExpert:
    """An MMDiT over pixels with its text encoder: image and text streams in every block, no text after the last.

    Image alone is the noisy image with the null caption; text alone is the caption with pure noise. The pooled vector
    is zero. The model predicts the clean image; `t` is 0 at the clean image and 1 at noise (see models/small.py).
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
    ) -> Shown:
        texts = [s.text if "text" in modalities else "" for s in stimuli]
        side, device = self.model.config["sample_size"], self.model.device
        noisy, time = noisy_images(stimuli, "image" in modalities, timestep, side)
        ids = self._tokens(texts).input_ids
        words = (ids != self.tokenizer.pad_token_id) & (ids != self.tokenizer.eos_token_id)
        patches = (side // self.model.config["patch_size"]) ** 2
        tokens = {"image": torch.ones(len(texts), patches, dtype=torch.bool), "text": words}
        streams: dict[str, str | None] = {"image": "image", "text": "text"}
        return Shown(
            lambda: self.predict(noisy.to(device), self.encode(texts), time.to(device)),
            {m: tokens[m] for m in modalities},
            streams,
        )


Expert = TextExpert | VisionExpert | LlavaExpert | DitExpert


@overload
def open_expert(name: Literal["scenes-vlm"], random_weights: bool = ..., seed: int = ...) -> LlavaExpert: ...
@overload
def open_expert(name: Literal["scenes-dit"], random_weights: bool = ..., seed: int = ...) -> DitExpert: ...
@overload
def open_expert(name: str | Path, random_weights: bool = ..., seed: int = ...) -> Expert: ...
def open_expert(name: str | Path, random_weights: bool = False, seed: int = 0) -> Expert:
    """Open an expert by name, folder or Hub id.

    Parameters
    ----------
    name : "scenes-vlm" or "scenes-dit" (ours, shipped); "smollm2-135m", "minilm-l6" or "dinov2-s" (fetched once by
        `make setup`); or a local folder or Hub id of a causal language model, a text encoder, a DINOv2, or a LLaVA
        with its tokenizer and image processor.
    random_weights : the expert's random-weight twin, drawn by `seed`: same architecture, nothing learnt.

    Raises ValueError for an unknown name or another family, FileNotFoundError where files are missing.
    """
    folder = _folder(str(name))
    config = _read_json(folder / "config.json") if folder else {}
    kind = config.get("model_type", "mmdit" if folder and (folder / "transformer").is_dir() else None)
    if folder and kind is None:
        raise FileNotFoundError(f"expert folder {folder} has neither a config.json nor a transformer/ folder")
    source, label = str(folder or name), Path(str(name)).name + (" (random weights)" if random_weights else "")
    if random_weights:
        set_seed(seed)
    if kind == "mmdit":
        return _open_dit(label, Path(source), random_weights)
    settings = _load("config", AutoConfig.from_pretrained, source)
    if settings.model_type == "llava":
        model = _model(LlavaForConditionalGeneration, source, settings, random_weights)
        blocks = tuple(f"model.language_model.layers.{i}" for i in range(settings.text_config.num_hidden_layers))
        return LlavaExpert(label, model, _tokenizer(source), _processor(source), blocks)
    if settings.model_type in ("dinov2", "dinov2_with_registers"):
        model = _model(AutoModel, source, settings, random_weights)
        return VisionExpert(label, model, _processor(source), _only_stack(model))
    causal = any("CausalLM" in a for a in settings.architectures or ())
    if not causal and settings.model_type not in ("bert", "roberta", "mpnet", "distilbert", "t5"):
        raise ValueError(
            f"expert {str(name)!r} is of the family {settings.model_type!r}: expected llava, dinov2, "
            "a causal language model or a text encoder. Wrap another model in your own Subject (probes/extraction.py)"
        )
    model = _model(AutoModelForCausalLM if causal else AutoModel, source, settings, random_weights)
    return TextExpert(label, model, _tokenizer(source), _only_stack(model), causal)


def _folder(name: str) -> Path | None:
    """The local folder behind a name, or None for a Hub id."""
    if name in OWN:
        if not (CHECKPOINTS / name).is_dir():
            raise FileNotFoundError(
                f"the shipped expert {name!r} is not in {CHECKPOINTS.name}/: install bridgework anew"
            )
        return CHECKPOINTS / name
    if name in weights.WEIGHTS:
        return weights.verify(name)
    if Path(name).is_dir():
        return Path(name)
    if name.count("/") == 1 and not name.startswith((".", "/")):
        return None
    known = ", ".join((*OWN, *weights.WEIGHTS))
    raise ValueError(f"unknown expert {name!r}: expected one of {known}, a local folder, or a Hub id 'owner/name'")


def _open_dit(label: str, folder: Path, random_weights: bool) -> DitExpert:
    if random_weights:
        config = _load("config", SD3Transformer2DModel.load_config, str(folder / "transformer"))
        model = SD3Transformer2DModel.from_config(config)
        encoder = T5EncoderModel(_load("config", AutoConfig.from_pretrained, str(folder / "text_encoder")))
    else:
        model = _weights(SD3Transformer2DModel, str(folder / "transformer"), torch_dtype=torch.float32)
        encoder = _weights(T5EncoderModel, str(folder / "text_encoder"), dtype=torch.float32)
    return DitExpert(label, model.eval(), encoder.eval(), _tokenizer(str(folder / "tokenizer")), _only_stack(model))


def _model(auto: Any, source: str, config: Any, random_weights: bool) -> Any:
    if random_weights:
        return (auto._from_config(config) if hasattr(auto, "_from_config") else auto.from_config(config)).float().eval()
    return _weights(auto, source, dtype=torch.float32).eval()


def _weights(auto: Any, source: str, **options: Any) -> Any:
    model, told = _load("weights", auto.from_pretrained, source, output_loading_info=True, **options)
    lost = sorted(
        key for key in told["missing_keys"] if "pooler" not in key
    )  # the head of other tasks, above the stack
    if lost:
        raise ValueError(f"the weights of expert {source!r} lack {lost[0]!r} and {len(lost) - 1} more: copy it again")
    return model


def _tokenizer(source: str) -> Any:
    tokenizer = _load("tokenizer", AutoTokenizer.from_pretrained, source)
    for token in ("pad_token", "bos_token"):  # Qwen's have no token to begin with, GPT-2's none to pad with
        if getattr(tokenizer, token) is None:
            setattr(tokenizer, token, tokenizer.eos_token)
    return tokenizer


def _processor(source: str) -> Any:
    return _load("image processor", AutoImageProcessor.from_pretrained, source, backend="pil")


def _only_stack(model: nn.Module) -> tuple[str, ...]:
    return tuple(max(find_stacks(model).values(), key=len))  # experts of these families have one


def _load(what: str, load: Callable[..., Any], source: str, **options: Any) -> Any:
    try:
        return load(source, **options)
    except Exception as error:  # transformers, diffusers, safetensors and the Hub client each raise their own
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(
            f"the {what} of expert {source!r} cannot be read: {reason}. "
            "Expected a whole folder as saved by save_pretrained, or a Hub id that can be reached"
        ) from None


def _read_json(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        return json.loads(path.read_text())
    except ValueError:
        raise ValueError(f"{path} is not valid JSON: copy the expert's folder again") from None
