"""Bridge by one attention in the understanding expert's head space."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..towers.tower import AttentionCall, BlockWidths
from .bridge import (
    Bridge,
    KeysValues,
    Visibility,
    _attend_both,
    _each_query_head,
    _embedding,
    _gated,
    _mapped,
    _replace_queries,
)
from .low_rank import LowRankLinear


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

    def __init__(
        self, understanding: BlockWidths, generation: BlockWidths, gated: bool, rank: int | None, both_ways: bool
    ) -> None:
        super().__init__()
        self.heads = understanding.heads
        text, width = (each.heads * each.head_dim for each in (understanding, generation))
        embed = _embedding(generation, understanding)
        # A softmax divides by the root of the wider head: queries make up for it.
        ratio = (understanding.head_dim / generation.head_dim) ** 0.5
        self.query = LowRankLinear(width, text, rank, embed * ratio)
        self.key, self.value = LowRankLinear(width, text, rank, embed), LowRankLinear(width, text, rank, embed)
        self.back = LowRankLinear(text, width, rank, embed.T.contiguous())
        self.text_key, self.text_value = (LowRankLinear(text, text, rank, torch.eye(text)) for _ in range(2))
        self.gate = nn.Parameter(torch.zeros(width)) if gated else None
        self.text_gate = nn.Parameter(torch.zeros(text)) if gated and both_ways else None

    def keys_values(self, side: int, own: AttentionCall) -> KeysValues:
        key, value = _each_query_head(own)
        maps = (self.text_key, self.text_value) if side == 0 else (self.key, self.value)
        return KeysValues(*(_mapped(linear, each, self.heads) for linear, each in zip(maps, (key, value), strict=True)))

    def attend(self, side: int, own: AttentionCall, mine: KeysValues, other: KeysValues, seen: Visibility) -> Tensor:
        query = own.query[:, :, own.reads]
        if side == 0:
            joint = _attend_both(own, query, KeysValues(*_each_query_head(own)), other, seen, own.scale)
            return _replace_queries(own, _gated(self.text_gate, own.own[:, :, own.reads], joint))
        default = own.query.shape[3] ** -0.5
        scaled = query if own.scale is None else query * (own.scale / default)
        joint = _attend_both(own, _mapped(self.query, scaled, self.heads), mine, other, seen)
        joint = _mapped(self.back, joint, own.own.shape[1])
        return _replace_queries(own, _gated(self.gate, own.own[:, :, own.reads], joint))
