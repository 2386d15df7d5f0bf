"""Find a model's tower by measurement: its stack, where tokens stand in what blocks return, which call is attention."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...probes.arguments import checked
from ...probes.hooks.attention_calls import AttentionCall, AttentionVisit, intercepted
from ...probes.hooks.block_outputs import (
    AmbiguousStreams,
    State,
    hidden_states_of,
    named_inputs,
    state_entering,
    stream_order_from_next,
)
from ...probes.hooks.block_stacks import find_stacks
from ...probes.hooks.compiled_blocks import check_parents
from ...probes.hooks.model_state import evaluating
from ...probes.subjects.input_changes import Inputs, noise_like, unchanged
from ...probes.subjects.token_movement import Stream
from ...probes.subjects.token_streams import find_streams
from .token_layout import Place, TokenLayout, find_layout, places
from .tower import SelfAttention, Tower, refuse_meta

MOVED = 1e-4  # share of the largest value: a smaller change is rounding


def find_tower(
    model: nn.Module,
    inputs: Inputs | Callable[[], Any],
    *,
    stack: str | None = None,
    stream: str | None = None,
    kinds: Mapping[str, str] | None = None,
) -> Tower:
    """Find a model's tower by a few forward passes.

    The passes show which stack runs, where its tokens stand, and which call of SDPA is each block's self-attention.

    Parameters
    ----------
    model : torch.nn.Module
        Any model with a stack of blocks.
    inputs : mapping of str to Any, or callable
        What `model(**inputs)` takes, for two samples or more, or a function that runs the model.
    stack : str, optional
        One of `find_stacks(model)`. By default, of the stacks that run, the one with the most parameters.
    stream : {"image", "text", "both"}, optional
        The tokens that bridges enter. None where there is one stream, or for all tokens of a sequence. In one sequence,
        image tokens must stand where they stand in `inputs`, in every pass and sample.
    kinds : mapping of str to str, optional
        The modality of inputs whose names do not say it, such as {"x": "image"}.

    Returns
    -------
    Tower
        The stack, with what bridges must know of it.

    Raises
    ------
    ValueError
        The model has no stack or token stream, does not run this stack, or has no such stream; or its weights are on
        the meta device, where they have no values.
    TypeError
        The model is no module, or its inputs are neither a mapping nor a function.

    See Also
    --------
    bridgework.probes.find_stacks : Lists the stacks without running the model.
    FusedModel : Finds the towers of experts by itself.

    Examples
    --------
    >>> find_tower(llava, inputs).blocks[0]
    'model.language_model.layers.0'
    >>> find_tower(sd3, lambda: expert.predict(noisy, text, time), stream="image")
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"the model is a {type(model).__name__}: expected a torch.nn.Module")
    if not isinstance(inputs, Mapping) and not callable(inputs):
        raise TypeError(
            f"inputs are a {type(inputs).__name__}: expected a mapping that model(**inputs) takes, or a function that "
            "runs the model"
        )
    checked("stream", stream, str | None, known=("image", "text", "both"))
    checked("stack", stack, str | None)
    for name, kind in (checked("kinds", kinds, Mapping | None) or {}).items():
        checked(f"kinds[{name!r}]", kind, str)
    refuse_meta(model)
    with evaluating(model), torch.no_grad():
        given = _given(model, inputs) if callable(inputs) else inputs
        stacks = find_stacks(model)
        if stack is not None and stack not in stacks:
            raise ValueError(f"{type(model).__name__} has no stack {stack!r}: it has {', '.join(stacks)}")
        found = find_streams(model, given, stacks=stacks, kinds=kinds)
        if not found or stack not in (None, *found):
            raise ValueError(
                f"{type(model).__name__} does not run {stack or 'any of its stacks'!r} when called with "
                f"{', '.join(given)}: it has no token stream to bridge; it runs {', '.join(found) or 'none'}"
            )
        path = stack or max(found, key=lambda name: _size(model, stacks[name]))
        check_parents(model, stacks[path][0])
        layouts = _layouts(f"{path} of {type(model).__name__}", found[path], stream)
        run = _StackRun(model, stacks[path], given, tuple(found[path]))
        samples = max(len(rows) for rows in next(iter(found[path].values())).positions.values())
        attention = run.attention(tuple(layouts), samples)
    return Tower(model, tuple(stacks[path]), stream, layouts, run.given, run.places, attention)


