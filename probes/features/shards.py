"""One shard of a feature store: a safetensors file with some samples' features and, as its metadata, what they are."""

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
    """What is in one shard.

    Attributes:
        tensors: MODALITY/LAYER, and where cleaned MODALITY/LAYER/clamped: (timestep, sample, ...); where tokens are
            kept MODALITY/LAYER/counts: (timestep, sample).
        told: plain JSON. format; made: how, equal in all shards of a store; parts: the layers of each modality, also
            equal; places and ids: which samples of the stimuli these are; notes: what is of this shard alone.
    """

    tensors: dict[str, Tensor]
    metadata: dict[str, Any]


def write_shard(path: Path, shard: Shard) -> None:
    """Write a shard, whole or not at all; equal shards give equal bytes.

    Raises:
        OSError: it cannot be written, as on a full disk.
    """
    metadata = {KEY: json.dumps(shard.metadata, sort_keys=True)}
    tensors = {name: tensor.contiguous() for name, tensor in shard.tensors.items()}
    try:
        write_atomically(path, lambda temporary: save_file(tensors, temporary, metadata=metadata))
    except SafetensorError as error:  # which is what it makes of the system's errors
        raise OSError(str(error)) from None


def read_metadata(path: Path) -> dict[str, Any]:
    """What a shard says it holds, and as `shapes` those of its tensors; reads no tensor.

    Raises:
        FileNotFoundError: no such file. ValueError: it is damaged, of another format, or of another kind.
    """
    with open_shard(path) as file:
        try:
            told = json.loads((file.metadata() or {})[KEY])
            found = told["format"]
        except (KeyError, ValueError, TypeError):
            raise ValueError(f"{path} is a safetensors file but no shard of features: remove it") from None
        if found != FORMAT:
            raise ValueError(_other_format(path, found))
        slices = {name: file.get_slice(name) for name in file.keys()}
        shapes = {name: (tuple(part.get_shape()), part.get_dtype()) for name, part in slices.items()}
    return told | {"shapes": shapes}


def shapes_of(tensors: dict[str, Tensor]) -> dict[str, tuple[tuple[int, ...], str]]:
    """Shape and dtype of tensors as a shard's header tells them."""
    return {name: (tuple(tensor.shape), NAMES.get(tensor.dtype, "I64")) for name, tensor in tensors.items()}


@contextmanager
def open_shard(path: Path) -> Iterator[Any]:
    """A shard, open for reading; nothing but safetensors is ever read, let alone unpickled."""
    if not path.is_file():
        raise FileNotFoundError(f"the shard {path} is missing: run the extraction again, which makes it anew")
    try:
        opened = safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise ValueError(_refusal(path, error)) from None
    with opened as file:
        yield file


def check_format(path: Path, found: object) -> None:
    """ValueError for a store that another version wrote."""
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
