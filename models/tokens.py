"""Texts to token ids and masks, right padded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def tokenize(tokenizer: Any, texts: Sequence[str], device: torch.device) -> tuple[dict[str, Tensor], Tensor]:
    """The inputs of a text model, right padded, and a mask (batch, token) of its words: neither padding nor special."""
    tokenizer.padding_side = "right"
    tokens = tokenizer(list(texts), padding=True, truncation=True, return_tensors="pt", return_special_tokens_mask=True)
    words = (tokens.pop("special_tokens_mask") == 0) & (tokens["attention_mask"] == 1)
    return {name: value.to(device) for name, value in tokens.items()}, words


def pad(rows: Sequence[list[int]], filler: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Right-padded ids and their mask, both (batch, token)."""
    width = max(len(row) for row in rows)
    ids = torch.tensor([row + [filler] * (width - len(row)) for row in rows], device=device)
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows], device=device)
    return ids, mask
