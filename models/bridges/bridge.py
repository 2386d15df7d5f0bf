"""Define what a bridge is, and the pieces that bridges are made of.

A bridge is an attention over the tokens of both towers. Side 0 is the understanding tower, side 1 the generation tower.
Each side offers the other keys and values, `keys_values`, and joins what the other offers to its own state, `attend`. A
gated bridge gives `own + gate * (joint - own)`; the gate, one number a channel, is 0 at first: the untouched expert.

To add a bridge, write its class in a module of this folder, name it in models/bridges/registry.py, and describe its
layout in probes/plans/layout_table.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...probes.hooks.attention_calls import AttentionCall
from ...probes.private_names import tree_map_only
from ..towers.attention_masks import concatenate_masks
from ..towers.tower import BlockWidths
from .low_rank import LowRankLinear


class KeysValues(NamedTuple):
    """Keys and values, each (batch, head, token, dim)."""

    key: Tensor
    value: Tensor


class Visibility(NamedTuple):
    """What each query of a tower sees.

    Attributes
    ----------
    own, other : Tensor or None
        Of its own tokens and of the other tower's: bool, (batch, query or 1, key). None sees all.
    """

    own: Tensor | None = None
    other: Tensor | None = None


class Bridge(nn.Module):
    """The base class of all bridges.

    A subclass is built as `kind(understanding, generation, gated, rank, both_ways)`: the `BlockWidths` of the two
    blocks, and the fields of the plan. One that `reads_all` is built with one more argument, `mixed`: which of the
    stacked blocks it reads.

    Attributes
    ----------
    inside : bool
        Whether the bridge stands inside attention: its state is then an `AttentionCall`, else the block's output
        (batch, token, dim).
    reads_all : bool
        Whether the bridge reads many understanding blocks. Its understanding state is then what its `stack_states`
        makes of them once for all bridges, (block, batch, token, dim).
    """

    inside: bool
    reads_all: bool = False

    @staticmethod
    def stack_states(states: Sequence[Tensor]) -> Tensor:
        """Return what a bridge that `reads_all` reads of the blocks' states, each (batch, token, dim)."""
        raise NotImplementedError

    def keys_values(self, side: int, own: Any) -> KeysValues:
        """Return what a tower offers the other.

        Parameters
        ----------
        side : int
            0 for the understanding tower, 1 for the generation tower.
        own : AttentionCall or Tensor
            The tower's state at its block.
        """
        raise NotImplementedError

    def own_keys_values(self, side: int, own: Any) -> KeysValues:
        """Return what `attend` takes as `mine` of a tower that the other does not read.

        By default it is `keys_values`. A bridge that offers the other tower something else than it reads of its own
        need not compute that here.

        Parameters
        ----------
        side : int
            0 for the understanding tower, 1 for the generation tower.
        own : AttentionCall or Tensor
            The tower's state at its block.
        """
        return self.keys_values(side, own)

    def attend(self, side: int, own: Any, mine: KeysValues, other: KeysValues, visibility: Visibility) -> Tensor:
        """Return a tower's state with the other's joined to it.

        Parameters
        ----------
        side : int
            0 for the understanding tower, 1 for the generation tower.
        own : AttentionCall or Tensor
            The tower's state at its block.
        mine, other : KeysValues
            What this tower and the other one offer.
        visibility : Visibility
            What the tower's queries see.

        Returns
        -------
        Tensor
            Inside attention (batch, head, query token, dim) for all queries, else (batch, token, dim).
        """
        raise NotImplementedError

    def forward(self, step: str, *given: Any) -> Any:
        """Run `keys_values`, `own_keys_values` or `attend`, by name.

        FSDP and other hooks on modules see only calls of `forward`. It is computed in the bridge's precision, whatever
        the towers' is; under autocast in autocast's.
        """
        weight = next(self.parameters())
        if not torch.is_autocast_enabled(weight.device.type) and not _all_in(weight.dtype, given):
            given = tree_map_only(Tensor, lambda t: t.to(weight.dtype) if t.is_floating_point() else t, given)
        return getattr(self, step)(*given)


def _all_in(dtype: torch.dtype, given: Any) -> bool:
    """Return whether all numbers in nested tuples have a dtype already. Looking is quicker than copying the tuples."""
    if isinstance(given, Tensor):
        return given.dtype == dtype or not given.is_floating_point()
    if isinstance(given, tuple):
        return all(_all_in(dtype, part) for part in given)
    return given is None or isinstance(given, int | float | slice)


