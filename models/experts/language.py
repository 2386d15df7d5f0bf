"""Open language models and text encoders as subjects."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, field
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
from ...probes.notebook_views import SubjectView
from ...probes.stimuli.stimulus_set import Stimulus
from ...probes.subjects.subject import ForwardPass
from .front_tokens import front_ids, settle_front
from .token_rows import cut_texts, tokenize, tokenize_chat
from .weight_files import loading


@dataclass
class TextExpert(SubjectView):
    """A language model or text encoder; its text tokens are all but padding and special tokens.

    A causal model makes its first token a sink of huge norm. So one token stands in front of each text, which counts as
    special like those that the tokenizer adds (models/experts/front_tokens.py). Texts are cut at the model's longest
    input.

    Attributes
    ----------
    name : str
        What the expert is called.
    model : PreTrainedModel
        The model.
    tokenizer : PreTrainedTokenizerBase
        The model's own.
    blocks : tuple of str
        Paths of the blocks in depth order.
    causal : bool
        Whether each token sees only those before it.
    width : int or None
        The length that every text is padded to, without a mask, for models that were trained so (SigLIP).
    batch_second : bool
        Whether hidden states are (token, batch, dim) (XLNet).
    front : str or None
        The token in front of a causal model's texts, "" for none; None is the tokenizer's begin token.
    chat : bool
        Whether texts are shown as a user's messages in the tokenizer's chat template. Text tokens are the text's own
        all the same; the template's are left out, and its first is special.
    tasks, modalities, timed_tasks : tuple of str
        What can be probed, as every `Subject` says.
    """

    name: str
    model: Any
    tokenizer: Any
    blocks: tuple[str, ...]
    causal: bool = False
    width: int | None = None
    batch_second: bool = False
    front: str | None = None
    chat: bool = False
    tasks: tuple[str, ...] = ("understanding",)
    modalities: tuple[str, ...] = ("text",)
    timed_tasks: tuple[str, ...] = ()
    # Measured when the expert is opened: no setting that a store would compare.
    _typical_norms: dict[str, float] = field(default_factory=dict, init=False, repr=False)

    @property
    def typical_norms(self) -> dict[str, float]:
        """The median norm of words at each layer, by the layer's path, as far as it was measured."""
        return self._typical_norms

    def show(
        self, stimuli: Sequence[Stimulus], modalities: tuple[str, ...], task: str, timestep: float | None
    ) -> ForwardPass:
        """Prepare one pass over the stimuli's texts.

        Parameters
        ----------
        stimuli : sequence of Stimulus
            Whose texts are read.
        modalities, task, timestep
            Not used: there is one of each.

        Returns
        -------
        ForwardPass

        Raises
        ------
        ValueError
            If the tokenizer makes no token of a text.
        """
        front = front_ids(self.tokenizer, self.front) if self.causal else None
        texts = [s.text for s in stimuli]
        if self.chat:
            inputs, words, cut = tokenize_chat(self.tokenizer, texts, self.model.device, **self._lengths())
            special = torch.zeros_like(words).index_fill(1, torch.tensor([0]), True) & ~words
        else:
            inputs, words = tokenize(self.tokenizer, texts, self.model.device, front, **self._lengths())
            special = (inputs["attention_mask"].cpu() == 1) & ~words
            cut = cut_texts(self.tokenizer, texts, inputs, words)
        accepted = inspect.signature(self.model.forward).parameters
        left_out = {"attention_mask"} if self.width else set()
        given = {name: value for name, value in inputs.items() if name in accepted and name not in left_out}
        options = {"use_cache": False} if "use_cache" in accepted else {}
        tokens, special = (_batch_second_positions(m) if self.batch_second else m for m in (words, special))
        return ForwardPass(
            lambda: self.model(**given, **options),
            {"text": tokens},
            special={"text": special},
            cut=cut,
            limit=self._lengths().get("max_length"),
        )

    def _lengths(self) -> dict[str, Any]:
        """Return the tokenizer's options for the length of texts."""
        if self.width:
            return {"padding": "max_length", "max_length": self.width}
        positions = getattr(self.model.config, "max_position_embeddings", None) or -1
        longest = self.tokenizer.model_max_length
        longest = min(longest, positions) if positions > 0 else longest  # XLNet's -1 is no limit
        return {"max_length": longest} if longest < 1e9 else {"truncation": False}  # 1e30 is transformers' "unknown"


