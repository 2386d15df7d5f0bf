"""Write files whole or not at all, and know the folder for what is fetched once."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd


def write_atomically(path: str | os.PathLike[str], write: Callable[[Path], object]) -> None:
    """Let `write` fill a file in a temporary folder beside `path`, then put it in place: readers see it old or new.

    That holds for a process killed and for power lost at any moment; what such an end leaves, `remove_partial_files` removes.
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


def write_csv(path: str | os.PathLike[str], table: pd.DataFrame, **options: Any) -> None:
    """Write a table as CSV, without its index; `options` are those of `DataFrame.to_csv`."""
    write_atomically(path, lambda file: table.to_csv(file, **{"index": False, **options}))


def write_parquet(path: str | os.PathLike[str], table: pd.DataFrame) -> None:
    """Write a table as Parquet."""
    write_atomically(path, table.to_parquet)


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write plain JSON, indented by two."""
    text = json.dumps(value, indent=2) + "\n"
    write_atomically(path, lambda file: file.write_text(text, encoding="utf-8"))


def remove_partial_files(path: str | os.PathLike[str]) -> None:
    """Remove what killed attempts to write `path` left beside it. Nobody else may be writing it."""
    for folder in Path(path).parent.glob(f".{Path(path).name}.*"):
        shutil.rmtree(folder, ignore_errors=True)


def home() -> Path:
    """Return the folder for fetched weights and pictures: $BRIDGEWORK_HOME, else ~/.cache/bridgework."""
    return Path(os.environ.get("BRIDGEWORK_HOME") or Path.home() / ".cache" / "bridgework").expanduser().absolute()


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
