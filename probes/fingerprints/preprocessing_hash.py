"""Hash what a subject makes inputs with, so that a change is noticed: processors, tokenizers, schedulers, functions."""

from __future__ import annotations

import functools
import hashlib
import inspect
import json
from collections.abc import Iterator, Mapping
from types import FunctionType, MethodType
from typing import Any

from torch import nn

from ..hooks.model_state import walk
from .described_values import attributes_of, describe, describe_class, own_code, source_hash, used_from_outside
from .model_description import describe_parts
from .processor_settings import plain_settings, processor_settings, settings_stamp

PLAIN = (str, int, float, bool, type(None))
NAMED = 64  # parts of a container or object; of a larger one all are hashed as one
STAMPS = 64  # tokenizers whose hashes are remembered

_known: dict[str, str] = {}  # by stamp of a fast tokenizer: its hash


def preprocessing_of(subject: Any) -> dict[str, str]:
    """Hash each attribute of a subject that makes inputs, and each part of a pipeline, processor, function or object.

    An image processor is hashed by its settings, a tokenizer by its vocabulary, rules and special tokens, a scheduler
    by its config, tensors and arrays by their values, and modules by all that describes them. A function is hashed by
    its source and by what it uses from outside, and an object of the user's own class by its code and attributes. The
    modules that the subject itself holds are left to `fingerprints.running_state`.

    Parameters
    ----------
    subject : Subject
        The subject.

    Returns
    -------
    dict of str
        "Class hash" (16 hex digits) by name of the attribute or part; "class" is the code of the subject.
    """
    held = {k: v for k, v in sorted(getattr(subject, "__dict__", {}).items()) if not k.startswith("_")}
    above = frozenset({id(subject), *_modules(held.values())})
    functions: set[int] = set()
    found: dict[str, str] = {}
    for name, value in held.items():
        if isinstance(value, Mapping) or not _is_plain(value):  # others are among the settings of the provenance
            found |= dict(_parts(name, value, above, functions))
    if own_code(type(subject)):
        found["class"] = _hashed(subject, describe_class(type(subject)))
    return found


def _modules(values: Any) -> Iterator[int]:
    """Yield the ids of all modules that a subject holds, alone or in a pipeline, and of their parts."""
    for value in values:
        parts = getattr(value, "components", None)
        for part in parts.values() if isinstance(parts, dict) else [value]:
            if isinstance(part, nn.Module):
                yield from map(id, walk(part))


def _parts(name: str, value: Any, above: frozenset[int], functions: set[int]) -> Iterator[tuple[str, str]]:
    """Yield name and hash of a value and of its parts.

    `above` are the ids of what is described elsewhere: what holds the value, and the subject's modules. `functions` are
    those of functions that were followed already.
    """
    if id(value) in above:
        return
    above = above | {id(value)}
    function = inspect.unwrap(getattr(value, "__func__", value)) if callable(value) else value
    inside: dict[Any, Any] = {}
    if (stamp := settings_stamp(value)) is not None:
        yield name, _known_or_hashed(stamp, value)
    elif isinstance(value, nn.Module):
        yield name, _hashed(value, describe_parts(value) | {"revision": None})
    elif isinstance(parts := getattr(value, "components", None), dict):  # a diffusers pipeline
        inside = parts
    elif hasattr(value, "get_attributes") and hasattr(value, "to_dict"):  # a processor of several modalities
        inside = {part: getattr(value, part) for part in value.get_attributes()}
        own = plain_settings(value.to_dict(), inside.keys())
        yield name, _hashed(value, own | {"chat_template": getattr(value, "chat_template", None)})
    elif isinstance(value, functools.partial):
        inside = {"func": value.func, "args": dict(enumerate(value.args)), "keywords": value.keywords}
    elif isinstance(function, FunctionType):
        if id(function) in functions and function is value:
            return
        functions.add(id(function))
        yield name, f"{function.__module__}.{function.__qualname__} {source_hash(function.__code__)}"
        inside = {key: _boxed(part) for key, part in used_from_outside(function).items()}
        if isinstance(value, MethodType) and own_code(type(value.__self__)):
            inside["self"] = value.__self__
    elif isinstance(value, Mapping | list | tuple) and len(value) <= NAMED and not _is_plain(value):
        items = value.items() if isinstance(value, Mapping) else enumerate(value)
        inside = {key: _boxed(part) for key, part in items}
    elif processor_settings(value) is None and (attributes := attributes_of(value)) is not None:
        yield name, _hashed(value, describe_class(type(value)) if own_code(type(value)) else None)
        inside = {key: _boxed(part) for key, part in attributes.items()}
    elif (described := _describe_leaf(value)) != f"{type(value).__module__}.{type(value).__qualname__}":
        yield name, _hashed(value, described)
    for part, content in sorted(inside.items(), key=lambda pair: str(pair[0])):
        yield from _parts(f"{name}.{part}", content, above, functions)


def _describe_leaf(value: Any) -> Any:
    """Describe a value that is not followed further; by its class where that is all that can be said."""
    settings = processor_settings(value)
    if settings is None and isinstance(value, Mapping) and _is_plain(value):
        return dict(value)
    return describe(value, True) if settings is None else settings


def _boxed(value: Any) -> Any:
    """Return a plain value in a dict, which is hashed with its name."""
    return {"value": value} if isinstance(value, (*PLAIN, list, tuple)) and _is_plain(value) else value


def _is_plain(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(isinstance(key, PLAIN) and _is_plain(item) for key, item in value.items())
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return isinstance(value, PLAIN)


def _hashed(value: Any, content: Any) -> str:
    return f"{type(value).__name__} {_digest(content)}"


def _known_or_hashed(stamp: str, value: Any) -> str:
    """Return the hash of a fast tokenizer, which is slow to make and is made once for each stamp."""
    if stamp not in _known:
        found = _hashed(value, processor_settings(value))
        while len(_known) >= STAMPS:
            del _known[next(iter(_known))]
        _known[stamp] = found
    return _known[stamp]


def _digest(content: Any) -> str:
    text = json.dumps(content, sort_keys=True, default=_as_text)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _as_text(value: Any) -> str:
    """Return the text of arrays and enums, and the class of an object whose text is its address in memory."""
    return type(value).__name__ if type(value).__repr__ is object.__repr__ else repr(value)
