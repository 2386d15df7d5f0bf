"""Bridge by one attention in the understanding expert's head space."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ...probes.hooks.attention_calls import AttentionCall
from ..towers.tower import BlockWidths
from .bridge import (
    Bridge,
    KeysValues,
    Visibility,
    apply_gate,
    attend_to_both,
    head_embedding,
    keys_values_per_query_head,
    map_heads,
    replace_queries,
)
from .low_rank import LowRankLinear


class SharedAttention(Bridge):
    """Joint attention in the understanding expert's head space.

    Linear maps take the generation block's queries, keys and values into the understanding heads; one softmax runs over
    both experts' tokens; a fourth map takes the result back. Unlike HBridge's, the experts may be frozen, so two maps
    adapt the text's keys and values. Both ways, the understanding block attends to the mapped keys as well.

    The maps start as an embedding of head into head, in which joint attention over the block's own tokens alone would
    be its own attention (exactly, where the understanding heads are no fewer and no narrower): with random maps an open
    gate adds noise, and training closes it.

    References
    ----------
    HBridge, arXiv 2511.20520.
    """

    inside = True

    def __init__(
        self, understanding: BlockWidths, generation: BlockWidths, gated: bool, rank: int | None, both_ways: bool
    ) -> None:
        super().__init__()
        self.heads = understanding.heads
        text, width = (block.heads * block.head_dim for block in (understanding, generation))
        embed = head_embedding(generation, understanding)
        # A softmax divides by the root of the wider head: queries make up for it.
        ratio = (understanding.head_dim / generation.head_dim) ** 0.5
        self.query = LowRankLinear(width, text, rank, embed * ratio)
        self.key, self.value = LowRankLinear(width, text, rank, embed), LowRankLinear(width, text, rank, embed)
        self.back = LowRankLinear(text, width, rank, embed.T.contiguous())
        self.text_key, self.text_value = (LowRankLinear(text, text, rank, torch.eye(text)) for _ in range(2))
        self.gate = nn.Parameter(torch.zeros(width)) if gated else None
        self.text_gate = nn.Parameter(torch.zeros(text)) if gated and both_ways else None

    def keys_values(self, side: int, own: AttentionCall) -> KeysValues:
        both = keys_values_per_query_head(own)
        maps = (self.text_key, self.text_value) if side == 0 else (self.key, self.value)
        return KeysValues(*(map_heads(linear, part, self.heads) for linear, part in zip(maps, both, strict=True)))

    def attend(
        self, side: int, own: AttentionCall, mine: KeysValues, other: KeysValues, visibility: Visibility
    ) -> Tensor:
        query = own.query[:, :, own.reads]
        if side == 0:
            joint = attend_to_both(own, query, keys_values_per_query_head(own), other, visibility, own.scale)
            return replace_queries(own, apply_gate(self.text_gate, own.own[:, :, own.reads], joint))
        default = own.query.shape[3] ** -0.5
        scaled = query if own.scale is None else query * (own.scale / default)
        joint = attend_to_both(own, map_heads(self.query, scaled, self.heads), mine, other, visibility)
        joint = map_heads(self.back, joint, own.own.shape[1])
        return replace_queries(own, apply_gate(self.gate, own.own[:, :, own.reads], joint))
