"""Check what a public function or an options class is given before it works; one sentence says what was expected.

The kind of an argument is its annotation, and its limits stand once: in the metadata of a field of an options class
(`allowed`), or in the call of `checked`.
"""

from __future__ import annotations

import math
import os
import re
import reprlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import field, fields
from difflib import get_close_matches
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import numpy as np

FileName = str | os.PathLike[str]
MANY = 10**9  # the largest count that is taken: what is asked for beyond it would never end
SEEDS = {"least": 0, "most": 2**63 - 1}  # what numpy and torch both take
WORDS: dict[Any, str] = {
    bool: "True or False",
    int: "a whole number",
    float: "a finite number",
    str: "a text",
    dict: "a dict",
    Callable: "a function",
    os.PathLike: "a path",
    Path: "a path",
}
HALVES = re.compile("[\ud800-\udfff]")  # halves of surrogate pairs, which no encoding can write
_WRONG = object()


def checked(
    name: str,
    value: Any,
    kind: Any,
    *,
    least: float | None = None,
    above: float | None = None,
    most: float | None = None,
    below: float | None = None,
    known: Iterable[str] = (),
    filled: bool = False,
    remedy: str = "",
) -> Any:
    """Return an argument as its kind, or say in one sentence what was expected.

    Parameters
    ----------
    name : str
        The argument, as the caller knows it.
    value : Any
        What was given for it.
    kind : type or annotation
        bool, int, float, str, another class, `X | None`, or `Sequence[X]`. True is no number, 2.0 is no whole number,
        "2" is neither, and NaN and infinity are no finite numbers. Numbers of numpy become Python's own.
    least, above, most, below : float, optional
        The limits of a number, and of each number of a sequence. A whole number without an upper one is at most `MANY`.
    known : iterable of str, optional
        The names that a text may be; see `unknown`.
    filled : bool, optional
        Whether a text must not be empty.
    remedy : str, optional
        What to do instead, behind the sentence.

    Returns
    -------
    Any
        The value, as a plain Python number where it is one, and as a tuple where it is a sequence.

    Raises
    ------
    TypeError
        It is of another kind.
    ValueError
        It is a number beyond its limits, a name that is not known, a sequence without parts, or a text with half of a
        character; file names may have one.

    Examples
    --------
    >>> checked("steps", 3, int, least=1)
    3
    """
    limits = {"least": least, "above": above, "most": most, "below": below}
    kinds = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
    names = tuple(known)
    for each in kinds:
        found = _as_kind(value, each)
        if found is _WRONG:
            continue
        if names and isinstance(found, str) and found not in names:
            raise unknown(name, value, names)
        if filled and found == "":
            raise ValueError(f"{name} is empty: expected {_expected(kinds, limits, remedy)}")
        parts = found if get_origin(each) is not None and isinstance(found, tuple) else (found,)
        if not parts or not all(_within(part, **limits) for part in parts):
            raise ValueError(f"{name} is {shown(value)}: expected {_expected(kinds, limits, remedy)}")
        if os.PathLike not in kinds and any(isinstance(part, str) and HALVES.search(part) for part in parts):
            raise ValueError(f"{name} is {shown(value)}, with half of a character: expected what UTF-8 can write")
        return found
    if names:
        raise unknown(name, value, names)
    raise TypeError(f"{name} is {shown(value)}: expected {_expected(kinds, limits, remedy)}")


def option(default: Any, about: str, allowed: Mapping[str, Any] | None = None, **settings: Any) -> Any:
    """Declare a field of an options class.

    Parameters
    ----------
    default : Any
        Its default.
    about : str
        The sentence that the command line shows for it. Where the default is None, it says what None stands for.
    allowed : mapping, optional
        Limits, as keywords of `checked`.
    **settings
        Further keywords of `argparse.ArgumentParser.add_argument`.

    Returns
    -------
    dataclasses.Field
        The field.
    """
    return field(default=default, metadata={"help": about, "allowed": allowed or {}, **settings})


