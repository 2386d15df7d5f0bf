"""Let one process at a time write a folder, and name the process that does."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from .files import remove_all_partial_files
from .single_contexts import single_context

LOCK = ".writing"  # in the folder, while somebody writes it
_held: dict[Path, int] = {}  # the thread of this process that writes each folder


@single_context
def writing(folder: str | os.PathLike[str], complete: bool = False) -> Iterator[None]:
    """Keep other writers out of a folder inside the block.

    The system holds the lock, and lets go of it when a process ends, whatever ends it: a lock that a dead process has
    left is taken over at once, and the partial files beside it are removed. Readers need no lock, because files appear
    whole.

    Parameters
    ----------
    folder : str or os.PathLike
        The folder. It is made if it is missing. Inside the block the same thread may lock it again. A folder that
        cannot be written, or whose file system knows no locks, is not locked.
    complete : bool
        Whether nothing is left to write: then the folder is not locked, and only what a dead process has left goes.

    Yields
    ------
    None

    Raises
    ------
    RuntimeError
        Another process, or another thread of this one, writes the folder. The message names it.
    """
    folder, thread = Path(folder).absolute(), threading.get_ident()
    if _held.get(folder) == thread:
        yield
        return
    if complete:
        if (folder / LOCK).exists():
            with suppress(RuntimeError):
                _let_go(folder / LOCK, _locked(folder / LOCK))
        yield
        return
    handle = _locked(folder / LOCK)
    _held[folder] = thread
    try:
        yield
    finally:
        del _held[folder]
        _let_go(folder / LOCK, handle)


def _let_go(path: Path, handle: int | None) -> None:
    """Remove a lock file before it is let go of, so that nobody's own file is removed."""
    if handle is not None:
        path.unlink(missing_ok=True)
        os.close(handle)


def _locked(path: Path) -> int | None:
    """Return the open lock file, None where there can be none."""
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError:  # what cannot be written is said by whoever has something to write
            return None
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not _is_there(path, handle):  # its writer has just ended, and removed it
                os.close(handle)
                continue
            if os.fstat(handle).st_size:  # its writer was killed
                remove_all_partial_files(path.parent)
            about = {"process": os.getpid(), "host": socket.gethostname()}
            about |= {"since": f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC"}
            os.ftruncate(handle, 0)
            os.pwrite(handle, json.dumps(about).encode(), 0)
        except BlockingIOError:
            who = _named(os.pread(handle, 1000, 0))
            os.close(handle)
            raise RuntimeError(
                f"{path.parent} is written by {who}: wait until it has ended, end it, or give another folder"
            ) from None
        except OSError:  # no locks on this file system, or no room for the name
            pass
        except BaseException:  # interrupted: this process would keep the lock, and not know it
            os.close(handle)
            raise
        return handle


def _is_there(path: Path, handle: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(handle))
    except FileNotFoundError:
        return False


def _named(content: bytes) -> str:
    """Say who holds a lock, by what its file says."""
    try:
        about = json.loads(content)
        return f"process {about['process']} on {about['host']} since {about['since']}"
    except (ValueError, KeyError, TypeError):  # it has not written its name yet
        return "another process"
