"""What was written is what is read: damage, other shards, edited labels and edited indices are named."""

from __future__ import annotations

import json
import os
import struct
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from bridgework.probes.extraction.extracting import extract
from bridgework.probes.features import shards
from bridgework.probes.features.checksums import seal
from bridgework.probes.features.features import Features
from bridgework.probes.features.store import read_ending
from bridgework.tests.probes.toys import TEXTS, contents, letters, open_toy

ASKED: dict[str, dict[str, Any]] = {
    "pooled": {},
    "tokens, cleaned": {"pooling": "none", "cleaned": True},
    "a sweep": {"timesteps": (0.2, 0.8)},
}
FIRST = "shard-00000.safetensors"
MOMENTS = count(10**18)


def flip(path: Path, at: int) -> None:
    """Change one bit of a file."""
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(bytes(content))
    later = next(MOMENTS)
    os.utime(path, ns=(later, later))  # clocks of file systems are coarse, and two changes may share a moment


def header(path: Path) -> tuple[dict[str, Any], int]:
    """The header of a safetensors file, and where the values begin."""
    content = path.read_bytes()
    (size,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + size]), 8 + size


def relabel(path: Path, change: Callable[[dict[str, Any]], object], sealed: bool = False) -> None:
    """Write a shard with other metadata."""
    with safe_open(path, "pt") as file:
        metadata = json.loads(file.metadata()[shards.KEY])
    change(metadata)
    if sealed:
        metadata["seal"] = seal(metadata)
    save_file(load_file(path), path, metadata={shards.KEY: json.dumps(metadata, sort_keys=True)})


@pytest.mark.parametrize("asked", ASKED.values(), ids=ASKED)
def test_one_bit_of_any_tensor_is_noticed(toy, tmp_path, asked):
    if "timesteps" in asked:
        toy = replace(toy, timed_tasks=("generation",), tasks=("generation",))
    store = tmp_path / "store"
    extract(toy, letters(*TEXTS), batch_size=1, store=store, **asked)
    for part in Features.load(store).values():  # what was read before does not hide what happens later
        part.load()
    tensors, start = header(store / FIRST)
    del tensors["__metadata__"]
    assert len(tensors) >= 8
    for name, tensor in tensors.items():
        flip(store / FIRST, start + tensor["data_offsets"][1] - 1)
        seen = Features.load(store)
        modality, layer, *ending = name.split("/")
        damage = rf"{FIRST} is damaged: the values of layer '{layer}' of {modality}"
        part = seen[modality].cleaned if ending == ["clamped"] else seen[modality]
        reads = [lambda part=part: part.values]
        if ending == ["counts"]:
            reads = [lambda part=part: part.counts]
        elif ending == ["norms"]:
            reads = [lambda: read_ending(store, 2 if asked.get("pooling") != "none" else 10, "/norms")]
        else:
            reads.append(lambda part=part, layer=layer: part.layer(layer))
            reads += [lambda part=part, layer=layer, time=t: part.at(time).layer(layer) for t in part.timesteps[:1]]
        for read in reads:
            with pytest.raises(ValueError, match=damage):
                read()
        other = next(each for each in part.layers if each != layer)
        part.layer(other)  # what is whole can be read
        flip(store / FIRST, start + tensor["data_offsets"][1] - 1)
    for part in Features.load(store).values():
        part.load()


def test_a_clock_that_jumps_hides_no_damage(toy, tmp_path, monkeypatch):
    monkeypatch.setattr(time, "time", lambda: -1e9)
    extract(toy, letters(*TEXTS), batch_size=1, store=tmp_path / "store")
    path = tmp_path / "store" / FIRST
    part = Features.load(tmp_path / "store")["image"]
    part.load()
    before, content = path.stat(), bytearray(path.read_bytes())
    content[header(path)[1]] ^= 1
    time.sleep(0.01)  # times of files are coarse
    path.write_bytes(bytes(content))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))  # as where the clock was set back
    assert (path.stat().st_mtime_ns, path.stat().st_size) == (before.st_mtime_ns, before.st_size)
    with pytest.raises(ValueError, match="is damaged: the values of layer"):
        for part in Features.load(tmp_path / "store").values():
            part.load()


def test_no_bit_of_the_header_changes_what_is_read_without_a_word(folder):
    """Whichever bit: an error, or the same features."""
    whole = Features.load(folder)
    expected = [(part.samples, part.layers, part.depths, part.values) for part in whole.values()]
    _, start = header(folder / FIRST)
    noticed = 0
    for at in range(0, start, 23):
        flip(folder / FIRST, at)
        try:
            seen = Features.load(folder)
            for part, (samples, layers, depths, values) in zip(seen.values(), expected, strict=True):
                assert (part.samples, part.layers, part.depths) == (samples, layers, depths)
                assert torch.equal(part.values, values)
        except ValueError as error:
            noticed += 1
            assert FIRST in str(error) or str(folder) in str(error)
        flip(folder / FIRST, at)
    assert noticed > 100


LABELS: dict[str, Callable[[dict[str, Any]], object]] = {
    "ids": lambda shard: shard["ids"].reverse(),
    "places": lambda shard: shard["places"].reverse(),
    "depths": lambda shard: shard["parts"]["image"].update(depths=[0.0, 0.1, 0.2, 1.0]),
    "layers": lambda shard: shard["parts"]["image"]["layers"].reverse(),
    "made": lambda shard: shard["made"].update(stimuli="others"),
    "hashes": lambda shard: shard["hashes"].update({"image/0": shard["hashes"]["image/1"]}),
}


