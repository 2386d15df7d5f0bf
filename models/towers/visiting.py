"""Visit blocks while a model runs: change what they return, or what their attention returns, without a new forward."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from greenlet import getcurrent
from torch import Tensor, nn

from ...probes.hooks.attention_calls import AttentionCall, AttentionVisit, BlockIntercept
from ...probes.hooks.block_outputs import named_inputs
from ...probes.hooks.block_stacks import find_block
from ...probes.hooks.compiled_blocks import CompiledCall, check_parents, put, uncompile_all
from ...probes.hooks.hook_order import register_before_readers
from ...probes.private_names import (
    COMPILED_CALL,
    _len_torch_function_stack,
    _pop_torch_function_stack,
    _push_on_torch_function_stack,
)
from ...probes.single_contexts import single_context
from .checkpointing import hearing
from .tower import BlockWidths, SelfAttention, Tower, Visit

MASKS = ("attention_mask", "hidden_states_mask", "key_padding_mask")

# The passes whose blocks are being recomputed during backward. Visits of other passes must not change these.
_again: ContextVar[tuple[_Pass, ...]] = ContextVar("again", default=())


@single_context
def visiting(tower: Tower, visits: Mapping[int, Visit], inside: bool = False) -> Iterator[None]:
    """Pass blocks' states to visits, which may replace them, while the context lasts.

    Nothing is left behind after an exception or an interruption.

    Parameters
    ----------
    tower : Tower
        The stack of blocks.
    visits : mapping of int to callable
        For each visited block, counted from 0, a function that takes the block's state and returns another one, or None
        to leave it.
    inside : bool
        False: the state is the block's output (batch, token, dim) in the tower's stream. True: the state is the
        `AttentionCall` of the block's self-attention, and what the visit returns replaces `own` whole, (batch, head,
        query token, dim).

    Raises
    ------
    ValueError
        The tower has no such block, a block cannot be visited inside, the model is compiled whole, or, when it runs, it
        is checkpointed reentrantly.

    Notes
    -----
    What gradient checkpointing recomputes is visited by the visits of its own pass, also after the context is left.
    Blocks that are compiled in place are visited at their outputs as compiled, and inside as they are uncompiled.

    Examples
    --------
    >>> with visiting(tower, {3: lambda state: state + bridge(state)}):
    ...     model(**inputs)                                              # as usual
    """
    if wrong := [number for number in visits if not 0 <= number < len(tower.blocks)]:
        raise ValueError(
            f"block {wrong[0]} of {type(tower.model).__name__}, which has {len(tower.blocks)}: count from 0"
        )
    for number in visits if inside else ():
        if isinstance(why := tower.attention[number], str):
            raise ValueError(why)
    visited = [tower.blocks[number] for number in visits]
    for path in {path.rpartition(".")[0]: path for path in reversed(visited)}.values():  # one of each parent
        check_parents(tower.model, path)
    passed = _Pass(tower, dict(visits), inside)
    with ExitStack() as stack:
        stack.callback(setattr, tower, "valid_tokens", None)
        stack.callback(setattr, tower, "unusable_mask", None)
        stack.callback(passed.unwind)
        passed.attached = True
        stack.callback(setattr, passed, "attached", False)
        stack.enter_context(passed.attach())
        stack.enter_context(hearing(passed))
        yield


def measure(
    tower: Tower, run: Callable[[], Any], layers: Sequence[int] | None = None, inside: bool = False
) -> dict[int, BlockWidths]:
    """Measure the sizes that bridges must fit, in one forward pass.

    Parameters
    ----------
    tower : Tower
        The stack of blocks.
    run : callable
        It runs the model once.
    layers : sequence of int, optional
        The blocks to measure, counted from 0. By default all.
    inside : bool
        Whether to measure inside attention.

    Returns
    -------
    dict of int to BlockWidths
        For each block.

    Raises
    ------
    ValueError
        A block did not run, or cannot be visited.
    """
    shapes: dict[int, BlockWidths] = {}

    def look(number: int) -> Visit:
        def visit(state: Any) -> None:
            if isinstance(state, AttentionCall):
                heads, dim = state.query.shape[1], state.query.shape[3]
                shapes[number] = BlockWidths(heads * state.own.shape[3], heads, dim, state.key.shape[1])
            else:
                shapes[number] = BlockWidths(state.shape[2])

        return visit

    wanted = range(len(tower.blocks)) if layers is None else layers
    with torch.no_grad(), visiting(tower, {number: look(number) for number in wanted}, inside):
        run()
    if missing := [tower.blocks[number] for number in wanted if number not in shapes]:
        raise ValueError(f"block {missing[0]!r} never ran: does this call of the model use that part of it?")
    return shapes


def skipped_block(tower: Tower, number: int) -> ValueError:
    """Return the error for a bridged block that a pass of its model has skipped."""
    return ValueError(
        f"block {tower.blocks[number]!r} of {type(tower.model).__name__} never ran in this pass, so it has no bridge: "
        "put the model in evaluation mode, as model.eval(), switch off what skips the block (layerdrop, early exit), "
        "or bridge other blocks"
    )


@dataclass
class _Running:
    """A block that is running: how many calls of SDPA it has made, and whether it was visited."""

    number: int
    inputs: Callable[[], Mapping[str, Any]]
    intercept: BlockIntercept | None = None
    calls: int = 0
    visited: bool = False
    within: Any = None  # the greenlet that runs it


class _Pass:
    """The hooks of one context of `visiting`, which are attached again where blocks are recomputed."""

    def __init__(self, tower: Tower, visits: dict[int, Visit], inside: bool) -> None:
        self.tower, self.visits, self.inside = tower, visits, inside
        self.attached = False
        self.running: list[_Running] = []
        self.masks: dict[str, Tensor] = {}  # what the model was given in this pass
        self.ran: set[int] = set()  # the visited blocks that have run in this pass
        self.learning = False  # whether the pass has gradients
        self.without_gradients = False  # whether a region runs whose gradients are taken later

    @single_context
    def attach(self) -> Iterator[None]:
        """Hang the hooks on the model while the context lasts."""
        model = self.tower.model
        with ExitStack() as stack:
            stack.callback(model.register_forward_pre_hook(self._begin, with_kwargs=True).remove)
            stack.callback(model.register_forward_hook(self._end).remove)
            for number in self.visits:
                block = find_block(model, self.tower.blocks[number])
                if self.inside:
                    uncompile_all(stack, block)
                    before, after = self._enter(number), self._leave
                    stack.callback(block.register_forward_pre_hook(before, with_kwargs=True).remove)
                    stack.callback(block.register_forward_hook(after, always_call=True).remove)
                    continue
                compiled = getattr(block, COMPILED_CALL, None)
                if compiled is None:
                    stack.callback(register_before_readers(block, self._after(number)).remove)
                    continue
                if not isinstance(compiled, CompiledCall):
                    compiled = CompiledCall(compiled)
                    put(stack, block, COMPILED_CALL, compiled)
                hook = self._after(number)
                compiled.hooks.insert(0, hook)
                stack.callback(compiled.hooks.remove, hook)
            yield

    def unwind(self) -> None:
        """Take off what an interruption has left on; function modes, if they are still on this thread's stack."""
        left = []
        while self.running:
            if (intercept := self.running.pop().intercept) is not None:
                intercept.leave(mode=False)
                left.append(intercept.mode)
        modes = [_pop_torch_function_stack() for _ in range(_len_torch_function_stack())]
        for mode in reversed(modes):
            if not any(mode is other for other in left):
                _push_on_torch_function_stack(mode)

    @property
    def silent(self) -> bool:
        """Whether another pass's blocks are being recomputed, which these hooks must not change."""
        return bool(_again.get()) and self not in _again.get()

    def _begin(self, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        if not self.silent:
            self.ran.clear()
            self.learning = torch.is_grad_enabled()
            given = named_inputs(module, args, kwargs)
            masks = {name: value for name, value in given.items() if name.endswith(MASKS) and value is not None}
            self.masks = {name: v for name, v in masks.items() if isinstance(v, Tensor) and v.ndim == 2}
            own = [name for name in masks.keys() - self.masks.keys() if not name.startswith(("encoder_", "cross_"))]
            self.tower.unusable_mask = min(own, default=None)

    def _end(self, module: nn.Module, args: tuple, output: Any) -> None:
        if not self.silent:
            self._check_skipped(len(self.tower.blocks))

    def _runs(self, number: int) -> None:
        self._check_skipped(number)  # at once, for a tower in lockstep would wait for the other at the next block
        self.ran.add(number)

    def _check_skipped(self, end: int) -> None:
        """Raise ValueError for a visited block before `end` that this pass has skipped."""
        if skipped := sorted(number for number in self.visits if number < end and number not in self.ran):
            raise skipped_block(self.tower, skipped[0])

    def _after(self, number: int) -> Callable[[nn.Module, tuple, Any], Any]:
        def after(module: nn.Module, args: tuple, output: Any) -> Any:
            return None if self.silent else self._visited(number, output)

        return after

    def _visited(self, number: int, output: Any) -> Any:
        self._runs(number)
        state = self.tower.read(number, output)
        self.tower.valid_tokens = self.tower.find_valid_tokens(self.masks, *state.shape[:2])
        after = self.visits[number](state)
        self._check_gradients(number, after is not None)
        return output if after is None else self.tower.write(number, output, after)

    def _enter(self, number: int) -> Callable[..., None]:
        def enter(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
            if not self.silent:
                self._push(_Running(number, partial(named_inputs, module, args, kwargs)))

        return enter

    def _leave(self, module: nn.Module, args: tuple, output: Any) -> None:
        if self.silent or not self.running:
            return
        running = self._pop()
        if running.intercept is not None and running.intercept.named:
            self.tower.named.add(running.number)
        if output is not None and not running.visited:
            raise ValueError(
                f"block {self.tower.blocks[running.number]!r} did not attend as it did when the tower was found: find "
                "the tower with inputs like these, or bridge at block outputs"
            )

    def _push(self, running: _Running) -> None:
        running.within = getcurrent()
        running.intercept = BlockIntercept(self._attend(running), running.number in self.tower.named)
        running.intercept.enter()
        self.running.append(running)

    def _pop(self) -> _Running:
        running = self.running.pop()
        if running.intercept is not None:
            running.intercept.leave()
        return running

    def _attend(self, running: _Running) -> AttentionVisit:
        attention = self.tower.attention[running.number]
        assert isinstance(attention, SelfAttention)

        def attend(call: AttentionCall) -> Tensor | None:
            running.calls += 1
            if running.calls != attention.number + 1:
                return None
            running.visited = True
            self._runs(running.number)
            query, own = call.query, call.own
            reads = self.tower.reads(running.number, query, running.inputs)
            count = query[:, :1, reads, :1].shape[2]
            self.tower.valid_tokens = self.tower.find_valid_tokens(self.masks, len(query), count)
            after = self.visits[running.number](call._replace(reads=reads))
            self._check_gradients(running.number, after is not None)
            if after is not None and after.shape != own.shape:
                raise ValueError(
                    f"the visit inside block {self.tower.blocks[running.number]!r} gave {tuple(after.shape)} for "
                    f"{tuple(own.shape)}: it must give (batch, head, query token, dim) for all queries"
                )
            return None if after is None else after.to(own.dtype)

        return attend

    def again(self) -> Callable[[], AbstractContextManager[None]]:
        """Return the context in which a region that begins now is computed again, as `checkpointing.hearing` asks."""
        running = replace(self.running[-1], intercept=None) if self.running else None
        if running is not None and running.within is not getcurrent():
            running = None  # this tower waits in lockstep, and the region is another's
        return partial(self._recomputing, running, self.masks)

    @single_context
    def reentrantly(self) -> Iterator[None]:
        """Note that blocks run without gradients, to be computed again with gradients later."""
        with ExitStack() as stack:
            put(stack, self, "without_gradients", True)
            yield

    def _check_gradients(self, number: int, replaced: bool) -> None:
        """Raise ValueError where the gradients of a visit, or of what it has read, would be lost."""
        lost = self.without_gradients and (replaced or any(p.requires_grad for p in self.tower.model.parameters()))
        by_hand = replaced and self.learning and not torch.is_grad_enabled()
        if not torch.is_inference_mode_enabled() and (lost or by_hand):
            raise ValueError(
                f"block {self.tower.blocks[number]!r} of {type(self.tower.model).__name__} runs without gradients in a "
                "pass that has them, as checkpointed reentrantly, and the gradients of bridges would be lost: "
                'checkpoint with use_reentrant=False (gradient_checkpointing_kwargs={"use_reentrant": False})'
            )

    @contextmanager
    def _recomputing(self, running: _Running | None, masks: dict[str, Tensor]) -> Iterator[None]:
        """Attach the hooks as they were when the block ran first."""
        with ExitStack() as stack:
            put(stack, self, "masks", masks)
            put(stack, self, "running", [])
            put(stack, self.tower, "valid_tokens", None)
            put(stack, self, "without_gradients", False)
            token = _again.set((*_again.get(), self))
            stack.callback(_again.reset, token)
            if not self.attached:
                stack.enter_context(self.attach())
            stack.callback(self.unwind)
            if running is not None:
                self._push(replace(running))
            yield
