"""Bridge by cross-attention to the last understanding state."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..towers.tower import BlockWidths
from .bridge import Bridge, KeysValues, Visibility, output_map, split_heads, widest_head
from .low_rank import LowRankLinear


class CrossAttention(Bridge):
    """Generation reads the last understanding state by cross-attention.

    MetaQuery and BLIP3-o connect the last state to the generator's own text input; here every bridged block reads it,
    so that the layouts differ in the understanding layer alone. The output projection (gated: the gate) is zero at
    first.

    References
    ----------
    MetaQuery, arXiv 2504.06256; BLIP3-o, arXiv 2505.09568.
    """

    inside = False

    def __init__(
        self, understanding: BlockWidths, generation: BlockWidths, gated: bool, rank: int | None, both_ways: bool
    ) -> None:
        super().__init__()
        width = generation.width
        self.heads = width // widest_head(width)
        self.norms = nn.ModuleList(nn.LayerNorm(block.width) for block in (understanding, generation))
        self.key, self.value = (LowRankLinear(understanding.width, width, rank) for _ in range(2))
        self.query = LowRankLinear(width, width, rank)
        self.out = output_map(width, width, rank, None if gated else 0.0)
        self.gate = nn.Parameter(torch.zeros(width)) if gated else None

    def keys_values(self, side: int, own: Tensor) -> KeysValues:
        if side == 1:  # nobody reads generation
            return KeysValues(own, own)
        states = self.norms[0](own)
        return KeysValues(*(split_heads(linear(states), self.heads) for linear in (self.key, self.value)))

    def attend(self, side: int, own: Tensor, mine: KeysValues, other: KeysValues, visibility: Visibility) -> Tensor:
        query = split_heads(self.query(self.norms[1](own)), self.heads)
        mask = None if visibility.other is None else visibility.other[:, None]
        joint = F.scaled_dot_product_attention(query, *other, attn_mask=mask)
        added = self.out(joint.transpose(1, 2).flatten(2))
        return own + (added if self.gate is None else self.gate * added)
