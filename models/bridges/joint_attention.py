"""Bridge by one attention over both towers, each in its own head space."""

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


class JointAttention(Bridge):
    """Own weights, one joint attention: each tower's queries see both towers' keys.

    Each tower keeps its own head space. One linear map takes the other tower's keys there, another one its values. Each
    map starts as an embedding of head into head: as the identity where the spaces are equal, which is their own joint
    attention.

    References
    ----------
    BAGEL, arXiv 2505.14683; LMFusion, arXiv 2412.15188.
    """

    inside = True

    def __init__(
        self, understanding: BlockWidths, generation: BlockWidths, gated: bool, rank: int | None, both_ways: bool
    ) -> None:
        super().__init__()
        self.heads = (understanding.heads, generation.heads)

        def maps(source: BlockWidths, target: BlockWidths) -> nn.ModuleList:
            widths = source.heads * source.head_dim, target.heads * target.head_dim
            return nn.ModuleList(LowRankLinear(*widths, rank, head_embedding(source, target)) for _ in range(2))

        self.maps = nn.ModuleList([maps(understanding, generation)])
        if both_ways:
            self.maps.append(maps(generation, understanding))
        self.gate = nn.Parameter(torch.zeros(generation.heads * generation.head_dim)) if gated else None
        open_both = gated and both_ways
        self.text_gate = nn.Parameter(torch.zeros(understanding.heads * understanding.head_dim)) if open_both else None

    def keys_values(self, side: int, own: AttentionCall) -> KeysValues:
        both = keys_values_per_query_head(own)
        if side == len(self.maps):  # nobody reads generation
            return both
        maps = self.maps[side].children()
        return KeysValues(*(map_heads(m, part, self.heads[1 - side]) for m, part in zip(maps, both, strict=True)))

    def own_keys_values(self, side: int, own: AttentionCall) -> KeysValues:
        return keys_values_per_query_head(own)

    def attend(
        self, side: int, own: AttentionCall, mine: KeysValues, other: KeysValues, visibility: Visibility
    ) -> Tensor:
        native = keys_values_per_query_head(own)
        joint = attend_to_both(own, own.query[:, :, own.reads], native, other, visibility, own.scale)
        return replace_queries(own, apply_gate((self.text_gate, self.gate)[side], own.own[:, :, own.reads], joint))
