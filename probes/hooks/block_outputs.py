"""Find the hidden states in what a block takes and returns."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from .block_stacks import COMPILED

State = Tensor | dict[str, Tensor]  # one hidden state, or one for each stream

# The arguments by which diffusers' dual-stream blocks take their two streams. Other streams keep their argument's name.
STREAM_NAMES = {"hidden_states": "image", "encoder_hidden_states": "text"}


class AmbiguousStreams(ValueError):
    """Report two streams of one shape, which only the inputs of the next block tell apart."""


def hidden_states_of(
    path: str, inputs: Mapping[str, Any], output: Any, order: tuple[str | None, ...] | None = None
) -> State:
    """Return a block's hidden state, or one for each stream of a block that takes and returns several.

    The hidden state is what a block returns first in the shape of its input. Attention weights, caches and skip
    connections beside it are left out. A dual-stream block takes `hidden_states` (image) and `encoder_hidden_states`
    (text) and returns both, some as (text, image) and some as (image, text). Their shapes tell them apart. One may be
    None after the last block.

    Parameters
    ----------
    path : str
        The block's path, for error messages.
    inputs : mapping
        The block's inputs by name, as `named_inputs` returns them.
    output : object
        What the block returned.
    order : tuple of str or None, optional
        The name of the stream of each part of the output, where shapes do not tell (`stream_order_from_next`).

    Returns
    -------
    torch.Tensor or dict of torch.Tensor
        The hidden state, or one by stream ("image", "text").

    Raises
    ------
    TypeError
        The output holds no tensor.
    AmbiguousStreams
        Only `order` would tell the streams apart.
    """
    parts = _parts(output)
    if order is not None:
        named = {name: part for name, part in zip(order, parts, strict=False) if name and _is_state(part)}
        return named if sum(name is not None for name in order) > 1 else next(iter(named.values()))
    states = [part for part in parts if _is_state(part)]
    if not states:
        raise TypeError(f"block {path!r} returned {_describe(output)}: expected a tensor, or a tuple or dict with one")
    given = {name: value for name, value in inputs.items() if _is_state(value)}
    main = given.get("hidden_states", next(iter(given.values()), states[0]))
    named = _streams(path, parts, states, given, main)
    if named:
        return named
    # The first state does not have the shape of the input, and another one has it: either may be the hidden state.
    alike = [state for state in states if state.ndim == main.ndim]
    if alike and alike[0].shape != main.shape and any(state.shape == main.shape for state in alike[1:]):
        raise AmbiguousStreams(
            f"block {path!r} returned {_describe(output)} of shapes {[tuple(s.shape) for s in alike]} for an input of "
            f"{tuple(main.shape)}, and what the next block is given does not say which is its hidden state"
        )
    return (alike or states)[0]


def _streams(
    path: str, parts: tuple[Any, ...], states: list[Tensor], given: Mapping[str, Tensor], main: Tensor
) -> dict[str, Tensor] | None:
    """Return the streams of a block that takes and returns several, or None."""
    text_ended = len(parts) == 2 and parts[0] is None and "encoder_hidden_states" in given  # SD3
    streams, names = [], []
    for state in states:
        fitting = [
            name
            for name, value in given.items()
            # Streams have one width, or are called hidden states: a position bias or a cache is no stream.
            if value.shape == state.shape and (state.shape[-1] == main.shape[-1] or name.endswith("hidden_states"))
        ]
        if fitting and state.ndim == main.ndim:
            streams.append(state)
            names.append(fitting)
    different = {name for fitting in names for name in fitting}
    others = [state for state in states if state.ndim == main.ndim and not any(state is s for s in streams)]
    if text_ended and len(streams) == 1:
        return {STREAM_NAMES.get(names[0][0], names[0][0]): streams[0]}
    if len(streams) < 2 or len(different) < len(streams) or others:
        return None
    if any(len(fitting) > 1 for fitting in names):
        raise AmbiguousStreams(
            f"block {path!r} has image and text streams of one shape {tuple(streams[0].shape)}: "
            "give them unequal lengths"
        )
    return {STREAM_NAMES.get(fitting[0], fitting[0]): stream for fitting, stream in zip(names, streams, strict=True)}


def stream_order_from_next(output: Any, inputs: Mapping[str, Any]) -> tuple[str | None, ...] | None:
    """Name the streams of a block's output by the arguments through which the next block takes the same tensors.

    Parameters
    ----------
    output : object
        What a block returned.
    inputs : mapping
        The next block's inputs by name.

    Returns
    -------
    tuple of str or None
        The stream of each part of the output, None for a part that the next block does not take; None alone where it
        takes none of them.
    """
    names = [
        next(
            (STREAM_NAMES.get(name, name) for name, value in inputs.items() if value is part and part is not None), None
        )
        for part in _parts(output)
    ]
    return tuple(names) if any(names) else None


def state_entering(inputs: Mapping[str, Any], state: State) -> State:
    """Return what entered a block, in the streams of what the block returned.

    Parameters
    ----------
    inputs : mapping
        The block's inputs by name.
    state : torch.Tensor or dict of torch.Tensor
        What the block returned, as `hidden_states_of` gives it.

    Returns
    -------
    torch.Tensor or dict of torch.Tensor
        The hidden states that entered, in the same form.
    """
    given = {STREAM_NAMES.get(name, name): value for name, value in inputs.items() if _is_state(value)}
    if isinstance(state, dict):
        return {name: given[name] for name in state}
    alike = [value for value in given.values() if value.shape == state.shape] or list(given.values())
    return given["image"] if any(given.get("image") is value for value in alike) else alike[0]


def named_inputs(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return a call's arguments by name, whether they were passed by position or by keyword.

    Parameters
    ----------
    module : torch.nn.Module
        The module that is called.
    args, kwargs : tuple, dict
        The call's arguments.

    Returns
    -------
    dict
        The arguments by their names in the module's `forward`. Those of a wrapper's `*args` are called "argument 0",
        "argument 1" and so on.
    """
    forward = getattr(module, COMPILED, module).forward
    if inspect.ismethod(forward):  # one signature serves all blocks of a class
        bound = dict(_signature(forward.__func__).bind_partial(forward.__self__, *args, **kwargs).arguments)
        del bound[next(iter(bound))]
    else:
        bound = dict(inspect.signature(forward).bind_partial(*args, **kwargs).arguments)
    loose, extra = bound.pop("args", ()), bound.pop("kwargs", {})
    if isinstance(loose, tuple):  # a wrapper's forward(*args, **kwargs)
        bound |= {f"argument {number}": value for number, value in enumerate(loose)}
    return bound | extra if isinstance(extra, dict) else bound


_signature = functools.cache(inspect.signature)


def _parts(output: Any) -> tuple[Any, ...]:
    if isinstance(output, Mapping):
        return tuple(output.values())
    return tuple(output) if isinstance(output, tuple | list) else (output,)


def _is_state(value: Any) -> bool:
    if isinstance(value, Tensor) and value.is_nested:
        raise TypeError(
            "a block was given or returned a nested tensor, which has no token axis: build torch's TransformerEncoder "
            "with enable_nested_tensor=False"
        )
    return isinstance(value, Tensor) and value.is_floating_point() and value.ndim >= 2


def _describe(output: Any) -> str:
    if isinstance(output, tuple | list):
        return f"a {type(output).__name__} of {', '.join(type(part).__name__ for part in output) or 'nothing'}"
    return type(output).__name__
