"""Bridge by one attention over both towers, each in its own head space."""

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


class JointAttention(Bridge):
    """Own weights, one joint attention: each tower's queries see both towers' keys (BAGEL, arXiv 2505.14683; LMFusion).

    Each tower keeps its own head space, into which a linear map each takes the other's keys and values. It starts as
    an embedding of head into head: as the identity where the spaces are equal, which is their own joint attention.
    """

    inside = True

    def __init__(
        self, understanding: BlockWidths, generation: BlockWidths, gated: bool, rank: int | None, both_ways: bool
    ) -> None:
        super().__init__()
        self.heads = (understanding.heads, generation.heads)

        def maps(source: BlockWidths, target: BlockWidths) -> nn.ModuleList:
            widths = source.heads * source.head_dim, target.heads * target.head_dim
            return nn.ModuleList(LowRankLinear(*widths, rank, _embedding(source, target)) for _ in range(2))

        self.maps = nn.ModuleList([maps(understanding, generation)])
        if both_ways:
            self.maps.append(maps(generation, understanding))
        self.gate = nn.Parameter(torch.zeros(generation.heads * generation.head_dim)) if gated else None
        open_both = gated and both_ways
        self.text_gate = nn.Parameter(torch.zeros(understanding.heads * understanding.head_dim)) if open_both else None

    def keys_values(self, side: int, own: AttentionCall) -> KeysValues:
        both = _each_query_head(own)
        if side == len(self.maps):  # nobody reads generation
            return KeysValues(*both)
        key, value = (
            _mapped(m, each, self.heads[1 - side]) for m, each in zip(self.maps[side].children(), both, strict=True)
        )
        return KeysValues(key, value)

    def attend(self, side: int, own: AttentionCall, mine: KeysValues, other: KeysValues, seen: Visibility) -> Tensor:
        native = KeysValues(*_each_query_head(own))
        joint = _attend_both(own, own.query[:, :, own.reads], native, other, seen, own.scale)
        return _replace_queries(own, _gated((self.text_gate, self.gate)[side], own.own[:, :, own.reads], joint))