def head_embedding(source: BlockWidths, target: BlockWidths) -> Tensor:
    """Return the map (target width, source width) of head into head and dim into dim, as far as there are as many."""
    embed = torch.zeros(target.heads, target.head_dim, source.heads, source.head_dim)
    for head in range(source.heads):
        embed[head % target.heads, :, head] = torch.eye(target.head_dim, source.head_dim)
    return embed.view(target.heads * target.head_dim, source.heads * source.head_dim)


def map_heads(linear: nn.Module, states: Tensor, heads: int) -> Tensor:
    """Apply a linear map over all heads: (batch, head, token, dim) to (batch, `heads`, token, dim')."""
    return linear(states.transpose(1, 2).flatten(2)).unflatten(2, (heads, -1)).transpose(1, 2)


def keys_values_per_query_head(own: AttentionCall) -> KeysValues:
    """Return keys and values with as many heads as queries, which share them in grouped-query attention."""
    shared = own.query.shape[1] // own.key.shape[1]
    if shared == 1:  # repeating once would copy both
        return KeysValues(own.key, own.value)
    return KeysValues(own.key.repeat_interleave(shared, 1), own.value.repeat_interleave(shared, 1))


def attend_to_both(
    own: AttentionCall,
    query: Tensor,
    mine: KeysValues,
    other: KeysValues,
    visibility: Visibility,
    scale: float | None = None,
) -> Tensor:
    """Attend with one softmax over both towers' tokens.

    Parameters
    ----------
    own : AttentionCall
        The block's attention, whose mask holds for its own keys.
    query : Tensor
        The queries that the bridge enters, (batch, head, query token, dim).
    mine, other : KeysValues
        The keys and values of both towers, in the heads of the queries.
    visibility : Visibility
        What the queries see of the other tower.
    scale : float, optional
        The factor of the scores. By default dim ** -0.5.

    Returns
    -------
    Tensor
        (batch, head, query token, dim).
    """
    mask = own.mask
    if mask is not None:
        mask = _mask_for_heads(mask[(None,) * (4 - mask.ndim)], query.shape[1])
        mask = mask[:, :, own.reads] if mask.shape[2] > 1 else mask
    mask = concatenate_masks(mask, visibility.other, (mine.key.shape[2], other.key.shape[2]), query)
    key, value = (torch.cat([a, b], dim=2) for a, b in zip(mine, other, strict=True))
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scale)


def _mask_for_heads(mask: Tensor, heads: int) -> Tensor:
    """Return a mask (batch, head, query, key) for heads of another space, where all heads have the same."""
    if mask.shape[1] in (1, heads):
        return mask
    if not (mask == mask[:, :1]).all():
        raise ValueError(
            f"the generation block masks each of its {mask.shape[1]} heads otherwise, and attention is in the {heads} "
            "heads of the understanding block: choose another layout, as 'dense'"
        )
    return mask[:, :1]


def replace_queries(own: AttentionCall, joined: Tensor) -> Tensor:
    """Return the block's attention with the joined queries in place of its own; `reads` may reorder all of them."""
    if isinstance(own.reads, slice) and joined.shape == own.own.shape:
        return joined
    whole = own.own.clone()
    whole[:, :, own.reads] = joined.to(whole.dtype)
    return whole


def apply_gate(gate: Tensor | None, own: Tensor, joint: Tensor) -> Tensor:
    """Return own + gate * (joint - own), (batch, head, token, dim), with one gate for each channel of a head."""
    if gate is None:
        return joint
    # Into the product, which nothing else reads: a third tensor would cost as much as the arithmetic.
    return (gate.view(1, own.shape[1], 1, own.shape[3]) * (joint - own)).add_(own)


def output_map(width: int, out: int, rank: int | None, start: float | None) -> LowRankLinear:
    """Return the map to a tower's width; every entry is `start` at first, or drawn at random where that is None."""
    return LowRankLinear(width, out, rank, None if start is None else torch.full((out, width), start))


def widest_head(width: int) -> int:
    """Return the largest head dim of at most 64 that divides a width."""
    return next(dim for dim in range(min(64, width), 0, -1) if width % dim == 0)


def split_heads(states: Tensor, heads: int) -> Tensor:
    """Turn (batch, token, width) into (batch, head, token, dim)."""
    return states.unflatten(2, (heads, -1)).transpose(1, 2)
