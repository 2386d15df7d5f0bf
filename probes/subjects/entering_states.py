"""Read what enters a block, as one row for each token.

Some models pass several states of each token from block to block: hyper-connections (DeepSeek-V4) have
(batch, token, stream, dim), AltUp (Gemma 3n) has (stream, batch, token, dim). Which of them is the token's is a choice:
nothing tells it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..hooks.capturing import EMBEDDINGS, LayerNeverRan, LayerRanAgain, capture
from ..hooks.model_memory import forgetting
from ..private_names import _BatchNorm, _ConvNd
from .input_changes import Inputs, unchanged

MAPS = (_ConvNd, _BatchNorm, nn.GroupNorm)
MOVED = 1e-6  # a change of less than this share of the largest value is rounding

MEAN = "mean"  # of several states of a token

States = dict[str | None, Tensor]  # by stream


def flatten_tokens(state: Tensor, axis: int) -> Tensor:
    """Flatten a hidden state to one row per token.

    Parameters
    ----------
    state : torch.Tensor
        A hidden state of any layout.
    axis : int
        Its dim axis.

    Returns
    -------
    torch.Tensor
        (position, dim), float32.
    """
    return state.movedim(axis, -1).flatten(0, -2).float()


def entering_streams(model: nn.Module, block: str, inputs: Inputs) -> States | None:
    """Return the hidden states that enter a block.

    Parameters
    ----------
    model : torch.nn.Module
        The model.
    block : str
        The path of the block.
    inputs : mapping
        The keyword arguments of the call.

    Returns
    -------
    dict of torch.Tensor or None
        By stream, under None where there is one; None alone where this call does not run the block.
    """
    try:
        with forgetting(model, whole=False), capture(model, [EMBEDDINGS, block]) as taps:
            model(**unchanged(inputs))
    except LayerNeverRan:
        return None
    except LayerRanAgain:
        pass  # a loop: what entered its first turn has been read
    state = taps[EMBEDDINGS]
    return state if isinstance(state, dict) else {None: state}


class Entrance:
    """Read one stream of what enters a block, again and again with other inputs.

    Where the block's first argument is the state, as in most models, passes end in front of the block.

    Parameters
    ----------
    model, block, inputs
        As `entering_streams` takes them.
    stream : str or None
        The stream's name, None where there is one.
    state : torch.Tensor
        Its state with these inputs.

    Attributes
    ----------
    direct : bool
        Whether the argument is the state. Two passes were the same then.
    """

    def __init__(self, model: nn.Module, block: str, inputs: Inputs, stream: str | None, state: Tensor) -> None:
        self.model, self.block, self.stream, self.shape = model, block, stream, state.shape
        argument = self._argument(inputs) if stream is None else None
        self.direct = argument is not None and torch.equal(argument, state)

    def read(self, inputs: Inputs) -> Tensor | None:
        """Return the stream's state with other inputs, None where it does not enter the block."""
        if self.direct:
            argument = self._argument(inputs)
            if argument is not None and argument.shape == self.shape:
                return argument
        return (entering_streams(self.model, self.block, inputs) or {}).get(self.stream)

    def _argument(self, inputs: Inputs) -> Tensor | None:
        """Return the block's `hidden_states`, or its first tensor; None where it has none or does not run."""
        site, taps = f"{self.block}:input", {}
        try:
            with forgetting(self.model, whole=False), capture(self.model, [], sites=[site]) as taps:
                self.model(**unchanged(inputs))
        except LayerNeverRan:
            return None
        except LayerRanAgain:
            pass
        return taps.get(site)


class ResidualStreams(NamedTuple):
    """How the several states of each token become one.

    Attributes
    ----------
    axis : int
        The axis of the hidden state along which they stand.
    count : int
        How many there are.
    choice : str or int
        "mean", or the number of the one that is read.
    """

    axis: int
    count: int
    choice: str | int


def merge_residual_streams(state: Tensor, residual: ResidualStreams | None) -> Tensor:
    """Make one state of each token where a model keeps several.

    Parameters
    ----------
    state : torch.Tensor
        A hidden state.
    residual : ResidualStreams or None
        How they become one; None leaves the state as it is.

    Returns
    -------
    torch.Tensor
        The state without their axis.

    Raises
    ------
    ValueError
        The state has no such axis.
    """
    if residual is None:
        return state
    axis, count, choice = residual
    if axis >= state.ndim - 1 or state.shape[axis] != count:
        raise ValueError(
            f"hidden states of shape {tuple(state.shape)}, but {count} states of each token along axis {axis} before "
            "the first block"
        )
    return state.mean(axis) if choice == MEAN else state.select(axis, int(choice))


