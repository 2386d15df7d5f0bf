"""Describe settings and functions in plain JSON that is the same in every process."""

from __future__ import annotations

import dis
import enum
import functools
import hashlib
import inspect
import json
import re
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import fields, is_dataclass
from pathlib import PurePath
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from .processor_settings import processor_settings
from .tensor_hash import hash_tensor

VERSIONED = ("bridgework", "torch", "transformers", "diffusers", "accelerate", "peft")  # named, not read
DEPTH = 6  # how far parts within parts are followed
EMPTY = nn.Module().__dict__.keys()
INSTALLED = ("site-packages", "dist-packages")  # folders of other people's code


def digest(content: Any) -> str:
    """Return the hash of plain JSON.

    Parameters
    ----------
    content : object
        What `describe` returns, or more of the same.

    Returns
    -------
    str
        16 hex digits.
    """
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def describe(value: Any, deep: bool = False, inside: tuple[int, ...] = ()) -> Any:
    """Describe a value by what it holds, never by where it lies in memory.

    Parameters
    ----------
    value : object
        Plain values, containers, tensors, enums, dtypes and functions are described by their content, modules by their
        class, weights and settings. Other objects are described by their class alone.
    deep : bool
        Describe other objects by their attributes too, as is done for what a hook holds.
    inside : tuple of int
        The ids of the values that hold this one.

    Returns
    -------
    object
        Plain JSON.
    """
    if value is None or isinstance(value, bool | int | str):
        return value if type(value) in (type(None), bool, int, str) else [_name(type(value)), str(value)]
    if isinstance(value, float | complex | bytes):
        return [type(value).__name__, repr(value)]
    if id(value) in inside or len(inside) > DEPTH:
        return _name(type(value))
    inside = (*inside, id(value))

    def part(content: Any) -> Any:
        return describe(content, deep, inside)

    if isinstance(value, Tensor):
        return ["tensor", hash_tensor(value)]
    if isinstance(value, np.ndarray | np.generic):
        text = f"{value.shape} {value.dtype}".encode()
        content = value.tobytes() if value.dtype != object else b""
        return ["array", hashlib.sha256(text + content).hexdigest()[:16]]
    if isinstance(value, torch.device):
        return "device"
    if isinstance(value, Image.Image):
        return ["picture", value.mode, value.size, hashlib.sha256(value.tobytes()).hexdigest()[:16]]
    if isinstance(value, re.Pattern | PurePath):
        return [_name(type(value)), str(value)]
    if isinstance(value, SimpleNamespace):
        return ["namespace", part(vars(value))]
    if (settings := processor_settings(value)) is not None:
        return [_name(type(value)), hashlib.sha256(json.dumps(part(settings)).encode()).hexdigest()[:16]]
    if isinstance(value, enum.Enum):
        return [_name(type(value)), value.name]
    if isinstance(value, Mapping):
        return ["dict", sorted(([json.dumps(part(k)), part(v)] for k, v in value.items()), key=lambda pair: pair[0])]
    if isinstance(value, set | frozenset):
        return ["set", sorted(json.dumps(part(item)) for item in value)]
    if isinstance(value, list | tuple):
        return [part(item) for item in value]
    if isinstance(value, type):
        return [_name(value), describe_class(value, inside[:-1])] if deep and own_code(value) else _name(value)
    if callable(value) and not isinstance(value, nn.Module):
        return describe_function(value, inside)
    if isinstance(value, torch.dtype | torch.layout | torch.memory_format | range | slice):
        return repr(value)
    if isinstance(value, nn.Module):
        return [_name(type(value)), _module(value, inside) if deep else None]
    if is_config(value):
        return [_name(type(value)), config_digest(value)]
    if is_dataclass(value):
        return [_name(type(value)), part({each.name: getattr(value, each.name, None) for each in fields(value)})]
    if deep and (held := attributes_of(value)) is not None:
        return [_name(type(value)), part(held), describe_class(type(value), inside)]
    return _name(type(value))