def check_options(options: Any) -> None:
    """Check every field of an options class, a frozen dataclass, in its `__post_init__`.

    Parameters
    ----------
    options : dataclass
        The kind of a field is its annotation, and its limits are the mapping `allowed` of its metadata. Numbers are
        kept as Python's own.

    Raises
    ------
    TypeError, ValueError
        As `checked` does, for the first field that is wrong.
    """
    given = {each.name: getattr(options, each.name) for each in fields(options)}
    for name, value in check_arguments(type(options), given).items():
        object.__setattr__(options, name, value)


def check_arguments(options: type, given: Mapping[str, Any]) -> dict[str, Any]:
    """Check arguments of a function by the fields of the options class that declares them.

    Parameters
    ----------
    options : type
        A dataclass, as of `check_options`.
    given : mapping of str to Any
        Arguments by name. A name without a field is an error.

    Returns
    -------
    dict
        The arguments as `checked` returns them.

    Raises
    ------
    TypeError, ValueError
        As `checked` does.
    """
    declared, kinds = {each.name: each for each in fields(options)}, get_type_hints(options)
    check_names("option", given, declared)
    return {
        name: checked(name, value, kinds[name], **declared[name].metadata.get("allowed", {}))
        for name, value in given.items()
    }


def check_names(what: str, given: Iterable[str], known: Iterable[str]) -> None:
    """Raise ValueError for the first name that is not known.

    Parameters
    ----------
    what : str
        What the names are of, such as "field of a plan".
    given, known : iterable of str
        The names.

    Raises
    ------
    ValueError
        As `unknown` says it.
    """
    names = tuple(known)
    for name in given:
        if name not in names:
            raise unknown(what, name, names)


def file_name(name: str, value: Any) -> Path:
    """Return the path of a file or folder that is given as a text or a path, or raise TypeError for anything else.

    Parameters
    ----------
    name : str
        The argument, as the caller knows it.
    value : Any
        What was given for it.

    Returns
    -------
    Path
        The path; whether something is there is not asked.

    Raises
    ------
    TypeError
        It is neither.
    ValueError
        It is empty, or holds a zero byte or half of a character.
    """
    path = checked(name, value, FileName, filled=True)
    if "\0" in (text := os.fspath(path)):
        raise ValueError(f"{name} is {shown(text)}: expected a path, which holds no zero byte")
    try:
        os.fsencode(text)
    except UnicodeEncodeError:
        raise ValueError(f"{name} is {shown(text)}: expected a path, which holds no half of a character") from None
    return Path(path)


def folder_name(name: str, value: Any) -> Path:
    """Return the path of a folder that need not be there yet, as `file_name` does.

    Parameters
    ----------
    name : str
        The argument, as the caller knows it.
    value : Any
        What was given for it.

    Returns
    -------
    Path
        The path.

    Raises
    ------
    TypeError
        It is no path.
    ValueError
        It is empty, or there is a file of this name.
    """
    path = file_name(name, value)
    if path.exists() and not path.is_dir():
        raise ValueError(f"{name} is {shown(str(value))}, which is a file: name a folder")
    return path


def unknown(what: str, value: object, known: Iterable[str]) -> ValueError:
    """Return the error that lists the names that are known, and says which of them is nearest.

    Parameters
    ----------
    what : str
        What is named, such as "layout".
    value : object
        What was given; it need not be a text.
    known : iterable of str
        The names.

    Returns
    -------
    ValueError
        To be raised by the caller.

    Examples
    --------
    >>> print(unknown("layout", "desne", ("dense", "H", "soft")))
    unknown layout 'desne': expected one of dense, H, soft; the nearest is 'dense'
    """
    names = [str(name) for name in known]
    near = get_close_matches(str(value).lower(), [name.lower() for name in names], 1) if isinstance(value, str) else []
    said = f"; the nearest is {next(name for name in names if name.lower() == near[0])!r}" if near else ""
    return ValueError(f"unknown {what} {shown(value)}: expected one of {', '.join(names)}{said}")


