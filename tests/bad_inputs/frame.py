"""What a row of the table of bad inputs is, and the form that its error must have."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from bridgework.__main__ import main
from bridgework.tracebacks import _raised_by_check, up_to_public_call

KINDS = {
    "type": "another kind of value than the one that is expected",
    "shape": "arrays or tables of another shape, or without the columns that are read",
    "range": "numbers that are too small, too large or endless",
    "finite": "NaN or infinity among the values, or out of a user's function",
    "name": "an unknown name",
    "missing": "a file, folder, device or argument that is not there",
    "conflict": "two arguments that do not go together",
    "file": "a file or folder with other contents than are expected",
    "content": "images, captions, models or plans that cannot be used",
}
LONGEST = 600  # letters of a message
EXPECTS = re.compile(
    r"expected|must|needs?\b|give |pass |use |leave |takes? |choose |name |make |extract |there is no|: [a-z]|; [a-z]"
)


class BadInput(NamedTuple):
    """One row: a public name or command, and what it says when it is given one wrong thing.

    Attributes
    ----------
    name : str
        A public name, such as "similarity" or "Stimuli", or a command, such as "bridgework choose".
    case : str
        What is wrong, in a few words.
    call : callable or sequence of str
        What is called, with an empty folder where it takes an argument; or the arguments of a command, in which
        "{here}" is that folder.
    says : sequence of str
        Words that the message has: the thing by its name, and what was expected.
    kind : str
        A key of `KINDS`.
    error : type
        The error; of a command it is always its exit.
    """

    name: str
    case: str
    call: Callable[..., Any] | Sequence[str]
    says: Sequence[str]
    kind: str
    error: type[Exception] = ValueError


def all_rows() -> list[BadInput]:
    """The rows of all modules below this folder that have some."""
    folder = Path(__file__).parent
    others = ("test_", "frame", "good_", "__")
    files = sorted(file for file in folder.rglob("*.py") if not file.stem.startswith(others))
    names = [".".join(file.relative_to(folder).with_suffix("").parts) for file in files]
    return [row for name in names for row in import_module(f"bridgework.tests.bad_inputs.{name}").ROWS]


def rows_of(name: str, *rows: tuple[Any, ...]) -> list[BadInput]:
    """Make the rows of one public name.

    Each is (case, call, says, kind), and the error behind it where it is not TypeError of the kind "type" or ValueError
    of the others.
    """
    return [
        BadInput(name, case, call, says, kind, *(error or (TypeError if kind == "type" else ValueError,)))
        for case, call, says, kind, *error in rows
    ]


def raised_by(row: BadInput, here: Path) -> Exception | SystemExit:
    """Call a row and return its error; AssertionError where it has none."""
    try:
        if not callable(row.call):
            main([argument.format(here=here) for argument in row.call])
        elif inspect.signature(row.call).parameters:
            row.call(here)
        else:
            row.call()
    except (Exception, SystemExit) as error:
        return error
    raise AssertionError(f"{row.name} accepts {row.case}")


def faults_of_form(text: str) -> list[str]:
    """What is wrong with the sentence of an error."""
    return [
        fault
        for fault, found in {
            "it is empty": not text.strip(),
            "it has several lines": "\n" in text.strip(),
            "it is several sentences": re.search(r"[a-z)]\. [A-Z]", text) is not None,
            "it is too long": len(text) > LONGEST,
            "it does not say what is expected, or what to do": not EXPECTS.search(text),
            "it shows the address of an object": " at 0x" in text,
        }.items()
        if found
    ]


def foreign(error: BaseException) -> bool:
    """Whether no `raise` of the package made the error."""
    frames = error.__traceback__
    assert frames is not None
    while frames.tb_next is not None:
        frames = frames.tb_next
    return not _raised_by_check(error, frames)


def shown_frames(error: BaseException) -> list[str]:
    """The frames of the package in the traceback that a user is shown."""
    shown = up_to_public_call(error, error.__traceback__)
    names = []
    while shown is not None:
        module = shown.tb_frame.f_globals.get("__name__", "")
        if module.startswith("bridgework.") and not module.startswith("bridgework.tests."):
            names.append(f"{module}: {shown.tb_frame.f_code.co_qualname}")
        shown = shown.tb_next
    return names
