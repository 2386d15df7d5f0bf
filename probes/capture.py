"""Hooks that read block outputs while a model runs as usual, and leave no trace."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from torch import Tensor, nn

from .outputs import named_inputs, split_streams
from .stacks import find_block

EMBEDDINGS = "embeddings"  # the hidden state that enters the first block
Keep = Callable[[str, str | None, Tensor], Any]


class _Deepest(Exception):
    """Raised inside the model once every layer asked for has run: the rest of the forward pass is not needed."""


@contextmanager
def capture(
    model: nn.Module, layers: Sequence[str], keep: Keep | None = None, stop: bool = True
) -> Iterator[dict[str, Any]]:
    """Read the hidden state of each block in `layers` (dotted paths in depth order) during one forward pass.

    Inside the context run the model once, as usual; afterwards `taps[path]` is that block's hidden state
    (batch, token, dim), or a dict of them for a dual-stream block (`taps[path]["image"]`, `["text"]`).
    The name "embeddings" stands for what enters `layers`' first block.

    >>> with capture(model, ["embeddings", *find_stacks(model)["model.layers"]]) as taps:
    ...     model(input_ids)
    >>> taps["model.layers.3"].shape
    torch.Size([2, 9, 576])

    Parameters
    ----------
    keep : `keep(path, stream, state)` is stored instead of the state, so that pooling happens while the model runs
        and no unpooled state is held; `stream` is "image", "text" or None for a single stream.
    stop : end the forward pass after the deepest layer. The model's own result is then not returned.

    Raises
    ------
    ValueError : an unknown path. RuntimeError : a block that ran twice, or never, where once was expected.
    """
    taps: dict[str, Any] = {}
    blocks = [path for path in layers if path != EMBEDDINGS]
    if not blocks:
        raise ValueError("no block to capture: name at least one besides 'embeddings'")
    if len(set(layers)) < len(layers):
        raise ValueError("a layer is named twice in `layers`")
    modules = [find_block(model, path) for path in blocks]

    def store(path: str, state: Tensor | dict[str, Tensor]) -> None:
        if path in taps:
            raise RuntimeError(f"layer {path!r} ran twice: capture one forward pass at a time")
        if isinstance(state, dict):
            taps[path] = {name: keep(path, name, each) if keep else each for name, each in state.items()}
        else:
            taps[path] = keep(path, None, state) if keep else state

    def before(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        given = named_inputs(module, args, kwargs)
        image, text = given.get("hidden_states", args[0] if args else None), given.get("encoder_hidden_states")
        store(EMBEDDINGS, {"image": image, "text": text} if isinstance(text, Tensor) else image)

    def after(path: str, module: nn.Module, args: tuple, kwargs: dict[str, Any], output: Any) -> None:
        store(path, split_streams(path, named_inputs(module, args, kwargs), output))
        if stop and len(taps) == len(layers):
            raise _Deepest

    handles = []
    try:
        if EMBEDDINGS in layers:
            handles.append(modules[0].register_forward_pre_hook(before, with_kwargs=True))
        for path, module in zip(blocks, modules, strict=True):

            def hook(module: nn.Module, args: tuple, kwargs: dict[str, Any], output: Any, path: str = path) -> None:
                after(path, module, args, kwargs, output)

            handles.append(module.register_forward_hook(hook, with_kwargs=True))
        with suppress(_Deepest):
            yield taps
    finally:
        for handle in handles:
            handle.remove()
    missing = [path for path in layers if path not in taps]
    if missing:
        raise RuntimeError(f"layer {missing[0]!r} never ran: was the model called inside the context?")
