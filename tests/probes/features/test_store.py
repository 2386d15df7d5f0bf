"""The store: the same features as in memory, the same bytes every time, and read a layer at a time."""

from __future__ import annotations

import json
import weakref
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bridgework.probes.extraction import jobs
from bridgework.probes.extraction.extracting import extract
from bridgework.probes.features import lazy_values, shards
from bridgework.probes.features.features import Features
from bridgework.probes.features.shards import open_shard
from bridgework.probes.features.store import write_numbered_shard
from bridgework.tests.probes.toys import TEXTS, Toy, contents, letters, many


def swept(toy: Toy) -> Toy:
    return replace(toy, timed_tasks=("generation",), tasks=("generation",))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"pooling": "last", "dtype": torch.float16},
        {"pooling": "grid:2", "cleaned": True, "dtype": torch.bfloat16},
        {"pooling": "none", "cleaned": True, "layers": ["0", "2"]},
        {"joint": True, "tokens": {"image": slice(1, 3)}},
    ],
    ids=lambda options: "-".join(options) or "plain",
)
@pytest.mark.parametrize("timesteps", [(), (0.5,), (0.2, 0.8)])
def test_a_store_holds_what_memory_would(toy, tmp_path, options, timesteps):
    subject = swept(toy) if timesteps else toy
    asked = {"batch_size": 1, "timesteps": timesteps, **options}
    memory = extract(subject, letters(*TEXTS), **asked)
    opened = extract(subject, letters(*TEXTS), store=tmp_path / "store", **asked)
    assert opened.provenance == memory.provenance
    assert len(list((tmp_path / "store").glob("shard-*"))) == (10 if options.get("pooling") == "none" else 2)
    for modality, part in memory.items():
        for ours, theirs in ((opened[modality], part), (opened[modality].cleaned, part.cleaned)):
            if theirs is None:
                assert ours is None
                continue
            for name in ("layers", "depths", "subject", "task", "pass_", "pooling", "timesteps", "samples", "widths"):
                assert getattr(ours, name) == getattr(theirs, name), name
            for name in theirs.layers:
                assert torch.equal(ours.layer(name), theirs.layer(name))
            for time_ in theirs.timesteps:
                assert torch.equal(ours.at(time_).values, theirs.at(time_).values)
                assert torch.equal(ours.at(time_).layer("0"), theirs.at(time_).layer("0"))
            assert torch.equal(ours.values, theirs.values)
            assert ours.values.dtype == theirs.values.dtype
            if theirs.counts is not None:
                assert torch.equal(ours.counts, theirs.counts)


def test_opening_reads_no_tensor_and_a_layer_no_other(folder, monkeypatch):
    read: list[str] = []
    real = open_shard

    class Recorded:
        def __init__(self, path: Path) -> None:
            self.context = real(path)

        def __enter__(self) -> Recorded:
            self.file = self.context.__enter__()
            return self

        def __exit__(self, *error: object) -> None:
            self.context.__exit__(*error)

        def metadata(self) -> dict[str, str]:
            return self.file.metadata()

        def get_slice(self, name: str) -> object:
            read.append(name)
            return self.file.get_slice(name)

        def get_tensor(self, name: str) -> torch.Tensor:
            read.append(name)
            return self.file.get_tensor(name)

    monkeypatch.setattr(lazy_values, "open_shard", Recorded)
    seen = Features.load(folder)
    assert len(seen["image"].samples) == 10
    assert not read
    assert seen["image"].layer("1").shape == (10, 6)
    assert set(read) == {"image/1"}
    assert "values" not in vars(seen["image"])
    assert seen["image"].values.shape == (4, 10, 6)
    assert {name.split("/")[0] for name in read} == {"image"}
    before = len(read)
    assert seen["image"].values is seen["image"].values
    assert torch.equal(seen["image"].layer("2"), seen["image"].values[3])
    assert len(read) == before


def test_repeated_it_is_the_same_bytes_and_nothing_is_done_twice(toy, folder, tmp_path, monkeypatch):
    extract(toy, letters(*TEXTS), batch_size=1, store=tmp_path / "again")
    assert contents(folder) == contents(tmp_path / "again")
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    shown: list[int] = []
    toy.model.layers[0].register_forward_hook(lambda module, inputs, output: shown.append(len(output)))
    monkeypatch.setattr(jobs, "made_of", lambda *_: json.loads((folder / "features.json").read_text())["made"])
    extract(toy, letters(*TEXTS), batch_size=1, store=folder)
    assert shown == [1, 1]  # one stimulus is shown again, in a pass of either modality
    seen = extract(toy, letters(*TEXTS), batch_size=1, store=folder, check=False)
    assert shown == [1, 1]
    assert before == {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert seen["image"].values.shape == (4, 10, 6)


def test_the_index_tells_how_it_was_made(folder):
    index = json.loads((folder / "features.json").read_text())
    made = index["made"]
    assert index["format"] == shards.FORMAT
    assert made["subject"]["models"]["model"]["class"].endswith("toys.Stack")
    assert {len(digest) for digest in made["subject"]["models"]["model"]["weights"].values()} == {16}
    assert (made["batch_size"], made["pooling"], made["noise"]) == (1, "mean", None)
    assert set(made["versions"]) == {"bridgework", "torch", "transformers", "diffusers"}
    assert index["samples"] == [f"id {text}" for text in TEXTS]
    assert sorted(place for shard in index["shards"] for place in shard["places"]) == list(range(10))
    with shards.open_shard(folder / "shard-00000.safetensors") as file:
        assert list(file.metadata()) == [shards.KEY]


def test_one_shard_is_in_memory_at_a_time(toy, tmp_path, monkeypatch):
    written: list[weakref.ref[torch.Tensor]] = []
    alive: list[int] = []
    show = toy.show

    def recorded(folder, number, count, shard):
        written.extend(weakref.ref(tensor) for tensor in shard.tensors.values())
        write_numbered_shard(folder, number, count, shard)

    def watched(*asked):
        alive.append(sum(each() is not None for each in written))
        return show(*asked)

    monkeypatch.setattr(jobs, "write_numbered_shard", recorded)
    toy.show = watched
    extract(toy, many(), batch_size=1, store=tmp_path / "store")
    assert len(written) == 5 * (8 + 4)  # five shards, four layers of two modalities, and norms of the text
    assert len(alive) == 82  # one stimulus is shown again
    assert not any(alive)


@pytest.mark.parametrize("options", [{}, {"pooling": "none"}, {"cleaned": True}, {"timesteps": (0.2, 0.8)}], ids=str)
def test_features_in_memory_are_saved_in_the_same_form(toy, tmp_path, options):
    subject = swept(toy) if "timesteps" in options else toy
    made = extract(subject, letters(*TEXTS), **options)
    for name in ("one", "two", "one"):
        made.save(tmp_path / name)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    read = Features.load(tmp_path / "one")
    assert read.provenance.items() >= made.provenance.items()
    for modality, part in made.items():
        assert torch.equal(read[modality].values, part.values)
        assert read[modality].samples == part.samples
        if part.cleaned is not None:
            assert torch.equal(read[modality].cleaned.values, part.cleaned.values)
        if part.counts is not None:
            assert torch.equal(read[modality].counts, part.counts)
    read.save(tmp_path / "three")
    assert torch.equal(Features.load(tmp_path / "three")["text"].values, made["text"].values)
    other = extract(subject, letters(*TEXTS[::-1]), **options)
    with pytest.raises(ValueError, match="holds features made differently"):
        other.save(tmp_path / "one")
