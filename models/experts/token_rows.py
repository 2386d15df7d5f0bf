"""Texts to token ids and masks, right padded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

Part = tuple[str, Sequence[int]]  # a kind of token and the ids of a run of them


def tokenize(
    tokenizer: Any, texts: Sequence[str], device: torch.device, **options: Any
) -> tuple[dict[str, Tensor], Tensor]:
    """The inputs of a text model, right padded, and a mask (batch, token) of its words: neither padding nor special."""
    tokenizer.padding_side = "right"
    options = {"padding": True, "truncation": True} | options
    tokens = tokenizer(
        list(texts), return_tensors="pt", return_special_tokens_mask=True, return_attention_mask=True, **options
    )
    words = (tokens.pop("special_tokens_mask") == 0) & (tokens["attention_mask"] == 1)
    check_words(words.sum(1).tolist(), texts)
    return {name: value.to(device) for name, value in tokens.items()}, words


def check_words(counts: Sequence[int], texts: Sequence[str]) -> None:
    """Raises ValueError for a text of which a tokenizer made no token, so that there is nothing to average."""
    for count, text in zip(counts, texts, strict=True):
        if text and not count:
            raise ValueError(f"the tokenizer makes no token of the text {text!r}: give it another, or leave it out")


def pad(rows: Sequence[list[int]], filler: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Right-padded ids and their mask, both (batch, token)."""
    width = max(len(row) for row in rows)
    ids = torch.tensor([row + [filler] * (width - len(row)) for row in rows], device=device)
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows], device=device)
    return ids, mask


def lay(rows: Sequence[Sequence[Part]], filler: int, device: torch.device) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Rows of parts as ids and mask like `pad`, and where each kind of token stands: bool masks (batch, token).

    >>> ids, mask, where = lay([[("begin", [1]), ("image", [9, 9]), ("text", [5, 6])]], 0, device)
    >>> where["image"]
    tensor([[False,  True,  True, False, False]])
    """
    ids, mask = pad([[i for _, part in row for i in part] for row in rows], filler, device)
    kinds = [[kind for kind, part in row for _ in part] for row in rows]
    where = {
        name: torch.tensor([[k == name for k in row] + [False] * (ids.shape[1] - len(row)) for row in kinds])
        for name in {kind for row in kinds for kind in row}
    }
    return ids, mask, where
