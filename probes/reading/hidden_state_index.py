"""Tell which of transformers' hidden states a layer is, by running the model once and comparing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..arguments import checked
from ..hooks.block_stacks import find_stacks
from ..hooks.capturing import EMBEDDINGS, LayerNeverRan, capture
from ..hooks.model_memory import forgetting
from ..hooks.model_state import device_of, evaluating
from .sites import find_site

FINAL_NORM = "final_norm"


def hidden_states_index(
    model: nn.Module, layer: int | str, inputs: Mapping[str, Any] | None = None, stack: str | None = None
) -> int:
    """Return the index of a layer in the `hidden_states` that a transformers model returns.

    The model is run once on a few tokens, and its hidden states are compared with what hooks read: the last one of most
    language models is behind the final norm, and some families count in another way.

    Parameters
    ----------
    model : torch.nn.Module
        The model.
    layer : int or str
        A block's number, "embeddings" or "final_norm"; "0@2" for a turn of a block that runs several times.
    inputs : mapping, optional
        What `model(**inputs)` takes. It may be left out for models of token ids or of pixels alone.
    stack : str, optional
        The path of the stack, where the model has several.

    Returns
    -------
    int
        The index: `hidden_states[index]` equals the layer bit for bit.

    Raises
    ------
    TypeError
        An argument is of another kind.
    ValueError
        The layer is not among the hidden states, or the model returns none. The message says what each index is.

    See Also
    --------
    layer_of_hidden_states : Goes back from an index to the layer.

    Examples
    --------
    >>> llama = open_expert("scenes-vlm").model.model.language_model
    >>> hidden_states_index(llama, 3)
    4
    """
    checked("layer", layer, int | str)
    names = hidden_state_layers(model, inputs, stack)
    if str(layer) not in names:
        held = ", ".join(f"{index}: {name or 'none of its layers'}" for index, name in enumerate(names))
        raise ValueError(
            f"the hidden states of {type(model).__name__} do not hold layer {layer!r}: they are {held}. extract(..., "
            f"layers=[{str(layer)!r}]) reads it"
        )
    return names.index(str(layer))


def layer_of_hidden_states(
    model: nn.Module, index: int, inputs: Mapping[str, Any] | None = None, stack: str | None = None
) -> str:
    """Return the layer that one of the `hidden_states` of a transformers model is.

    Parameters
    ----------
    model : torch.nn.Module
        The model.
    index : int
        The index, which may be negative.
    inputs : mapping, optional
        As of `hidden_states_index`.
    stack : str, optional
        The path of the stack, where the model has several.

    Returns
    -------
    str
        "embeddings", "0", "1", ..., or "final_norm": a name for `extract(layers=)`.

    Raises
    ------
    TypeError
        An argument is of another kind.
    ValueError
        There is no such index, or it is none of these.

    See Also
    --------
    hidden_states_index : Goes from a layer to its index.

    Examples
    --------
    >>> llama = open_expert("scenes-vlm").model.model.language_model
    >>> layer_of_hidden_states(llama, 2)
    '1'
    """
    checked("index", index, int)
    names = hidden_state_layers(model, inputs, stack)
    if not -len(names) <= index < len(names):
        raise ValueError(f"{type(model).__name__} returns {len(names)} hidden states: there is no index {index}")
    name = names[index]
    if name is None:
        raise ValueError(
            f"hidden state {index} of {type(model).__name__} is none of its embeddings, block outputs or final norm"
        )
    return name


def hidden_state_layers(model: nn.Module, inputs: Mapping[str, Any] | None, stack: str | None) -> list[str | None]:
    """Return the layer that each of a transformers model's `hidden_states` is.

    Parameters
    ----------
    model, inputs, stack
        As of `hidden_states_index`.

    Returns
    -------
    list of str or None
        The name of the layer, None for a state that is none of them.

    Raises
    ------
    ValueError
        The model returns no hidden states, or has several stacks and none is named.
    """
    checked("inputs", inputs, Mapping | None, remedy="name what the model is called with")
    checked("stack", stack, str | None)
    stacks = find_stacks(model)
    if stack is not None and stack not in stacks:
        raise ValueError(f"{type(model).__name__} has no stack {stack!r}: it has {', '.join(stacks)}")
    if stack is None and len(stacks) > 1:
        raise ValueError(f"{type(model).__name__} has several stacks: say which, as stack=, of {', '.join(stacks)}")
    path = stack or next(iter(stacks))
    given = _default_inputs(model) if inputs is None else dict(inputs)
    device = device_of(model)
    given = {name: value.to(device) if isinstance(value, Tensor) else value for name, value in given.items()}
    blocks = stacks[path]
    try:
        norm = [find_site(model, blocks, FINAL_NORM).path]
    except ValueError:
        norm = []
    unique = list({id(model.get_submodule(block)): block for block in reversed(blocks)}.values())[::-1]
    reading = capture(model, [EMBEDDINGS, *unique], stop=False, calls="all")
    normed: list[Tensor] = []
    handles = [model.get_submodule(p).register_forward_hook(lambda m, i, out: normed.append(_first(out))) for p in norm]
    try:
        with evaluating(model), torch.no_grad(), forgetting(model), reading as taps:
            output = model(**given, output_hidden_states=True, return_dict=True)
    except LayerNeverRan as error:
        raise ValueError(f"{error}; or say what it is shown, as inputs=") from None
    finally:
        for handle in handles:
            handle.remove()
    states = _states(model, output, path)
    layers = [(EMBEDDINGS, taps[EMBEDDINGS][0])]
    for number, block in enumerate(blocks):
        runs = taps.get(block, [])
        layers += [(str(number) if len(runs) == 1 else f"{number}@{turn}", run) for turn, run in enumerate(runs, 1)]
    layers += [(FINAL_NORM, state) for state in normed]
    names: list[str | None] = []
    for state in states:
        names.append(next((name for name, own in layers if name not in names and _equal(own, state)), None))
    return names


def _states(model: nn.Module, output: Any, stack: str) -> tuple[Tensor, ...]:
    """Return the hidden states of the stack that a model's output holds."""
    sides = [side for side in ("encoder", "decoder", "vision", "text") if side in stack]
    keys = ("hidden_states", *(f"{side}_hidden_states" for side in sides))
    held = [states for key in keys if (states := getattr(output, key, None))]
    if not held:
        raise ValueError(
            f"{type(model).__name__} returns no hidden states with output_hidden_states=True: read its layers by "
            "extract"
        )
    return tuple(held[-1])


def _default_inputs(model: nn.Module) -> dict[str, Tensor]:
    name, config = getattr(model, "main_input_name", None), getattr(model, "config", None)
    noise = torch.Generator().manual_seed(0)
    if name == "input_ids" and getattr(config, "vocab_size", None) and not getattr(config, "is_encoder_decoder", False):
        return {"input_ids": torch.randint(config.vocab_size, (1, 5), generator=noise)}  # type: ignore[union-attr]
    size = getattr(config, "image_size", None)
    if name == "pixel_values" and size:
        height, width = (size, size) if isinstance(size, int) else size
        pixels = torch.randn(1, getattr(config, "num_channels", 3), height, width, generator=noise)
        return {"pixel_values": pixels.to(next(model.parameters()).dtype)}
    raise ValueError(f"say what {type(model).__name__} is shown, as inputs={{'input_ids': ...}}")


def _first(output: Any) -> Tensor:
    return output if isinstance(output, Tensor) else next(part for part in output if isinstance(part, Tensor))


def _equal(own: Any, state: Tensor) -> bool:
    return isinstance(own, Tensor) and own.shape == state.shape and torch.equal(own, state)
