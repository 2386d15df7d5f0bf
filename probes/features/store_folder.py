"""Say whether a folder holds a feature store, without a library that reads it."""

from __future__ import annotations

from pathlib import Path

INDEX = "features.json"


def check_folder(folder: Path) -> None:
    """Raise ValueError where a store is a file."""
    if folder.is_file():
        raise ValueError(f"{folder} is a file, as earlier versions wrote; a store is a folder: extract into one")


def check_store(folder: Path) -> None:
    """Raise the error that says why a folder holds no features.

    Parameters
    ----------
    folder : pathlib.Path
        The store.

    Raises
    ------
    FileNotFoundError
        There is no store, or its extraction has not ended.
    ValueError
        It is a file.
    """
    check_folder(folder)
    if not (folder / INDEX).is_file():
        if any(folder.glob("shard-*.safetensors")):
            raise FileNotFoundError(
                f"{folder} holds an extraction that has not ended: run its command again, and it resumes"
            )
        raise FileNotFoundError(f"no features in {folder} (there is no {INDEX}): extract them first")
