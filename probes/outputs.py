"""Read the hidden state out of what a block returns."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

State = Tensor | dict[str, Tensor]  # one, or one for each stream

# The arguments that diffusers' dual-stream blocks name their two streams by; those of others keep their own names.
STREAM_NAMES = {"hidden_states": "image", "encoder_hidden_states": "text"}


class Ambiguous(ValueError):
    """Two streams of one shape: which is which is seen only from what the next block is given."""


def split_streams(
    path: str, inputs: Mapping[str, Any], output: Any, order: tuple[str | None, ...] | None = None
) -> State:
    """A block's hidden state, or one for each stream of a block that takes and returns several.

    The hidden state is what a block returns in the shape of one of its inputs, or the first tensor where the width
    changes; attention weights, caches and skip connections beside it are left out. A dual-stream block takes
    `hidden_states` (image) and `encoder_hidden_states` (text) and returns both, some as (text, image) and some as
    (image, text): they are told apart by their shapes, or by `order`, the streams in the order in which they are
    returned. One may be None after the last block.

    Raises TypeError for an output without a tensor, `Ambiguous` for streams of one shape without an `order`.
    """
    parts = _parts(output)
    if order is not None:
        return {name: part for name, part in zip(order, parts, strict=False) if name and _is_state(part)}
    states = [part for part in parts if _is_state(part)]
    if not states:
        raise TypeError(
            f"block {path!r} returned {_told(output)}: expected a tensor, or a tuple or dict that holds one"
        )
    given = {name: value for name, value in inputs.items() if _is_state(value)}
    shapes = [value.shape for value in given.values()]
    main = [given[name].shape for name in ("hidden_states", *given) if name in given]
    like = next((state for shape in main for state in states if state.shape == shape), states[0])
    # Streams have one width: position biases, attention weights and caches have another, or other axes.
    streams = [state for state in states if state.ndim == like.ndim and state.shape[-1] == like.shape[-1]]
    lost = len(parts) == 2 and parts[0] is None and "encoder_hidden_states" in given  # its text ends here (SD3)
    if len(parts) == 1 or (len(streams) == 1 and not lost) or any(stream.shape not in shapes for stream in streams):
        return like
    named: dict[str, Tensor] = {}
    for stream in streams:
        names = [name for name, value in given.items() if value.shape == stream.shape]
        if len(names) > 1 and not lost:
            raise Ambiguous(
                f"block {path!r} has image and text streams of one shape {tuple(stream.shape)}: "
                "give them unequal lengths"
            )
        named[STREAM_NAMES.get(names[0], names[0])] = stream
    return named


def follow(output: Any, inputs: Mapping[str, Any]) -> tuple[str | None, ...] | None:
    """The streams of a block's output by the names under which the next block is given the very same tensors."""
    names = [
        next(
            (STREAM_NAMES.get(name, name) for name, value in inputs.items() if value is part and part is not None), None
        )
        for part in _parts(output)
    ]
    return tuple(names) if any(names) else None


def entering(inputs: Mapping[str, Any], state: State) -> State:
    """What entered a block, in the streams of what it returned."""
    given = {STREAM_NAMES.get(name, name): value for name, value in inputs.items() if _is_state(value)}
    if isinstance(state, dict):
        return {name: given[name] for name in state}
    alike = [value for value in given.values() if value.shape == state.shape] or list(given.values())
    return given["image"] if any(given.get("image") is value for value in alike) else alike[0]


def named_inputs(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> dict[str, Any]:
    """A call's arguments by the names of the module's `forward`, whether given by position or by keyword."""
    forward = module.forward
    if inspect.ismethod(forward):  # of the class: one signature serves all its blocks
        bound = dict(_signature(forward.__func__).bind_partial(forward.__self__, *args, **kwargs).arguments)
        del bound[next(iter(bound))]
    else:
        bound = dict(inspect.signature(forward).bind_partial(*args, **kwargs).arguments)
    extra = bound.pop("kwargs", None)
    return bound | extra if isinstance(extra, dict) else bound


_signature = functools.cache(inspect.signature)


def _parts(output: Any) -> tuple[Any, ...]:
    if isinstance(output, Mapping):
        return tuple(output.values())
    return tuple(output) if isinstance(output, tuple | list) else (output,)


def _is_state(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point() and value.ndim >= 2


def _told(output: Any) -> str:
    if isinstance(output, tuple | list):
        return f"a {type(output).__name__} of {', '.join(type(part).__name__ for part in output) or 'nothing'}"
    return type(output).__name__
