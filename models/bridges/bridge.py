"""The bridges: what one tower hands over at a bridged layer, and how the other joins it to its own.

Every bridge is an attention over the tokens of both towers and differs in where it stands and what is learnt:

    SharedAttention  inside attention, in the understanding expert's head space      H (HBridge, arXiv 2511.20520)
    JointAttention   inside attention, in each tower's own head space                dense (BAGEL, LMFusion)
    FusionBlock      a self-attention block of its own behind a pair of blocks       double fusion (arXiv 2510.22946)
    CrossAttention   generation reads the last understanding state                   last (MetaQuery, arXiv 2504.06256)

`hand(side, own)` is what a tower (0 = understanding, 1 = generation) offers the other, keys and values; `join(side,
own, mine, other, seen)` is its state with the other's joined in, `mine` being what it handed over itself. A gated
bridge gives `own + gate * (joint - own)`, the gate, one number a channel, being 0 at first: the untouched expert.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._pytree import tree_map_only

from ..towers.attention_masks import beside
from ..towers.tower import Attended, Shape
from .low_rank import Map


class Handed(NamedTuple):
    """Keys and values, (batch, head, token, dim)."""

    key: Tensor
    value: Tensor


class Seen(NamedTuple):
    """What each query of a tower sees, bool: of its own tokens and of the other's, (batch, query or 1, key) or None."""

    own: Tensor | None = None
    other: Tensor | None = None


class Bridge(nn.Module):
    """What all bridges are; `inside` says whether one stands inside attention."""

    inside: bool

    def hand(self, side: int, own: Any) -> Handed:
        raise NotImplementedError

    def join(self, side: int, own: Any, mine: Handed, other: Handed, seen: Seen) -> Tensor:
        raise NotImplementedError

    def forward(self, step: str, *given: Any) -> Any:
        """`hand` or `join`, by name: what hooks on modules does (FSDP gathers weights so) sees calls alone.

        Computed in the bridge's precision, whatever the towers' is; under autocast in autocast's.
        """
        weight = next(self.parameters())
        if not torch.is_autocast_enabled(weight.device.type):
            given = tree_map_only(Tensor, lambda t: t.to(weight.dtype) if t.is_floating_point() else t, given)
        return getattr(self, step)(*given)


def _embedding(source: Shape, target: Shape) -> Tensor:
    """(target width, source width): head into head, dim into dim, as far as there are as many."""
    embed = torch.zeros(target.heads, target.head_dim, source.heads, source.head_dim)
    for head in range(source.heads):
        embed[head % target.heads, :, head] = torch.eye(target.head_dim, source.head_dim)
    return embed.view(target.heads * target.head_dim, source.heads * source.head_dim)


def _mapped(linear: nn.Module, states: Tensor, heads: int) -> Tensor:
    """Through a linear map over all heads: (batch, head, token, dim) -> (batch, head', token, dim')."""
    return linear(states.transpose(1, 2).flatten(2)).unflatten(2, (heads, -1)).transpose(1, 2)


def _each_query_head(own: Attended) -> tuple[Tensor, Tensor]:
    """Keys and values with as many heads as queries (grouped-query attention shares them)."""
    shared = own.query.shape[1] // own.key.shape[1]
    return own.key.repeat_interleave(shared, 1), own.value.repeat_interleave(shared, 1)


def _attend_both(
    own: Attended, query: Tensor, mine: Handed, other: Handed, seen: Seen, scale: float | None = None
) -> Tensor:
    """One softmax over both towers' tokens, for the queries that the bridge enters: (batch, head, query, dim)."""
    mask = own.mask
    if mask is not None:
        mask = _for_heads(mask[(None,) * (4 - mask.ndim)], query.shape[1])
        mask = mask[:, :, own.reads] if mask.shape[2] > 1 else mask
    mask = beside(mask, seen.other, (mine.key.shape[2], other.key.shape[2]), query)
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


def _put(own: Attended, joined: Tensor) -> Tensor:
    """The block's attention with the joined queries in the place of its own; `reads` may reorder all of them."""
    if isinstance(own.reads, slice) and joined.shape == own.own.shape:
        return joined
    whole = own.own.clone()
    whole[:, :, own.reads] = joined.to(whole.dtype)
    return whole


