"""Find what users and tools have put into a model beside its modules: hooks, replaced and patched functions."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator
from types import FunctionType, MethodType
from typing import Any

from torch import nn

from ..private_names import (
    ATTENTION,
    COMPILED,
    COMPILED_FROM,
    DIFFUSERS_HOOK,
    FORWARD_HOOKS,
    FORWARD_PRE_HOOKS,
    _global_forward_hooks,
    _global_forward_pre_hooks,
)
from .described_values import describe, describe_function, digest, versioned

# Packages whose hooks record, move or shard, and change no value.
QUIET_HOOKS = ("accelerate", "transformers", "bridgework.models", "bridgework.probes", "torch.distributed")
QUIET_WRAPPERS = (
    "accelerate.hooks",
    "diffusers.hooks",
    "transformers.distributed",
    "torch.distributed",
    "torch._dynamo",
)
INNER = ("original_forward", "old_forward")  # what such wrappers call the function that they wrap
HOOKS = (FORWARD_PRE_HOOKS, FORWARD_HOOKS)
TABLES = (  # module and name of transformers' tables of attention functions
    ("transformers.modeling_utils", "ALL_ATTENTION_FUNCTIONS"),
    ("transformers.masking_utils", "ALL_MASK_ATTENTION_FUNCTIONS"),
)
DECORATING = {*sys.stdlib_module_names, "huggingface_hub"} - {"__main__"}  # of functions that libraries decorate


def interventions_of(model: nn.Module) -> dict[str, str]:
    """Describe what changes the passes of a model and is none of its modules.

    Hooks of accelerate, transformers, FSDP and tensor parallelism are left out, and so are their wrappers around
    `forward`: they move, shard or record.

    Parameters
    ----------
    model : torch.nn.Module
        Any model.

    Returns
    -------
    dict of str
        By what it is and where it is, such as "a hook on model.layers.1", a hash of the function, its source and what
        it holds: a vector that a hook adds is part of it.
    """
    found: dict[str, str] = {}
    everywhere = [
        describe_function(hook)
        for hooks in (_global_forward_pre_hooks, _global_forward_hooks)
        for hook in hooks.values()
        if not _quiet(hook, QUIET_HOOKS)
    ]
    if everywhere:
        found["a hook on every module"] = digest(everywhere)
    classes: dict[type, None] = {}
    for path, module in model.named_modules():
        place = path.replace(f"{COMPILED}.", "") or "the model itself"
        classes[type(module)] = None
        hooks = [
            [kind, describe_function(hook)]
            for kind in HOOKS
            for hook in module.__dict__.get(kind, {}).values()
            if not _quiet(hook, QUIET_HOOKS)
        ]
        hooks += [
            [DIFFUSERS_HOOK, type(hook).__qualname__, {k: describe(v) for k, v in vars(hook).items() if k != "fn_ref"}]
            for hook in getattr(module.__dict__.get(DIFFUSERS_HOOK), "hooks", {}).values()
            if "Offload" not in type(hook).__name__
        ]
        if hooks:
            found[f"a hook on {place}"] = digest(hooks)
        if (forward := _replaced(module)) is not None:
            found[f"forward of {place}"] = digest(describe_function(forward))
    for kind in classes:
        for name, function in _patched(kind):
            found[f"{name} of {kind.__qualname__}"] = digest(describe_function(function))
    homes = {base.__module__ for kind in classes for base in kind.__mro__ if versioned(base.__module__)}
    for home in sorted(homes | {"torch.nn.functional"}):
        for name, function in vars(sys.modules.get(home, object)).items():
            if isinstance(function, FunctionType) and _foreign(function, home):
                found[f"{name} of {home}"] = digest(describe_function(function))
    attention = getattr(getattr(model, "config", None), ATTENTION, None)
    for name, function in _registered(attention):
        found[name] = digest(describe_function(function))
    return found


def _registered(attention: Any) -> Iterator[tuple[str, Callable[..., Any]]]:
    """Yield the user's functions that stand in transformers' tables under the name of a model's attention."""
    for each in set(attention.values() if isinstance(attention, dict) else [attention]):
        for module, table in TABLES:
            registered = getattr(sys.modules.get(module), table, {})
            function = registered[each] if isinstance(each, str) and each in registered else None
            if isinstance(function, FunctionType) and _foreign(function, module):
                yield f"{table}[{each!r}]", function


def _quiet(function: Any, packages: tuple[str, ...]) -> bool:
    """Return whether a function is of one of these packages."""
    while isinstance(function, functools.partial):
        function = function.func
    function = getattr(function, "__func__", function)
    if isinstance(function, FunctionType):
        module = str(function.__globals__.get("__name__"))
    else:
        module = type(function).__module__
    return module.startswith(packages)


def _replaced(module: nn.Module) -> Callable[..., Any] | None:
    """Return the function that stands in the place of a module's `forward`; None where it is that of the class."""
    forward: Any = module.__dict__.get("forward")
    while forward is not None:
        if isinstance(forward, MethodType) and forward.__func__ is getattr(type(module), "forward", None):
            return None
        if not _quiet(forward, QUIET_WRAPPERS):
            return forward
        inner = getattr(forward, "__wrapped__", None) or getattr(forward, COMPILED_FROM, None)
        if inner is None and isinstance(forward, FunctionType):
            cells = dict(zip(forward.__code__.co_freevars, forward.__closure__ or (), strict=True))
            inner = next((cells[name].cell_contents for name in INNER if name in cells), None)
        forward = inner
    return None


def _patched(kind: type) -> Iterator[tuple[str, Callable[..., Any]]]:
    """Yield the functions of a library's classes that another package has put there, by name."""
    for base in kind.__mro__:
        if not versioned(base.__module__) or base in (nn.Module, object):
            continue
        for name, content in vars(base).items():
            function = getattr(content, "__func__", getattr(content, "fget", content))
            if isinstance(function, FunctionType) and _foreign(function, base.__module__):
                yield name, function


def _foreign(function: FunctionType, module: str) -> bool:
    """Return whether a function in a library's module, or in a class of it, is of another package."""
    home = str(function.__globals__.get("__name__"))
    package = home.split(".")[0]
    return package != module.split(".")[0] and package not in DECORATING and not versioned(home)