def _as_kind(value: Any, kind: Any) -> Any:
    """Return a value as a kind, or `_WRONG`."""
    origin = get_origin(kind)
    if kind is Any:
        return value
    if kind is NoneType or kind is None:
        return None if value is None else _WRONG
    if kind is bool:
        return bool(value) if isinstance(value, bool | np.bool) else _WRONG
    if kind is int:
        return int(value) if isinstance(value, int | np.integer) and not isinstance(value, bool) else _WRONG
    if kind is float:
        return _as_float(value)
    if isinstance(origin, type) and issubclass(tuple, origin):  # Sequence[X], tuple[X, ...]
        return _as_tuple(value, [part for part in get_args(kind) if part is not Ellipsis])
    if kind is Sequence and isinstance(value, str | bytes):
        return _WRONG  # letters are no parts
    if isinstance(value, np.ndarray) and not value.ndim and origin is not np.ndarray and kind is not np.ndarray:
        return _WRONG  # numpy calls it an iterable
    return value if isinstance(value, origin or kind) else _WRONG


def _as_float(value: Any) -> Any:
    if isinstance(value, bool | np.bool) or not isinstance(value, int | float | np.number):
        return _WRONG
    try:
        return float(value)
    except (OverflowError, TypeError):  # a whole number beyond all floats; a complex one
        return _WRONG if isinstance(value, np.complexfloating) else math.inf


def _as_tuple(value: Any, kinds: Sequence[Any]) -> Any:
    """Return a sequence as a tuple of parts that are each of the kind, or of their own kinds."""
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Sequence | np.ndarray):
        return _WRONG
    if isinstance(value, np.ndarray) and not value.ndim:
        return _WRONG
    kinds = [*kinds] * len(value) if len(kinds) == 1 else kinds
    if len(kinds) != len(value):
        return _WRONG
    parts = tuple(_as_kind(part, kind) for part, kind in zip(value, kinds, strict=True))
    return _WRONG if any(part is _WRONG for part in parts) else parts


def _within(value: Any, least: float | None, above: float | None, most: float | None, below: float | None) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return True
    if isinstance(value, float) and not math.isfinite(value):
        return False
    if isinstance(value, int) and most is None and below is None and value > MANY:
        return False
    return (
        (least is None or value >= least)
        and (above is None or value > above)
        and (most is None or value <= most)
        and (below is None or value < below)
    )


def _expected(kinds: Sequence[Any], limits: Mapping[str, float | None], remedy: str) -> str:
    """Say in words what would have been right."""
    words = [_in_words(kind, limits) for kind in kinds if kind not in (NoneType, None)]
    words = ["a path"] if set(words) == {"a text", "a path"} else words
    words += ["None"] if NoneType in kinds else []
    return " or ".join(dict.fromkeys(words)) + (f": {remedy}" if remedy else "")


def _in_words(kind: Any, limits: Mapping[str, float | None]) -> str:
    origin = get_origin(kind)
    if isinstance(origin, type) and issubclass(tuple, origin):
        inner = [part for part in get_args(kind) if part is not Ellipsis]
        parts = " and ".join(_in_words(part, limits) for part in inner)
        return f"a sequence of {len(inner)}: {parts}" if len(inner) > 1 else f"a sequence, each part {parts}"
    name = str(getattr(origin or kind, "__name__", kind))
    said = WORDS.get(kind) or WORDS.get(origin) or f"{'an' if name[0] in 'AEIOU' else 'a'} {name}"
    if kind not in (int, float):
        return said
    least, above, most, below = (limits[name] for name in ("least", "above", "most", "below"))
    if kind is int and most is None and below is None:
        below = MANY if least is None or least > MANY else None
    if least is not None and most is not None:
        return f"{said} from {least} to {most}"
    ends = [
        f"{word} {end}"
        for word, end in (("of at least", least), ("above", above), ("of at most", most), ("below", below))
        if end is not None
    ]
    return f"{said} {' and '.join(ends)}" if ends else said


def shown(value: object) -> str:
    """Return a value as messages show it: on one line, short, and without the address of an object."""
    if isinstance(value, str | int | float | bool | NoneType | Path) and len(repr(value)) < 100:
        return repr(value)
    short = " ".join(reprlib.repr(value).split())
    return f"a {type(value).__name__}" if len(short) >= 100 or "<" in short else short
