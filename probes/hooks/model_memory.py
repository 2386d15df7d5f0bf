"""Make a model forget a pass: what it keeps between passes is put back as it was; caches of diffusers are refused."""

from __future__ import annotations

import sys
import types
from collections import deque
from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from ..private_names import DIFFUSERS_HOOK, KEPT_BY_TORCH, STATEFUL, buffers_of, parameters_of, version_of
from ..single_contexts import single_context
from .model_state import OFFLOADING, walk

PLAIN = (int, float, complex, str, bytes, bool, type(None), torch.dtype, torch.device)
CONTAINERS = (dict, list, set, deque)
# What torch and accelerate keep in a module for themselves.
INTERNAL = KEPT_BY_TORCH | {"training"}
GUIDING = ("SkipHook", "SmoothedEnergyGuidanceHook")  # its hooks that keep no state and change what blocks do
LIBRARIES = ("torch", "transformers", "diffusers", "peft", "accelerate", "tokenizers", "numpy", "PIL")
OURS = tuple(f"{__name__.partition('.probes.')[0]}.{package}." for package in ("probes", "models"))
LARGEST = 1 << 26  # bytes of all copied tensors: a larger one that a pass changes in place is refused
MOST = 20_000  # objects that are looked at
ENOUGH = 3  # passes that change nothing new, after which a model is no longer looked at
_MISSING = object()


class Place(NamedTuple):
    """One value that may outlast a pass: an attribute, or the content of a container."""

    holder: Any
    key: Any
    value: Any
    name: str


class _Known:
    """What is known of a model: the places that passes change, and how many passes changed nothing new."""

    def __init__(self) -> None:
        self.changed: list[Place] = []
        self.quiet = {True: 0, False: 0}  # whole passes and others


_KNOWN: WeakKeyDictionary[nn.Module, _Known] = WeakKeyDictionary()


@single_context
def forgetting(model: nn.Module, whole: bool = True) -> Iterator[None]:
    """Put back, at the end, what a pass changes in a model's attributes.

    So every pass begins as the first one did, whatever the model keeps of earlier passes: caches of steps (DeepCache,
    TeaCache, TaylorSeer and home-made ones), counters, a memory. Attributes of modules, buffers, objects and containers
    that they hold, variables of replaced forwards, and class attributes and globals of the model's own code are looked
    at. After three passes that change nothing new, a model is no longer looked at.

    Parameters
    ----------
    model : torch.nn.Module
        The model that runs inside the context.
    whole : bool
        Whether the context holds a pass through all blocks. A pass that ends in front of the first one shows less of
        what a model remembers, and is counted apart.

    Raises
    ------
    RuntimeError
        A pass changed a large tensor, or a weight, in place: it cannot be put back.

    Examples
    --------
    >>> with forgetting(model):
    ...     model(**inputs)
    """
    known = _KNOWN.setdefault(model, _Known())
    looking = known.quiet[whole] < ENOUGH
    before = _Snapshot(model) if looking else None
    again = [Place(p.holder, p.key, _read(p.holder, p.key), p.name) for p in known.changed]
    try:
        yield
    finally:
        if before is not None:
            changes = before.put_back()
            names = {(id(place.holder), place.key) for place in known.changed}
            new = [p for p in changes if (id(p.holder), p.key) not in names]
            known.changed += new
            known.quiet[whole] = 0 if new else known.quiet[whole] + 1
        else:
            for place in again:
                _write(place)
    if before is not None and (lost := before.lost()):
        raise RuntimeError(
            f"a pass changes {lost} of {type(model).__name__} in place, so that later passes see another model: give "
            "the model a forward that leaves its tensors as they are"
        )


def check_no_cache(model: nn.Module) -> None:
    """Raise an error for a diffusers model with a cache or a layer skip switched on.

    Caches (FasterCache, Pyramid Attention Broadcast, FirstBlockCache, MagCache, TaylorSeer, SeaCache, text key-value)
    let blocks return what they gave in an earlier step, or extrapolate from it. Such states belong to another timestep
    and another sample. All caches are hooks with a state; the hooks of offloading and casting have none.

    Parameters
    ----------
    model : torch.nn.Module
        Any model.

    Raises
    ------
    RuntimeError
        A cache or a layer skip is on.
    """
    if not any(DIFFUSERS_HOOK in module.__dict__ for module in walk(model)):
        return
    for path, module in model.named_modules():
        registry = getattr(module, DIFFUSERS_HOOK, None)
        for hook in getattr(registry, "hooks", {}).values():
            kind = type(hook).__name__
            what = f"{kind} on {path or 'the model itself'!r} of {type(model).__name__}"
            if getattr(hook, STATEFUL, False):
                raise RuntimeError(
                    f"{what} is a cache: its blocks return states of earlier steps. Call disable_cache() on the model"
                )
            if kind.endswith(GUIDING):
                raise RuntimeError(f"{what} skips or blurs parts for guidance: probe the model without it")