def attributes_of(value: Any) -> dict[str, Any] | None:
    """Return the attributes of an object that are worth describing.

    Parameters
    ----------
    value : object
        Any object.

    Returns
    -------
    dict of str, or None
        All of the user's own, the public ones of other packages; None where a version stands for the class, or it is
        Python's (a logger, a lock, an open file).
    """
    kind, held = type(value), getattr(value, "__dict__", None)
    if isinstance(value, Image.Image) or not isinstance(held, dict):
        return None
    if versioned(kind.__module__) or _python_has(kind.__module__):
        return None
    return dict(held) if own_code(kind) else {k: v for k, v in held.items() if not k.startswith("_")}


def describe_function(function: Any, inside: tuple[int, ...] = ()) -> Any:
    """Describe a function by its name and, where no version stands for it, by its source and all that it uses.

    Parameters
    ----------
    function : callable
        A function, a method, a partial or an object that can be called.
    inside : tuple of int
        As of `describe`.

    Returns
    -------
    object
        Plain JSON.
    """
    inside = (*inside, id(function))

    def part(content: Any) -> Any:
        return describe(content, True, inside)

    if isinstance(function, functools.partial):
        return ["partial", part(function.func), part(function.args), part(function.keywords)]
    if isinstance(function, MethodType):
        owner = function.__self__
        held = _name(type(owner)) if isinstance(owner, nn.Module) and len(inside) > 2 else part(owner)
        return ["method", part(function.__func__), held]
    if isinstance(function, FunctionType):
        module = str(function.__globals__.get("__name__"))  # of a wrapper, not of what it wraps
        name = f"{module}.{function.__code__.co_qualname}"
        if versioned(module):
            return name
        used = {
            key: source_hash(content.__code__) if _elsewhere(content, function) else part(content)
            for key, content in sorted(used_from_outside(function).items())
        }
        return [name, source_hash(function.__code__), used]
    if isinstance(function, BuiltinFunctionType):
        return f"{function.__module__}.{function.__qualname__}"
    kind = type(function)
    if versioned(kind.__module__) or kind.__module__ == "builtins":
        return [_name(kind), str(getattr(function, "__qualname__", getattr(function, "__name__", "")))]
    return [_name(kind), part(dict(getattr(function, "__dict__", {}))), describe_class(kind, inside)]


def describe_class(kind: type, inside: tuple[int, ...] = ()) -> Any:
    """Describe the functions and values of a class and its bases, but for those that a version stands for.

    Parameters
    ----------
    kind : type
        Any class.
    inside : tuple of int
        As of `describe`.

    Returns
    -------
    dict
        The description of every function and plain value of the class, by name.
    """
    found = {}
    if id(kind) in inside:
        return found
    inside = (*inside, id(kind))
    for base in kind.__mro__:
        if versioned(base.__module__) or _python_has(base.__module__):
            continue
        for name, content in vars(base).items():
            function = getattr(content, "__func__", getattr(content, "fget", content))
            if isinstance(function, FunctionType):
                found[f"{base.__qualname__}.{name}"] = describe_function(function, inside)
            elif not name.startswith("__") and not isinstance(described := describe(content, False, inside), str):
                found[f"{base.__qualname__}.{name}"] = described
            elif isinstance(content, str) and not name.startswith("__"):
                found[f"{base.__qualname__}.{name}"] = content
    return found


def versioned(module: str) -> bool:
    """Return whether a module's code is that of a package whose version the provenance states."""
    return module.split(".")[0] in VERSIONED and not module.startswith("bridgework.tests")


def own_code(thing: type | FunctionType | ModuleType) -> bool:
    """Return whether a class, function or module is the user's: of no installed package, and none of Python's."""
    name = str(getattr(thing, "__module__", None) or getattr(thing, "__name__", ""))
    if versioned(name) or _python_has(name):
        return False
    place = str(getattr(sys.modules.get(name), "__file__", "") or "")
    return not any(folder in place for folder in INSTALLED)


def _python_has(module: str) -> bool:
    return module.split(".")[0] in sys.stdlib_module_names and module != "__main__"


