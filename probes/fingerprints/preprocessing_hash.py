"""Hash what a subject makes inputs with, so that a change is noticed: processors, tokenizers, schedulers, functions."""

from __future__ import annotations

import functools
import hashlib
import inspect
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from types import FunctionType
from typing import Any

PLAIN = (str, int, float, bool, type(None))
# Settings that do not change the inputs: where files lie, which versions wrote them, and what a call leaves behind.
IGNORED = {"name_or_path", "vocab_file", "merges_file", "tokenizer_file", "special_tokens_map_file", "padding_side"}
CALL = ("padding", "truncation")  # settings of its last call that a fast tokenizer keeps


def preprocessing_of(subject: Any) -> dict[str, str]:
    """Hash each attribute of a subject that makes inputs, and each part of a pipeline or processor.

    An image processor is hashed by its settings, a tokenizer by its vocabulary, rules and special tokens, a scheduler
    by its config, a dict of plain values by those, and a function by its name, its source and what of these kinds it
    uses from outside. Weights are left to `fingerprints.running_state`.

    Parameters
    ----------
    subject : Subject
        The subject.

    Returns
    -------
    dict of str
        "Class hash" (16 hex digits) by name of the attribute or part.
    """
    found: dict[str, str] = {}
    for name, value in sorted(getattr(subject, "__dict__", {}).items()):
        if not name.startswith("_"):
            found |= dict(_parts(name, value, set()))
    return found


def _parts(name: str, value: Any, above: set[int]) -> Iterator[tuple[str, str]]:
    """Yield name and hash of a value and of its parts; `above` are the ids of the values that hold it."""
    if id(value) in above:
        return
    above = above | {id(value)}
    if isinstance(inside := getattr(value, "components", None), dict):  # a diffusers pipeline
        pass
    elif hasattr(value, "get_attributes") and hasattr(value, "to_dict"):  # a processor of several modalities
        inside = {part: getattr(value, part) for part in value.get_attributes()}
        yield name, _hashed(value, _settings(value.to_dict(), inside.keys()))
    elif isinstance(value, functools.partial):
        inside = {"func": value.func, "args": dict(enumerate(value.args)), "keywords": value.keywords}
    elif isinstance(
        function := inspect.unwrap(getattr(value, "__func__", value)) if callable(value) else value, FunctionType
    ):
        inside = _used_from_outside(function)
        yield name, _hash_function(function)
    else:
        inside = {}
        if (description := _hash_part(value)) is not None:
            yield name, description
    for part, content in sorted(inside.items()):
        yield from _parts(f"{name}.{part}", content, above)


def _hash_part(value: Any) -> str | None:
    if hasattr(value, "init_kwargs") and hasattr(value, "get_vocab"):
        return _hashed(value, _tokenizer(value))
    if hasattr(value, "to_dict") and hasattr(value, "preprocess"):
        return _hashed(value, _settings(value.to_dict()))
    if hasattr(value, "config") and hasattr(value, "set_timesteps"):
        return _hashed(value, _settings(dict(value.config)))
    if isinstance(value, dict) and value and _is_plain(value):
        return _hashed(value, value)
    return None


def _tokenizer(tokenizer: Any) -> dict[str, Any]:
    own = {name: getattr(tokenizer, name, None) for name in ("special_tokens_map", "model_max_length", "chat_template")}
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return own | {"vocabulary": tokenizer.get_vocab(), "settings": _settings(tokenizer.init_kwargs)}
    return own | {"rules": {name: part for name, part in json.loads(backend.to_str()).items() if name not in CALL}}


def _hash_function(function: Callable[..., Any]) -> str:
    try:
        source = inspect.getsource(function)
    except (OSError, TypeError):  # typed into a shell, or built in
        source = None
    return f"{function.__module__}.{function.__qualname__} {_digest(source)}"


def _used_from_outside(function: FunctionType) -> dict[str, Any]:
    """Return what a function closes over, its defaults, and the globals it names; no function of another module."""
    code, cells = function.__code__, function.__closure__ or ()
    found = {}
    for name, cell in zip(code.co_freevars, cells, strict=True):
        with suppress(ValueError):  # an empty cell
            found[name] = cell.cell_contents
    found |= {name: function.__globals__[name] for name in code.co_names if name in function.__globals__}
    found |= dict(enumerate(function.__defaults__ or ())) | (function.__kwdefaults__ or {})
    kept = {}
    for name, value in found.items():
        if isinstance(value, FunctionType) and value.__module__ != function.__module__:
            continue  # a library's: the provenance has its version
        kept[str(name)] = {"value": value} if isinstance(value, (*PLAIN, list, tuple)) and _is_plain(value) else value
    return kept


def _settings(values: Mapping[str, Any], but: Any = ()) -> dict[str, Any]:
    return {k: v for k, v in values.items() if not k.startswith("_") and k not in IGNORED and k not in but}


def _is_plain(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(isinstance(key, PLAIN) and _is_plain(item) for key, item in value.items())
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return isinstance(value, PLAIN)


def _hashed(value: Any, content: Any) -> str:
    return f"{type(value).__name__} {_digest(content)}"


def _digest(content: Any) -> str:
    text = json.dumps(content, sort_keys=True, default=_as_text)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _as_text(value: Any) -> str:
    """Return the text of arrays and enums, and the class of an object whose text is its address in memory."""
    return type(value).__name__ if type(value).__repr__ is object.__repr__ else repr(value)
