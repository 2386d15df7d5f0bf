"""Write and read a feature store: a folder of shards and one JSON file.

    features.json                 how the features were made, what they are, which shards hold them
    shard-00000.safetensors ...   the features of some samples each (probes/features/shards.py)

A store is read one layer at a time. Features of two extractions are never mixed in it. A shard appears whole or not at
all, and its metadata say how it was made; features.json comes last. So an extraction that was stopped at any moment, by
kill -9 too, resumes with the shards that are missing. Opening a store checks the labels of its shards, and reading a
layer checks its values (probes/features/checksums.py).
"""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..files import cause_of, remove_partial_files, write_atomically
from .layer_features import LayerFeatures
from .lazy_values import features_of
from .shards import FORMAT, UNCHECKED, Shard, open_shard, read_metadata, read_tensor, write_shard
from .store_folder import INDEX, check_folder
from .store_index import check_index, check_same, index_of, read_index


def shard_path(folder: Path, number: int) -> Path:
    """Return the path of one shard.

    Parameters
    ----------
    folder : pathlib.Path
        The store.
    number : int
        The shard's number.

    Returns
    -------
    pathlib.Path
        The file.
    """
    return folder / f"shard-{number:05d}.safetensors"


def existing_shards(
    folder: Path, provenance: dict[str, Any], numbers: Iterable[int], samples: int | None = None
) -> set[int]:
    """Find the shards that are there already, and remove what killed writers left of the others.

    Parameters
    ----------
    folder : pathlib.Path
        The store. It is made if it is missing.
    provenance : dict
        How the features are to be made.
    numbers : iterable of int
        The shards to look for.
    samples : int, optional
        How many stimuli the features are to be of, for the message.

    Returns
    -------
    set of int
        The numbers of those that are there.

    Raises
    ------
    ValueError
        The folder holds features that were made differently, or a damaged shard, or is a file.
    OSError
        The folder cannot be made.
    """
    check_folder(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / INDEX).is_file():
        index = read_index(folder)
        counts = None if samples is None else (samples, len(index["samples"]))
        check_same(folder, provenance, index["made"], counts=counts)
    found = set()
    for number in numbers:
        path = shard_path(folder, number)
        remove_partial_files(path)
        if path.exists():
            check_same(folder, provenance, read_metadata(path)["made"])
            found.add(number)
    return found


def is_complete(folder: Path) -> bool:
    """Return whether a folder holds a store whose extraction has ended."""
    return (folder / INDEX).is_file()


def write_numbered_shard(folder: Path, number: int, count: int, shard: Shard) -> None:
    """Write one shard of a store.

    Parameters
    ----------
    folder : pathlib.Path
        The store.
    number : int
        The shard's number.
    count : int
        The number of shards of the whole store.
    shard : Shard
        The shard's content.

    Raises
    ------
    OSError
        The shard cannot be written. The message says how many shards are there.
    """
    try:
        write_shard(shard_path(folder, number), shard)
    except OSError as error:
        done = sum(shard_path(folder, other).exists() for other in range(count))
        raise OSError(
            f"{shard_path(folder, number)} cannot be written ({cause_of(error)}); {done} of {count} shards are there "
            "and whole: make room, then run the same command again: it resumes here"
        ) from None


def write_index(folder: Path, count: int) -> None:
    """Write features.json over all shards.

    Parameters
    ----------
    folder : pathlib.Path
        The store.
    count : int
        The number of its shards.

    Raises
    ------
    FileNotFoundError
        A shard is missing.
    ValueError
        A shard is damaged or was made differently.
    OSError
        The file cannot be written.
    """
    text = json.dumps(_rebuilt(folder, count), sort_keys=True, indent=1) + "\n"
    if not (folder / INDEX).is_file() or (folder / INDEX).read_text(encoding="utf-8") != text:
        remove_partial_files(folder / INDEX)
        try:
            write_atomically(folder / INDEX, lambda path: path.write_text(text, encoding="utf-8"))
        except OSError as error:
            raise OSError(
                f"{folder / INDEX} cannot be written ({cause_of(error)}); all {count} shards are there and whole: "
                "make room, then run the same command again: it resumes here"
            ) from None


def read_ending(folder: Path, count: int, ending: str) -> list[dict[str, Tensor]]:
    """Read the tensors of every shard whose names end alike.

    Parameters
    ----------
    folder : pathlib.Path
        The store.
    count : int
        The number of its shards.
    ending : str
        The ending.

    Returns
    -------
    list of dict of torch.Tensor
        Of each shard, the tensors by name.

    Raises
    ------
    FileNotFoundError
        A shard is missing.
    ValueError
        A shard is damaged.
    """
    found = []
    for number in range(count):
        path = shard_path(folder, number)
        seal = read_metadata(path)["seal"]
        with open_shard(path) as file:
            names = [name for name in file.keys() if name.endswith(ending)]
            found.append({name: read_tensor(file, path, name, slice(None), seal) for name in names})
    return found


