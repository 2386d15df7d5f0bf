"""Find a model's block stacks by structure, and read the hidden state out of what a block returns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn


def find_stacks(model: nn.Module) -> dict[str, list[str]]:
    """The stacks of repeated blocks in a model, outermost only, each with its blocks' paths in depth order.

    A stack is a `ModuleList` of two or more blocks of one class that have children of their own.

    >>> find_stacks(llava)
    {'model.vision_tower.encoder.layers': [...4 paths], 'model.language_model.layers': [...16 paths]}

    Raises ValueError if the model has none.
    """
    stacks: dict[str, list[str]] = {}
    for path, module in model.named_modules():
        inside = any(path.startswith(block + ".") for blocks in stacks.values() for block in blocks)
        if inside or not isinstance(module, nn.ModuleList) or len(module) < 2:
            continue
        if len({type(block) for block in module}) == 1 and any(True for _ in module[0].children()):
            stacks[path] = [f"{path}.{index}" for index in range(len(module))]
    if not stacks:
        raise ValueError(
            f"{type(model).__name__} has no stack of blocks (a ModuleList of two or more blocks of one class): "
            "name the layers yourself, as capture(model, layers=[...])"
        )
    return stacks


def find_block(model: nn.Module, path: str) -> nn.Module:
    """The module at a dotted path; a wrong path is a ValueError that names the stacks there are."""
    try:
        return model.get_submodule(path)
    except AttributeError:
        there = "; ".join(f"{stack} ({len(blocks)} blocks)" for stack, blocks in find_stacks(model).items())
        raise ValueError(f"unknown layer {path!r}: {type(model).__name__} has the stacks {there}") from None


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
