"""Hash what a shard holds when it is written, and check it when it is read.

Every tensor has a hash of its bytes in the shard's metadata, so that reading one layer checks that layer alone. The
metadata have a hash too, their seal, which stands in the shard and in the store's index. What was checked once is not
checked again by the same process unless the file changes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from ..tensor_files import hash_json, hash_tensor

_CHECKED: set[tuple[Any, ...]] = set()  # (path, its times, size and inode, tensor or seal)


def seal(metadata: dict[str, Any]) -> str:
    """Return the hash of metadata, which hold the hashes of the tensors.

    Parameters
    ----------
    metadata : dict
        Plain JSON. A seal that is in it already is left out.

    Returns
    -------
    str
        A sha256 (hex).
    """
    return hash_json({name: value for name, value in metadata.items() if name != "seal"})


def check_tensor(path: Path, name: str, tensor: Tensor, expected: str) -> None:
    """Raise ValueError where a tensor's bytes are not those that were written.

    Parameters
    ----------
    path : pathlib.Path
        The file that it was read from.
    name : str
        Its name, MODALITY/LAYER with an ending.
    tensor : Tensor
        The whole tensor.
    expected : str
        The hash that was written with it.

    Raises
    ------
    ValueError
        The file and the layer.
    """
    if hash_tensor(tensor) != expected:
        modality, layer, *ending = name.split("/")
        what = " ".join([f"layer {layer!r} of {modality}", *(f"({part})" for part in ending)])
        raise ValueError(
            f"{path} is damaged: the values of {what} are not those that were written; remove the file and "
            "extract again"
        )
    remember(path, name)


def known(path: Path, name: str) -> bool:
    """Return whether this process has checked something in a file that has not changed since."""
    return _key(path, name) in _CHECKED


def remember(path: Path, name: str) -> None:
    """Note that something in a file has been checked."""
    _CHECKED.add(_key(path, name))


def _key(path: Path, name: str) -> tuple[Any, ...]:
    stat = path.stat()
    return str(path.absolute()), stat.st_mtime_ns, stat.st_ctime_ns, stat.st_size, stat.st_ino, name
