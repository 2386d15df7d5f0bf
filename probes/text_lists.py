"""Check lists of texts, such as ids and paths in a model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from .arguments import shown


def listed_texts(name: str, value: Any, what: str) -> list[str]:
    """Return texts that are given as a list or another iterable, or raise TypeError for anything else.

    Parameters
    ----------
    name : str
        The argument, as the caller knows it.
    value : Any
        What was given for it.
    what : str
        What is expected, such as "a list of ids".

    Returns
    -------
    list of str
        The texts, as many as there are.

    Raises
    ------
    TypeError
        It is one text, a mapping or no iterable, or a part of it is no text.
    """
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
        raise TypeError(f"{name} is {shown(value)}: expected {what}")
    if isinstance(value, np.ndarray) and not value.ndim:  # numpy calls it an iterable
        raise TypeError(f"{name} is {shown(value)}: expected {what}")
    parts = list(value)
    for part in parts:
        if not isinstance(part, str):
            raise TypeError(f"{name} holds {shown(part)}: expected {what}")
    return parts