def in_chat(expert: TextExpert) -> TextExpert:
    """Have a language model shown its texts in its chat template.

    Parameters
    ----------
    expert : TextExpert
        A causal model whose tokenizer has such a template.

    Returns
    -------
    TextExpert
        The same one.

    Raises
    ------
    ValueError
        If there is no template, or the model is an encoder.
    """
    if not (expert.causal and getattr(expert.tokenizer, "chat_template", None)):
        raise ValueError(f"{expert.name} has no chat template: leave chat out, and texts are shown as they are")
    expert.chat = True
    return expert


def is_text(checkpoint: loading.Checkpoint) -> bool:
    """Return whether transformers builds the architecture around token ids.

    Parameters
    ----------
    checkpoint : Checkpoint
        What is to be opened.

    Returns
    -------
    bool
    """
    return checkpoint.main_input == "input_ids"


def open_text(checkpoint: loading.Checkpoint, front: str | None = None) -> TextExpert:
    """Open a causal language model or a text encoder, found through transformers' own tables of architectures.

    Parameters
    ----------
    checkpoint : Checkpoint
        What to open. Of an encoder-decoder the encoder is opened.
    front : str, optional
        The token in front of a causal model's texts; measured if left out.

    Returns
    -------
    TextExpert

    Raises
    ------
    ValueError
        If the checkpoint cannot be read, or its blocks do not hold the tokens that the model is given, each block once.
    """
    config, source = checkpoint.config, checkpoint.source
    kind, named = config.model_type, config.architectures or ()
    listed = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(kind)
    heads = (listed,) if isinstance(listed, str) else listed or ()
    encodes = (
        kind in MODEL_FOR_TEXT_ENCODING_MAPPING_NAMES
        or kind in MODEL_FOR_MASKED_LM_MAPPING_NAMES
        or config.is_encoder_decoder
    )
    has_head = any(name in heads for name in named)
    causal = has_head or (bool(heads) and not encodes)
    if causal:
        auto = AutoModelForCausalLM if has_head or not named else AutoModel
    else:
        auto = AutoModelForTextEncoding if kind in MODEL_FOR_TEXT_ENCODING_MAPPING_NAMES else AutoModel
    encoder_decoder = config.is_encoder_decoder
    if encoder_decoder and auto is AutoModelForTextEncoding:
        config.is_encoder_decoder = False  # T5Gemma's encoder is refused without
    model = loading.model(auto, checkpoint)
    if encoder_decoder and auto is AutoModel:
        model = model.get_encoder()
    blocks = loading.language_stack(model) if causal else loading.longest_stack(model)
    batch_second = _is_batch_second(checkpoint.label, model, blocks, causal)
    expert = TextExpert(checkpoint.label, model, loading.tokenizer(source), blocks, causal, batch_second=batch_second)
    settle_front(expert, front)
    return expert


@torch.no_grad()
def _is_batch_second(label: str, model: Any, blocks: Sequence[str], causal: bool) -> bool:
    """Return whether states are (token, batch, dim), from two rows of three tokens; raise where they fit neither.

    Of an encoder all blocks are looked at, for some shorten their sequence on the way.
    """
    ids = torch.ones(2, 3, dtype=torch.long, device=model.device)
    hint = "Wrap such a model in your own Subject (probes/subjects/subject.py)"
    try:
        with capture(model, blocks[:1] if causal else blocks, stop=causal) as taps:
            model(input_ids=ids, attention_mask=ids)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # whatever a model raises: its words say what it lacks (BLT, AttributeError)
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(f"expert {label!r} cannot be read on a text of three tokens: {reason}. {hint}") from None
    for path, state in taps.items():
        if isinstance(state, dict):
            raise ValueError(f"block {path!r} of expert {label!r} has several streams, {', '.join(state)}. {hint}")
        if state.ndim != 3 or sorted(state.shape[:2]) != [2, 3]:
            raise ValueError(
                f"block {path!r} of expert {label!r} holds states {tuple(state.shape)} for two texts of three tokens: "
                f"it pads or merges tokens inside, or keeps several states of each. {hint}"
            )
    return bool(taps[blocks[0]].shape[0] == 3)


def _batch_second_positions(mask: Tensor) -> Tensor:
    """Return positions (batch, kept) in flattened states (token, batch, dim) from a mask (batch, token)."""
    rows = [row.nonzero()[:, 0] * len(mask) + sample for sample, row in enumerate(mask)]
    return pad_sequence(rows, batch_first=True, padding_value=-1)
