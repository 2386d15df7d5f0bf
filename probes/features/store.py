"""The feature store: a folder of shards and one JSON, read a layer at a time, never mixed and never half.

    features.json                 how the features were made, what they are, which shards hold them
    shard-00000.safetensors ...   some samples' features each (probes/features/shards.py)

A shard appears whole or not at all and says itself how it was made; features.json comes last. So an extraction that was
stopped at any moment, by kill -9 too, goes on with the shards that are missing.
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
    return folder / f"shard-{number:05d}.safetensors"


def existing_shards(folder: Path, made: dict[str, Any], numbers: Iterable[int]) -> set[int]:
    """Which of these shards are there already, made as described; what killed writers left of the others goes.

    Raises:
        ValueError: the folder holds features that were made differently, or a damaged shard, or is a file.
        OSError: it cannot be made.
    """
    _check_folder(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / INDEX).is_file():
        _check_same(folder, made, _read_index(folder)["made"])
    found = set()
    for number in numbers:
        path = shard_path(folder, number)
        remove_partial_files(path)
        if path.exists():
            _check_same(folder, made, read_metadata(path)["made"])
            found.add(number)
    return found


def write_numbered_shard(folder: Path, number: int, count: int, shard: Shard) -> None:
    """Write one of `count` shards.

    Raises:
        OSError: it cannot be written; says how far the extraction came.
    """
    try:
        write_shard(shard_path(folder, number), shard)
    except OSError as error:
        done = sum(shard_path(folder, each).exists() for each in range(count))
        raise OSError(
            f"{shard_path(folder, number)} cannot be written ({error}); {done} of {count} shards are there and whole: "
            "make room, then the same command goes on from here"
        ) from None


def write_index(folder: Path, count: int) -> None:
    """Write features.json over all shards.

    Raises:
        FileNotFoundError, ValueError: a shard is missing, damaged or made differently. OSError: as `write_numbered_shard`.
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
                "then the same command goes on from here"
            ) from None


def load(folder: str | os.PathLike[str]) -> tuple[dict[str, LayerFeatures], dict[str, Any]]:
    """Return the modalities and the provenance of a store, as `Features.load` takes them; reads no tensor."""
    folder = Path(folder)
    index = _read_index(folder)
    paths = [folder / entry["file"] for entry in index["shards"]]
    for path, entry in zip(paths, index["shards"], strict=True):
        if not path.is_file() or path.stat().st_size != entry["bytes"]:
            with open_shard(path):  # a missing, foreign or cut file says so itself
                raise ValueError(f"{path} is not the shard that was written: remove it and extract again")
    return features_of(index, paths)


def save(features: Mapping[str, LayerFeatures], provenance: dict[str, Any], folder: str | os.PathLike[str]) -> None:
    """Write features in memory as a store of one shard, as `Features.save` does."""
    folder, tensors, parts = Path(folder), {}, {}
    for modality, part in features.items():
        for at, name in enumerate(part.layers):
            tensors[f"{modality}/{name}"] = _timed(part, part.layer(name))
            if part.counts is not None:
                tensors[f"{modality}/{name}/counts"] = part.counts[at][None]
            if part.cleaned is not None:
                tensors[f"{modality}/{name}/clamped"] = _timed(part, part.cleaned.layer(name))
        cleaned = "standardised" if part.cleaned is not None else None
        parts[modality] = describe(part, cleaned)
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode() + tensors[name].contiguous().flatten().view(torch.uint8).cpu().numpy().tobytes())
    ids = next(iter(features.values())).samples
    if any(part.samples != ids for part in features.values()):
        raise ValueError("the modalities are of different stimuli: save them in folders of their own")
    told = {
        "format": FORMAT,
        "made": provenance | {"values": digest.hexdigest()},
        "parts": parts,
        "places": list(range(len(ids))),
        "ids": list(ids),
        "notes": {},
    }
    if not existing_shards(folder, json.loads(json.dumps(told["made"])), [0]):
        write_numbered_shard(folder, 0, 1, Shard(tensors, told))
    write_index(folder, 1)


def describe(part: LayerFeatures, cleaned: str | None) -> dict[str, Any]:
    """The labels of one modality's features; `cleaned` says how far the cleaned values of the shards are."""
    names = ("layers", "depths", "subject", "task", "pass_", "pooling", "timesteps")
    return {name: getattr(part, name) for name in names} | {"cleaned": cleaned}


def index_of(shards: Sequence[dict[str, Any]], where: Sequence[str]) -> dict[str, Any]:
    """What features.json says, from what the shards say of themselves (`where` names each in errors).

    Raises:
        ValueError: shards that do not belong together.
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
            raise FileNotFoundError(f"{folder} holds an extraction that has not ended: its command goes on with it")
        raise FileNotFoundError(f"no features in {folder} (there is no {INDEX}): extract them first")
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
        found = index["format"]
    except (ValueError, TypeError, KeyError):
        raise ValueError(f"{path} is no index of features: remove it, and the same command writes it again") from None
    check_format(path, found)
    return index


def _check_same(folder: object, expected: Any, found: Any) -> None:
    """ValueError naming what differs between how features are to be made and how those in the folder were."""
    ours, theirs = _flat(json.loads(json.dumps(expected))), _flat(found)
    names = (*ours, *(theirs.keys() - ours.keys()))
    wrong = [name for name in names if json.dumps(ours.get(name)) != json.dumps(theirs.get(name))]  # 1 == True
    if wrong:
        told = "; ".join(
            f"{name}: expected {_short(ours.get(name))}, got {_short(theirs.get(name))}" for name in sorted(wrong)[:4]
        )
        raise ValueError(f"{folder} holds features made differently ({told}): extract into another folder")


def _flat(value: Any, name: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {name: value}
    inside = [_flat(part, f"{name}.{at}" if name else at) for at, part in value.items()]
    return {key: each for part in inside for key, each in part.items()}


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
