"""Read and write the tokens of a model's stack of blocks, whatever its blocks return."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .token_layout import Place, TokenLayout, part, replaced


class BlockWidths(NamedTuple):
    """The sizes that a bridge must fit.

    Attributes
    ----------
    width : int
        Of a block's tokens; inside attention, of the values of all heads together.
    heads, head_dim : int
        Inside attention, how many heads there are and how wide their queries are; else 0.
    key_heads : int
        Inside attention, how many heads keys have; fewer where heads share them.
    """

    width: int
    heads: int = 0
    head_dim: int = 0
    key_heads: int = 0


class SelfAttention(NamedTuple):
    """The call of SDPA that is a block's self-attention.

    Attributes
    ----------
    number : int
        Which of the block's calls it is, counted from 0.
    order : tuple of str or None
        The streams in the order of the joint sequence.
    """

    number: int
    order: tuple[str | None, ...]


def refuse_meta(model: nn.Module) -> None:
    """Raise ValueError for a model whose weights are on the meta device, where they have shapes and no values.

    Parameters
    ----------
    model : torch.nn.Module
        The model. Nothing of it is changed.

    Raises
    ------
    ValueError
        A weight is there; the message names it.
    """
    if name := next((name for name, p in model.named_parameters() if p.device.type == "meta"), None):
        raise ValueError(
            f"the weights of {type(model).__name__} are on the meta device, where they have no values ({name!r} is the "
            "first): open the model with its weights"
        )


Visit = Callable[[Any], Any]


@dataclass
class Tower:
    """A model's stack of blocks, as bridges see it.

    Attributes
    ----------
    model : torch.nn.Module
        The model.
    blocks : sequence of str
        The blocks' dotted paths, in depth order.
    stream : {"image", "text", "both"} or None
        The tokens that bridges enter; "both" is image, then text, None a single stream.
    layouts : mapping
        The token layout of each stream that bridges enter, in the order in which they are laid end to end.
    given : mapping
        The argument by which each of the stack's streams enters a block.
    places : sequence of mapping
        For each block, where each stream stands in what the block returns.
    attention : sequence of SelfAttention or str
        Each block's self-attention, or a sentence that says why it cannot be visited inside.
    valid_tokens : Tensor or None
        During a visit, which tokens are no padding: bool, (batch, token), if the model was given a mask of this shape.
    named : set of int
        The blocks that were seen to call SDPA by its name in `torch.nn.functional`.
    unusable_mask : str or None
        During a visit, the name of a mask of another shape that the model was given.

    See Also
    --------
    models.towers.finding.find_tower : Find the tower of any model.
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
    named: set[int] = field(default_factory=set)

    def read(self, number: int, output: Any) -> Tensor:
        """Return the tokens (batch, token, dim) of the tower's stream in what block `number` returned."""
        return torch.cat(self._states(number, output), 1)

    def write(self, number: int, output: Any, tokens: Tensor) -> Any:
        """Return a block's output with other tokens in the tower's stream.

        Parameters
        ----------
        number : int
            The block, counted from 0.
        output : Any
            What the block returned.
        tokens : Tensor
            (batch, token, dim), in the shape that `read` gives.

        Returns
        -------
        Any
            An output of the same type.

        Raises
        ------
        ValueError
            The tokens have another shape.
        """
        path, places = self.blocks[number], self.places[number]
        states = self._states(number, output)
        expected = (len(states[0]), sum(state.shape[1] for state in states), states[0].shape[2])
        if tuple(tokens.shape) != expected:
            raise ValueError(
                f"the visit of block {path!r} gave {tuple(tokens.shape)} for states of {expected}: "
                "it must give (batch, token, dim) as it was given"
            )
        changes: dict[Place, Tensor] = {}
        rows = tokens.split([state.shape[1] for state in states], 1)
        for (name, layout), state in zip(self._returned_streams(number), rows, strict=True):
            changes[places[name]] = layout.write(part(output, places[name]), state, path)
        return replaced(output, changes)

    def reads(self, number: int, query: Tensor, inputs: Callable[[], Mapping[str, Any]]) -> Tensor | slice:
        """Return which query tokens of a block's self-attention are the tower's stream.

        Parameters
        ----------
        number : int
            The block, counted from 0.
        query : Tensor
            (batch, head, token, dim).
        inputs : callable
            It returns the block's inputs by name. A single stream needs none.

        Returns
        -------
        Tensor or slice
            Indices along the token axis.

        Raises
        ------
        ValueError
            The block attends with more or fewer tokens than its streams have.
        """
        attention = self.attention[number]
        assert isinstance(attention, SelfAttention)
        if None in self.layouts:
            layout = self.layouts[None]
            if layout.chosen is None:
                return slice(None)
            layout.check(query.shape[2], self.blocks[number])
            return torch.tensor(layout.chosen, device=query.device)
        start, rows, given = 0, {}, inputs()
        for name in attention.order:
            state = given[self.given[name]]
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
        """Return which of the stream's tokens are no padding, by the masks that the model was given.

        Parameters
        ----------
        masks : mapping of str to Tensor
            The masks (batch, token) by the names of the model's arguments.
        batch, tokens : int
            The shape that a mask of this stream has.

        Returns
        -------
        Tensor or None
            bool, (batch, token); None where no mask is the stream's.
        """
        if len(self.layouts) > 1:
            return None
        ((name, layout),) = self.layouts.items()
        for key, mask in masks.items():
            if key.startswith("encoder_") and name != "text":
                continue  # it masks the text beside this stream
            mask = ~mask.bool() if key.endswith("key_padding_mask") else mask.bool()
            if layout.chosen is not None and mask.shape[1] == layout.tokens:
                mask = mask[:, list(layout.chosen)]
            if tuple(mask.shape) == (batch, tokens):
                return mask
        return None

    def _returned_streams(self, number: int) -> list[tuple[str | None, TokenLayout]]:
        """Return the tower's streams that a block returns, with their layouts."""
        return [(name, layout) for name, layout in self.layouts.items() if name in self.places[number]]

    def _states(self, number: int, output: Any) -> list[Tensor]:
        path, places = self.blocks[number], self.places[number]
        states = [layout.read(part(output, places[name]), path) for name, layout in self._returned_streams(number)]
        if not states:
            raise ValueError(f"block {path!r} returns no {self.stream} stream: bridge another block, or other tokens")
        if len({state.shape[-1] for state in states}) > 1:
            raise ValueError(
                f"the image and text streams of {path!r} are {[s.shape[-1] for s in states]} wide: a bridge enters "
                'both only where they have one width; choose stream="image" or "text"'
            )
        return states