class _Snapshot:
    """The Python state of a model at one moment."""

    def __init__(self, model: nn.Module) -> None:
        self.places: list[Place] = []
        self.contents: list[tuple[Any, Any]] = []  # containers with copies of their content
        self.tensors: list[tuple[Tensor, int, Tensor | None, str]] = []
        self.keys: list[tuple[Any, frozenset, str, type]] = []  # holders with the names that they had, and their class
        self.seen: dict[int, Any] = {}
        self.bytes = 0
        for path, module in model.named_modules():
            name = path or type(model).__name__
            for parameter in parameters_of(module).values():
                if type(parameter) is nn.Parameter and not parameter.is_inference():
                    self.tensors.append((parameter, version_of(parameter), None, f"a parameter of {name!r}"))
            if any(hasattr(module, hook) for hook in OFFLOADING):
                continue
            self._holder(module, {k: v for k, v in module.__dict__.items() if _own(k)}, name)
            self._content(buffers_of(module), name)
            if not _of_library(type(module)):
                self._class(type(module), name)

    def _holder(self, holder: Any, values: dict[str, Any], name: str) -> None:
        self.keys.append((holder, frozenset(values), name, type(holder)))
        for key, value in values.items():
            self.places.append(Place(holder, key, value, f"{name}.{key}"))
            self._value(value, f"{name}.{key}")

    def _class(self, kind: type, name: str) -> None:
        if id(kind) in self.seen:
            return
        self.seen[id(kind)] = kind
        own = {k: v for k, v in vars(kind).items() if not k.startswith("__")}
        self._holder(
            kind, {k: v for k, v in own.items() if not callable(v) and not hasattr(v, "__get__")}, kind.__name__
        )
        for function in own.values():
            self._value(function, name)

    def _value(self, value: Any, name: str) -> None:
        if isinstance(value, PLAIN) or id(value) in self.seen or isinstance(value, nn.Module | type | types.ModuleType):
            return
        if len(self.seen) > MOST:
            return
        self.seen[id(value)] = value
        if isinstance(value, Tensor):
            self._tensor(value, name)
        elif isinstance(value, CONTAINERS):
            self._content(value, name)
        elif isinstance(value, tuple):
            for part in value:
                self._value(part, name)
        elif isinstance(value, types.MethodType):
            self._value(value.__func__, name)
            self._value(value.__self__, name)
        elif isinstance(value, partial):
            for part in (value.func, *value.args, *value.keywords.values()):
                self._value(part, name)
        elif isinstance(value, types.FunctionType):
            self._function(value, name)
        elif hasattr(value, "__dict__") and not _skipped(value):
            self._holder(value, dict(vars(value)), name)

    def _content(self, container: Any, name: str) -> None:
        self.contents.append((container, _copied(container)))
        named = container.items() if isinstance(container, dict) else enumerate(container)
        for key, part in named:
            self._value(part, f"{name}.{key}")

    def _tensor(self, tensor: Tensor, name: str) -> None:
        if type(tensor) not in (Tensor, nn.Buffer) or tensor.is_inference() or tensor.device.type == "meta":
            return
        self.bytes += tensor.numel() * tensor.element_size()
        copy = tensor.detach().clone() if self.bytes <= LARGEST else None
        self.tensors.append((tensor, version_of(tensor), copy, name))

    def _function(self, function: types.FunctionType, name: str) -> None:
        if _of_library(function):
            return
        for cell, variable in zip(function.__closure__ or (), function.__code__.co_freevars, strict=True):
            value = _read(cell, "cell_contents")
            if value is not _MISSING:
                self.places.append(Place(cell, "cell_contents", value, f"{name}'s {variable}"))
                self._value(value, f"{name}'s {variable}")
        self._holder(function, dict(vars(function)), function.__name__)
        for value in (function.__defaults__ or ()) + tuple((function.__kwdefaults__ or {}).values()):
            self._value(value, name)
        for variable in function.__code__.co_names:
            value = function.__globals__.get(variable, _MISSING)
            if value is _MISSING or isinstance(value, types.ModuleType | type | nn.Module):
                continue
            if isinstance(value, types.FunctionType):
                self._value(value, name)
                continue
            self.places.append(Place(function.__globals__, variable, value, variable))
            self._value(value, variable)

    def put_back(self) -> list[Place]:
        """Put back what has changed, and return the places that had."""
        changes = []
        exchanged = {id(holder) for holder, _, _, kind in self.keys if type(holder) is not kind}  # a lazy module
        for place in self.places:
            now = _read(place.holder, place.key)
            if id(place.holder) not in exchanged and now is not place.value and not _equal(now, place.value):
                changes.append(place)
                _write(place)
        for holder, keys, name, _ in self.keys:
            if id(holder) in exchanged:
                continue
            values = vars(holder) if not isinstance(holder, dict) else holder
            for key in [key for key in values if key not in keys and _added(holder, key, values[key])]:
                changes.append(Place(holder, key, _MISSING, f"{name}.{key}"))
                _write(changes[-1])
        for container, content in self.contents:
            if not _same_items(container, content):
                changes.append(Place(container, _CONTENT, content, "a container"))
                _write(changes[-1])
        for tensor, version, copy, name in self.tensors:
            if version_of(tensor) != version and copy is not None and not torch.equal(tensor, copy):
                with torch.no_grad():
                    tensor.copy_(copy)
                changes.append(Place(tensor, _VALUES, copy, name))
        return changes

    def lost(self) -> str | None:
        """Return the name of a tensor that was changed in place and of which there is no copy."""
        return next(
            (name for t, version, copy, name in self.tensors if copy is None and version_of(t) != version), None
        )


