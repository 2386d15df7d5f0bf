"""Towers: a model's stack of blocks as bridges see it, whatever its blocks return."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .token_layout import Place, TokenLayout, part, replaced


class AttentionCall(NamedTuple):
    """A block's attention, as it is about to return.

    Attributes:
        query, key, value: (batch, head, token, dim); key heads may be fewer (grouped-query).
        own: (batch, head, query token, dim), what attention gives without a bridge.
        mask: what each query may see of its own keys, broadcastable to (batch, head, query token, key token), bool
            (True is seen) or additive; a causal call's is made. None: everything.
        scale: of the logits; None is dim ** -0.5.
        reads: the query tokens (axis 2) of the stream that the bridge enters.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    own: Tensor
    mask: Tensor | None
    scale: float | None
    reads: Tensor | slice


class BlockWidths(NamedTuple):
    """What a bridge must fit: the width of a block's tokens; inside attention also its heads."""

    width: int
    heads: int = 0
    head_dim: int = 0
    key_heads: int = 0


class SelfAttention(NamedTuple):
    """Which of a block's calls of SDPA is its self-attention, counted from 0, and its streams in the order of the
    joint sequence."""

    number: int
    order: tuple[str | None, ...]


Visit = Callable[[Any], Any]


@dataclass
class Tower:
    """A model's stack of blocks, as bridges see it; `finding.find_tower` makes one.

    Attributes:
        blocks: their paths, in depth order.
        stream: the tokens that bridges enter: "image", "text", "both" (image, then text), or None for a single stream.
        layouts: of each stream that bridges enter, in the order in which they are laid end to end.
        given: the argument by which each of the stack's streams enters a block.
        places: where each stream stands in what each block returns.
        attention: each block's; a text says why it cannot be visited inside.
        valid_tokens: during a visit, which tokens are no padding (batch, token), bool, if the model was given a mask of this
            shape; else None.
        unusable_mask: during a visit, the name of a mask of another shape that the model was given, or None.
    """

    model: nn.Module
    blocks: Sequence[str]
    stream: str | None = None
    layouts: Mapping[str | None, TokenLayout] = field(default_factory=dict)
    given: Mapping[str | None, str] = field(default_factory=dict)
    places: Sequence[Mapping[str | None, Place]] = ()
    attention: Sequence[SelfAttention | str] = ()
    valid_tokens: Tensor | None = None
    unusable_mask: str | None = None

    def read(self, number: int, output: Any) -> Tensor:
        """The tokens (batch, token, dim) of the tower's stream in what a block returned."""
        return torch.cat(self._states(number, output), 1)

    def write(self, number: int, output: Any, tokens: Tensor) -> Any:
        """What the block returned, with other tokens (batch, token, dim) in the tower's stream."""
        path, places = self.blocks[number], self.places[number]
        states = self._states(number, output)
        expected = (len(states[0]), sum(state.shape[1] for state in states), states[0].shape[2])
        if tuple(tokens.shape) != expected:
            raise ValueError(
                f"the visit of block {path!r} gave {tuple(tokens.shape)} for states of {expected}: "
                "it must give (batch, token, dim) as it was given"
            )
        changes: dict[Place, Tensor] = {}
        for (name, layout), each in zip(
            self._there(number), tokens.split([s.shape[1] for s in states], 1), strict=True
        ):
            changes[places[name]] = layout.write(part(output, places[name]), each, path)
        return replaced(output, changes)

    def reads(self, number: int, query: Tensor, inputs: Mapping[str, Any]) -> Tensor | slice:
        """The query tokens (batch, head, token, dim) of the tower's stream, by the block's inputs."""
        attention = self.attention[number]
        assert isinstance(attention, SelfAttention)
        if None in self.layouts:
            layout = self.layouts[None]
            if layout.chosen is None:
                return slice(None)
            layout.check(query.shape[2], self.blocks[number])
            return torch.tensor(layout.chosen, device=query.device)
        start, rows = 0, {}
        for name in attention.order:
            state = inputs[self.given[name]]
            tokens = state.numel() // state.shape[-1] // len(query)
            rows[name] = range(start, start + tokens)
            start += tokens
        if start != query.shape[2]:
            raise ValueError(
                f"block {self.blocks[number]!r} attends with {query.shape[2]} tokens, its streams have {start}: "
                "bridge at block outputs"
            )
        chosen = [row for name in self.layouts if name in rows for row in rows[name]]
        if len(chosen) == start and chosen == list(range(start)):
            return slice(None)
        if chosen == list(range(chosen[0], chosen[-1] + 1)):
            return slice(chosen[0], chosen[-1] + 1)
        return torch.tensor(chosen, device=query.device)

    def find_valid_tokens(self, masks: Mapping[str, Tensor], batch: int, tokens: int) -> Tensor | None:
        """Which of the stream's tokens are no padding, (batch, token), by the masks that the model was given."""
        if len(self.layouts) > 1:
            return None
        ((name, layout),) = self.layouts.items()
        for key, mask in masks.items():
            if key.startswith("encoder_") and name != "text":
                continue  # of the text beside this stream
            mask = ~mask.bool() if key.endswith("key_padding_mask") else mask.bool()
            if layout.chosen is not None and mask.shape[1] == layout.tokens:
                mask = mask[:, list(layout.chosen)]
            if tuple(mask.shape) == (batch, tokens):
                return mask
        return None

    def _there(self, number: int) -> list[tuple[str | None, TokenLayout]]:
        return [(name, layout) for name, layout in self.layouts.items() if name in self.places[number]]

    def _states(self, number: int, output: Any) -> list[Tensor]:
        path, places = self.blocks[number], self.places[number]
        states = [layout.read(part(output, places[name]), path) for name, layout in self._there(number)]
        if not states:
            raise ValueError(f"block {path!r} returns no {self.stream} stream: bridge another block, or other tokens")
        if len({state.shape[-1] for state in states}) > 1:
            raise ValueError(
                f"the image and text streams of {path!r} are {[s.shape[-1] for s in states]} wide: a bridge enters "
                'both only where they have one width; choose stream="image" or "text"'
            )
        return states