class SharedAttention(Bridge):
    """Joint attention of one bridge, in the understanding expert's head space (HBridge, arXiv 2511.20520).

    Linear maps take the generation block's queries, keys and values into the understanding heads; one softmax runs over
    both experts' tokens; a fourth map takes the result back. Unlike HBridge's, the experts may be frozen, so two maps
    adapt the text's keys and values to it. Both ways, the understanding block attends to the mapped keys as well.

    The maps start as an embedding of head into head, in which joint attention over the block's own tokens alone would
    be its own attention (exactly, where the understanding heads are no fewer and no narrower): with random maps an open
    gate adds noise, and shuts.
    """

    inside = True

    def __init__(self, understanding: Shape, generation: Shape, gated: bool, rank: int | None, both_ways: bool) -> None:
        super().__init__()
        self.heads = understanding.heads
        text, width = (each.heads * each.head_dim for each in (understanding, generation))
        embed = _embedding(generation, understanding)
        # A softmax divides by the root of the wider head: queries make up for it.
        ratio = (understanding.head_dim / generation.head_dim) ** 0.5
        self.query = Map(width, text, rank, embed * ratio)
        self.key, self.value = Map(width, text, rank, embed), Map(width, text, rank, embed)
        self.back = Map(text, width, rank, embed.T.contiguous())
        self.text_key, self.text_value = (Map(text, text, rank, torch.eye(text)) for _ in range(2))
        self.gate = nn.Parameter(torch.zeros(width)) if gated else None
        self.text_gate = nn.Parameter(torch.zeros(text)) if gated and both_ways else None

    def hand(self, side: int, own: Attended) -> Handed:
        key, value = _each_query_head(own)
        maps = (self.text_key, self.text_value) if side == 0 else (self.key, self.value)
        return Handed(*(_mapped(linear, each, self.heads) for linear, each in zip(maps, (key, value), strict=True)))

    def join(self, side: int, own: Attended, mine: Handed, other: Handed, seen: Seen) -> Tensor:
        query = own.query[:, :, own.reads]
        if side == 0:
            joint = _attend_both(own, query, Handed(*_each_query_head(own)), other, seen, own.scale)
            return _put(own, _through(self.text_gate, own.own[:, :, own.reads], joint))
        default = own.query.shape[3] ** -0.5
        scaled = query if own.scale is None else query * (own.scale / default)
        joint = _attend_both(own, _mapped(self.query, scaled, self.heads), mine, other, seen)
        joint = _mapped(self.back, joint, own.own.shape[1])
        return _put(own, _through(self.gate, own.own[:, :, own.reads], joint))


class JointAttention(Bridge):
    """Own weights, one joint attention: each tower's queries see both towers' keys (BAGEL, arXiv 2505.14683; LMFusion).

    Each tower keeps its own head space, into which a linear map each takes the other's keys and values. It starts as
    an embedding of head into head: as the identity where the spaces are equal, which is their own joint attention.
    """

    inside = True

    def __init__(self, understanding: Shape, generation: Shape, gated: bool, rank: int | None, both_ways: bool) -> None:
        super().__init__()
        self.heads = (understanding.heads, generation.heads)

        def maps(source: Shape, target: Shape) -> nn.ModuleList:
            widths = source.heads * source.head_dim, target.heads * target.head_dim
            return nn.ModuleList(Map(*widths, rank, _embedding(source, target)) for _ in range(2))

        self.maps = nn.ModuleList([maps(understanding, generation)])
        if both_ways:
            self.maps.append(maps(generation, understanding))
        self.gate = nn.Parameter(torch.zeros(generation.heads * generation.head_dim)) if gated else None
        open_both = gated and both_ways
        self.text_gate = nn.Parameter(torch.zeros(understanding.heads * understanding.head_dim)) if open_both else None

    def hand(self, side: int, own: Attended) -> Handed:
        both = _each_query_head(own)
        if side == len(self.maps):  # nobody reads generation
            return Handed(*both)
        key, value = (
            _mapped(m, each, self.heads[1 - side]) for m, each in zip(self.maps[side].children(), both, strict=True)
        )
        return Handed(key, value)

    def join(self, side: int, own: Attended, mine: Handed, other: Handed, seen: Seen) -> Tensor:
        native = Handed(*_each_query_head(own))
        joint = _attend_both(own, own.query[:, :, own.reads], native, other, seen, own.scale)
        return _put(own, _through((self.text_gate, self.gate)[side], own.own[:, :, own.reads], joint))


def _through(gate: Tensor | None, own: Tensor, joint: Tensor) -> Tensor:
    """own + gate * (joint - own), (batch, head, token, dim), with one gate a channel of a head."""
    if gate is None:
        return joint
    return own + gate.view(1, own.shape[1], 1, own.shape[3]) * (joint - own)