@pytest.mark.parametrize("sealed", [False, True], ids=["as it is", "sealed again"])
@pytest.mark.parametrize("label", LABELS)
def test_a_shard_with_other_labels_is_refused(folder, label, sealed):
    relabel(folder / FIRST, LABELS[label], sealed)
    message = "is not the shard that was written|made differently" if sealed else "its labels are not those"
    with pytest.raises(ValueError, match=message):
        Features.load(folder)
    if not sealed:
        (folder / "features.json").unlink()  # an extraction that has not ended
        with pytest.raises(ValueError, match=rf"{FIRST} is damaged: its labels are not those that were written"):
            extract(open_toy(), letters(*TEXTS), batch_size=1, store=folder)


def test_another_shard_of_equal_size_is_refused(toy, folder, tmp_path):
    with torch.no_grad():
        toy.model.layers[0].linear.weight.add_(1)
    extract(toy, letters(*TEXTS), batch_size=1, store=tmp_path / "other")
    seen, before = Features.load(folder), (folder / FIRST).read_bytes()
    other = (tmp_path / "other" / FIRST).read_bytes()
    assert len(other) == len(before)
    seen["text"].layer("0")
    (folder / FIRST).write_bytes(other)
    with pytest.raises(ValueError, match="is not the shard that was written"):  # exchanged between two reads
        seen["image"].layer("0")
    with pytest.raises(ValueError, match="made differently"):
        Features.load(folder)
    (folder / FIRST).write_bytes(before)
    assert seen["image"].layer("0").shape == (10, 6)


INDICES: dict[str, Callable[[dict[str, Any]], object]] = {
    "a sample of a shard is left out": lambda index: index["shards"][0]["places"].pop(),
    "a shard is left out": lambda index: index["shards"].pop(),
    "a shard is listed twice": lambda index: index["shards"].append(index["shards"][0]),
    "places are exchanged": lambda index: index["shards"][0]["places"].reverse(),
    "a place is no whole number": lambda index: index["shards"][0]["places"].__setitem__(0, 0.0),
    "a place is True": lambda index: index["shards"][0]["places"].__setitem__(1, True),
    "samples are renamed": lambda index: index["samples"].reverse(),
    "fewer samples": lambda index: (index["samples"].pop(), index["parts"]["image"]["shape"].__setitem__(1, 9)),
    "depths": lambda index: index["parts"]["image"]["depths"].reverse(),
    "layers": lambda index: index["parts"]["text"]["layers"].reverse(),
    "task": lambda index: index["parts"]["text"].update(task="generation"),
    "how it was made": lambda index: index["made"].update(stimuli="others"),
    "a modality is left out": lambda index: index["parts"].pop("image"),
    "a file elsewhere": lambda index: index["shards"][0].update(file="../elsewhere.safetensors"),
    "what samples show": lambda index: index["digests"].reverse(),
}


@pytest.mark.parametrize("change", INDICES)
def test_an_index_that_says_something_else_than_its_shards_is_refused(folder, change):
    path = folder / "features.json"
    before = contents(folder)
    index = json.loads(path.read_text())
    INDICES[change](index)
    path.write_text(json.dumps(index))
    message = "does not say what its shards say|are of different runs|shard-00002.safetensors is missing"
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        Features.load(folder)
    path.unlink()  # the remedy
    extract(open_toy(), letters(*TEXTS), batch_size=1, store=folder)
    assert contents(folder) == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"samples": tuple("jihgfedcba")}, "ids: expected"),
        ({"depths": (0.0, 0.1, 0.2, 1.0)}, "parts.image.depths: expected"),
        ({"subject": "another"}, 'parts.image.subject: expected "another", got "toy"'),
        ({"layers": ("embeddings", "1", "0", "2")}, "values: expected"),
    ],
    ids=["ids", "depths", "subject", "layers"],
)
def test_a_second_save_under_other_labels_is_refused(toy, tmp_path, changes, message):
    made = extract(toy, letters(*TEXTS))
    made.save(tmp_path / "store")
    before = contents(tmp_path / "store")
    others = Features({name: replace(part, **changes) for name, part in made.items()}, made.provenance)
    with pytest.raises(ValueError, match="holds features made differently") as raised:
        others.save(tmp_path / "store")
    assert message in str(raised.value)
    assert contents(tmp_path / "store") == before
    made.save(tmp_path / "store")
    assert contents(tmp_path / "store") == before


def test_a_store_of_the_earlier_format_is_read_with_a_warning(toy, folder):
    whole = Features.load(folder)["image"].values
    index = json.loads((folder / "features.json").read_text())
    for entry in (index, *index["shards"]):
        for name in ("digests", "seal"):
            entry.pop(name, None)
    for number, entry in enumerate(index["shards"]):
        path = folder / f"shard-{number:05d}.safetensors"
        relabel(path, lambda shard: [shard.pop(name) for name in ("hashes", "seal", "digests")])
        relabel(path, lambda shard: shard.update(format=1))
        entry["bytes"] = path.stat().st_size
    (folder / "features.json").write_text(json.dumps(index | {"format": 1}))
    with pytest.warns(UserWarning, match=r"was written before stores held hashes .* cannot be checked; extract again"):
        seen = Features.load(folder)
    assert torch.equal(seen["image"].values, whole)
    with pytest.raises(ValueError, match=r"has format 1, this version of bridgework writes 2"):
        extract(toy, letters(*TEXTS), batch_size=1, store=folder)
    index["samples"].reverse()
    (folder / "features.json").write_text(json.dumps(index | {"format": 1}))
    with pytest.raises(ValueError, match="does not say what its shards say"):
        Features.load(folder)
