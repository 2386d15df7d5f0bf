"""Read the hidden states of blocks with hooks while a model runs as usual."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

from torch import Tensor, nn

from .block_outputs import (
    AmbiguousStreams,
    State,
    hidden_states_of,
    named_inputs,
    state_entering,
    stream_order_from_next,
)
from .block_stacks import find_block
from .compiled_blocks import uncompile
from .hook_order import Reader
from .parallel_models import StateGathering, gathers_weights
from .step_caches import check_no_cache

EMBEDDINGS = "embeddings"  # the hidden state that enters the first block
OFFLOADING = ("_hf_hook", "_diffusers_hook")  # the attributes by which accelerate and diffusers hook modules they move
Keep = Callable[[str, str | None, Tensor], Any]


class LayerNeverRan(RuntimeError):
    """Report a layer that the forward pass did not run."""


class LayerRanAgain(RuntimeError):
    """Report a layer that ran more often than `calls` allows."""


class _StopForward(BaseException):
    """Stop the model once every layer asked for has run: the rest of the forward pass is not needed.

    This is no Exception, so that a model that catches exceptions is stopped too.
    """


@contextmanager
def capture(
    model: nn.Module, layers: Sequence[str], keep: Keep | None = None, stop: bool = True, calls: int = 1
) -> Iterator[dict[str, Any]]:
    """Read the hidden state of each block in `layers` during one forward pass.

    Run the model once, as usual, inside the context. All hooks are removed at its end, after an exception too.

    Parameters
    ----------
    model : torch.nn.Module
        The model that is run.
    layers : sequence of str
        Dotted paths of blocks, in depth order. The name "embeddings" stands for what enters the first of them.
    keep : callable, optional
        What `keep(path, stream, state)` returns is stored instead of the state, so that pooling happens while the model
        runs and no unpooled state is held. `stream` is "image", "text" or None for a single stream.
    stop : bool
        End the forward pass after the deepest layer. The model's own result is then not returned. A model that
        accelerate or diffusers offloads, or FSDP2 shards, runs to its end all the same: it would be left half on the
        device, or half gathered. A block
        that runs several times in a pass is then read the first time; without `stop` that is an error.
    calls : int
        How often each block runs in the context. It is more than one for guidance in two passes, a prefill and a flow
        step, or the steps of a sampler. Then `taps[path]` is a list with one entry per call, in order.

    Yields
    ------
    dict
        After the pass, `taps[path]` is that block's hidden state as it left the block, (batch, token, dim) for most, or
        a dict of them for a dual-stream block (`taps[path]["image"]`, `taps[path]["text"]`).

    Raises
    ------
    ValueError
        A path is unknown, streams of one shape cannot be told apart, or a parallel model's ranks hold parts of a state
        that cannot be put together.
    RuntimeError
        A block ran more often than `calls`, or never; or a diffusers cache is on, whose blocks return states of other
        steps.

    Examples
    --------
    >>> with capture(model, ["embeddings", *find_stacks(model)["model.layers"]]) as taps:
    ...     model(input_ids)
    >>> taps["model.layers.3"].shape
    torch.Size([2, 9, 576])
    """
    blocks = [path for path in layers if path != EMBEDDINGS]
    if not blocks:
        raise ValueError("no block to capture: name at least one besides 'embeddings'")
    if len(set(layers)) < len(layers):
        raise ValueError("a layer is named twice in `layers`")
    check_no_cache(model)
    modules = {path: find_block(model, path) for path in blocks}
    stop = stop and not any(hasattr(module, hook) for module in model.modules() for hook in OFFLOADING)
    stop = stop and not gathers_weights(model)
    gathering = StateGathering(model)
    # An unpooled state is copied: the next block may change it in place.
    keep_state = keep or (lambda path, stream, state: state.clone())
    taps: dict[str, Any] = {}
    entered: list[Mapping[str, Any]] = []  # inputs of the first block, until its output has named its streams
    waiting: list[tuple[str, Mapping[str, Any], Any]] = []  # blocks whose streams only the next block's inputs name
    orders: dict[type, tuple[str | None, ...]] = {}  # the order in which a class of blocks returns its streams

    def times(path: str) -> int:
        return (len(taps[path]) if calls > 1 else 1) if path in taps else 0

    def store(path: str, state: State) -> None:
        if isinstance(state, dict):
            kept = {stream: keep_state(path, stream, part) for stream, part in state.items()}
        else:
            kept = keep_state(path, None, state)
        if calls > 1:
            taps.setdefault(path, []).append(kept)
        else:
            taps[path] = kept

    def settle(path: str, inputs: Mapping[str, Any], output: Any) -> None:
        if times(path) == calls:
            raise LayerRanAgain(
                f"layer {path!r} ran {'twice' if calls == 1 else f'more than {calls} times'}: capture one forward "
                "pass at a time, without classifier-free guidance; or say how often it runs, as capture(..., calls=2), "
                "where a model uses a block several times (ALBERT)"
            )
        state = hidden_states_of(path, inputs, output, orders.get(type(modules[path])))
        if path == blocks[0] and EMBEDDINGS in layers:
            store(EMBEDDINGS, gathering.whole(EMBEDDINGS, state_entering(entered.pop(0), state)))
        store(path, gathering.whole(path, state))
        if stop and all(times(layer) == calls for layer in layers):
            raise _StopForward

    def before(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        first = module is modules[blocks[0]] and EMBEDDINGS in layers
        if not (first or waiting):
            return
        inputs = named_inputs(module, args, kwargs)
        if first:  # copied: a block may change its input in place
            entered.append({name: v.clone() if isinstance(v, Tensor) else v for name, v in inputs.items()})
        if waiting and (order := stream_order_from_next(waiting[-1][2], inputs)):
            orders.setdefault(type(modules[waiting[-1][0]]), order)
            while waiting:
                settle(*waiting.pop(0))

    def after(path: str, module: nn.Module, args: tuple, kwargs: dict[str, Any], output: Any) -> None:
        inputs = {} if isinstance(output, Tensor) else named_inputs(module, args, kwargs)
        try:
            settle(path, inputs, output)
        except AmbiguousStreams:
            waiting.append((path, inputs, output))

    handles = []
    compiled = ExitStack()
    try:
        for module in model.modules():  # a compiled module does not see hooks
            uncompile(compiled, module)
        if gathering.ranks:
            handles.append(model.register_forward_pre_hook(gathering.look, with_kwargs=True))
        for module in {id(m): m for m in (*modules.values(), *_followers(model, blocks))}.values():
            handles.append(module.register_forward_pre_hook(before, with_kwargs=True))
        for path, module in modules.items():
            handles.append(module.register_forward_hook(Reader(after, path), with_kwargs=True))
        with suppress(_StopForward):
            yield taps
        if waiting:
            hidden_states_of(*waiting[0])  # raises: nothing tells its streams apart
    finally:
        for handle in handles:
            handle.remove()
        compiled.close()
    missing = [path for path in layers if times(path) < calls]
    if missing:
        often = "never ran" if not times(missing[0]) else f"ran {times(missing[0])} of {calls} times"
        raise LayerNeverRan(
            f"layer {missing[0]!r} {often}: was the model called inside the context, and does this call use that part "
            "of it?"
        )


def _followers(model: nn.Module, blocks: Sequence[str]) -> Iterator[nn.Module]:
    """Yield the block after each, whose inputs name the streams where shapes do not."""
    for path in blocks:
        stack, _, number = path.rpartition(".")
        if number.isdigit() and f"{stack}.{int(number) + 1}" not in blocks:
            with suppress(AttributeError):
                yield model.get_submodule(f"{stack}.{int(number) + 1}")
