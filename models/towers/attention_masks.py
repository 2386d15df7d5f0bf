"""Make the generalised causal mask: which tokens of two towers see each other."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class SequencePlaces(NamedTuple):
    """The places of tokens in the one sequence that both towers' tokens make up.

    Each part is (batch, token), or (batch, 1) where it holds for all tokens.

    Attributes
    ----------
    place : Tensor
        Whole numbers. The tokens of one image share a place, each text token has its own.
    noise : Tensor
        True for tokens of an image that is still noisy.
    real : Tensor
        False for padding.
    """

    place: Tensor
    noise: Tensor
    real: Tensor


def visible(query: SequencePlaces, key: SequencePlaces) -> Tensor:
    """Return which keys each query sees: text is causal, the tokens of one image see each other, others see no noise.

    Parameters
    ----------
    query, key : SequencePlaces
        The places of the tokens that look, and of those that are looked at.

    Returns
    -------
    Tensor
        bool, (batch, query token, key token).

    References
    ----------
    LightFusion, arXiv 2510.22946; BAGEL, arXiv 2505.14683.
    """
    here, there = query.place[:, :, None], key.place[:, None]
    return key.real[:, None] & ((there < here) & ~key.noise[:, None] | (there == here))


def one_image(batch: int, place: int, noise: bool, device: torch.device) -> SequencePlaces:
    """Return the places of an image's tokens: each part is (batch, 1) and holds for all of them."""
    return SequencePlaces(*(torch.full((batch, 1), value, device=device) for value in (place, noise, True)))


def text_after(real: Tensor, place: int) -> SequencePlaces:
    """Return the places of texts, one token after another.

    Parameters
    ----------
    real : Tensor
        bool, (batch, token), False at padding.
    place : int
        The place of the first token.
    """
    steps = torch.arange(place, place + real.shape[1], device=real.device).expand(real.shape)
    return SequencePlaces(steps, torch.zeros_like(real), real)


def concatenate_masks(own: Tensor | None, other: Tensor | None, keys: tuple[int, int], like: Tensor) -> Tensor | None:
    """Join the masks over a tower's own keys and over the other tower's keys into one.

    Parameters
    ----------
    own : Tensor or None
        What attention was given, bool or added to the scores, (..., query token, own key). None sees all.
    other : Tensor or None
        bool, (batch, query token or 1, other key or 1). None sees all.
    keys : tuple of int
        How many own keys and other keys there are.
    like : Tensor
        The queries, (batch, head, query token, dim).

    Returns
    -------
    Tensor or None
        (batch, head, query token, own keys + other keys): bool if both masks are, else to be added to the scores. The
        first three are 1 where all see the same. None if both masks are None.
    """
    if own is None and other is None:
        return None
    parts = []
    for mask, count in zip((own, None if other is None else other[:, None]), keys, strict=True):
        if mask is None:
            mask = torch.ones(1, 1, 1, count, dtype=torch.bool, device=like.device)
        parts.append(mask)
    if any(mask.dtype != torch.bool for mask in parts):
        parts = [_additive(mask, like) for mask in parts]
    sizes = torch.broadcast_shapes(*(mask.shape[:3] for mask in parts))
    expanded = [mask.expand(*sizes, count) for mask, count in zip(parts, keys, strict=True)]
    return torch.cat(expanded, dim=3)


def _additive(mask: Tensor, like: Tensor) -> Tensor:
    """Return a mask as numbers that are added to the scores."""
    if mask.dtype != torch.bool:
        return mask.to(like.dtype)
    return torch.zeros(mask.shape, dtype=like.dtype, device=like.device).masked_fill(~mask, torch.finfo(like.dtype).min)
