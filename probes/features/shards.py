"""Write and read one shard of a feature store.

A shard is a safetensors file with the features of some samples. Its metadata describe them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..files import write_atomically

FORMAT = 1
NAMES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}  # as safetensors has them
KEY = "bridgework"  # the only metadata key: with several, safetensors files are not byte-deterministic


class Shard(NamedTuple):
    """The content of one shard.

    Attributes
    ----------
    tensors : dict of torch.Tensor
        By name: MODALITY/LAYER, and MODALITY/LAYER/clamped where features are cleaned, (timestep, sample, ...);
        MODALITY/LAYER/counts where tokens are kept, (timestep, sample).
    metadata : dict
        Plain JSON with these keys. `format`: the version of the format. `made`: how the features were made, equal in
        all shards of a store. `parts`: the layers of each modality, also equal. `places` and `ids`: the samples of the
        stimuli that are in this shard. `notes`: what holds for this shard alone.
    """

    tensors: dict[str, Tensor]
    metadata: dict[str, Any]


def write_shard(path: Path, shard: Shard) -> None:
    """Write a shard, whole or not at all. Equal shards give equal bytes.

    Parameters
    ----------
    path : pathlib.Path
        The file.
    shard : Shard
        Its content.

    Raises
    ------
    OSError
        The file cannot be written, as on a full disk.
    """
    metadata = {KEY: json.dumps(shard.metadata, sort_keys=True)}
    tensors = {name: tensor.contiguous() for name, tensor in shard.tensors.items()}
    try:
        write_atomically(path, lambda temporary: save_file(tensors, temporary, metadata=metadata))
    except SafetensorError as error:  # safetensors wraps the system's errors
        raise OSError(str(error)) from None


def read_metadata(path: Path) -> dict[str, Any]:
    """Read the metadata of a shard, and the shapes of its tensors, but no tensor.

    Parameters
    ----------
    path : pathlib.Path
        The file.

    Returns
    -------
    dict
        `Shard.metadata`, with the shapes and dtypes of the tensors under `shapes`.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ValueError
        The file is damaged, of another format, or of another kind.
    """
    with open_shard(path) as file:
        try:
            metadata = json.loads((file.metadata() or {})[KEY])
            found = metadata["format"]
        except (KeyError, ValueError, TypeError):
            raise ValueError(f"{path} is a safetensors file but no shard of features: remove it") from None
        if found != FORMAT:
            raise ValueError(_other_format(path, found))
        slices = {name: file.get_slice(name) for name in file.keys()}
        shapes = {name: (tuple(part.get_shape()), part.get_dtype()) for name, part in slices.items()}
    return metadata | {"shapes": shapes}


def shapes_of(tensors: dict[str, Tensor]) -> dict[str, tuple[tuple[int, ...], str]]:
    """Return the shapes and dtypes of tensors as the header of a shard states them.

    Parameters
    ----------
    tensors : dict of torch.Tensor
        Tensors by name.

    Returns
    -------
    dict of tuple
        (shape, dtype) by name; the dtype as safetensors spells it, such as "F32".
    """
    return {name: (tuple(tensor.shape), NAMES.get(tensor.dtype, "I64")) for name, tensor in tensors.items()}


@contextmanager
def open_shard(path: Path) -> Iterator[Any]:
    """Open a shard for reading, if it is a safetensors file. Nothing is ever unpickled.

    Parameters
    ----------
    path : pathlib.Path
        The file.

    Yields
    ------
    safetensors.safe_open
        The open file.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ValueError
        The file is damaged or of another kind.
    """
    if not path.is_file():
        raise FileNotFoundError(f"the shard {path} is missing: run the extraction again, which writes it again")
    try:
        opened = safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise ValueError(_refusal(path, error)) from None
    with opened as file:
        yield file


def check_format(path: Path, found: object) -> None:
    """Raise ValueError for a store that another version wrote.

    Parameters
    ----------
    path : pathlib.Path
        The file, for the message.
    found : object
        The format that the file states.
    """
    if found != FORMAT:
        raise ValueError(_other_format(path, found))


def _other_format(path: Path, found: object) -> str:
    return (
        f"{path} has format {found!r}, this version of bridgework reads {FORMAT}: extract into another folder, or read "
        "it with the version that wrote it"
    )


def _refusal(path: Path, error: Exception) -> str:
    with open(path, "rb") as file:
        start = file.read(2)
    if start == b"PK" or start[:1] == b"\x80":
        kind = "a pickle" if start[:1] == b"\x80" else "a zip archive, as torch.save writes"
        return f"{path} is {kind}, not safetensors: refused, nothing is ever unpickled; remove it and extract again"
    size = os.path.getsize(path)
    return f"{path} is no whole safetensors file ({size} bytes: {error}): remove it and extract again"
