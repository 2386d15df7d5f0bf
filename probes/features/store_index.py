"""The index of a store: what its shards hold, and whether they belong together.

The index repeats what the shards themselves say, so that it can be built again from them and checked against them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .shards import FORMAT, check_format, not_written
from .store_folder import INDEX, check_store

SHOWN = 4  # differences that an error names
OF_STIMULI = ("stimuli_digest", "values", "ids")  # what differs where their numbers do
HASH = re.compile(r"\b[0-9a-f]{12,64}\b")


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
    digests: dict[int, str] = {}
    groups: dict[int, str] = {}
    for shard, folder in zip(shards, where, strict=True):
        check_same(folder, first["made"], shard["made"])
        check_same(folder, first["parts"], shard["parts"])
        ids |= dict(zip(shard["places"], shard["ids"], strict=True))
        digests |= dict(zip(shard["places"], shard.get("digests", ()), strict=False))
        groups |= dict(zip(shard["places"], shard.get("groups", ()), strict=False))
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
        **{
            name: [found[place] for place in range(len(ids))]
            for name, found in (("digests", digests), ("groups", groups))
            if len(found) == len(ids)
        },
        "shards": [
            {"places": shard["places"], "notes": shard["notes"]} | {k: shard[k] for k in ("seal",) if k in shard}
            for shard in shards
        ],
    }


def check_index(path: Path, index: dict[str, Any], rebuilt: dict[str, Any]) -> None:
    """Raise ValueError where an index says something else than its shards.

    Parameters
    ----------
    path : pathlib.Path
        The index.
    index : dict
        What it holds.
    rebuilt : dict
        What `index_of` makes of the shards, with their files and sizes.

    Raises
    ------
    ValueError
        The first shard that is another one, or what differs.
    """
    ours, theirs = index.get("shards", []), rebuilt["shards"]
    for entry, shard in zip(ours, theirs, strict=False):
        if entry.get("seal") != shard.get("seal"):
            raise ValueError(not_written(path.parent / shard["file"]))
    unlike = [name for name in _unlike(index, rebuilt) if name != "format"]
    if unlike:
        wrong = _differences(rebuilt.get(unlike[0]), index.get(unlike[0]), unlike[0], ("the shards say", "it says"))
        raise ValueError(
            f"{path} does not say what its shards say ({wrong}): remove it, and the same command writes it again"
        )


def read_index(folder: Path, unchecked: bool = False) -> dict[str, Any]:
    """Read features.json.

    Parameters
    ----------
    folder : pathlib.Path
        The store.
    unchecked : bool
        Whether the earlier format without hashes is read as well.

    Returns
    -------
    dict
        The index.

    Raises
    ------
    FileNotFoundError
        There is no store, or its extraction has not ended.
    ValueError
        The file is no index, or of another format.
    """
    check_store(folder)
    path = folder / INDEX
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
        found = index["format"]
        listed = [(entry["file"], entry["bytes"], entry["places"]) for entry in index["shards"]]
        if not listed:
            raise ValueError
    except (ValueError, TypeError, KeyError, RecursionError):
        raise ValueError(f"{path} is no index of features: remove it, and the same command writes it again") from None
    check_format(path, found, unchecked)
    return index


def check_same(
    folder: object, expected: Any, found: Any, name: str = "", counts: tuple[int, int] | None = None
) -> None:
    """Raise ValueError naming what differs between how features are to be made and how those in the folder were.

    Parameters
    ----------
    folder : object
        The folder, for the message.
    expected, found : object
        Plain JSON.
    name : str
        What both are, for the message.
    counts : (int, int), optional
        How many stimuli are asked for, and how many there are.

    Raises
    ------
    ValueError
        Up to four differences, in words where the record holds hashes, which come last.
    """
    ours, theirs = _flatten(json.loads(json.dumps(expected)), name), _flatten(found, name)
    wrong = _unlike(ours, theirs)
    if not wrong:
        return
    fewer = [f"{counts[1]} stimuli are there, {counts[0]} are asked for"] if counts and counts[0] != counts[1] else []
    plain, later, record = [], [], []
    for each in wrong:
        pair = ours.get(each), theirs.get(each)
        words, raw = _in_words(each, *pair), _difference(each, *pair, ("expected", "got"))
        if fewer and each in OF_STIMULI:  # the numbers say it
            record.append(raw)
        elif _is_hash(*pair):
            later.append(words or raw)
            record += [raw] if words else []
        else:
            plain.append(words or raw)
    said = "; ".join([*fewer, *plain, *later][:SHOWN]) + (f" [{'; '.join(record[:SHOWN])}]" if record else "")
    raise ValueError(f"{folder} holds features made differently ({said}): extract into another folder")


def _in_words(name: str, ours: Any, theirs: Any) -> str:
    """Return what a difference of two records means, "" where its name and values say it."""
    part = name.split(".weights.", 1)[-1]
    if name == "stimuli_digest":
        return "other stimuli: an id, an image, a text or their order differs"
    if name == "values":
        return "other values"
    if ".weights." in name:
        there = " where there were none" if theirs is None else ""
        return f"other weights in {part}{there}" if ours is not None else f"no weights in {part}, where there were some"
    if name.startswith("subject.preprocessing.") and _is_hash(ours, theirs):
        return f"another {name.removeprefix('subject.preprocessing.')}, which makes the inputs"
    if name.startswith("versions."):
        return f"{part.removeprefix('versions.')} is {ours or 'missing'} here, and was {theirs or 'missing'}"
    return ""


def _is_hash(*values: Any) -> bool:
    """Return whether values say nothing to a reader."""
    return any(isinstance(value, str) and HASH.search(value) for value in values)


def _unlike(ours: dict[str, Any], theirs: dict[str, Any]) -> list[str]:
    """Return the names under which two flat records differ."""
    names = (*ours, *(theirs.keys() - ours.keys()))
    return sorted(each for each in names if _as_json(ours.get(each)) != _as_json(theirs.get(each)))  # 1 == True == 1.0


def _as_json(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def _difference(name: str, ours: Any, theirs: Any, words: tuple[str, str]) -> str:
    return f"{name}: {words[0]} {_short(ours)}, {words[1]} {_short(theirs)}"


def _differences(ours: Any, theirs: Any, name: str, words: tuple[str, str]) -> str:
    """Name up to four differences of two values of plain JSON, "" where there is none."""
    first, second = _flatten(ours, name), _flatten(theirs, name)
    wrong = _unlike(first, second)[:SHOWN]
    return "; ".join(_difference(each, first.get(each), second.get(each), words) for each in wrong)


def _flatten(value: Any, name: str = "") -> dict[str, Any]:
    """Turn nested dicts into one, with dotted names."""
    if not isinstance(value, dict):
        return {name: value}
    parts = [_flatten(inner, f"{name}.{key}" if name else key) for key, inner in value.items()]
    return {path: leaf for part in parts for path, leaf in part.items()}


def _short(value: Any) -> str:
    text = HASH.sub(lambda found: found[0][:12], json.dumps(value))
    return text if len(text) <= 60 else f"{text[:57]}..."