def find_residual_axis(
    state: Tensor,
    choice: str | int | None,
    words: Sequence[tuple[str, tuple[int, ...]]],
    moved: Callable[[str, tuple[int, int]], Tensor],
) -> ResidualStreams | None:
    """Find the axis along which a hidden state holds several states of each token.

    Parameters
    ----------
    state : torch.Tensor
        What enters the first block, its dim last.
    choice : str, int or None
        What becomes of them: "mean" or the number of one. None: nothing was said.
    words : sequence of (str, tuple of int)
        Name and shape (sample, token) of each text input.
    moved : callable
        `moved(name, (sample, token))` returns which positions of the flattened state, (position,), move when this token
        changes.

    Returns
    -------
    ResidualStreams or None
        None where each token has one state.

    Raises
    ------
    ValueError
        Each token has several states, and no choice says what becomes of them, or the choice does not fit; or a choice
        is given and each token has one state.
    """
    sizes = tuple(state.shape[:-1])
    axis = next(_axes(sizes, words, moved), None) if len(sizes) > 2 else None
    if axis is None:
        return None
    count, shape = sizes[axis], tuple(state.shape)
    numbers = ", ".join(map(str, range(count)))
    if choice is None:
        raise ValueError(
            f"hidden states of shape {shape} hold {count} states of each token along axis {axis} (residual streams): "
            f"say what becomes of them, as AnyModel(..., residual_streams='mean') or one of {numbers}"
        )
    if choice != MEAN and (isinstance(choice, bool | str) or not 0 <= choice < count):
        raise ValueError(
            f"residual_streams is {choice!r}, but hidden states of shape {shape} hold {count} states of each token: "
            f"expected 'mean' or one of {numbers}"
        )
    return ResidualStreams(axis, count, choice)


def _axes(
    sizes: tuple[int, ...],
    words: Sequence[tuple[str, tuple[int, ...]]],
    moved: Callable[[str, tuple[int, int]], Tensor],
) -> Iterator[int]:
    """Yield the axes along which a token that changes has all of its states, or the first of them."""
    for name, shape in words:
        samples, tokens = shape[0], shape[1]
        fitting = [
            (axis, turned)
            for axis in range(len(sizes))
            for turned in (False, True)
            if (*sizes[:axis], *sizes[axis + 1 :]) == ((tokens, samples) if turned else (samples, tokens))
        ]
        if not fitting:
            continue
        token = tokens - 1
        while token and not moved(name, (0, token)).any():  # a special token or padding
            token -= 1
        tried = [(sample, token, moved(name, (sample, token)).view(sizes).nonzero()) for sample in {0, samples - 1}]
        for axis, turned in fitting:
            others = [place for place in range(len(sizes)) if place != axis]
            if len(tried[0][2]) and all(
                bool((places[:, others] == torch.tensor([token, sample] if turned else [sample, token])).all())
                for sample, token, places in tried
            ):
                yield axis


def check_token_count(
    model: str, shape: Sequence[int], inputs: Inputs, names: Sequence[str], text: Tensor, alone: bool
) -> None:
    """Raise ValueError where text takes a multiple of the positions that its tokens need.

    Parameters
    ----------
    model : str
        What the model is called.
    shape : sequence of int
        The shape of the hidden state without its dim axis.
    inputs : mapping
        The keyword arguments of the call.
    names : sequence of str
        The text inputs.
    text : torch.Tensor
        (position,), whether a position is text.
    alone : bool
        Whether the model is shown text alone.

    Raises
    ------
    ValueError
        Naming both numbers.
    """
    given = dict(text_shapes(inputs, names))
    if not given:
        return
    count = max(shape[0] * shape[1] for shape in given.values())
    repeated = alone and any(
        shape[1:] == size[1:] and shape[0] > size[0] and shape[0] % size[0] == 0 for size in given.values()
    )
    taken = int(text.sum())
    if (taken > count and taken % count == 0) or repeated:
        raise ValueError(
            f"{model} holds {tuple(shape)} states for {count} text tokens: it keeps several states of each (streams, "
            "heads, two batches of guidance), in an order that cannot be told. Probe where there is one, or wrap the "
            "model in your own Subject (probes/subjects/subject.py)"
        )


def text_shapes(inputs: Mapping[str, Any], names: Sequence[str]) -> Iterator[tuple[str, tuple[int, int]]]:
    """Yield name and shape (sample, token) of the text inputs that have both axes."""
    for name in names:
        value = inputs[name]
        if isinstance(value, Tensor) and value.ndim == (3 if value.is_floating_point() else 2):
            yield name, (value.shape[0], value.shape[1])


def dim_axis(block: nn.Module, state: Tensor) -> int:
    """Return the axis of a hidden state that is dim, by the layer that a block starts with.

    Parameters
    ----------
    block : torch.nn.Module
        The block.
    state : torch.Tensor
        What enters it.

    Returns
    -------
    int
        1 where the first layer takes maps (batch, dim, row, column), else -1.
    """
    layers = (m for m in block.modules() if isinstance(m, (*MAPS, nn.Linear)) or "Norm" in type(m).__name__)
    return 1 if state.ndim > 3 and isinstance(next(layers, None), MAPS) else -1
