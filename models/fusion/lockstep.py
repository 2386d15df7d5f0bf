"""Run two models side by side, each in its own greenlet: at a meeting each passes its part to the other and waits."""

from __future__ import annotations

import contextvars
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from greenlet import GreenletExit, getcurrent, greenlet

from ...probes.private_names import (
    _InferenceMode,
    _is_fwd_grad_enabled,
    _len_torch_dispatch_stack,
    _len_torch_function_stack,
    _pop_mode,
    _pop_saved_tensors_default_hooks,
    _pop_torch_function_stack,
    _push_mode,
    _push_on_torch_function_stack,
    _push_saved_tensors_default_hooks,
    _set_fwd_grad_enabled,
    _top_saved_tensors_default_hooks,
    dispatch_flags,
    set_dispatch_flags,
)

SIDES = ("first", "second")
DEVICES = ("cpu", "cuda", "mps", "xpu")  # whose autocast is kept


class Meeting:
    """The place where two towers in lockstep exchange parts, by the number of the meeting.

    It serves one pass of each tower.

    Examples
    --------
    >>> meeting = Meeting()
    >>> theirs = meeting.exchange(0, 3, mine)           # in the first tower
    >>> lockstep(meeting, run_first, run_second)        # the second calls exchange(1, 3, ...)
    """

    def __init__(self) -> None:
        self._parts: dict[tuple[int, int], Any] = {}
        self._wanted: dict[int, int] = {}  # the meeting at which a side waits
        self._caller: greenlet | None = None

    def exchange(self, side: int, number: int, handed: Any, wait: bool = True) -> Any:
        """Pass a part to the other side and return the other side's, after waiting for it.

        Blocks that gradient checkpointing recomputes get the parts of the first run.

        Parameters
        ----------
        side : int
            0 for the first tower, 1 for the second.
        number : int
            The meeting.
        handed : Any
            This side's part.
        wait : bool
            Whether this side reads the other's part. Without, it only leaves its own part, which the other side reads
            later, and returns None.

        Returns
        -------
        Any
            The other side's part.

        Raises
        ------
        RuntimeError
            There is no `lockstep` around it, or one side comes to a meeting twice in its pass.
        """
        mine, other = (side, number), (1 - side, number)
        if self._caller is None:
            if mine in self._parts:
                return self._parts[other] if wait else None
            raise RuntimeError(f"meeting {number} outside of lockstep: run both towers by lockstep(meeting, ...)")
        if mine in self._parts:
            raise RuntimeError(
                f"the {SIDES[side]} tower came to meeting {number} twice: run one forward pass of each model in a "
                "lockstep, without classifier-free guidance in two"
            )
        self._parts[mine] = handed
        if not wait:
            return None
        if other not in self._parts:
            self._wanted[side] = number
            self._caller.switch()
            del self._wanted[side]
        return self._parts[other]

    def ready(self, side: int) -> bool:
        """Return whether a side can run: whether all that it waits for is there."""
        return side not in self._wanted or (1 - side, self._wanted[side]) in self._parts

    def explain(self, waiting: Sequence[int]) -> str:
        """Return a sentence that says why neither side can resume."""
        if len(waiting) == 2:
            return (
                f"the first tower waits at meeting {self._wanted[0]}, the second at {self._wanted[1]}: "
                "let the meetings ascend in both"
            )
        (side,) = waiting
        return (
            f"the {SIDES[1 - side]} tower ended before meeting {self._wanted[side]}, at which the {SIDES[side]} waits: "
            "does its run call the model, and run the block that meets there?"
        )


@dataclass
class _Side:
    """One of the two towers, or their caller, and the modes that it left when it paused."""

    run: greenlet
    modes: list[Callable[[], None]] = field(default_factory=list)

    def pause(self) -> None:
        """Take off every mode of this thread, and keep how each is put on again."""
        self.modes = _take_off()

    def resume(self) -> None:
        """Put on the modes that `pause` took off."""
        for put_on in reversed(self.modes):
            put_on()
        self.modes = []


