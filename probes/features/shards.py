"""Write and read one shard of a feature store.

A shard is a safetensors file with the features of some samples. Its metadata describe them, and hold a hash of each
tensor (probes/features/checksums.py).
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..files import write_atomically
from ..single_contexts import single_context
from ..tensor_files import KEY, hash_tensor
from .checksums import check_tensor, known, remember, seal

FORMAT = 2
UNCHECKED = 1  # an earlier format without hashes, which can still be read
NAMES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}  # as safetensors has them


class Shard(NamedTuple):
    """The content of one shard.

    Attributes
    ----------
    tensors : dict of torch.Tensor
        By name: MODALITY/LAYER, and MODALITY/LAYER/clamped where features are cleaned, (timestep, sample, ...);
        MODALITY/LAYER/counts where tokens are kept, (timestep, sample); MODALITY/LAYER/norms where sinks are looked
        for, (timestep, sample, 3): median norm, largest norm of what is pooled, number of tokens left out.
    metadata : dict
        Plain JSON with these keys. `format`: the version of the format. `made`: how the features were made, equal in
        all shards of a store. `parts`: the layers of each modality, also equal. `places` and `ids`: the samples of the
        stimuli that are in this shard. `digests`: what each of them shows (`Stimuli.digests`); [] where nobody knows.
        `groups`: the image that each is a caption of, only where images have several (`Stimuli.groups`).
        `notes`: what holds for this shard alone. `write_shard` adds `hashes`, of each tensor, and `seal`, of all
        metadata.
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
    tensors = {name: tensor.contiguous() for name, tensor in shard.tensors.items()}
    metadata = json.loads(json.dumps(shard.metadata))
    metadata["hashes"] = {name: hash_tensor(tensor) for name, tensor in tensors.items()}
    text = {KEY: json.dumps(metadata | {"seal": seal(metadata)}, sort_keys=True)}
    write_atomically(path, lambda temporary: save_file(tensors, temporary, metadata=text))


def read_metadata(path: Path, unchecked: bool = False) -> dict[str, Any]:
    """Read the metadata of a shard, and the shapes of its tensors, but no tensor.

    Parameters
    ----------
    path : pathlib.Path
        The file.
    unchecked : bool
        Whether the earlier format without hashes is read as well.

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
        metadata = _metadata_of(file, path)
        check_format(path, metadata["format"], unchecked)
        slices = {name: file.get_slice(name) for name in file.keys()}
        shapes = {name: (tuple(part.get_shape()), part.get_dtype()) for name, part in slices.items()}
    named = {f"{modality}/{layer}" for modality, part in metadata["parts"].items() for layer in part["layers"]}
    if not named <= shapes.keys() or metadata.get("hashes", shapes).keys() != shapes.keys():
        raise ValueError(
            f"{path} is damaged: its tensors are not those that its labels name; remove the file and extract again"
        )
    return metadata | {"shapes": shapes}


def _metadata_of(file: Any, path: Path) -> dict[str, Any]:
    """Read and check the metadata of an open shard."""
    try:
        metadata = json.loads((file.metadata() or {})[KEY])
        found = metadata["format"]
    except (KeyError, ValueError, TypeError, RecursionError):
        raise ValueError(f"{path} is a safetensors file but no shard of features: remove it") from None
    if found == FORMAT and metadata.get("seal") != seal(metadata):
        raise ValueError(
            f"{path} is damaged: its labels are not those that were written; remove the file and extract again"
        )
    return metadata


def read_tensor(file: Any, path: Path, name: str, times: slice, expected: str | None) -> Tensor:
    """Read some timesteps of a tensor of an open shard, and check its bytes when this process first reads it.

    Parameters
    ----------
    file : safetensors.safe_open
        The open shard.
    path : pathlib.Path
        Its path.
    name : str
        The tensor's name.
    times : slice
        The timesteps.
    expected : str or None
        The seal of the shard that the store's index names. None reads without a check (the earlier format).

    Returns
    -------
    Tensor
        (timestep, sample, ...).

    Raises
    ------
    ValueError
        The values are not those that were written, or the file is another shard than the index names.
    """
    if expected is None or (known(path, expected) and known(path, name)):
        return file.get_slice(name)[times]
    metadata = _metadata_of(file, path)
    if metadata.get("seal") != expected:
        raise ValueError(not_written(path))
    remember(path, expected)
    tensor = file.get_tensor(name)
    check_tensor(path, name, tensor, metadata["hashes"].get(name, ""))
    return tensor[times]


def not_written(path: Path) -> str:
    """Return the message for a shard that is not the one that the index names."""
    return f"{path} is not the shard that was written: remove it and extract again"


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


@single_context
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


def check_format(path: Path, found: object, unchecked: bool = False) -> None:
    """Raise ValueError for a store that another version wrote.

    Parameters
    ----------
    path : pathlib.Path
        The file, for the message.
    found : object
        The format that the file states.
    unchecked : bool
        Whether the earlier format without hashes is read as well.
    """
    if found == FORMAT or (unchecked and found == UNCHECKED):
        return
    raise ValueError(
        f"{path} has format {found!r}, this version of bridgework writes {FORMAT}: extract into another folder, or use "
        "the version that wrote it"
    )


def _refusal(path: Path, error: Exception) -> str:
    with open(path, "rb") as file:
        start = file.read(2)
    if start == b"PK" or start[:1] == b"\x80":
        kind = "a pickle" if start[:1] == b"\x80" else "a zip archive, as torch.save writes"
        return f"{path} is {kind}, not safetensors: refused, nothing is ever unpickled; remove it and extract again"
    size = os.path.getsize(path)
    return f"{path} is no whole safetensors file ({size} bytes: {error}): remove it and extract again"
