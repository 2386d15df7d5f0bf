"""Choose the token that stands in front of a text, by measuring which one leaves no word an attention sink.

A causal model makes a sink of a token that says little. That is the first, if the model was trained to see it there.
The begin token that a tokenizer names need not be: a chat model's may be a marker of its chat, behind which words
become sinks. Without any token the first word is one.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ...probes.extraction.pooling import pool
from ...probes.extraction.token_selection import find_tokens
from ...probes.hooks.capturing import EMBEDDINGS, capture
from ...probes.hooks.model_state import device_of
from ...probes.stimuli.stimulus_set import Stimulus
from ...probes.subjects.sink_tokens import SINK

NOTHING = ""  # no token in front
ROLES = ("bos_token", "eos_token", "unk_token", "pad_token", "cls_token", "sep_token")  # in the order of preference
# What the candidates are measured on, whatever is shown later: single words, names, sentences.
CAPTIONS = (
    "bucket", "whale", "pool", "cupcake", "two", "salad", "wheelchair", "kitchen knife", "nail polish", "high voltage",
    "person in bed", "keycap nine", "a red circle", "the house on the hill", "a dog on the beach", "blue ring",
)  # fmt: skip


def settle_front(expert: Any, front: str | None = None) -> None:
    """Set `front` and `typical_norms` of an expert that reads texts.

    The first candidate behind which no word of `CAPTIONS` is a sink at any layer is taken: the tokenizer's begin token,
    the others that it names, the end of a line, nothing. Where there is none, the one with the fewest sinks is.

    Parameters
    ----------
    expert : TextExpert or VlmExpert
        The expert. Of a text encoder, which has no token in front, only the norms are measured.
    front : str, optional
        The token that the user wants in front; "" for none. Nothing else is tried then.

    Raises
    ------
    ValueError
        The text that is to stand in front is not one token, or the expert is an encoder.
    """
    causal = getattr(expert, "causal", True)
    if front is not None:
        if not causal:
            raise ValueError(f"front is {front!r}, but {expert.name} reads texts both ways: leave front out")
        front_ids(expert.tokenizer, front)  # raises for what is not one token
    wanted: list[str | None] = [front] if front is not None or not causal else list(candidates(expert.tokenizer))
    fewest = None
    for candidate in wanted:
        expert.front = candidate
        norms = _word_norms(expert)
        typical = {path: float(values.median()) for path, values in norms.items()}
        sinks = sum(int((values > SINK * typical[path]).sum()) for path, values in norms.items())
        if fewest is None or sinks < fewest[0]:
            fewest = sinks, candidate, typical
        if not sinks:
            break
    assert fewest is not None
    _, expert.front, expert._typical_norms = fewest


def candidates(tokenizer: Any) -> list[str]:
    """Return what may stand in front of a text, in the order of preference.

    Parameters
    ----------
    tokenizer : PreTrainedTokenizerBase
        The model's own.

    Returns
    -------
    list of str
        Each is one token; the last is `NOTHING`.
    """
    named = [getattr(tokenizer, role, None) for role in ROLES]
    found = [str(token) for token in dict.fromkeys([*named, "\n"]) if token and _one_token(tokenizer, str(token))]
    return [*found, NOTHING]


def front_ids(tokenizer: Any, front: str | None) -> list[int]:
    """Return the id of the token in front.

    Parameters
    ----------
    tokenizer : PreTrainedTokenizerBase
        The model's own.
    front : str or None
        The token; "" for none, None for the tokenizer's begin token, if it has one.

    Returns
    -------
    list of int
        One id, or none.

    Raises
    ------
    ValueError
        The text is not one token.
    """
    if front is None:
        front = tokenizer.bos_token or NOTHING
    if front == NOTHING:
        return []
    ids = _one_token(tokenizer, front)
    if not ids:
        raise ValueError(
            f"front is {front!r}, which is no single token of the tokenizer: expected one of "
            f"{', '.join(map(repr, candidates(tokenizer)))}, or another token"
        )
    return ids


def _one_token(tokenizer: Any, text: str) -> list[int]:
    """Return the id of a text that is one token, or nothing."""
    backend = getattr(tokenizer, "backend_tokenizer", None)  # it looks one token up without a copy of its vocabulary
    known = tokenizer.get_vocab().get(text) if backend is None else backend.token_to_id(text)
    ids = [known] if known is not None else tokenizer(text, add_special_tokens=False).input_ids
    return ids if (len(ids) == 1 and ids[0] != tokenizer.unk_token_id) or text == tokenizer.unk_token else []


@torch.no_grad()
def _word_norms(expert: Any) -> dict[str, Tensor]:
    """Return the norms of all words of `CAPTIONS`, by the path of the layer; nothing if the tokenizer knows none."""
    shown = [caption for caption in CAPTIONS if expert.tokenizer(caption, add_special_tokens=False).input_ids]
    if not shown:
        return {}
    given = expert.show(_stimuli(tuple(shown)), ("text",), "understanding", None)
    tokens = find_tokens("text", given.tokens["text"], len(shown), device=device_of(expert.model))
    norms = {}

    def keep(path: str, stream: str | None, state: Tensor) -> None:
        pooled = pool(state, tokens, "none", given.dim_axis)
        assert pooled.counts is not None
        own = torch.arange(pooled.values.shape[1]) < pooled.counts.cpu()[:, None]
        norms[path] = pooled.values.norm(dim=-1).cpu()[own]

    with capture(expert.model, [EMBEDDINGS, *expert.blocks], keep=keep, stop=True):
        given.run()
    return norms


@cache
def _stimuli(captions: tuple[str, ...]) -> tuple[Stimulus, ...]:
    image = Image.new("RGB", (2, 2))
    return tuple(Stimulus(image, caption, caption) for caption in captions)
