"""Bridge by a self-attention block over the tokens of both towers."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..towers.attention_masks import concatenate_masks
from ..towers.tower import BlockWidths
from .bridge import Bridge, KeysValues, Visibility, _head_dim, _out, _split
from .low_rank import LowRankLinear


class FusionBlock(Bridge):
    """A multimodal self-attention block over the tokens of both towers, behind a pair of their blocks (LightFusion).

    Each tower's states are normed and projected to queries, keys and values as wide as the generation tower; one
    softmax runs over both; each tower's output projection adds the result to its states. That projection is zero at
    first (gated: a gate is), so training starts from the untouched experts.
    """

    inside = False

    def __init__(
        self, understanding: BlockWidths, generation: BlockWidths, gated: bool, rank: int | None, both_ways: bool
    ) -> None:
        super().__init__()
        width = generation.width
        self.heads = width // _head_dim(width)
        shapes = (understanding, generation)
        self.norms = nn.ModuleList(nn.LayerNorm(each.width) for each in shapes)
        self.keys, self.values = (nn.ModuleList(LowRankLinear(s.width, width, rank) for s in shapes) for _ in range(2))
        reading = shapes if both_ways else shapes[1:]  # who joins; one way, generation alone
        start = None if gated else 0.0
        self.queries = nn.ModuleList(LowRankLinear(each.width, width, rank) for each in reading)
        self.outs = nn.ModuleList(_out(width, each.width, rank, start) for each in reading)
        self.gates = nn.ParameterList(nn.Parameter(torch.zeros(each.width)) for each in reading) if gated else None

    def keys_values(self, side: int, own: Tensor) -> KeysValues:
        states = self.norms[side](own)
        maps = (self.keys[side], self.values[side])
        return KeysValues(*(_split(linear(states), self.heads) for linear in maps))

    def attend(self, side: int, own: Tensor, mine: KeysValues, other: KeysValues, seen: Visibility) -> Tensor:
        at = side - 2  # the last of those who read is generation
        query = _split(self.queries[at](self.norms[side](own)), self.heads)
        key, value = (torch.cat([a, b], dim=2) for a, b in zip(mine, other, strict=True))
        own_mask = None if seen.own is None else seen.own[:, None]
        mask = concatenate_masks(own_mask, seen.other, (mine.key.shape[2], other.key.shape[2]), query)
        joint = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        added = self.outs[at](joint.transpose(1, 2).flatten(2))
        return own + (added if self.gates is None else self.gates[at] * added)
