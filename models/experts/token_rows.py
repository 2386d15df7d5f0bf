"""Turn texts and parts of inputs into padded token ids and masks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ...probes.subjects.caption_tokens import search_captions
from ...probes.subjects.input_changes import Rows

Part = tuple[str, Sequence[int]]  # a kind of token and the ids of a run of them


def tokenize(
    tokenizer: Any, texts: Sequence[str], device: torch.device, front: Sequence[int] | None = None, **options: Any
) -> tuple[dict[str, Tensor], Tensor]:
    """Tokenize texts, right padded, and say which tokens are words.

    Parameters
    ----------
    tokenizer : PreTrainedTokenizerBase
        The model's own.
    texts : sequence of str
        One for each row.
    device : torch.device
        Where the inputs go.
    front : sequence of int, optional
        The ids of what stands in front of each text, in the place of what the tokenizer puts there; left out, the
        tokenizer's own stays.
    **options : Any
        Of the tokenizer, beside its own padding and truncation.

    Returns
    -------
    inputs : dict
        What the model reads, each (batch, token), on the device.
    words : Tensor
        Mask (batch, token), on the CPU: neither padding nor special.

    Raises
    ------
    ValueError
        If a text becomes no token.
    """
    tokenizer.padding_side = "right"
    options = {"padding": True, "truncation": True} | options
    begins = _begins(tokenizer) if front is not None else False
    if front is not None and "max_length" in options:
        options["max_length"] += begins - len(front)  # so that what is in front is part of the longest input
    tokens = tokenizer(
        list(texts), return_tensors="pt", return_special_tokens_mask=True, return_attention_mask=True, **options
    )
    words = (tokens.pop("special_tokens_mask") == 0) & (tokens["attention_mask"] == 1)
    check_words(words.sum(1).tolist(), texts)
    if front is not None:
        tokens, words = _put_in_front(dict(tokens), words, list(front), begins)
        if not bool(tokens["attention_mask"].any(1).all()):
            raise ValueError(
                "a text is empty, and no token stands in front: give it words, or open_expert(..., front=...)"
            )
    return {name: value.to(device) for name, value in tokens.items()}, words


def _begins(tokenizer: Any) -> bool:
    """Return whether a tokenizer begins each text with a special token."""
    ids = tokenizer("a").input_ids
    return bool(ids) and ids[0] in tokenizer.all_special_ids


def _put_in_front(
    tokens: dict[str, Tensor], words: Tensor, front: list[int], begins: bool
) -> tuple[dict[str, Tensor], Tensor]:
    """Replace the special token that a tokenizer begins each row with, if it does, by others."""
    shape = len(words), len(front)
    first = {"input_ids": torch.tensor(front).expand(shape), "attention_mask": torch.ones(shape)}
    joined = {}
    for name, value in (tokens | {"words": words}).items():
        head = first.get(name, torch.zeros(shape)).to(value.dtype)
        joined[name] = torch.cat([head, value[:, int(begins) :]], 1)
    return joined, joined.pop("words")


def tokenize_chat(
    tokenizer: Any, texts: Sequence[str], device: torch.device, **options: Any
) -> tuple[dict[str, Tensor], Tensor, tuple[int, ...]]:
    """Tokenize texts as a user's messages in a tokenizer's chat template, and say which tokens are theirs.

    Parameters
    ----------
    tokenizer : PreTrainedTokenizerBase
        The model's own, with a chat template.
    texts : sequence of str
        One for each row.
    device : torch.device
        Where the inputs go.
    **options : Any
        Of the tokenizer, beside its own padding and truncation.

    Returns
    -------
    inputs : dict
        What the model reads, each (batch, token), on the device.
    words : Tensor
        Mask (batch, token), on the CPU: the texts' own tokens, without the template.
    cut : tuple of int
        The rows whose text is cut.

    Raises
    ------
    ValueError
        If the template does not show the text.
    """
    tokenizer.padding_side = "right"
    options = {"padding": True, "truncation": True} | options

    def ask(places: Sequence[int], captions: Sequence[str]) -> dict[str, Tensor]:
        chats = [[{"role": "user", "content": caption}] for caption in captions]
        shown = tokenizer.apply_chat_template(chats, tokenize=False, add_generation_prompt=True)
        given = tokenizer(
            shown, add_special_tokens=False, return_tensors="pt", return_attention_mask=True, verbose=False, **options
        )
        return dict(given)

    def divide(given: Mapping[str, Any], samples: int) -> dict[str, Rows]:
        return {"input_ids": Rows(0, torch.ones(samples, dtype=torch.int64))}

    inputs = ask(range(len(texts)), texts)
    found = search_captions(ask, texts, inputs, ["input_ids"], divide)
    if found is None or not isinstance(words := found.own["input_ids"], Tensor):
        raise ValueError("the chat template shows the same for other texts: leave chat out, or change the template")
    check_words(words.sum(1).tolist(), texts)
    return {name: value.to(device) for name, value in inputs.items()}, words, found.cut


def cut_texts(tokenizer: Any, texts: Sequence[str], inputs: dict[str, Tensor], words: Tensor) -> tuple[int, ...]:
    """Return the rows whose text has more tokens than were kept of it.

    Parameters
    ----------
    tokenizer : PreTrainedTokenizerBase
        The model's own.
    texts : sequence of str
        One for each row.
    inputs, words : dict, Tensor
        As `tokenize` returns them.

    Returns
    -------
    tuple of int
        Their places in the batch.
    """
    full = [place for place, row in enumerate(inputs["attention_mask"].cpu()) if bool(row.all())]
    if not full:
        return ()
    whole = tokenizer([texts[place] for place in full], add_special_tokens=False, truncation=False, verbose=False)
    pairs = zip(full, whole.input_ids, strict=True)
    return tuple(place for place, ids in pairs if len(ids) > int(words[place].sum()))


def cut_parts(rows: Sequence[Sequence[Part]], longest: int | None) -> tuple[list[list[Part]], tuple[int, ...]]:
    """Cut the text of rows that are too long.

    Parameters
    ----------
    rows : sequence of sequence of Part
        As `join_parts` takes them.
    longest : int or None
        The number of tokens that a row may have; None cuts nothing.

    Returns
    -------
    rows : list of list of Part
        With shorter text. What is no text is left as it is.
    cut : tuple of int
        The places of the rows that were cut.

    Raises
    ------
    ValueError
        If nothing is left of a text.
    """
    shorter, cut = [], []
    for place, row in enumerate(rows):
        length = sum(len(ids) for _, ids in row)
        over = length - (longest or length)
        words = sum(len(ids) for kind, ids in row if kind == "text")
        if over > 0 and words:
            if over >= words:
                raise ValueError(
                    f"what stands beside a caption takes {length - words} of the "
                    f"{longest} positions that the model has, and nothing is left for the caption: show smaller images"
                )
            row = [(kind, ids[: len(ids) - over] if kind == "text" else ids) for kind, ids in row]
            cut.append(place)
        shorter.append(list(row))
    return shorter, tuple(cut)


def check_words(counts: Sequence[int], texts: Sequence[str]) -> None:
    """Raise a ValueError for a text that became no token, so that there is nothing to average.

    Parameters
    ----------
    counts : sequence of int
        How many tokens each text became.
    texts : sequence of str
        The texts; an empty one may become none.

    Raises
    ------
    ValueError
        Naming the text.
    """
    for count, text in zip(counts, texts, strict=True):
        if text and not count:
            raise ValueError(f"the tokenizer makes no token of the text {text!r}: give it another, or leave it out")


def pad(rows: Sequence[list[int]], filler: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Pad rows of token ids on the right.

    Parameters
    ----------
    rows : sequence of list of int
        Token ids.
    filler : int
        The padding token.
    device : torch.device
        Where both results go.

    Returns
    -------
    ids, mask : Tensor
        Both (batch, token); the mask is 1 but on padding.
    """
    width = max(len(row) for row in rows)
    ids = torch.tensor([row + [filler] * (width - len(row)) for row in rows], device=device)
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows], device=device)
    return ids, mask


def join_parts(
    rows: Sequence[Sequence[Part]], filler: int, device: torch.device
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Join each row's parts to one row of token ids, and say where each kind of token stands.

    Parameters
    ----------
    rows : sequence of sequence of Part
        Each part is a kind of token and the ids of a run of them.
    filler : int
        The padding token.
    device : torch.device
        Where ids and mask go.

    Returns
    -------
    ids, mask : Tensor
        As `pad` returns them.
    places : dict
        Of each kind, a bool mask (batch, token) on the CPU.

    Examples
    --------
    >>> ids, mask, places = join_parts([[("begin", [1]), ("image", [9, 9]), ("text", [5, 6])]], 0, device)
    >>> places["image"]
    tensor([[False,  True,  True, False, False]])
    """
    ids, mask = pad([[i for _, part in row for i in part] for row in rows], filler, device)
    kinds = [[kind for kind, part in row for _ in part] for row in rows]
    places = {
        name: torch.tensor([[k == name for k in row] + [False] * (ids.shape[1] - len(row)) for row in kinds])
        for name in {kind for row in kinds for kind in row}
    }
    return ids, mask, places
