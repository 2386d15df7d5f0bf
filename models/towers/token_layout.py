"""Read a block's tokens as (batch, token, dim) out of whatever it returns, and write them back in their place."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...probes.subjects.token_movement import Stream

Place = int | str | None  # an index into a tuple, a key of a dict, or the output itself


@dataclass(frozen=True)
class TokenLayout:
    """The form in which one stream of a stack holds (batch, token, dim).

    Attributes
    ----------
    dim : int
        The axis of dim.
    batch : int or None
        The axis of samples once dim is last; None where samples stand one after another along the first axis.
    rows : int
        How many rows of the first axis are one sample's, where samples are packed; 0 where all are one sample's.
    chosen : tuple of int or None
        The tokens that the bridge enters, counted from 0; None for all.
    tokens : int
        How many tokens a sample has, where `chosen` names some.
    """

    dim: int = -1
    batch: int | None = 0
    rows: int = 0
    chosen: tuple[int, ...] | None = None
    tokens: int = 0

    def read(self, state: Tensor, path: str) -> Tensor:
        """Return the chosen tokens (batch, token, dim) of the stream.

        Parameters
        ----------
        state : Tensor
            The stream's state as the block returned it.
        path : str
            The block's dotted path, for messages.

        Raises
        ------
        ValueError
            The sequence is not as long as those in which the chosen tokens were found, or packed rows do not divide.
        """
        whole = self._whole(state, path)
        if self.chosen is None:
            return whole
        self.check(whole.shape[1], path)
        return whole[:, list(self.chosen)]

    def check(self, tokens: int, path: str) -> None:
        """Raise ValueError for a sequence of another length than that in which the chosen tokens were found."""
        if tokens != self.tokens:
            raise ValueError(
                f"block {path!r} has {tokens} tokens, and which of them the bridge enters was found for "
                f"{self.tokens}: find the tower with inputs of this length, or let the bridge enter all tokens"
            )

    def write(self, state: Tensor, tokens: Tensor, path: str) -> Tensor:
        """Return the state, in its own layout and dtype, with its chosen tokens replaced.

        Parameters
        ----------
        state : Tensor
            The stream's state as the block returned it.
        tokens : Tensor
            (batch, token, dim), in the shape that `read` gives.
        path : str
            The block's dotted path, for messages.
        """
        whole = self._whole(state, path)
        if self.chosen is not None:
            index = torch.tensor(self.chosen, device=whole.device)
            tokens = whole.index_copy(1, index, tokens.to(whole.dtype))
        moved = state.movedim(self.dim, -1)
        if self.batch is None:
            changed = tokens.to(state.dtype).reshape(moved.shape).movedim(-1, self.dim)
        else:
            swapped = moved.movedim(self.batch, 0)
            changed = tokens.to(state.dtype).reshape(swapped.shape).movedim(0, self.batch).movedim(-1, self.dim)
        # Laid out in memory as before: a convolution of another layout rounds otherwise.
        return changed if changed.stride() == state.stride() else torch.empty_like(state).copy_(changed)

    def _whole(self, state: Tensor, path: str) -> Tensor:
        """Return all tokens of the stream, (batch, token, dim)."""
        moved = state.movedim(self.dim, -1)  # (..., dim)
        if self.batch is not None:
            return moved.movedim(self.batch, 0).flatten(1, -2)
        if self.rows and len(moved) % self.rows:
            raise ValueError(
                f"block {path!r} holds {len(moved)} packed rows, and a sample was found to have {self.rows}: "
                "give all samples as many tokens as those that the tower was found with"
            )
        return moved.reshape(len(moved) // self.rows if self.rows else 1, -1, moved.shape[-1])


def find_layout(path: str, stream: Stream, kind: str | None) -> TokenLayout:
    """Find the layout of one stream, and which of its tokens a kind means.

    Parameters
    ----------
    path : str
        The stack's dotted path, for messages.
    stream : Stream
        The stream, with the positions of its image and text tokens.
    kind : {"image", "text"} or None
        The tokens that bridges enter. In a sequence of image and text tokens "text" is every token that is no image
        token. None is all.

    Raises
    ------
    ValueError
        A sample's tokens stand in no order that can be read, or in another order in each sample.
    """
    shape = [size for axis, size in enumerate(stream.shape) if axis != stream.dim_axis]
    samples = max(len(positions) for positions in stream.positions.values())
    owner = torch.full((math.prod(shape),), -1)
    for positions in stream.positions.values():
        for sample, row in enumerate(positions):
            owner[row[row >= 0]] = sample
    batch, rows = _batch(path, owner.view(shape), samples)
    layout = TokenLayout(stream.dim_axis - len(stream.shape), batch, rows)
    if kind is None or len({"image", "text"} & set(stream.positions)) < 2:
        return layout
    numbers = torch.arange(len(owner)).view(*shape, 1)  # a state of one dim, in which each token is its own number
    table = TokenLayout(-1, batch, rows).read(numbers, path)[..., 0]  # (sample, token)
    image = torch.isin(table, stream.positions["image"])
    if not (image == image[0]).all():
        raise ValueError(
            f"the image tokens of the samples of {path!r} stand at different places in their sequences: "
            "find the tower with samples of one form, or let the bridge enter all tokens"
        )
    mask = image[0] if kind == "image" else ~image[0]
    return TokenLayout(layout.dim, batch, rows, tuple(mask.nonzero()[:, 0].tolist()), len(mask))


def _batch(path: str, owner: Tensor, samples: int) -> tuple[int | None, int]:
    """Return the axis of samples, or None and how many rows of the first axis one sample has."""
    for axis, size in enumerate(owner.shape if owner.ndim > 1 else ()):
        along = torch.arange(size).view([-1 if other == axis else 1 for other in range(owner.ndim)])
        if size == samples and ((owner == along) | (owner < 0)).all():
            return axis, 0
    if samples == 1:
        return None, 0
    rows = len(owner) // samples
    expected = (torch.arange(len(owner)) // max(rows, 1)).view([-1] + [1] * (owner.ndim - 1))
    if len(owner) % samples or not ((owner == expected) | (owner < 0)).all():
        raise ValueError(
            f"the tokens of the {samples} samples of {path!r} stand neither along an axis of their own nor one after "
            "another in equal parts: give samples of one size"
        )
    return None, rows


def part(output: Any, place: Place) -> Any:
    """Return what stands at a place of a block's output."""
    return output if place is None else output[place]


def replaced(output: Any, changes: Mapping[Place, Tensor]) -> Any:
    """Return a block's output, in its own type, with other tensors at these places."""
    if None in changes:
        return changes[None]
    if isinstance(output, Mapping):
        copy: Any = type(output)(**output)  # a ModelOutput keeps its fields
        for key, value in changes.items():
            copy[key] = value
        return copy
    parts = [changes.get(index, value) for index, value in enumerate(output)]
    return type(output)(*parts) if hasattr(output, "_fields") else type(output)(parts)


def places(output: Any, states: Mapping[str | None, Tensor]) -> dict[str | None, Place]:
    """Return where each stream's state stands in a block's output."""
    if isinstance(output, Tensor):
        return dict.fromkeys(states, None)
    named: Sequence[tuple[Any, Any]] = list(output.items() if isinstance(output, Mapping) else enumerate(output))
    return {name: next(place for place, value in named if value is state) for name, state in states.items()}
