"""Read the hidden states of blocks with hooks while a model runs as usual."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from typing import Any, NamedTuple

from torch import Tensor, nn

from ..arguments import checked
from ..private_names import _current_graph_task_id
from ..single_contexts import single_context
from ..text_lists import listed_texts
from .block_outputs import (
    AmbiguousStreams,
    State,
    hidden_states_of,
    named_inputs,
    parts_of,
    several_states,
    state_entering,
    stream_order_from_next,
)
from .block_stacks import find_block
from .compiled_blocks import uncompile
from .hook_order import Reader
from .model_memory import check_no_cache
from .model_state import hooked, walk
from .next_block import OutputOrder, OutputTrace
from .parallel_models import StateGathering, gathers_weights
from .run_errors import LayerNeverRan, LayerRanAgain, PassRecord, may_run_again, siblings

EMBEDDINGS = "embeddings"  # the hidden state that enters the first block
READINGS: list[_Reading] = []  # those that are open: one inside another must not end the pass of the outer one
Keep = Callable[[str, str | None, Tensor], Any]
__all__ = ["EMBEDDINGS", "Keep", "LayerNeverRan", "LayerRanAgain", "capture"]


class _StopForward(BaseException):
    """Stop the model once every layer asked for has run: the rest of the forward pass is not needed.

    This is no Exception, so that a model that catches exceptions is stopped too.
    """


@single_context
def capture(
    model: nn.Module,
    layers: Sequence[str],
    keep: Keep | None = None,
    stop: bool = True,
    calls: int | str = 1,
    sites: Sequence[str] = (),
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
        device, or half gathered. So does one inside another capture, and one whose code may run the layer again. Where
        nothing in the code shows it, a block that runs several times is read the first time; without `stop` that is an
        error.
    calls : int or "all"
        How often each block runs in the context. It is more than one for guidance in two passes, a prefill and a flow
        step, or the steps of a sampler. Then `taps[path]` is a list with one entry per call, in order. "all" takes as
        many as there are. What gradient checkpointing runs again in a backward pass does not count.
    sites : sequence of str
        Paths of other modules, whose own output is read as well; `path:input` stands for what enters the module.

    Yields
    ------
    dict
        After the pass, `taps[path]` is that block's hidden state as it left the block, (batch, token, dim) for most, or
        a dict of them for a dual-stream block (`taps[path]["image"]`, `taps[path]["text"]`). Of several outputs, the
        state is what the next block is given; where that is the sum of two, a residual pair, it is their sum.

    Raises
    ------
    TypeError, ValueError
        An argument is of another kind, a path is unknown, outputs of one shape cannot be told apart, or a parallel
        model's ranks hold parts of a state that cannot be put together.
    RuntimeError
        A block ran more often than `calls`, or never; a diffusers cache is on, whose blocks return states of other
        steps; or the context was entered before.

    See Also
    --------
    extract : Pools the states of many stimuli and keeps them, where this gives those of one pass as they are.
    find_stacks : Lists the paths that can be read.

    Examples
    --------
    >>> ids = vlm.tokenizer(["a red circle"], return_tensors="pt").input_ids
    >>> with capture(vlm.model, ["embeddings", *vlm.blocks]) as taps:
    ...     vlm.model(input_ids=ids)
    >>> taps[vlm.blocks[3]].shape  # (batch, token, dim)
    torch.Size([1, 4, 128])
    """
    checked("model", model, nn.Module, remedy="pass a torch module")
    layers = listed_texts("layers", layers, "a list of paths, as find_stacks lists them")
    sites = listed_texts("sites", sites, "a list of paths of modules")
    checked("keep", keep, Callable | None, remedy="it takes (path, stream, state)")
    checked("stop", stop, bool)
    checked("calls", calls, int | str, least=1, known=("all",))
    if not sites and all(path == EMBEDDINGS for path in layers):
        raise ValueError("no block to capture: name at least one besides 'embeddings'")
    if len({*layers, *sites}) < len(layers) + len(sites):
        raise ValueError("a layer is named twice in layers and sites: name each once")
    check_no_cache(model)
    reading = _Reading(model, layers, sites, keep, stop, calls, boundary=sys._getframe(2))
    try:
        reading.begin()
        with suppress(_StopForward):
            yield reading.taps
        reading.settle_rest()
    finally:
        reading.close()
    reading.check()


class _Waiting(NamedTuple):
    """A block that returned several tensors, until the next block shows which of them is the hidden state."""

    path: str
    inputs: Mapping[str, Any]
    output: Any
    copies: tuple[Any, ...]  # the parts as they were returned: they may be changed in place before the next block
    trace: OutputTrace
    unclear: AmbiguousStreams | None  # why it waits; None where the first would do


