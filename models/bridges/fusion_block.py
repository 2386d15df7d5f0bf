"""Bridge by a self-attention block over the tokens of both towers."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..towers.attention_masks import concatenate_masks
from ..towers.tower import BlockWidths
from .bridge import Bridge, KeysValues, Visibility, output_map, split_heads, widest_head
from .low_rank import LowRankLinear


class FusionBlock(Bridge):
    """A multimodal self-attention block over the tokens of both towers, behind a pair of their blocks.

    Each tower's states are normed and projected to queries, keys and values as wide as the generation tower; one
    softmax runs over both; each tower's output projection adds the result to its states. That projection is zero at
    first (gated: a gate is), so training starts from the untouched experts.

    References
    ----------
    LightFusion, arXiv 2510.22946.
    """

    inside = False

    def __init__(
        self, understanding: BlockWidths, generation: BlockWidths, gated: bool, rank: int | None, both_ways: bool
    ) -> None:
        super().__init__()
        width = generation.width
        self.heads = width // widest_head(width)
        blocks = (understanding, generation)
        self.norms = nn.ModuleList(nn.LayerNorm(block.width) for block in blocks)
        self.keys, self.values = (nn.ModuleList(LowRankLinear(b.width, width, rank) for b in blocks) for _ in range(2))
        reading = blocks if both_ways else blocks[1:]  # one way, only generation reads
        start = None if gated else 0.0
        self.queries = nn.ModuleList(LowRankLinear(block.width, width, rank) for block in reading)
        self.outs = nn.ModuleList(output_map(width, block.width, rank, start) for block in reading)
        self.gates = nn.ParameterList(nn.Parameter(torch.zeros(block.width)) for block in reading) if gated else None

    def keys_values(self, side: int, own: Tensor) -> KeysValues:
        states = self.norms[side](own)
        maps = (self.keys[side], self.values[side])
        return KeysValues(*(split_heads(linear(states), self.heads) for linear in maps))

    def attend(self, side: int, own: Tensor, mine: KeysValues, other: KeysValues, visibility: Visibility) -> Tensor:
        reader = side - 2  # generation is the last of the sides that read
        query = split_heads(self.queries[reader](self.norms[side](own)), self.heads)
        key, value = (torch.cat([a, b], dim=2) for a, b in zip(mine, other, strict=True))
        own_mask = None if visibility.own is None else visibility.own[:, None]
        mask = concatenate_masks(own_mask, visibility.other, (mine.key.shape[2], other.key.shape[2]), query)
        joint = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        added = self.outs[reader](joint.transpose(1, 2).flatten(2))
        return own + (added if self.gates is None else self.gates[reader] * added)
