"""Hear of every region that gradient checkpointing will compute again while a tower is visited, whoever asks for it.

transformers, diffusers, torch's `checkpoint_wrapper` and a `checkpoint` by hand all call `torch.utils.checkpoint`. It
computes a region again behind the visits' back, during backward. Two of its own parts are therefore replaced while a
tower is visited: the one that is given what it will compute again, and the one for reentrant checkpointing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack
from typing import Any, Protocol

import torch
from torch.utils import checkpoint as torch_checkpoint

from ...probes.private_names import CHECKPOINT_GENERATOR
from ...probes.single_contexts import single_context

LATER, REENTRANT = CHECKPOINT_GENERATOR, "CheckpointFunction"
ORIGINALS = {name: getattr(torch_checkpoint, name) for name in (LATER, REENTRANT)}

# The methods that switch it on: of transformers today, of transformers before, and of diffusers.
SWITCHES = ("activation_checkpointing_enable", "gradient_checkpointing_enable", "enable_gradient_checkpointing")


def checkpoint_blocks(model: Any, **options: Any) -> None:
    """Switch gradient checkpointing of a model's blocks on.

    Parameters
    ----------
    model : Any
        A model of transformers or diffusers.
    **options
        Of `torch.utils.checkpoint.checkpoint`, such as ``use_reentrant=False``. Models of diffusers take none.
    """
    switch = next((name for name in SWITCHES if hasattr(model, name)), SWITCHES[-1])
    getattr(model, switch)(*([options] if options and switch != SWITCHES[-1] else []))


class Listener(Protocol):
    """Someone who must know when a region is computed again."""

    @property
    def silent(self) -> bool: ...

    def again(self) -> Callable[[], AbstractContextManager[None]]:
        """Return the context in which a region that begins now is to be computed again."""
        ...

    def reentrantly(self) -> AbstractContextManager[None]:
        """Return the context in which a region runs first whose gradients are taken by reentrant checkpointing."""
        ...


_listeners: list[Listener] = []


@single_context
def hearing(listener: Listener) -> Iterator[None]:
    """Let a listener hear of the regions that are checkpointed while the context lasts.

    Parameters
    ----------
    listener : Listener
        The listener.
    """
    if not _listeners:
        setattr(torch_checkpoint, LATER, _later)
        setattr(torch_checkpoint, REENTRANT, _Reentrant)
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)
        if not _listeners:
            for name, original in ORIGINALS.items():
                setattr(torch_checkpoint, name, original)


def _later(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Stand for torch's generator, which is given the function that backward calls."""
    contexts = [listener.again() for listener in _listeners if not listener.silent]
    contexts.append(_caches_as_now(function, args, kwargs))

    def compute(*args: Any, **kwargs: Any) -> Any:
        with ExitStack() as stack:
            for context in contexts:
                stack.enter_context(context())
            return function(*args, **kwargs)

    return ORIGINALS[LATER](compute, *args, **kwargs)


class _Reentrant:
    """Stand for torch's autograd function, which runs a region without gradients first."""

    @staticmethod
    def apply(function: Callable[..., Any], *args: Any) -> Any:
        listeners, times = [listener for listener in _listeners if not listener.silent], 0
        contexts = [*(listener.again() for listener in listeners), _caches_as_now(function, args, {})]
        learning = torch.is_grad_enabled()

        def compute(*args: Any) -> Any:
            nonlocal times
            times += 1
            with ExitStack() as stack:
                if times > 1:
                    for context in contexts:
                        stack.enter_context(context())
                elif learning:
                    for listener in listeners:
                        stack.enter_context(listener.reentrantly())
                return function(*args)

        return ORIGINALS[REENTRANT].apply(compute, *args)


def _caches_as_now(
    function: Callable[..., Any], args: tuple, kwargs: dict[str, Any]
) -> Callable[[], AbstractContextManager[None]]:
    """Return a context that puts caches of keys and values back to what they are now, and lets go of that at its end.

    A block that is computed again adds its keys to the cache once more: it would attend to tokens twice.
    """
    cells = [cell.cell_contents for cell in getattr(function, "__closure__", None) or ()]
    kept = {id(cache): cache for cache in _caches([*args, *kwargs.values(), *cells])}.values()
    then = [(cache.layers, list(cache.layers), [dict(vars(layer)) for layer in cache.layers]) for cache in kept]

    @single_context
    def as_then() -> Iterator[None]:
        now = [(layers, list(layers), [dict(vars(layer)) for layer in layers]) for layers, _, _ in then]
        _put_back(then)
        try:
            yield
        finally:
            _put_back(now)

    return as_then


def _caches(values: Iterable[Any]) -> Iterator[Any]:
    for value in values:
        if isinstance(value, dict):
            yield from _caches(value.values())
        elif isinstance(value, tuple | list):
            yield from _caches(value)
        elif hasattr(value, "self_attention_cache"):  # an encoder and a decoder
            yield from _caches([value.self_attention_cache, value.cross_attention_cache])
        elif hasattr(value, "get_seq_length") and isinstance(getattr(value, "layers", None), list):
            yield value


def _put_back(caches: Iterable[tuple[list[Any], list[Any], list[dict[str, Any]]]]) -> None:
    for layers, then, values in caches:
        layers[:] = then
        for layer, its in zip(then, values, strict=True):
            vars(layer).clear()
            vars(layer).update(its)
