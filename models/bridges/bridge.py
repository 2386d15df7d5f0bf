"""The bridges: what one tower hands over at a bridged layer, and how the other joins it to its own.

Every bridge is an attention over the tokens of both towers and differs in where it stands and what is learnt:

    SharedAttention  inside attention, in the understanding expert's head space      H (HBridge, arXiv 2511.20520)
    JointAttention   inside attention, in each tower's own head space                dense (BAGEL, LMFusion)
    FusionBlock      a self-attention block of its own behind a pair of blocks       double fusion (arXiv 2510.22946)
    CrossAttention   generation reads the last understanding state                   last (MetaQuery, arXiv 2504.06256)

`keys_values(side, own)` is what a tower (0 = understanding, 1 = generation) offers the other, keys and values; `attend(side,
own, mine, other, seen)` is its state with the other's joined in, `mine` being what it handed over itself. A gated
bridge gives `own + gate * (joint - own)`, the gate, one number a channel, being 0 at first: the untouched expert.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._pytree import tree_map_only

from ..towers.attention_masks import concatenate_masks
from ..towers.tower import AttentionCall, BlockWidths
from .low_rank import LowRankLinear


class KeysValues(NamedTuple):
    """Keys and values, (batch, head, token, dim)."""

    key: Tensor
    value: Tensor


class Visibility(NamedTuple):
    """What each query of a tower sees, bool: of its own tokens and of the other's, (batch, query or 1, key) or None."""

    own: Tensor | None = None
    other: Tensor | None = None


class Bridge(nn.Module):
    """What all bridges are; `inside` says whether one stands inside attention."""

    inside: bool

    def keys_values(self, side: int, own: Any) -> KeysValues:
        raise NotImplementedError

    def attend(self, side: int, own: Any, mine: KeysValues, other: KeysValues, seen: Visibility) -> Tensor:
        raise NotImplementedError

    def forward(self, step: str, *given: Any) -> Any:
        """`keys_values` or `attend`, by name: what hooks on modules does (FSDP gathers weights so) sees calls alone.

        Computed in the bridge's precision, whatever the towers' is; under autocast in autocast's.
        """
        weight = next(self.parameters())
        if not torch.is_autocast_enabled(weight.device.type):
            given = tree_map_only(Tensor, lambda t: t.to(weight.dtype) if t.is_floating_point() else t, given)
        return getattr(self, step)(*given)


def _embedding(source: BlockWidths, target: BlockWidths) -> Tensor:
    """(target width, source width): head into head, dim into dim, as far as there are as many."""
    embed = torch.zeros(target.heads, target.head_dim, source.heads, source.head_dim)
    for head in range(source.heads):
        embed[head % target.heads, :, head] = torch.eye(target.head_dim, source.head_dim)
    return embed.view(target.heads * target.head_dim, source.heads * source.head_dim)


def _mapped(linear: nn.Module, states: Tensor, heads: int) -> Tensor:
    """Through a linear map over all heads: (batch, head, token, dim) -> (batch, head', token, dim')."""
    return linear(states.transpose(1, 2).flatten(2)).unflatten(2, (heads, -1)).transpose(1, 2)


def _each_query_head(own: AttentionCall) -> tuple[Tensor, Tensor]:
    """Keys and values with as many heads as queries (grouped-query attention shares them)."""
    shared = own.query.shape[1] // own.key.shape[1]
    return own.key.repeat_interleave(shared, 1), own.value.repeat_interleave(shared, 1)


def _attend_both(
    own: AttentionCall, query: Tensor, mine: KeysValues, other: KeysValues, seen: Visibility, scale: float | None = None
) -> Tensor:
    """One softmax over both towers' tokens, for the queries that the bridge enters: (batch, head, query, dim)."""
    mask = own.mask
    if mask is not None:
        mask = _for_heads(mask[(None,) * (4 - mask.ndim)], query.shape[1])
        mask = mask[:, :, own.reads] if mask.shape[2] > 1 else mask
    mask = concatenate_masks(mask, seen.other, (mine.key.shape[2], other.key.shape[2]), query)
    key, value = (torch.cat([a, b], dim=2) for a, b in zip(mine, other, strict=True))
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scale)


def _for_heads(mask: Tensor, heads: int) -> Tensor:
    """A mask (batch, head, query, key) for heads of another space, where it is one for all (no relative positions)."""
    if mask.shape[1] in (1, heads):
        return mask
    if not (mask == mask[:, :1]).all():
        raise ValueError(
            f"the generation block masks each of its {mask.shape[1]} heads otherwise, and attention is in the {heads} "
            "heads of the understanding block: choose another layout, as 'dense'"
        )
    return mask[:, :1]


def _replace_queries(own: AttentionCall, joined: Tensor) -> Tensor:
    """The block's attention with the joined queries in the place of its own; `reads` may reorder all of them."""
    if isinstance(own.reads, slice) and joined.shape == own.own.shape:
        return joined
    whole = own.own.clone()
    whole[:, :, own.reads] = joined.to(whole.dtype)
    return whole


def _gated(gate: Tensor | None, own: Tensor, joint: Tensor) -> Tensor:
    """own + gate * (joint - own), (batch, head, token, dim), with one gate a channel of a head."""
    if gate is None:
        return joint
    return own + gate.view(1, own.shape[1], 1, own.shape[3]) * (joint - own)


def _out(width: int, out: int, rank: int | None, start: float | None) -> LowRankLinear:
    return LowRankLinear(width, out, rank, None if start is None else torch.full((out, width), start))


def _head_dim(width: int) -> int:
    """The widest of at most 64 that divides a width."""
    return next(dim for dim in range(min(64, width), 0, -1) if width % dim == 0)


def _split(states: Tensor, heads: int) -> Tensor:
    return states.unflatten(2, (heads, -1)).transpose(1, 2)