def lockstep(meeting: Meeting, first: Callable[[], Any], second: Callable[[], Any]) -> tuple[Any, Any]:
    """Run two functions to their ends, switching between them where they meet.

    Each has its own gradient mode, inference mode, autocast, function modes, dispatch modes and hooks on saved tensors,
    and begins with the caller's; so a tower that pauses under `no_grad` leaves the other's gradients as they are. Both
    share one random state: a model that draws random numbers (dropout) draws others than when it runs alone.

    Parameters
    ----------
    meeting : Meeting
        A new meeting, at which both exchange parts.
    first, second : callable
        One pass of each tower.

    Returns
    -------
    tuple
        The results of the first and of the second.

    Raises
    ------
    RuntimeError
        A tower ended before a meeting at which the other waits, or the meeting was used before.
    BaseException
        An exception or interruption in one tower ends the other, and is raised as it is.
    """
    results: list[Any] = [None, None]
    caller = _Side(getcurrent())
    inference = torch.is_inference_mode_enabled()

    def begin(side: int, run: Callable[[], Any]) -> Callable[[], None]:
        def body() -> None:
            with torch.inference_mode() if inference else nullcontext():
                sides[side].resume()  # of the caller's modes, within inference mode as the caller had them
                results[side] = run()

        return body

    sides = [_Side(greenlet(begin(side, run))) for side, run in enumerate((first, second))]
    for side in sides:
        side.run.gr_context = contextvars.copy_context()
        side.modes = _copied()

    def enter(side: _Side, *thrown: BaseException) -> None:
        """Let a side run until it waits, ends or fails."""
        caller.pause()
        try:
            if side.run:  # it has begun
                side.resume()
            if thrown:
                side.run.throw(*thrown)
            else:
                side.run.switch()
        finally:
            side.pause()  # also of a side that has ended: modes that it left on end with it
            if side.run.dead:
                side.modes = []
            caller.resume()

    if meeting._parts or meeting._caller:
        raise RuntimeError("a meeting serves one pass of each tower: make another Meeting()")
    meeting._caller = caller.run
    try:
        while running := [number for number, side in enumerate(sides) if not side.run.dead]:
            ready = [number for number in running if meeting.ready(number)]
            if not ready:
                raise RuntimeError(meeting.explain(running))
            enter(sides[ready[0]])
    finally:
        for side in sides:
            with suppress(Exception):  # the error that ended the pass is raised, and not one that ending it raised
                while side.run and not side.run.dead:
                    enter(side, GreenletExit())
        meeting._caller = None
    return results[0], results[1]


def _copied() -> list[Callable[[], None]]:
    """Return how the modes that are on now are put on, the innermost first; they stay on."""
    modes = _take_off()
    for put_on in reversed(modes):
        put_on()
    return [put_on for put_on in modes if not isinstance(put_on, _Inference)]


def _take_off() -> list[Callable[[], None]]:
    """Take off every mode of this thread; return how each is put on again, to be called from the last to the first."""
    modes: list[Callable[[], None]] = []
    grad, forward_grad = torch.is_grad_enabled(), _is_fwd_grad_enabled()
    autocasts = [(device, torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)) for device in DEVICES]
    cached = torch.is_autocast_cache_enabled()

    def put_on() -> None:
        torch.set_grad_enabled(grad)
        _set_fwd_grad_enabled(forward_grad)
        for device, enabled, dtype in autocasts:
            torch.set_autocast_enabled(device, enabled)
            torch.set_autocast_dtype(device, dtype)
        torch.set_autocast_cache_enabled(cached)

    modes.append(put_on)
    if any(enabled for _, enabled, _ in autocasts):
        torch.clear_autocast_cache()  # a weight cast under no_grad would be cast without gradients for the other, too
    for device in DEVICES:
        torch.set_autocast_enabled(device, False)
    while (pair := _top_saved_tensors_default_hooks(False)) is not None:
        _pop_saved_tensors_default_hooks()
        modes.append(lambda pair=pair: _push_saved_tensors_default_hooks(*pair))
    while _len_torch_function_stack():
        mode = _pop_torch_function_stack()
        modes.append(lambda mode=mode: _push_on_torch_function_stack(mode))
    flags = dispatch_flags()
    modes.append(lambda: set_dispatch_flags(flags))
    while _len_torch_dispatch_stack():
        within: Any = _pop_mode()
        modes.append(lambda mode=within: _push_mode(mode))
    set_dispatch_flags(dict.fromkeys(flags, False))
    if torch.is_inference_mode_enabled():
        modes.append(_Inference())
    torch.set_grad_enabled(True)
    _set_fwd_grad_enabled(True)
    return modes


class _Inference:
    """Leave inference mode when made, and return to it when called."""

    def __init__(self) -> None:
        self.guard = _InferenceMode(False)
        self.guard.__enter__()

    def __call__(self) -> None:
        self.guard.__exit__(None, None, None)