def _layouts(path: str, streams: Mapping[str | None, Stream], wanted: str | None) -> dict[str | None, TokenLayout]:
    """Return the layouts of the streams that bridges enter, image first."""
    if None in streams:
        kinds = {"image", "text"} & set(streams[None].positions)
        if wanted in ("image", "text") and wanted not in kinds and "mixed" not in streams[None].positions:
            raise ValueError(f"{path} has no {wanted} tokens: it holds {', '.join(streams[None].positions)}")
        return {None: find_layout(path, streams[None], None if wanted == "both" else wanted)}
    named = {n if n in ("image", "text") else next(iter(stream.positions)): n for n, stream in streams.items()}
    if wanted is None or (wanted != "both" and wanted not in named):
        raise ValueError(f"{path} has the streams {', '.join(named)}: say which the bridge enters, as stream='image'")
    chosen = ("image", "text") if wanted == "both" else (wanted,)
    return {named[kind]: find_layout(path, streams[named[kind]], None) for kind in chosen}


class _StackRun:
    """One pass of a stack: what its blocks were given, returned and attended with.

    Attributes
    ----------
    given : dict
        The argument by which each stream enters a block.
    places : list of dict
        For each block, where each stream stands in what it returned.
    """

    def __init__(
        self, model: nn.Module, blocks: Sequence[str], inputs: Inputs, streams: tuple[str | None, ...]
    ) -> None:
        self.model, self.blocks, self.inputs = model, blocks, inputs
        self.entered: list[dict[str, Any]] = []
        outputs: list[Any] = []
        handles = []

        def before(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
            self.entered.append(named_inputs(module, args, kwargs))

        for path in blocks:
            block = model.get_submodule(path)
            handles.append(block.register_forward_pre_hook(before, with_kwargs=True))
            handles.append(block.register_forward_hook(lambda module, args, output: outputs.append(output)))
        try:
            model(**unchanged(inputs))
        finally:
            for handle in handles:
                handle.remove()
        if len(outputs) != len(blocks):
            raise ValueError(
                f"{type(model).__name__} ran {len(outputs)} blocks where {blocks[0].rpartition('.')[0]!r} has "
                f"{len(blocks)}: a tower's blocks each run once in a pass"
            )
        states = [self._split(number, outputs) for number in range(len(blocks))]
        self.places: list[dict[str | None, Place]] = [
            places(output, state) for output, state in zip(outputs, states, strict=True)
        ]
        first = states[0]
        state = first[None] if None in first else {str(name): stream for name, stream in first.items()}
        into = _by_stream(state_entering(self.entered[0], state))
        self.given: dict[str | None, str] = {
            name: next(key for key, value in self.entered[0].items() if value is into[name]) for name in streams
        }

    def _split(self, number: int, outputs: Sequence[Any]) -> dict[str | None, Tensor]:
        path, inputs = self.blocks[number], self.entered[number]
        try:
            state = hidden_states_of(path, inputs, outputs[number])
        except AmbiguousStreams:
            alike = [other for other in range(len(self.blocks) - 1) if self._class(other) is self._class(number)]
            orders = [stream_order_from_next(outputs[other], self.entered[other + 1]) for other in alike]
            order = next(filter(None, orders), None)
            if order is not None and order.summed:
                raise ValueError(
                    f"block {path!r} hands on its state as two summands, a mixer output and a residual: a bridge "
                    "cannot enter there"
                ) from None
            state = hidden_states_of(path, inputs, outputs[number], order)
        return _by_stream(state)

    def _class(self, number: int) -> type:
        return type(self.model.get_submodule(self.blocks[number]))

    def attention(self, wanted: tuple[str | None, ...], samples: int) -> list[SelfAttention | str]:
        """Find each block's self-attention: the first call whose queries and keys both change with the stream's tokens.

        Every block is given what it was given before, then the same with noise added to one stream.

        Parameters
        ----------
        wanted : tuple
            The streams that bridges enter.
        samples : int
            How many samples the pass has.

        Returns
        -------
        list of SelfAttention or str
            One for each block; a sentence says why a block cannot be visited inside.
        """
        before = self._attended(())
        moved = {name: self._attended((name,)) for name in self.given}
        return [
            self._self_attention(
                path, wanted, samples, before[path], {name: after[path] for name, after in moved.items()}
            )
            for path in self.blocks
        ]

    def _self_attention(
        self,
        path: str,
        wanted: tuple[str | None, ...],
        samples: int,
        before: list[_Call],
        moved: Mapping[str | None, list[_Call]],
    ) -> SelfAttention | str:
        where = f"block {path!r} of {type(self.model).__name__}"
        if not before:
            return (
                f"{where} does not attend through scaled_dot_product_attention: load the model with "
                "attn_implementation='sdpa', or bridge at block outputs"
            )
        for number, call in enumerate(before):
            rows = {name: _moved(call[0], calls[number][0]) for name, calls in moved.items()}
            keys = {name: _moved(call[1], calls[number][1]) for name, calls in moved.items()}
            if not any(rows[name].any() and keys[name].any() for name in wanted):
                continue
            if len(call[0]) != samples:
                return (
                    f"{where} attends by sample or by window, {len(call[0])} at a time for {samples} samples: "
                    "bridge at block outputs"
                )
            moved_rows = {name: mask.nonzero()[:, 0] for name, mask in rows.items() if mask.any()}
            order = sorted(moved_rows, key=lambda name: int(moved_rows[name][0]))
            if torch.cat([moved_rows[name] for name in order]).tolist() != list(range(call[0].shape[1])):
                return f"{where} attends with its streams in no order that can be read: bridge at block outputs"
            return SelfAttention(number, tuple(order))
        return f"{where} has no attention of its tokens among themselves that calls SDPA: bridge at block outputs"

    def _attended(self, noisy: tuple[str | None, ...]) -> dict[str, list[_Call]]:
        """Return the queries and keys of each block's calls, with noise added to these streams of its inputs."""
        calls: dict[str, list[_Call]] = {path: [] for path in self.blocks}
        handles = []

        def given(number: int) -> Callable[..., Any]:
            def before(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
                now, then = named_inputs(module, args, kwargs), self.entered[number]
                replaced = {}
                for stream, argument in self.given.items():
                    if isinstance(now.get(argument), Tensor):
                        value = then[argument]
                        replaced[id(now[argument])] = value + noise_like(value) if stream in noisy else value
                return (
                    tuple(replaced.get(id(value), value) for value in args),
                    {key: replaced.get(id(value), value) for key, value in kwargs.items()},
                )

            return before

        def keep(path: str) -> Callable[[dict[str, Any]], AttentionVisit]:
            def visit(call: AttentionCall) -> None:
                calls[path].append((_token_sums(call.query), _token_sums(call.key)))

            return lambda inputs: visit

        try:
            for number, path in enumerate(self.blocks):
                block = self.model.get_submodule(path)
                handles.append(block.register_forward_pre_hook(given(number), with_kwargs=True))
            with torch.no_grad(), intercepted(self.model, {path: keep(path) for path in self.blocks}):
                self.model(**unchanged(self.inputs))
        finally:
            for handle in handles:
                handle.remove()
        return calls


_Call = tuple[Tensor, Tensor]  # the sums of queries and of keys


def _by_stream(state: State) -> dict[str | None, Tensor]:
    return {**state} if isinstance(state, dict) else {None: state}


def _token_sums(states: Tensor) -> Tensor:
    """Return a weighted sum of each token's dims, (batch, token): unlike their norm, which may be fixed, it changes."""
    flat = states.detach().float().movedim(-2, 1).flatten(2) if states.ndim > 3 else states.detach().float()
    return flat @ torch.linspace(0.5, 1.5, flat.shape[-1], device=flat.device)


def _moved(before: Tensor, after: Tensor) -> Tensor:
    """Return which tokens changed in any sample, (token,)."""
    if before.shape != after.shape:
        return torch.zeros(before.shape[1], dtype=torch.bool)
    return ((after - before).abs() > MOVED * before.abs().max()).any(0).cpu()


def _given(model: nn.Module, run: Callable[[], Any]) -> Inputs:
    """Return the inputs of the model's first call in `run()`."""
    calls: list[dict[str, Any]] = []
    handle = model.register_forward_pre_hook(
        lambda module, args, kwargs: calls.append(named_inputs(module, args, kwargs)), with_kwargs=True
    )
    try:
        with torch.no_grad():
            run()
    finally:
        handle.remove()
    if not calls:
        raise ValueError(f"the run does not call {type(model).__name__}: give a function that does, or its inputs")
    return {name: value for name, value in calls[0].items() if value is not None}


def _size(model: nn.Module, blocks: Sequence[str]) -> int:
    return sum(parameter.numel() for path in blocks for parameter in model.get_submodule(path).parameters())
