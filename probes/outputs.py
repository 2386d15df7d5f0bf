"""Read the hidden state out of what a block returns."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn


def split_streams(path: str, inputs: Mapping[str, Any], output: Any) -> Tensor | dict[str, Tensor]:
    """A block's hidden state (batch, token, dim), or one for each stream of a dual-stream block.

    A dual-stream block takes `hidden_states` (image) and `encoder_hidden_states` (text) and returns both, some as
    (text, image) and some as (image, text): they are told apart by their shapes. The text may be None after the last
    block.
    """
    if isinstance(output, Tensor):
        return output
    if not isinstance(output, tuple) or not output:
        raise TypeError(f"block {path!r} returned {type(output).__name__}: expected a tensor or a tuple of tensors")
    image, text = inputs.get("hidden_states"), inputs.get("encoder_hidden_states")
    dual = len(output) == 2 and all(x is None or (isinstance(x, Tensor) and x.dim() == 3) for x in output)
    if not (dual and isinstance(image, Tensor) and isinstance(text, Tensor)):
        if isinstance(output[0], Tensor):
            return output[0]  # transformers' older blocks: (hidden state, attention weights, ...)
        raise TypeError(
            f"block {path!r} returned a tuple that starts with {type(output[0]).__name__}: expected a tensor"
        )
    if image.shape == text.shape:
        raise ValueError(
            f"block {path!r} has image and text streams of one shape {tuple(image.shape)}: give them unequal lengths"
        )
    return {
        name: stream
        for stream in output
        if stream is not None
        for name, given in (("image", image), ("text", text))
        if stream.shape == given.shape
    }


def named_inputs(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> dict[str, Any]:
    """A call's arguments by the names of the module's `forward`, whether given by position or by keyword."""
    return inspect.signature(module.forward).bind_partial(*args, **kwargs).arguments