def load(folder: str | os.PathLike[str]) -> tuple[dict[str, LayerFeatures], dict[str, Any]]:
    """Open a store without reading a tensor, for `Features.load`.

    Parameters
    ----------
    folder : str or os.PathLike
        The store.

    Returns
    -------
    modalities : dict of LayerFeatures
        The features of each modality.
    provenance : dict
        How they were made.

    Raises
    ------
    FileNotFoundError
        There is no store, or its extraction has not ended.
    ValueError
        The store was written by another version, or a file in it is damaged or of another kind.
    """
    folder = Path(folder)
    index = read_index(folder, unchecked=True)
    count = len(index["shards"])
    check_index(folder / INDEX, index, _rebuilt(folder, count, unchecked=True))
    if index["format"] == UNCHECKED:
        warnings.warn(
            f"{folder} was written before stores held hashes (format {UNCHECKED}): whether its values are those that "
            "were written cannot be checked; extract again for a store that can be",
            stacklevel=3,
        )
    return features_of(index, [shard_path(folder, number) for number in range(count)])


def _rebuilt(folder: Path, count: int, unchecked: bool = False) -> dict[str, Any]:
    """Build the index of a store from its shards."""
    paths = [shard_path(folder, number) for number in range(count)]
    index = index_of([read_metadata(path, unchecked) for path in paths], [str(folder)] * count)
    for entry, path in zip(index["shards"], paths, strict=True):
        entry |= {"file": path.name, "bytes": path.stat().st_size}
    return index


def save(features: Mapping[str, LayerFeatures], provenance: dict[str, Any], folder: str | os.PathLike[str]) -> None:
    """Write features in memory as a store of one shard, for `Features.save`.

    Parameters
    ----------
    features : mapping of str to LayerFeatures
        The features by modality.
    provenance : dict
        How they were made.
    folder : str or os.PathLike
        The store. It is made if it is missing.

    Raises
    ------
    ValueError
        The folder holds other features, or the modalities have different stimuli.
    OSError
        The store cannot be written.
    """
    folder, tensors, parts = Path(folder), {}, {}
    for modality, part in features.items():
        for layer, name in enumerate(part.layers):
            tensors[f"{modality}/{name}"] = _timed(part, part.layer(name))
            if part.counts is not None:
                tensors[f"{modality}/{name}/counts"] = part.counts[layer][None]
            if part.cleaned is not None:
                tensors[f"{modality}/{name}/clamped"] = _timed(part, part.cleaned.layer(name))
        cleaned = "standardised" if part.cleaned is not None else None
        parts[modality] = describe(part, cleaned)
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode() + tensors[name].contiguous().flatten().view(torch.uint8).cpu().numpy().tobytes())
    first = next(iter(features.values()))
    ids, digests, groups = first.samples, first.digests, first.groups
    if any((p.samples, dict(p.digests), p.groups) != (ids, dict(digests), groups) for p in features.values()):
        raise ValueError("the modalities have different stimuli: save each in another folder")
    metadata = {
        "format": FORMAT,
        "made": provenance | {"values": digest.hexdigest()},
        "parts": parts,
        "places": list(range(len(ids))),
        "ids": list(ids),
        "digests": [digests[id] for id in ids] if digests.keys() >= set(ids) else [],
        **({"groups": list(groups)} if groups else {}),
        "notes": {"expert": dict(first.expert)} if first.expert else {},
    }
    if existing_shards(folder, json.loads(json.dumps(metadata["made"])), [0], len(ids)):
        there = read_metadata(shard_path(folder, 0))
        for name in ("parts", "ids", "digests", "groups"):
            check_same(folder, metadata.get(name), there.get(name), name)
    else:
        write_numbered_shard(folder, 0, 1, Shard(tensors, metadata))
    write_index(folder, 1)


def describe(part: LayerFeatures, cleaned: str | None) -> dict[str, Any]:
    """Return the labels of one modality's features, as a shard's metadata hold them.

    Parameters
    ----------
    part : LayerFeatures
        The features.
    cleaned : str or None
        The state of the cleaned values in the shards: "clamped", "standardised", or None where there are none.

    Returns
    -------
    dict
        The labels, as plain JSON.
    """
    names = ("layers", "depths", "subject", "task", "pass_", "pooling", "timesteps")
    return {name: getattr(part, name) for name in names} | {"cleaned": cleaned}


def _timed(part: LayerFeatures, values: Tensor) -> Tensor:
    return (values if part.swept else values[None]).detach().cpu()
