"""State the format of a file, and refuse a file of a newer one.

The format is a whole number that stands in the file under "format". A file without one is of format 1, as the first
version of the project wrote it. A format is raised when what earlier versions would read is not what was meant; a
reader for each earlier format stays.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

KEY = "format"
NEWEST = {
    "bridge plan": 2,
    "layer map": 2,
    "recipe": 2,
    "fused model": 3,  # 1 is without hashes, and 2 states no format
    "unified model": 3,  # as above
}


def with_format(kind: str, content: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a file holds, with the format in front.

    Parameters
    ----------
    kind : str
        A key of `NEWEST`.
    content : mapping
        Plain JSON.

    Returns
    -------
    dict
        The same with "format".
    """
    return {KEY: NEWEST[kind], **content}


def without_format(kind: str, path: str | os.PathLike[str], content: Mapping[str, Any]) -> tuple[int, dict[str, Any]]:
    """Take the format out of what a file holds.

    Parameters
    ----------
    kind : str
        A key of `NEWEST`.
    path : str or os.PathLike
        The file, for the message.
    content : mapping
        What stands in it.

    Returns
    -------
    format : int
        The format, 1 where the file states none.
    content : dict
        The rest.

    Raises
    ------
    ValueError
        The file is of a newer format, or what it states is no format.
    """
    rest = dict(content)
    found = rest.pop(KEY, 1)
    newest = NEWEST[kind]
    if isinstance(found, bool) or not isinstance(found, int) or not 1 <= found <= newest:
        raise ValueError(
            f"{os.fspath(path)} is a {kind} of format {found!r}, and this version of bridgework reads 1 to {newest}: "
            "open it with the version that wrote it, or install a newer bridgework"
        )
    return found, rest


def read_json(kind: str, path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a JSON file, without its format.

    Parameters
    ----------
    kind : str
        A key of `NEWEST`.
    path : str or os.PathLike
        The file.

    Returns
    -------
    dict
        What stands in it besides the format.

    Raises
    ------
    ValueError
        The file is no JSON object, or of a newer format.
    """
    content = json.loads(Path(path).read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise ValueError(f"{os.fspath(path)} is no {kind}: expected a JSON object, got {type(content).__name__}")
    return without_format(kind, path, content)[1]