class _Reading:
    """Hold what `capture` has read, and the hooks that read it."""

    def __init__(
        self,
        model: nn.Module,
        layers: Sequence[str],
        sites: Sequence[str],
        keep: Keep | None,
        stop: bool,
        calls: int | str,
        boundary: Any,
    ) -> None:
        self.model, self.layers, self.calls, self.boundary = model, [*layers, *sites], calls, boundary
        self.blocks = {path: find_block(model, path) for path in layers if path != EMBEDDINGS}
        self.first = next(iter(self.blocks), None) if EMBEDDINGS in layers else None
        self.places = {path: find_block(model, path.removesuffix(":input")) for path in sites}
        self.modules = walk(model)
        around = any(set(map(id, self.modules)) & set(map(id, other.modules)) for other in READINGS)
        self.stop = stop and calls != "all" and not (around or hooked(self.modules) or gathers_weights(model))
        self.gathering = StateGathering(model)
        # An unpooled state is copied: the next block may change it in place.
        self.keep = keep or (lambda path, stream, state: state.clone())
        self.taps: dict[str, Any] = {}
        self.entered: list[Mapping[str, Any]] = []  # inputs of the first block, until its output names its streams
        self.waiting: list[_Waiting] = []
        self.orders: dict[type, OutputOrder] = {}  # what the parts of a class's output are
        self.family = siblings(model, self.blocks)
        self.last = {path.rpartition(".")[0]: path for path in self.family}  # of each list, its last block
        self.unread = dict.fromkeys(self.layers)  # the layers that were not kept as often as they run
        self.record = PassRecord(model, self.blocks | self.places, parts=not self.stop)
        self.handles: list[Any] = []
        self.compiled = ExitStack()

    def begin(self) -> None:
        """Register all hooks."""
        READINGS.append(self)
        self.record.begin(self.family)
        for module in self.modules:  # a compiled module does not see hooks
            uncompile(self.compiled, module)
        if self.gathering.ranks:
            self.handles.append(self.model.register_forward_pre_hook(self.gathering.look, with_kwargs=True))
        for path, module in self.family.items():
            self.handles.append(module.register_forward_pre_hook(partial(self._before, path), with_kwargs=True))
            self.handles.append(module.register_forward_hook(Reader(self._after, path), with_kwargs=True))
        for path, module in self.places.items():
            if path.endswith(":input"):
                self.handles.append(module.register_forward_pre_hook(partial(self._into_site, path), with_kwargs=True))
            else:
                self.handles.append(module.register_forward_hook(Reader(self._site, path), with_kwargs=True))

    def times(self, path: str) -> int:
        """Count how often a layer was kept."""
        return (len(self.taps[path]) if self.calls != 1 else 1) if path in self.taps else 0

    def close(self) -> None:
        """Remove all hooks."""
        READINGS[:] = [other for other in READINGS if other is not self]
        for handle in self.handles:
            handle.remove()
        self.record.remove()
        self._stop_tracing()
        self.compiled.close()

    def check(self) -> None:
        """Raise LayerNeverRan for a layer that was not kept as often as it was to run."""
        least = 1 if self.calls == "all" else int(self.calls)
        missing = next((path for path in self.layers if self.times(path) < least), None)
        if missing is not None:
            path = self.first if missing == EMBEDDINGS else missing.removesuffix(":input")
            raise self.record.never_ran(str(path), self.times(missing), least)

    def settle_rest(self) -> None:
        """Read what still waits: nothing showed which tensor is its hidden state."""
        self._stop_tracing()
        for waiting in self.waiting:
            if waiting.unclear and waiting.path in self.blocks:
                raise waiting.unclear
        with suppress(_StopForward):
            self._settle_waiting()

    def _before(self, path: str, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        self.record.entered(path)
        first = path == self.first
        if not (first or self.waiting) or _recomputed():
            return
        inputs = named_inputs(module, args, kwargs)
        if self.waiting:
            self._learn(inputs)
        if first:  # copied: a block may change its input in place
            self.entered.append({name: v.clone() if isinstance(v, Tensor) else v for name, v in inputs.items()})

    def _learn(self, inputs: Mapping[str, Any]) -> None:
        """Find out from what runs next which part of the waiting output is the hidden state, and read it."""
        last = self.waiting[-1]
        self._stop_tracing()
        try:
            order = stream_order_from_next(last.output, inputs, last.trace)
        except ValueError as error:
            raise ValueError(f"block {last.path!r} returned several outputs, and {error}") from None
        if order is None:
            last.trace.__enter__()
            return
        self.orders.setdefault(type(self.family[last.path]), order)
        self._settle_waiting()

    def _settle_waiting(self) -> None:
        while self.waiting:
            waiting = self.waiting.pop(0)
            if waiting.path in self.blocks:
                order = self.orders.get(type(self.family[waiting.path]))
                self._settle(waiting.path, waiting.inputs, waiting.copies, order)

    def _after(self, path: str, module: nn.Module, args: tuple, kwargs: dict[str, Any], output: Any) -> None:
        if _recomputed():
            return
        wanted, order = path in self.blocks, self.orders.get(type(module))
        if wanted and self.times(path) == self.calls:
            raise self.record.ran_again(path, self.times(path))
        if isinstance(output, Tensor):
            if wanted:
                self._settle(path, {}, output, None)
            return
        inputs = named_inputs(module, args, kwargs)
        if order is not None and len(order.names) == len(parts_of(output)):
            if wanted:
                self._settle(path, inputs, output, order)
            return
        unclear = None
        try:
            sure = isinstance(hidden_states_of(path, inputs, output), dict) or not several_states(output)
        except AmbiguousStreams as error:
            sure, unclear = False, error
        except TypeError:
            if wanted:
                raise
            return
        last = path == self.last[path.rpartition(".")[0]]
        if sure or (last and not unclear):
            if wanted:
                self._settle(path, inputs, output, None)
            return
        self._wait(_waiting(path, inputs, output, unclear))
        if last and wanted:
            self._watch_what_follows(path)

    def _wait(self, waiting: _Waiting) -> None:
        self._stop_tracing()
        self.waiting.append(waiting)
        waiting.trace.__enter__()

    def _stop_tracing(self) -> None:
        if self.waiting and self.waiting[-1].trace.entered:
            self.waiting[-1].trace.__exit__(None, None, None)

    def _watch_what_follows(self, path: str) -> None:
        """Behind the last block of a stack, see what the modules outside it and the model's result are made of."""
        stacks = {block.rpartition(".")[0] for block in self.family}
        taken: list[Mapping[str, Any]] = []

        def before(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
            taken.append(named_inputs(module, args, kwargs))

        def after(module: nn.Module, args: tuple, output: Any) -> None:
            if self.waiting:
                values = {f"{number}": value for number, value in enumerate(parts_of(output))}
                orders = [self._order_of(inputs) for inputs in (*taken, values)]
                names = {(order.names, order.summed) for order in orders if order}
                places = {tuple(name is not None for name in named) for named, _ in names}
                if len(places) == 1 and (sum(next(iter(places))) == 1 or all(summed for _, summed in names)):
                    self._stop_tracing()
                    named, summed = names.pop()
                    self.orders.setdefault(type(self.family[path]), OutputOrder(named, summed))
                    self._settle_waiting()

        for name, module in self.model.named_modules():
            inside = any(name == stack or name.startswith(f"{stack}.") for stack in stacks)
            around = any(f"{stack}.".startswith(f"{name}.") for stack in stacks)
            if name and not (inside or around):
                self.handles.append(module.register_forward_pre_hook(before, with_kwargs=True))
        self.handles.append(self.model.register_forward_hook(after))

    def _order_of(self, inputs: Mapping[str, Any]) -> OutputOrder | None:
        last = self.waiting[-1]
        self._stop_tracing()
        with suppress(ValueError):
            return stream_order_from_next(last.output, inputs, last.trace)
        return OutputOrder((None,) * len(last.copies))  # a mixture: no order agrees with it

    def _settle(self, path: str, inputs: Mapping[str, Any], output: Any, order: OutputOrder | None) -> None:
        state = hidden_states_of(path, inputs, output, order)
        if path == self.first:
            self._store(EMBEDDINGS, state_entering(self.entered.pop(0), state, order))
        self._store(path, state)
        self._stop_if_done(path)

    def _stop_if_done(self, path: str) -> None:
        for layer in [layer for layer in (path, EMBEDDINGS) if self.times(layer) == self.calls]:
            self.unread.pop(layer, None)
        if self.stop and not self.unread:
            own = path.removesuffix(":input")  # of a block, the loop over its stack is around its entrance too
            parent = own.rpartition(".")[0]
            alone = sum(other.rpartition(".")[0] == parent for other in siblings(self.model, {own: self.model})) < 2
            if not may_run_again(self.model, sys._getframe(1), self.boundary, alone):
                raise _StopForward

    def _store(self, path: str, state: State) -> None:
        state = self.gathering.whole(path, state)
        if isinstance(state, dict):
            kept: Any = {stream: self.keep(path, stream, part) for stream, part in state.items()}
        else:
            kept = self.keep(path, None, state)
        if self.calls == 1:
            self.taps[path] = kept
        else:
            self.taps.setdefault(path, []).append(kept)

    def _site(self, path: str, module: nn.Module, args: tuple, kwargs: dict[str, Any], output: Any) -> None:
        if not _recomputed():
            self._keep_site(path, hidden_states_of(path, named_inputs(module, args, kwargs), output))

    def _into_site(self, path: str, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        if not _recomputed():
            given = {name: v for name, v in named_inputs(module, args, kwargs).items() if isinstance(v, Tensor)}
            if given:
                self._keep_site(path, given.get("hidden_states", next(iter(given.values()))))

    def _keep_site(self, path: str, state: State) -> None:
        if self.times(path) == self.calls:
            raise self.record.ran_again(path, self.times(path))
        self._store(path, state)
        self._stop_if_done(path)


def _waiting(path: str, inputs: Mapping[str, Any], output: Any, unclear: AmbiguousStreams | None) -> _Waiting:
    parts = parts_of(output)
    trace = OutputTrace(parts)
    copies = tuple(trace.values.get(number, part) for number, part in enumerate(parts))
    return _Waiting(path, inputs, output, copies, trace, unclear)


def _recomputed() -> bool:
    """Return whether a backward pass is running, in which gradient checkpointing runs blocks again."""
    return _current_graph_task_id() != -1
