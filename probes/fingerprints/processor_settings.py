"""Read what processors, tokenizers and schedulers are set to, whatever they have been called with."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

# Settings that do not change the inputs: where files lie, which versions wrote them, and what a call leaves behind.
IGNORED = {"name_or_path", "vocab_file", "merges_file", "tokenizer_file", "special_tokens_map_file", "padding_side"}
CALL = ("padding", "truncation")  # settings of its last call that a fast tokenizer keeps
OF_A_TOKENIZER = (
    "special_tokens_map", "model_max_length", "chat_template", "truncation_side", "split_special_tokens",
)  # fmt: skip


def processor_settings(value: Any) -> Any:
    """Return the settings of a processor, tokenizer or scheduler.

    Parameters
    ----------
    value : object
        Anything.

    Returns
    -------
    object
        Of an image processor its settings, of a tokenizer its vocabulary, rules and special tokens, of a scheduler its
        config; None of anything else.
    """
    if isinstance(value, type):
        return None
    if hasattr(value, "init_kwargs") and hasattr(value, "get_vocab"):
        return _tokenizer(value)
    if hasattr(value, "to_dict") and hasattr(value, "preprocess"):
        return plain_settings(value.to_dict())
    if hasattr(value, "config") and hasattr(value, "set_timesteps"):
        return plain_settings(dict(value.config))
    if hasattr(value, "get_vocab") and hasattr(value, "to_str"):  # of the package tokenizers
        return {name: part for name, part in json.loads(value.to_str()).items() if name != "padding"}
    return None


def plain_settings(values: Mapping[str, Any], but: Any = ()) -> dict[str, Any]:
    """Return settings without private ones, places of files and those that are left out.

    Parameters
    ----------
    values : mapping of str
        The settings.
    but : container of str
        The names of others that are left out.

    Returns
    -------
    dict of str
        The settings that are left.
    """
    return {k: v for k, v in values.items() if not k.startswith("_") and k not in IGNORED and k not in but}


def settings_stamp(value: Any) -> str | None:
    """Return a text that differs wherever the settings of a fast tokenizer do, which is quicker to make than they are.

    Parameters
    ----------
    value : object
        Anything.

    Returns
    -------
    str or None
        Of a fast tokenizer, a hash of all that it says of itself; None of anything else.
    """
    backend = getattr(value, "backend_tokenizer", None)
    if (
        isinstance(value, type)
        or backend is None
        or not (hasattr(value, "init_kwargs") and hasattr(value, "get_vocab"))
    ):
        return None
    own = {name: getattr(value, name, None) for name in OF_A_TOKENIZER}
    said = json.dumps([type(value).__qualname__, own], sort_keys=True, default=repr) + backend.to_str()
    return hashlib.sha256(said.encode()).hexdigest()


def _tokenizer(tokenizer: Any) -> dict[str, Any]:
    own = {name: getattr(tokenizer, name, None) for name in OF_A_TOKENIZER}
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return own | {"vocabulary": tokenizer.get_vocab(), "settings": plain_settings(tokenizer.init_kwargs)}
    return own | {"rules": {name: part for name, part in json.loads(backend.to_str()).items() if name not in CALL}}
