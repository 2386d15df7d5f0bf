"""Find the hidden states in what a block takes and returns."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from ..private_names import COMPILED
from .next_block import OutputOrder, OutputTrace, order_from_next

State = Tensor | dict[str, Tensor]  # one hidden state, or one for each stream

# The arguments by which diffusers' dual-stream blocks take their two streams. Other streams keep their argument's name.
STREAM_NAMES = {"hidden_states": "image", "encoder_hidden_states": "text"}


class AmbiguousStreams(ValueError):
    """Report outputs of one shape, which only the inputs of the next block tell apart."""


def hidden_states_of(path: str, inputs: Mapping[str, Any], output: Any, order: OutputOrder | None = None) -> State:
    """Return a block's hidden state, or one for each stream of a block that takes and returns several.

    The hidden state is what the next block is given (`order`). Without an order it is what a block returns first in the
    shape of its input. Attention weights, caches and skip connections beside it are left out. A dual-stream block takes
    `hidden_states` (image) and `encoder_hidden_states` (text) and returns both, some as (text, image) and some as
    (image, text). Their shapes tell them apart. One may be None after the last block.

    Parameters
    ----------
    path : str
        The block's path, for error messages.
    inputs : mapping
        The block's inputs by name, as `named_inputs` returns them.
    output : object
        What the block returned.
    order : OutputOrder, optional
        What each part of the output is to the next block (`stream_order_from_next`). It is not used for an output of
        another number of parts.

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
    parts = parts_of(output)
    if order is not None and len(order.names) == len(parts):
        named = {name: part for name, part in zip(order.names, parts, strict=True) if name and _is_state(part)}
        if order.summed:
            return _sum([part for name, part in zip(order.names, parts, strict=True) if name])
        if named and len({name for name in order.names if name}) > 1:
            return {STREAM_NAMES.get(name, name): part for name, part in named.items()}
        if named:
            return next(iter(named.values()))
    states = [part for part in parts if _is_state(part)]
    if not states:
        raise TypeError(f"block {path!r} returned {_describe(output)}: expected a tensor, or a tuple or dict with one")
    given = {name: value for name, value in inputs.items() if _is_state(value)}
    main = given.get("hidden_states", next(iter(given.values()), states[0]))
    named = _streams(path, parts, states, given, main)
    if named:
        return named
    alike = list({id(state): state for state in states if state.ndim == main.ndim}.values())
    fitting = [state for state in alike if state.shape == main.shape]
    # Several have the shape of the input, or another one than the first has it: each may be the hidden state.
    if len(fitting) > 1 or (fitting and alike[0].shape != main.shape):
        raise AmbiguousStreams(
            f"block {path!r} returned {_describe(output)} of shapes {[tuple(s.shape) for s in alike]} for an input of "
            f"{tuple(main.shape)}, and what the next block is given does not say which is its hidden state, or which "
            f"two (mixer output and residual) are its summands: read a part of the block, such as {path + '.norm'!r}"
        )
    return (alike or states)[0]


def several_states(output: Any) -> bool:
    """Return whether a block returned several tensors that might be its hidden state."""
    return len({id(part) for part in parts_of(output) if _is_state(part)}) > 1


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


def stream_order_from_next(
    output: Any, inputs: Mapping[str, Any], trace: OutputTrace | None = None
) -> OutputOrder | None:
    """Name the parts of a block's output by the arguments through which the next block takes them.

    Parameters
    ----------
    output : object
        What a block returned.
    inputs : mapping
        The next block's inputs by name.
    trace : OutputTrace, optional
        What became of the parts between the two blocks.

    Returns
    -------
    OutputOrder or None
        The argument of each part, None for a part that the next block does not take; None alone where it takes none of
        them.

    Raises
    ------
    ValueError
        The next block is given a mixture of two parts that is not their sum.
    """
    return order_from_next(parts_of(output), inputs, trace)


def state_entering(inputs: Mapping[str, Any], state: State, order: OutputOrder | None = None) -> State:
    """Return what entered a block, in the streams of what the block returned.

    Parameters
    ----------
    inputs : mapping
        The block's inputs by name.
    state : torch.Tensor or dict of torch.Tensor
        What the block returned, as `hidden_states_of` gives it.
    order : OutputOrder, optional
        The order by which the state was found.

    Returns
    -------
    torch.Tensor or dict of torch.Tensor
        The hidden states that entered, in the same form.

    Raises
    ------
    ValueError
        A stream that the block returns did not enter it.
    """
    given = {STREAM_NAMES.get(name, name): value for name, value in inputs.items() if _is_state(value)}
    if isinstance(state, dict):
        if missing := [name for name in state if name not in given]:
            raise ValueError(
                f"a block returns {missing[0]!r} and was not given it, as the first block of a stack that hands on a "
                "residual or a memory: read a part of the block, such as its norm, and leave 'embeddings' out"
            )
        return {name: given[name] for name in state}
    if order is not None and order.summed:
        summands = [inputs[name] for name in dict.fromkeys(order.names) if name and _is_state(inputs.get(name))]
        return _sum(summands)
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


def parts_of(output: Any) -> tuple[Any, ...]:
    """Return the parts of what a block returned: of a tuple, list, dict or dataclass, or the output itself."""
    if isinstance(output, Mapping):
        return tuple(output.values())
    if dataclasses.is_dataclass(output) and not isinstance(output, type):
        return tuple(getattr(output, field.name) for field in dataclasses.fields(output))
    return tuple(output) if isinstance(output, tuple | list) else (output,)


def _sum(parts: list[Tensor]) -> Tensor:
    """Add a residual pair in the wider of their formats, as fused kernels do."""
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


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