class FusionBlock(Bridge):
    """A multimodal self-attention block over the tokens of both towers, behind a pair of their blocks (LightFusion).

    Each tower's states are normed and projected to queries, keys and values as wide as the generation tower; one
    softmax runs over both; each tower's output projection adds the result to its states. That projection is zero at
    first (gated: a gate is), so training starts from the untouched experts.
    """

    inside = False

    def __init__(self, understanding: Shape, generation: Shape, gated: bool, rank: int | None, both_ways: bool) -> None:
        super().__init__()
        width = generation.width
        self.heads = width // _head_dim(width)
        shapes = (understanding, generation)
        self.norms = nn.ModuleList(nn.LayerNorm(each.width) for each in shapes)
        self.keys, self.values = (nn.ModuleList(Map(s.width, width, rank) for s in shapes) for _ in range(2))
        reading = shapes if both_ways else shapes[1:]  # who joins; one way, generation alone
        start = None if gated else 0.0
        self.queries = nn.ModuleList(Map(each.width, width, rank) for each in reading)
        self.outs = nn.ModuleList(_out(width, each.width, rank, start) for each in reading)
        self.gates = nn.ParameterList(nn.Parameter(torch.zeros(each.width)) for each in reading) if gated else None

    def hand(self, side: int, own: Tensor) -> Handed:
        states = self.norms[side](own)
        maps = (self.keys[side], self.values[side])
        return Handed(*(_split(linear(states), self.heads) for linear in maps))

    def join(self, side: int, own: Tensor, mine: Handed, other: Handed, seen: Seen) -> Tensor:
        at = side - 2  # the last of those who read is generation
        query = _split(self.queries[at](self.norms[side](own)), self.heads)
        key, value = (torch.cat([a, b], dim=2) for a, b in zip(mine, other, strict=True))
        own_mask = None if seen.own is None else seen.own[:, None]
        mask = beside(own_mask, seen.other, (mine.key.shape[2], other.key.shape[2]), query)
        joint = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        added = self.outs[at](joint.transpose(1, 2).flatten(2))
        return own + (added if self.gates is None else self.gates[at] * added)


class CrossAttention(Bridge):
    """Generation reads the last understanding state by cross-attention (MetaQuery, arXiv 2504.06256; BLIP3-o).

    Those connect the last state to the generator's own text input; here every bridged block reads it, so that the
    layouts differ in the understanding layer alone. The output projection (gated: the gate) is zero at first.
    """

    inside = False

    def __init__(self, understanding: Shape, generation: Shape, gated: bool, rank: int | None, both_ways: bool) -> None:
        super().__init__()
        width = generation.width
        self.heads = width // _head_dim(width)
        self.norms = nn.ModuleList(nn.LayerNorm(each.width) for each in (understanding, generation))
        self.key, self.value = (Map(understanding.width, width, rank) for _ in range(2))
        self.query = Map(width, width, rank)
        self.out = _out(width, width, rank, None if gated else 0.0)
        self.gate = nn.Parameter(torch.zeros(width)) if gated else None

    def hand(self, side: int, own: Tensor) -> Handed:
        if side == 1:  # nobody reads generation
            return Handed(own, own)
        states = self.norms[0](own)
        return Handed(*(_split(linear(states), self.heads) for linear in (self.key, self.value)))

    def join(self, side: int, own: Tensor, mine: Handed, other: Handed, seen: Seen) -> Tensor:
        query = _split(self.query(self.norms[1](own)), self.heads)
        mask = None if seen.other is None else seen.other[:, None]
        joint = F.scaled_dot_product_attention(query, *other, attn_mask=mask)
        added = self.out(joint.transpose(1, 2).flatten(2))
        return own + (added if self.gate is None else self.gate * added)


def _out(width: int, out: int, rank: int | None, start: float | None) -> Map:
    return Map(width, out, rank, None if start is None else torch.full((out, width), start))


def _head_dim(width: int) -> int:
    """The widest of at most 64 that divides a width."""
    return next(dim for dim in range(min(64, width), 0, -1) if width % dim == 0)


def _split(states: Tensor, heads: int) -> Tensor:
    return states.unflatten(2, (heads, -1)).transpose(1, 2)


BRIDGES: dict[str, type[Bridge]] = {
    "H": SharedAttention,
    "dense": JointAttention,
    "double fusion": FusionBlock,
    "last": CrossAttention,
}
