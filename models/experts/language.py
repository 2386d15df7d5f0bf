"""Language models and text encoders as subjects."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForTextEncoding
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    MODEL_FOR_TEXT_ENCODING_MAPPING_NAMES,
)

from ...probes.hooks.capturing import capture
from ...probes.stimuli.stimulus_set import Stimulus
from ...probes.subjects.subject import ForwardPass
from . import loading
from .token_rows import tokenize


@dataclass
class TextExpert:
    """A language model or text encoder; its text tokens are all but padding and special tokens.

    A causal model makes its first token a sink of huge norm: it gets a begin-of-sequence token for that, which counts
    as special like those that the tokenizer adds. Texts are cut at the model's longest input. `width` is the length
    that every text is padded to, without a mask, for models that were trained so (SigLIP). `batch_second`:
    hidden states are (token, batch, dim) (XLNet).
    """

    name: str
    model: Any
    tokenizer: Any
    blocks: tuple[str, ...]
    causal: bool = False
    width: int | None = None
    batch_second: bool = False
    tasks: tuple[str, ...] = ("understanding",)
    modalities: tuple[str, ...] = ("text",)
    timed_tasks: tuple[str, ...] = ()

    def show(
        self, stimuli: Sequence[Stimulus], modalities: tuple[str, ...], task: str, timestep: float | None
    ) -> ForwardPass:
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
        tokens, special = (_turned(mask) if self.batch_second else mask for mask in (words, special))
        return ForwardPass(lambda: self.model(**given, **options), {"text": tokens}, special={"text": special})

    def _lengths(self) -> dict[str, Any]:
        if self.width:
            return {"padding": "max_length", "max_length": self.width}
        positions = getattr(self.model.config, "max_position_embeddings", None) or -1
        longest = self.tokenizer.model_max_length
        longest = min(longest, positions) if positions > 0 else longest  # XLNet's -1 is no limit
        return {"max_length": longest} if longest < 1e9 else {"truncation": False}  # 1e30 is transformers' "unknown"


def open_text(label: str, source: str, config: Any, random_weights: bool) -> TextExpert:
    """Open a causal language model or a text encoder, found through transformers' own tables of architectures.

    Of an encoder-decoder the encoder is opened.

    Raises ValueError where the blocks do not hold the tokens that the model is given, each block once.
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
    blocks = loading.language_stack(model) if causal else loading.longest_stack(model)
    turned = _batch_second(label, model, blocks, causal)
    return TextExpert(label, model, loading.tokenizer(source), blocks, causal, batch_second=turned)


@torch.no_grad()
def _batch_second(label: str, model: Any, blocks: Sequence[str], causal: bool) -> bool:
    """Whether states are (token, batch, dim), seen from two rows of three tokens.

    Of an encoder all blocks are looked at, for some shorten their sequence on the way. Raises ValueError where states
    are of another length.
    """
    ids = torch.ones(2, 3, dtype=torch.long, device=model.device)
    hint = "Wrap such a model in your own Subject (probes/subjects/subject.py)"
    try:
        with capture(model, blocks[:1] if causal else blocks, stop=causal) as taps:
            model(input_ids=ids, attention_mask=ids)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, TypeError, ValueError) as error:
        told = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(f"expert {label!r} cannot be read on a text of three tokens: {told}. {hint}") from None
    for path, state in taps.items():
        if isinstance(state, dict):
            raise ValueError(f"block {path!r} of expert {label!r} has several streams, {', '.join(state)}. {hint}")
        if state.ndim != 3 or sorted(state.shape[:2]) != [2, 3]:
            raise ValueError(
                f"block {path!r} of expert {label!r} holds states {tuple(state.shape)} for two texts of three tokens: "
                f"it pads or merges tokens inside, or keeps several states of each. {hint}"
            )
    return bool(taps[blocks[0]].shape[0] == 3)


def _turned(mask: Tensor) -> Tensor:
    """Positions (batch, kept) in states (token, batch, dim) of what a mask (batch, token) tells."""
    rows = [row.nonzero()[:, 0] * len(mask) + sample for sample, row in enumerate(mask)]
    return pad_sequence(rows, batch_first=True, padding_value=-1)