def _elsewhere(value: Any, function: FunctionType) -> bool:
    return isinstance(value, FunctionType) and value.__module__ != function.__module__


def used_from_outside(function: FunctionType) -> dict[str, Any]:
    """Return what a function closes over, its defaults, and the globals that it names.

    Parameters
    ----------
    function : function
        Any function of Python.

    Returns
    -------
    dict
        The values by name; of the user's modules, what the function may use of them. Other modules, and functions of
        installed packages, are left out.
    """
    code, cells = function.__code__, function.__closure__ or ()
    found: dict[str, Any] = {}
    for name, cell in zip(code.co_freevars, cells, strict=True):
        with suppress(ValueError):  # an empty cell
            found[name] = cell.cell_contents
    names, attributes = _names(code)
    found |= {name: function.__globals__[name] for name in names if name in function.__globals__}
    found |= {str(place): value for place, value in enumerate(function.__defaults__ or ())}
    found |= function.__kwdefaults__ or {}
    for name, module in [(n, v) for n, v in found.items() if isinstance(v, ModuleType) and own_code(v)]:
        found |= {f"{name}.{each}": vars(module)[each] for each in attributes if each in vars(module)}
    return {
        name: value
        for name, value in found.items()
        if not isinstance(value, ModuleType) and not (_elsewhere(value, function) and not own_code(value))
    }


@functools.lru_cache(maxsize=8192)
def _names(code: CodeType) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the names of globals and of attributes in a function, and in what is defined in it: comprehensions too."""
    names = [step.argval for step in dis.get_instructions(code) if step.opname in ("LOAD_GLOBAL", "LOAD_NAME")]
    attributes = [name for name in code.co_names if name not in names]
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            inner, others = _names(constant)
            names += inner
            attributes += others
    return tuple(dict.fromkeys(names)), tuple(dict.fromkeys(attributes))


def is_config(value: Any) -> bool:
    """Return whether a value is a configuration of transformers or alike."""
    return callable(getattr(value, "to_dict", None)) and "Config" in type(value).__name__


def config_digest(config: Any) -> str | None:
    """Hash the settings of a configuration, but for private ones, versions and places.

    Parameters
    ----------
    config : object
        A configuration with `to_dict`, a dict, or anything else.

    Returns
    -------
    str or None
        16 hex digits; None where there is nothing to hash.
    """
    settings = config.to_dict() if hasattr(config, "to_dict") else dict(config) if isinstance(config, dict) else {}
    settings = {k: v for k, v in settings.items() if not k.startswith("_") and k != "transformers_version"}
    text = json.dumps(settings, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16] if settings else None


def _module(module: nn.Module, inside: tuple[int, ...]) -> Any:
    """Describe a module that is no part of the model, such as the autoencoder of a steering hook."""
    state = {name: hash_tensor(tensor) for name, tensor in (*module.named_parameters(), *module.named_buffers())}
    held = {
        path: {k: describe(v, False, inside) for k, v in part.__dict__.items() if k not in EMPTY}
        for path, part in module.named_modules()
    }
    return digest([state, held])


def _name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


@functools.lru_cache(maxsize=8192)
def source_hash(code: CodeType) -> str:
    """Hash the source of a function; its instructions where it was typed into a shell, and with them for a lambda."""
    try:
        if code.co_filename.startswith("<"):  # every text that is run from memory shares this name
            raise OSError
        text = inspect.getsource(code)
    except (OSError, TypeError):
        return hashlib.sha256(code.co_code + _constants(code).encode()).hexdigest()[:16]
    if code.co_name == "<lambda>":  # two may share a line
        text += _constants(code)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _constants(code: CodeType) -> str:
    return repr((list(map(_constant, code.co_consts)), code.co_names, code.co_varnames))


def _constant(value: Any) -> str:
    if isinstance(value, CodeType):
        return _constants(value)
    if isinstance(value, frozenset):  # its order is another in every process
        return repr(sorted(map(_constant, value)))
    return repr(value)
