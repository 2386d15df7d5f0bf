"""Write files whole or not at all, and find the folder for what is downloaded once."""

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
    """Write a file so that readers see the old one or the new one, never a part.

    This holds when the process is killed and when power is lost, at any moment. `remove_partial_files` removes what
    such an end leaves behind.

    Parameters
    ----------
    path : str or os.PathLike
        The file to write. Its folder is made if it is missing.
    write : callable
        `write(temporary)` fills a file of the same name in a temporary folder beside `path`. The file is then moved
        into place.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))  # libraries may put more files beside it
    try:
        write(folder / path.name)
        os.chmod(folder / path.name, 0o644)
        _sync(folder / path.name)
        os.replace(folder / path.name, path)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    _sync(path.parent)


def write_csv(path: str | os.PathLike[str], table: pd.DataFrame, **options: Any) -> None:
    """Write a table as CSV, whole or not at all.

    Parameters
    ----------
    path : str or os.PathLike
        The file to write.
    table : pandas.DataFrame
        The table. Its index is left out unless `options` asks for it.
    **options
        Options of `DataFrame.to_csv`.
    """
    write_atomically(path, lambda file: table.to_csv(file, **{"index": False, **options}))


def write_parquet(path: str | os.PathLike[str], table: pd.DataFrame) -> None:
    """Write a table as Parquet, whole or not at all.

    Parameters
    ----------
    path : str or os.PathLike
        The file to write.
    table : pandas.DataFrame
        The table.
    """
    write_atomically(path, table.to_parquet)


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write a value as JSON, indented by two spaces, whole or not at all.

    Parameters
    ----------
    path : str or os.PathLike
        The file to write.
    value : object
        Anything that `json.dumps` takes.
    """
    text = json.dumps(value, indent=2) + "\n"
    write_atomically(path, lambda file: file.write_text(text, encoding="utf-8"))


def remove_partial_files(path: str | os.PathLike[str]) -> None:
    """Remove what killed writers of a file left beside it.

    Parameters
    ----------
    path : str or os.PathLike
        The file that they were writing. Nobody may be writing it now.
    """
    for folder in Path(path).parent.glob(f".{Path(path).name}.*"):
        shutil.rmtree(folder, ignore_errors=True)


def home() -> Path:
    """Return the folder for downloaded weights and pictures.

    Returns
    -------
    pathlib.Path
        `$BRIDGEWORK_HOME`, or ~/.cache/bridgework where that is not set.
    """
    return Path(os.environ.get("BRIDGEWORK_HOME") or Path.home() / ".cache" / "bridgework").expanduser().absolute()


def _sync(path: Path) -> None:
    """Wait until a file or folder is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
