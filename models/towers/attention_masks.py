"""The generalised causal mask: which tokens of two towers see each other."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class SequencePlaces(NamedTuple):
    """Where tokens stand in the one sequence that both towers' tokens make up; (batch, 1) holds for all tokens.

    place : (batch, token), whole numbers. The tokens of one image share a place, each text token has its own.
    noise : (batch, token), True for tokens of an image that is still noisy.
    real : (batch, token), False for padding.
    """

    place: Tensor
    noise: Tensor
    real: Tensor


def visible(query: SequencePlaces, key: SequencePlaces) -> Tensor:
    """Which keys each query sees, (batch, query token, key token).

    Text is causal, the tokens of one image see each other, noise is seen by nobody else (LightFusion, arXiv 2510.22946;
    BAGEL, arXiv 2505.14683).
    """
    here, there = query.place[:, :, None], key.place[:, None]
    return key.real[:, None] & ((there < here) & ~key.noise[:, None] | (there == here))


def one_image(batch: int, place: int, noise: bool, device: torch.device) -> SequencePlaces:
    """The places of an image's tokens, one for all: each part is (batch, 1)."""
    return SequencePlaces(*(torch.full((batch, 1), each, device=device) for each in (place, noise, True)))


def text_after(real: Tensor, place: int) -> SequencePlaces:
    """The places of texts (batch, token), one after the other from `place` on; `real` is False at padding."""
    steps = torch.arange(place, place + real.shape[1], device=real.device).expand(real.shape)
    return SequencePlaces(steps, torch.zeros_like(real), real)


def concatenate_masks(own: Tensor | None, other: Tensor | None, keys: tuple[int, int], like: Tensor) -> Tensor | None:
    """One attention mask over a tower's own keys and then the other's.

    own : what attention was given, bool or additive, (..., query token, own key); None sees all.
    other : bool, (batch, query token or 1, other key or 1); None sees all.
    keys : how many of either; `like`: the queries, (batch, head, query token, dim).
    """
    if own is None and other is None:
        return None
    rows = like.shape[2]
    parts = []
    for mask, count in zip((own, None if other is None else other[:, None]), keys, strict=True):
        if mask is None:
            mask = torch.ones(1, 1, 1, count, dtype=torch.bool, device=like.device)
        parts.append(mask)
    if any(mask.dtype != torch.bool for mask in parts):
        parts = [_additive(mask, like) for mask in parts]
    heads = max(mask.shape[1] for mask in parts)
    wide = [mask.expand(len(like), heads, rows, count) for mask, count in zip(parts, keys, strict=True)]
    return torch.cat(wide, dim=3)


def _additive(mask: Tensor, like: Tensor) -> Tensor:
    if mask.dtype != torch.bool:
        return mask.to(like.dtype)
    return torch.zeros(mask.shape, dtype=like.dtype, device=like.device).masked_fill(~mask, torch.finfo(like.dtype).min)
