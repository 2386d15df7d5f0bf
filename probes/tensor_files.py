"""Write tensors with a hash of each and a word on what they belong to, and check both when they are read."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

SEAL = "seal"
KEY = "bridgework"  # the only metadata key: with several, safetensors files are not byte-deterministic


def hash_tensor(tensor: Tensor) -> str:
    """Return the sha256 (hex) of a tensor's shape, dtype and bytes.

    Parameters
    ----------
    tensor : Tensor
        Any dense tensor.

    Returns
    -------
    str
        The hash.
    """
    import torch

    digest = hashlib.sha256(f"{tuple(tensor.shape)} {tensor.dtype}".encode())
    digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def hash_json(value: Any) -> str:
    """Return the sha256 (hex) of plain JSON, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def hash_file(path: str | os.PathLike[str]) -> str:
    """Return the sha256 (hex) of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def with_seal(value: dict[str, Any]) -> dict[str, Any]:
    """Return a dictionary of plain JSON with its hash under "seal", which `read_sealed` checks."""
    return value | {SEAL: hash_json(json.loads(json.dumps(value)))}


def without_seal(value: Mapping[str, Any]) -> dict[str, Any]:
    """Return a dictionary of plain JSON without its seal, if it has one.

    Parameters
    ----------
    value : mapping
        What `with_seal` returned, as a file holds it. Earlier versions wrote no seal, and people write none.

    Returns
    -------
    dict
        The rest.

    Raises
    ------
    ValueError
        The rest is not what was sealed.
    """
    rest = dict(value)
    if (written := rest.pop(SEAL, None)) is not None and written != hash_json(rest):
        raise ValueError("it does not say what was written")
    return rest


def read_sealed(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a JSON file that holds a dictionary, and check it against its seal, if it has one.

    Parameters
    ----------
    path : str or os.PathLike
        The file.

    Returns
    -------
    dict
        The dictionary, without the seal. Earlier versions wrote none.

    Raises
    ------
    ValueError
        The file is damaged, or something else.
    """
    try:
        value = json.loads(Path(path).read_text(encoding="utf-8"))
        if not isinstance(value, dict):
            raise ValueError("it holds no dictionary")
        return without_seal(value)
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}): remove it, then run what wrote it again") from None


def sealed(tensors: Mapping[str, Tensor], about: Any) -> dict[str, str]:
    """Return the metadata of a safetensors file that `read_tensors` checks.

    Parameters
    ----------
    tensors : mapping of str to Tensor
        What the file will hold.
    about : object
        What the tensors belong to, plain JSON.

    Returns
    -------
    dict
        One key, so that equal content gives equal bytes.
    """
    content = {"about": about, "hashes": {name: hash_tensor(tensor) for name, tensor in sorted(tensors.items())}}
    content = json.loads(json.dumps(content))
    return {KEY: json.dumps(content | {"seal": hash_json(content)}, sort_keys=True)}


def read_tensors(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], Any, dict[str, str]]:
    """Read a safetensors file and check what it holds against the hashes that were written with it.

    Parameters
    ----------
    path : str or os.PathLike
        The file.

    Returns
    -------
    tensors : dict of Tensor
        All tensors by name.
    about : object
        What they belong to; None where the file was written without hashes, so that nothing could be checked.
    metadata : dict
        The metadata as they stand in the file.

    Raises
    ------
    ValueError
        A tensor, a name or the description is not what was written.
    safetensors.SafetensorError
        The file is no whole safetensors file.
    """
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        metadata = file.metadata() or {}
        tensors = {name: file.get_tensor(name) for name in file.keys()}
    if KEY not in metadata:
        return tensors, None, metadata
    content = json.loads(metadata[KEY])
    written = content.pop("seal", None)
    if written != hash_json(content):
        raise ValueError("what it says of its tensors is not what was written")
    hashes = content["hashes"]
    if wrong := sorted(hashes.keys() ^ tensors.keys()):
        raise ValueError(f"{wrong[0]} is missing or left over")
    if damaged := [name for name, tensor in tensors.items() if hash_tensor(tensor) != hashes[name]]:
        raise ValueError(f"the values of {damaged[0]} are not those that were written")
    return tensors, content["about"], metadata
