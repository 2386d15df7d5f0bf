"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path


def write_whole(path: str | os.PathLike[str], write: Callable[[Path], object]) -> None:
    """Let `write` fill a file in a temporary folder beside `path`, then put it in place: readers see it old or new.

    That holds for a process killed and for power lost at any moment; what such an end leaves, `clear` removes.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))  # libraries put files of their own beside
    try:
        write(folder / path.name)
        os.chmod(folder / path.name, 0o644)
        _sync(folder / path.name)
        os.replace(folder / path.name, path)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    _sync(path.parent)


def clear(path: str | os.PathLike[str]) -> None:
    """Remove what killed attempts to write `path` left beside it. Nobody else may be writing it."""
    for folder in Path(path).parent.glob(f".{Path(path).name}.*"):
        shutil.rmtree(folder, ignore_errors=True)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
