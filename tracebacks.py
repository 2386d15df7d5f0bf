"""Show the errors that a check raises without the frames inside the package, in a script and in a notebook.

A check says what is wrong in one sentence, and the frames between it and the call that it checks say nothing more. So
what is printed ends at the public function that was called. The error keeps all of its frames: debuggers, logs and test
runners see them, `%tb` prints them in a notebook, and BRIDGEWORK_TRACEBACK=full prints them everywhere.
"""

from __future__ import annotations

import os
import sys
import sysconfig
from opcode import opmap
from types import TracebackType
from typing import Any

SETTING = "BRIDGEWORK_TRACEBACK"
PACKAGE = __name__.rpartition(".")[0]
CALLERS = tuple(f"{PACKAGE}.{part}" for part in ("tests", "benchmarks", "notebooks"))  # they call as users do
LIBRARIES = tuple({sysconfig.get_path(name) + os.sep for name in ("stdlib", "platstdlib", "purelib", "platlib")})
RAISE = opmap["RAISE_VARARGS"]


def up_to_public_call(error: BaseException, frames: TracebackType | None) -> TracebackType | None:
    """Return the frames of an error up to the public function that was called, if a check of the package raised it.

    Parameters
    ----------
    error : BaseException
        The error.
    frames : traceback or None
        Its frames.

    Returns
    -------
    traceback or None
        New objects, from the outermost frame to the public function. The same frames where the innermost one is of a
        library or of the caller's own code, where it is no `raise` statement (an error that nobody foresaw), or where
        `BRIDGEWORK_TRACEBACK` is "full".
    """
    chain = []
    while frames is not None:
        chain.append(frames)
        frames = frames.tb_next
    if not chain or not _raised_by_check(error, chain[-1]) or os.environ.get(SETTING) == "full":
        return chain[0] if chain else None
    inside: list[TracebackType] = []  # ours, from the innermost outwards, up to the caller's code
    while chain and (_is_ours(chain[-1]) or _is_library(chain[-1])):
        inside += [chain[-1]] if _is_ours(chain[-1]) else []
        chain.pop()
    functions = [each for each in inside if "<locals>" not in each.tb_frame.f_code.co_qualname]  # no decorators
    shown = None
    for each in [(functions or inside)[-1], *reversed(chain)]:
        shown = TracebackType(shown, each.tb_frame, each.tb_lasti, each.tb_lineno)
    return shown


def _raised_by_check(error: BaseException, innermost: TracebackType) -> bool:
    """Return whether a `raise` statement of the package made the error; what `assert` raises is nobody's check."""
    code = innermost.tb_frame.f_code.co_code
    foreseen = isinstance(error, Exception) and not isinstance(error, (AssertionError, NotImplementedError))
    return foreseen and _is_ours(innermost) and code[innermost.tb_lasti] == RAISE


def _is_ours(frame: TracebackType) -> bool:
    module = frame.tb_frame.f_globals.get("__name__") or ""
    return module.startswith(f"{PACKAGE}.") and not module.startswith(CALLERS)


def _is_library(frame: TracebackType) -> bool:
    return frame.tb_frame.f_code.co_filename.startswith((*LIBRARIES, "<frozen "))


def shorten_tracebacks() -> None:
    """Print tracebacks up to the public call from now on: those of IPython's cells, or of the interpreter.

    A handler that somebody else has set in IPython stays as it is.
    """
    interactive = sys.modules.get("IPython")
    shell = interactive.get_ipython() if interactive is not None else None
    if shell is None:
        sys.excepthook = _Hook(sys.excepthook)
    elif not shell.custom_exceptions:
        shell.set_custom_exc((Exception,), _show_in_cell)


class _Hook:
    """Hand errors with shortened frames to the hook that was set before."""

    def __init__(self, previous: Any) -> None:
        self.previous = previous

    def __call__(self, kind: type[BaseException], error: BaseException, frames: TracebackType | None) -> None:
        shown = up_to_public_call(error, frames)
        try:
            self.previous(kind, error.with_traceback(shown), shown)
        finally:
            error.with_traceback(frames)


def _show_in_cell(shell: Any, kind: Any, error: Any, frames: Any, tb_offset: int | None = None) -> None:
    """Show an error of a cell; `%tb` and `%debug` find all of its frames afterwards."""
    shown = up_to_public_call(error, frames)
    shell.showtraceback((kind, error, shown), tb_offset=tb_offset, running_compiled_code=True)
    sys.last_traceback = shell.InteractiveTB.tb = frames
