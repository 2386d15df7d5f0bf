"""Write and read a feature store: a folder of shards and one JSON file.

    features.json                 how the features were made, what they are, which shards hold them
    shard-00000.safetensors ...   the features of some samples each (probes/features/shards.py)

A store is read one layer at a time. Features of two extractions are never mixed in it. A shard appears whole or not at
all, and its metadata say how it was made; features.json comes last. So an extraction that was stopped at any moment, by
kill -9 too, resumes with the shards that are missing.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..files import remove_partial_files, write_atomically
from .layer_features import LayerFeatures
from .lazy_values import features_of
from .shards import FORMAT, Shard, check_format, open_shard, read_metadata, write_shard

INDEX = "features.json"


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


def existing_shards(folder: Path, provenance: dict[str, Any], numbers: Iterable[int]) -> set[int]:
    """Find the shards that are there already, and remove what killed writers left of the others.

    Parameters
    ----------
    folder : pathlib.Path
        The store. It is made if it is missing.
    provenance : dict
        How the features are to be made.
    numbers : iterable of int
        The shards to look for.

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
    _check_folder(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / INDEX).is_file():
        _check_same(folder, provenance, _read_index(folder)["made"])
    found = set()
    for number in numbers:
        path = shard_path(folder, number)
        remove_partial_files(path)
        if path.exists():
            _check_same(folder, provenance, read_metadata(path)["made"])
            found.add(number)
    return found


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
            f"{shard_path(folder, number)} cannot be written ({error}); {done} of {count} shards are there and whole: "
            "make room, then run the same command again: it resumes here"
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
    paths = [shard_path(folder, number) for number in range(count)]
    index = index_of([read_metadata(path) for path in paths], [str(folder)] * count)
    for entry, path in zip(index["shards"], paths, strict=True):
        entry |= {"file": path.name, "bytes": path.stat().st_size}
    text = json.dumps(index, sort_keys=True, indent=1) + "\n"
    if not (folder / INDEX).is_file() or (folder / INDEX).read_text(encoding="utf-8") != text:
        remove_partial_files(folder / INDEX)
        try:
            write_atomically(folder / INDEX, lambda path: path.write_text(text, encoding="utf-8"))
        except OSError as error:
            raise OSError(
                f"{folder / INDEX} cannot be written ({error}); all {count} shards are there and whole: make room, "
                "then run the same command again: it resumes here"
            ) from None


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
    index = _read_index(folder)
    paths = [folder / entry["file"] for entry in index["shards"]]
    for path, entry in zip(paths, index["shards"], strict=True):
        if not path.is_file() or path.stat().st_size != entry["bytes"]:
            with open_shard(path):  # raises the error that fits a missing, foreign or cut file
                raise ValueError(f"{path} is not the shard that was written: remove it and extract again")
    return features_of(index, paths)


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
    ids = next(iter(features.values())).samples
    if any(part.samples != ids for part in features.values()):
        raise ValueError("the modalities have different stimuli: save each in another folder")
    metadata = {
        "format": FORMAT,
        "made": provenance | {"values": digest.hexdigest()},
        "parts": parts,
        "places": list(range(len(ids))),
        "ids": list(ids),
        "notes": {},
    }
    if not existing_shards(folder, json.loads(json.dumps(metadata["made"])), [0]):
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


def index_of(shards: Sequence[dict[str, Any]], where: Sequence[str]) -> dict[str, Any]:
    """Build the content of features.json from the metadata of the shards.

    Parameters
    ----------
    shards : sequence of dict
        The metadata of each shard, with the shapes of its tensors under `shapes` (`read_metadata`).
    where : sequence of str
        The name of each shard's folder, for error messages.

    Returns
    -------
    dict
        The index, as plain JSON.

    Raises
    ------
    ValueError
        The shards do not belong together.
    """
    shards = json.loads(json.dumps(shards))
    first = shards[0]
    ids: dict[int, str] = {}
    for shard, folder in zip(shards, where, strict=True):
        _check_same(folder, first["made"], shard["made"])
        _check_same(folder, first["parts"], shard["parts"])
        ids |= dict(zip(shard["places"], shard["ids"], strict=True))
    if sorted(ids) != list(range(sum(len(shard["ids"]) for shard in shards))):
        raise ValueError(f"the shards in {where[0]} are of different runs: extract into another folder")
    parts = {}
    for modality, part in first["parts"].items():
        shapes = [[shard["shapes"][f"{modality}/{name}"][0] for name in part["layers"]] for shard in shards]
        widths = [shape[-1] for shape in shapes[0]]
        (dtype,) = {shard["shapes"][f"{modality}/{name}"][1] for shard in shards for name in part["layers"]}
        behind = [max(sizes) for sizes in zip(*(shape[2:] for shard in shapes for shape in shard), strict=True)]
        swept = [shapes[0][0][0]] if len(part["timesteps"]) > 1 else []
        parts[modality] = part | {
            "widths": widths if len(set(widths)) > 1 else [],
            "shape": [*swept, len(widths), len(ids), *behind],
            "dtype": dtype,
        }
    return {
        "format": FORMAT,
        "made": first["made"],
        "parts": parts,
        "samples": [ids[place] for place in range(len(ids))],
        "shards": [{"places": shard["places"], "notes": shard["notes"]} for shard in shards],
    }


def _timed(part: LayerFeatures, values: Tensor) -> Tensor:
    return (values if part.swept else values[None]).detach().cpu()


def _check_folder(folder: Path) -> None:
    if folder.is_file():
        raise ValueError(f"{folder} is a file, as earlier versions wrote; a store is a folder: extract into one")


def _read_index(folder: Path) -> dict[str, Any]:
    _check_folder(folder)
    path = folder / INDEX
    if not path.is_file():
        if shard_path(folder, 0).exists() or any(folder.glob("shard-*.safetensors")):
            raise FileNotFoundError(
                f"{folder} holds an extraction that has not ended: run its command again, and it resumes"
            )
        raise FileNotFoundError(f"no features in {folder} (there is no {INDEX}): extract them first")
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
        found = index["format"]
    except (ValueError, TypeError, KeyError):
        raise ValueError(f"{path} is no index of features: remove it, and the same command writes it again") from None
    check_format(path, found)
    return index


def _check_same(folder: object, expected: Any, found: Any) -> None:
    """Raise ValueError naming what differs between how features are to be made and how those in the folder were."""
    ours, theirs = _flatten(json.loads(json.dumps(expected))), _flatten(found)
    names = (*ours, *(theirs.keys() - ours.keys()))
    wrong = [name for name in names if json.dumps(ours.get(name)) != json.dumps(theirs.get(name))]  # 1 == True
    if wrong:
        differences = "; ".join(
            f"{name}: expected {_short(ours.get(name))}, got {_short(theirs.get(name))}" for name in sorted(wrong)[:4]
        )
        raise ValueError(f"{folder} holds features made differently ({differences}): extract into another folder")


def _flatten(value: Any, name: str = "") -> dict[str, Any]:
    """Turn nested dicts into one, with dotted names."""
    if not isinstance(value, dict):
        return {name: value}
    parts = [_flatten(inner, f"{name}.{key}" if name else key) for key, inner in value.items()]
    return {path: leaf for part in parts for path, leaf in part.items()}


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
