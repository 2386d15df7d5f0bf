"""Bridge by cross-attention to a learned mix of understanding blocks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..towers.tower import BlockWidths
from .bridge import KeysValues
from .cross_attention import CrossAttention


class SoftAttention(CrossAttention):
    """Generation reads a learned convex mix of understanding blocks by cross-attention.

    Blocks differ in scale, so each is normalised without weights (`stack_states`). The weights of the mix are a
    softmax, uniform at first. All else is `CrossAttention`, which reads one state in place of the mix.

    Parameters
    ----------
    understanding, generation, gated, rank, both_ways
        As of `Bridge`.
    mixed : sequence of int
        Which of the stacked blocks are mixed, counted from 0 in the stack.

    References
    ----------
    Semantic Routing, arXiv 2602.03510.
    """

    reads_all = True

    def __init__(
        self,
        understanding: BlockWidths,
        generation: BlockWidths,
        gated: bool,
        rank: int | None,
        both_ways: bool,
        mixed: Sequence[int],
    ) -> None:
        super().__init__(understanding, generation, gated, rank, both_ways)
        self.mixed = tuple(mixed)
        self.mix = nn.Parameter(torch.zeros(len(self.mixed)))

    @staticmethod
    def stack_states(states: Sequence[Tensor]) -> Tensor:
        """Return the normalised states of blocks, each (batch, token, dim), as (block, batch, token, dim).

        They are never in half precision: otherwise each bridge would make a copy in its own.
        """
        if len(counts := {state.shape[1] for state in states}) > 1:
            raise ValueError(
                f"blocks of {', '.join(map(str, sorted(counts)))} tokens cannot be mixed: name blocks that have the "
                "same tokens, as the plan's taps"
            )
        full = [state if state.dtype == torch.float64 else state.float() for state in states]
        return torch.stack([F.layer_norm(state, state.shape[-1:]) for state in full])

    def layer_weights(self) -> Tensor:
        """Return the weight of each mixed block, (block,); they sum to 1."""
        return self.mix.softmax(0)

    def keys_values(self, side: int, own: Tensor) -> KeysValues:
        if side == 0:
            places = torch.tensor(self.mixed, device=own.device)
            weights = own.new_zeros(len(own)).index_copy(0, places, self.layer_weights().to(own))
            with torch.autocast(own.device.type, enabled=False):  # else each bridge keeps a copy of the stack in half
                own = torch.tensordot(weights, own, dims=1)
        return super().keys_values(side, own)
