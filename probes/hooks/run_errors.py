"""Say why a layer never ran in a pass, or ran again, and whether it may run again."""

from __future__ import annotations

import dis
import functools
from collections.abc import Container, Mapping
from contextlib import suppress
from functools import partial
from types import CodeType, FrameType
from typing import Any
from weakref import WeakKeyDictionary

from torch import Tensor, nn

from .block_outputs import named_inputs

# Modules whose frames between the block and its caller are no part of the model's code.
FOREIGN = (__package__ or "", "torch.nn.modules.module", "torch.utils", "contextlib")
_RAN: WeakKeyDictionary[nn.Module, set[str]] = WeakKeyDictionary()  # what ran in earlier passes of a model


class LayerNeverRan(RuntimeError):
    """Report a layer that the forward pass did not run."""


class LayerRanAgain(RuntimeError):
    """Report a layer that ran more often than `calls` allows."""


class PassRecord:
    """Record what ran in a pass, so that an error can name the cause.

    Parameters
    ----------
    model : torch.nn.Module
        The model that is run.
    layers : mapping of str to torch.nn.Module
        The layers that are read, by path.
    parts : bool
        Whether the parts of every layer are watched, or those of the first alone. A layer that ran in an earlier pass
        is not called by its parts, so they are not watched again.
    """

    def __init__(self, model: nn.Module, layers: Mapping[str, nn.Module], parts: bool) -> None:
        self.model, self.layers = model, layers
        self.calls: list[tuple[int, ...]] = []  # the shape of the first tensor of each call of the model
        self.ran: dict[str, list[int]] = {}  # the calls in which each block ran
        self.inside: dict[str, str] = {}  # a part that ran, by its block
        ran_before = _RAN.get(model, set())
        self.parts = [path for path in (list(layers) if parts else list(layers)[:1]) if path not in ran_before]
        self.handles: list[Any] = []

    def begin(self, hooked: Container[str]) -> None:
        """Register the hooks.

        Parameters
        ----------
        hooked : container of str
            The blocks in front of which the caller has a hook, which calls `entered`.
        """
        self.handles.append(self.model.register_forward_pre_hook(self._called, with_kwargs=True))
        if any(path not in hooked for path in self.layers):
            for path, module in siblings(self.model, self.layers).items():
                if path not in hooked:
                    self.handles.append(module.register_forward_pre_hook(partial(self.entered, path)))
        for path in self.parts:
            for name, child in self.layers[path].named_children():
                self.handles.append(child.register_forward_pre_hook(partial(self._part, path, f"{path}.{name}")))

    def remove(self) -> None:
        """Remove the hooks, and remember what ran for the model's next passes."""
        for handle in self.handles:
            handle.remove()
        _RAN.setdefault(self.model, set()).update(self.ran)

    def _called(self, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        values = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
        with suppress(TypeError):
            named = named_inputs(module, args, kwargs)
            values = [v for n in ("input_ids", "inputs_embeds") if isinstance(v := named.get(n), Tensor)] + values
        self.calls.append(tuple(values[0].shape) if values else ())

    def entered(self, path: str, *_: Any) -> None:
        """Note that a block runs."""
        self.ran.setdefault(path, []).append(len(self.calls))

    def _part(self, path: str, part: str, *_: Any) -> None:
        self.inside.setdefault(path, part)

    def never_ran(self, path: str, times: int, calls: int) -> LayerNeverRan:
        """Return the error for a layer that did not run, or ran less than `calls` times."""
        if times:
            return LayerNeverRan(
                f"layer {path!r} ran {times} of {calls} times: say how often it runs, as calls={times}"
            )
        return LayerNeverRan(f"layer {path!r} never ran: {self._why_never(path)}")

    def _why_never(self, path: str) -> str:
        parent = path.rpartition(".")[0]
        around = [other for other in siblings(self.model, self.layers) if other.rpartition(".")[0] == parent]
        behind = around[around.index(path) + 1 :] if path in around else []
        ran = [other for other in around if other in self.ran]
        before = path in _RAN.get(self.model, set())
        if path in self.inside:
            part = self.inside[path]
            return f"its part {part!r} ran, for the model calls the block's parts by themselves: read layers=[{part!r}]"
        if not self.calls and not self.ran:
            return (
                f"{type(self.model).__name__} itself was not called: was it called inside the context, and not a copy "
                "or a wrapper of it? Let the subject's run() call subject.model"
            )
        if self.model.training and ran:
            return "in training mode layerdrop and stochastic depth skip blocks: call model.eval()"
        if ran and not any(other in self.ran for other in behind):
            return (
                f"the pass ended behind {ran[-1]!r}, as early exits do: switch the exit off, or read no layer behind "
                f"it, as layers=[{ran[-1]!r}]"
            )
        if before:
            return (
                "it ran in an earlier pass, and now its output was reused or left out, as by a cache of steps: switch "
                "the cache off, or read with layers= what always runs"
            )
        if not ran:
            return (
                f"this call runs no block of {parent or 'the model'!r}, which serves another task, modality or input: "
                "probe another stack, as AnyModel(stack=...), or one modality, as AnyModel(modalities=('text',))"
            )
        return (
            f"{ran[0]!r} ran and it was skipped, as by layerdrop, a routing of depth or the model's settings: leave "
            f"it out, as layers={ran[:3]}"
        )

    def ran_again(self, path: str, calls: int) -> LayerRanAgain:
        """Return the error for a layer that ran more often than `calls` times."""
        often = "twice" if calls == 1 else f"more than {calls} times"
        return LayerRanAgain(f"layer {path!r} ran {often}: {self._why_again(path)}")

    def _why_again(self, path: str) -> str:
        module = self.layers[path]
        tied = [name for name, other in self.model.named_modules(remove_duplicate=False) if other is module]
        read = "read every run as a layer, with calls='all'"
        if len(tied) > 1:
            return f"{' and '.join(map(repr, tied[:2]))} are one module with tied weights: {read}"
        runs = self.ran.get(path, [])
        if len(runs) < 2 or len(set(runs[-2:])) == 1:
            return f"the model runs it again within one call, as ALBERT and models of looped depth do: {read}"
        first, last = self.calls[runs[0] - 1], self.calls[runs[-1] - 1]
        if first[:1] == last[:1] and len(first) > 1 and first[1:] != last[1:] and len(first) == len(last) == 2:
            return (
                f"the model was called with {first[1]} tokens and then with {last[1]}, as by generate(): show the "
                "prompt alone, and read what the model writes, as extract(..., generate=7)"
            )
        if first[:1] == last[:1] == (1,):
            return (
                "the model was called again with one sample, as for samples one by one or for the halves of guidance: "
                "give it the whole batch in one call, or extract(..., batch_size=1), and switch guidance off"
            )
        return (
            "the model was called again with as large a batch, as for the two halves of classifier-free guidance or "
            "for the steps of a sampler: switch guidance off and show one step, as extract(..., timesteps=(0.5,))"
        )


def siblings(model: nn.Module, layers: Mapping[str, nn.Module]) -> dict[str, nn.Module]:
    """Return the layers, with all other blocks of the lists that hold them, in the order of the lists.

    Parameters
    ----------
    model : torch.nn.Module
        The model.
    layers : mapping of str to torch.nn.Module
        Some of its blocks, by path.

    Returns
    -------
    dict of torch.nn.Module
        The blocks by path.
    """
    found: dict[str, nn.Module] = {}
    listed: set[str] = set()
    for path, module in layers.items():
        parent = path.rpartition(".")[0]
        if parent not in listed:
            listed.add(parent)
            holder = model.get_submodule(parent)
            if isinstance(holder, nn.ModuleList | nn.Sequential | nn.ModuleDict):
                for name, member in holder.named_children():
                    found.setdefault(f"{parent}.{name}" if parent else name, member)
        found.setdefault(path, module)
    return found


def may_run_again(model: nn.Module, frame: FrameType | None, boundary: FrameType | None, alone: bool) -> bool:
    """Return whether a block is called within more loops than the one over its stack.

    A model of adaptive depth may run its blocks once for one batch and three times for the next. What it will do cannot
    be known, but its code shows it: the loop over the blocks stands in another loop.

    Parameters
    ----------
    model : torch.nn.Module
        The model that is run.
    frame : frame
        The frame in which the block has just run.
    boundary : frame or None
        The frame outside the pass; loops in it and further out do not count.
    alone : bool
        Whether the block is the only one of its stack, so that any loop may run it again.

    Returns
    -------
    bool
        True where the block may run again. Then the pass must not be stopped behind it.
    """
    loops = sum(_loops_around(caller.f_code, caller.f_lasti) for caller in _callers(model, frame, boundary))
    return loops > (0 if alone else 1)


def _callers(model: nn.Module, frame: FrameType | None, boundary: FrameType | None) -> list[FrameType]:
    """Return the frames of the pass, innermost first."""
    callers: list[FrameType] = []
    while frame is not None and frame is not boundary:
        callers.append(frame)
        frame = frame.f_back
    if frame is None:  # entered elsewhere: the pass is what the model's own forward does
        own = getattr(getattr(model.forward, "__func__", model.forward), "__code__", None)
        ends = [number for number, caller in enumerate(callers) if caller.f_code is own]
        callers = callers[: ends[-1] + 1] if ends else callers
    return [caller for caller in callers if not caller.f_globals.get("__name__", "").startswith(FOREIGN)]


@functools.cache
def _loops_around(code: CodeType, place: int) -> int:
    """Count the loops of a function's bytecode around an instruction."""
    loops: dict[int, int] = {}  # start -> end
    for instruction in dis.get_instructions(code):
        if "JUMP_BACKWARD" in instruction.opname and isinstance(instruction.argval, int):
            loops[instruction.argval] = max(loops.get(instruction.argval, 0), instruction.offset)
    return sum(start <= place <= end for start, end in loops.items())