_CONTENT, _VALUES = object(), object()


def _read(holder: Any, key: Any) -> Any:
    if key is _CONTENT:
        return _copied(holder)
    if key is _VALUES:
        return holder.detach().clone()
    if isinstance(holder, dict):
        return holder.get(key, _MISSING)
    if isinstance(holder, types.CellType):
        try:
            return holder.cell_contents
        except ValueError:
            return _MISSING
    return vars(holder).get(key, _MISSING)


def _write(place: Place) -> None:
    """Put a value back into its place."""
    holder, key, value = place.holder, place.key, place.value
    if key is _CONTENT:
        holder.clear()
        holder.extend(value) if isinstance(holder, list | deque) else holder.update(value)
    elif key is _VALUES:
        with torch.no_grad():
            holder.copy_(value)
    elif isinstance(holder, types.CellType):
        holder.cell_contents = value
    elif isinstance(holder, dict):
        holder.pop(key, None) if value is _MISSING else holder.__setitem__(key, value)
    elif isinstance(holder, type):
        (delattr(holder, key) if key in vars(holder) else None) if value is _MISSING else setattr(holder, key, value)
    elif value is _MISSING:
        vars(holder).pop(key, None)
    else:
        vars(holder)[key] = value


def _own(key: str) -> bool:
    return key not in INTERNAL and "_hook" not in key and not key.startswith("_forward")


def _added(holder: Any, key: str, value: Any) -> bool:
    if isinstance(holder, type):
        return not key.startswith("__") and not callable(value) and not hasattr(value, "__get__")
    return not isinstance(holder, nn.Module) or _own(key)


def _copied(container: Any) -> Any:
    kind = dict if isinstance(container, dict) else set if isinstance(container, set) else list
    return kind(container)


def _same_items(container: Any, content: Any) -> bool:
    if len(container) != len(content) or isinstance(content, set):
        return container == content if isinstance(content, set) else False
    pairs = zip(container, content, strict=True)
    if isinstance(content, dict):
        pairs = zip((*container, *container.values()), (*content, *content.values()), strict=True)
    return all(one is other for one, other in pairs)


def _equal(one: Any, other: Any) -> bool:
    return type(one) is type(other) and isinstance(one, PLAIN) and (one == other or (one != one and other != other))


def _of_library(thing: Any) -> bool:
    module = str(getattr(thing, "__module__", "") or "")
    root = module.partition(".")[0]
    return root in LIBRARIES or module.startswith(OURS) or root in sys.stdlib_module_names - {"__main__"}


def _skipped(value: Any) -> bool:
    """Return whether an object is no state of a pass: configurations, and what libraries keep, but for caches."""
    kind = type(value)
    return _of_library(kind) and "Cache" not in kind.__name__ and "Layer" not in kind.__name__
