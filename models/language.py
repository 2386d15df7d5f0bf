"""Language models and text encoders as subjects."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from transformers import AutoModel, AutoModelForCausalLM, AutoModelForTextEncoding
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    MODEL_FOR_TEXT_ENCODING_MAPPING_NAMES,
)

from ..probes.stimuli import Stimulus
from ..probes.subjects import Shown
from . import loading
from .tokens import tokenize


@dataclass
class TextExpert:
    """A language model or text encoder; its text tokens are all but padding and special tokens.

    A causal model makes its first token a sink of huge norm: it gets a begin-of-sequence token for that, which counts
    as special like those that the tokenizer adds. Texts are cut at the model's longest input. `width` is the length
    that every text is padded to, without a mask, for models that were trained so (SigLIP).
    """

    name: str
    model: Any
    tokenizer: Any
    blocks: tuple[str, ...]
    causal: bool = False
    width: int | None = None
    tasks: tuple[str, ...] = ("understanding",)
    modalities: tuple[str, ...] = ("text",)
    timed_tasks: tuple[str, ...] = ()

    def show(
        self, stimuli: Sequence[Stimulus], modalities: tuple[str, ...], task: str, timestep: float | None
    ) -> Shown:
        bos = self.tokenizer.bos_token_id if self.causal else None
        begin = "" if bos is None or self.tokenizer("a").input_ids[0] == bos else self.tokenizer.bos_token
        texts = [begin + s.text for s in stimuli]
        inputs, words = tokenize(self.tokenizer, texts, self.model.device, **self._lengths())
        if bos is not None:  # a token written into the text is not among the tokenizer's special ones
            words &= inputs["input_ids"].cpu() != bos
        special = (inputs["attention_mask"].cpu() == 1) & ~words
        takes = inspect.signature(self.model.forward).parameters
        left_out = {"attention_mask"} if self.width else set()
        given = {name: value for name, value in inputs.items() if name in takes and name not in left_out}
        options = {"use_cache": False} if "use_cache" in takes else {}
        return Shown(lambda: self.model(**given, **options), {"text": words}, special={"text": special})

    def _lengths(self) -> dict[str, Any]:
        if self.width:
            return {"padding": "max_length", "max_length": self.width}
        positions = getattr(self.model.config, "max_position_embeddings", None)
        longest = min(self.tokenizer.model_max_length, positions or self.tokenizer.model_max_length)
        return {"max_length": longest} if longest < 1e9 else {"truncation": False}  # 1e30 is transformers' "unknown"


def open_text(label: str, source: str, config: Any, random_weights: bool) -> TextExpert:
    """Open a causal language model or a text encoder, found through transformers' own tables of architectures.

    Of an encoder-decoder the encoder is opened.
    """
    kind, named = config.model_type, config.architectures or ()
    written = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(kind)
    heads = (written,) if isinstance(written, str) else written or ()
    encodes = (
        kind in MODEL_FOR_TEXT_ENCODING_MAPPING_NAMES
        or kind in MODEL_FOR_MASKED_LM_MAPPING_NAMES
        or config.is_encoder_decoder
    )
    causal = any(each in heads for each in named) or (bool(heads) and not encodes)
    if causal:
        auto = AutoModelForCausalLM if any(each in heads for each in named) or not named else AutoModel
    else:
        auto = AutoModelForTextEncoding if kind in MODEL_FOR_TEXT_ENCODING_MAPPING_NAMES else AutoModel
    two = config.is_encoder_decoder
    if two and auto is AutoModelForTextEncoding:
        config.is_encoder_decoder = False  # T5Gemma's encoder is refused without
    model = loading.model(auto, source, config, random_weights)
    if two and auto is AutoModel:
        model = model.get_encoder()
    blocks = loading.longest_stack(model) if two else loading.language_stack(model)
    return TextExpert(label, model, loading.tokenizer(source), blocks, causal)
