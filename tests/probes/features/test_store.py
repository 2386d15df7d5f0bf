"""The store: whole at any moment, the same bytes every time, read a layer at a time, and never mixed."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
import weakref
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from bridgework.probes import files
from bridgework.probes.extraction import jobs
from bridgework.probes.extraction.extracting import extract
from bridgework.probes.features import lazy_values, shards, store
from bridgework.probes.features.features import Features
from bridgework.probes.features.shards import open_shard
from bridgework.probes.features.store import write_numbered_shard
from bridgework.tests.probes.toys import MOMENTS, Toy, letters, many, open_toy

TEXTS = ("a", "bc", "def", "ghij", "klmno", "p", "qr", "s", "tuv", "w")


@pytest.fixture
def toy() -> Toy:
    return open_toy()


@pytest.fixture
def folder(toy, tmp_path) -> Path:
    """A store of two shards."""
    extract(toy, letters(*TEXTS), batch_size=1, store=tmp_path / "store")
    return tmp_path / "store"


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


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

        def __exit__(self, *told: object) -> None:
            self.context.__exit__(*told)

        def get_slice(self, name: str) -> object:
            read.append(name)
            return self.file.get_slice(name)

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


def test_repeated_it_is_the_same_bytes_and_nothing_is_done_twice(toy, folder, tmp_path):
    extract(toy, letters(*TEXTS), batch_size=1, store=tmp_path / "again")
    assert contents(folder) == contents(tmp_path / "again")
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    toy.model.register_forward_pre_hook(lambda *_: pytest.fail("it ran again"))
    seen = extract(toy, letters(*TEXTS), batch_size=1, store=folder)
    assert before == {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert seen["image"].values.shape == (4, 10, 6)


def test_the_index_tells_how_it_was_made(folder):
    index = json.loads((folder / "features.json").read_text())
    made = index["made"]
    assert index["format"] == shards.FORMAT
    assert made["subject"]["models"]["model"]["class"].endswith("toys.Stack")
    assert len(made["subject"]["models"]["model"]["weights"]) == 64
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
    assert len(written) == 5 * 8  # five shards, four layers of two modalities
    assert len(alive) == 80
    assert not any(alive)


# Stopped


@pytest.fixture(scope="module")
def killed(tmp_path_factory) -> Path:
    """Folders in which processes were killed, by SIGKILL, at each of the moments; and one that was not."""
    folder = tmp_path_factory.mktemp("killed")
    code = "import sys, pathlib, bridgework.tests.probes.toys as toys; toys.kill_everywhere(pathlib.Path(sys.argv[1]))"
    done = subprocess.run([sys.executable, "-c", code, folder], capture_output=True, text=True)
    assert done.stdout.split() == [str(int(signal.SIGKILL))] * len(MOMENTS), done.stderr
    extract(open_toy(), many(), batch_size=1, store=folder / "whole")
    return folder


@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_at_any_moment_it_goes_on(killed, moment):
    folder = killed / moment
    with pytest.raises(FileNotFoundError, match="has not ended: run its command again, and it resumes"):
        Features.load(folder)
    there = {path.name: path.stat().st_mtime_ns for path in folder.glob("shard-*")}
    assert 1 <= len(there) <= 5
    time.sleep(0.01)
    extract(open_toy(), many(), batch_size=1, store=folder)
    assert contents(folder) == contents(killed / "whole")
    assert all((folder / name).stat().st_mtime_ns == when for name, when in there.items())


def test_interrupted_and_gone_on_with(toy, tmp_path):
    whole = extract(toy, many(), batch_size=1, store=tmp_path / "whole")
    calls = []

    def interrupt(*given: object) -> None:
        calls.append(given)
        if len(calls) == 25:
            raise KeyboardInterrupt

    handle = toy.model.register_forward_pre_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        extract(toy, many(), batch_size=1, store=tmp_path / "store")
    assert [path.name for path in (tmp_path / "store").iterdir()] == ["shard-00000.safetensors"]
    handle.remove()
    extract(toy, many(), batch_size=1, store=tmp_path / "store")
    assert contents(tmp_path / "whole") == contents(tmp_path / "store")
    assert whole["image"].samples == tuple(f"id {text}" for text in many().texts)


FULL = """
import resource, signal, sys
from bridgework.probes.extraction.extracting import extract
from bridgework.tests.probes.toys import letters, open_toy
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]),) * 2)
try:
    extract(open_toy(), letters(*"abcdefghij"), batch_size=1, store=sys.argv[1])
except OSError as error:
    print(error)
"""


def test_no_room(tmp_path, toy):
    """The system itself refuses a file of more than a thousand bytes."""
    extract(toy, letters(*"abcdefghij"), batch_size=1, store=tmp_path / "whole")
    done = subprocess.run([sys.executable, "-c", FULL, tmp_path / "store", "1000"], capture_output=True, text=True)
    assert "cannot be written" in done.stdout, done.stderr
    assert "then run the same command again: it resumes here" in done.stdout
    assert "File too large" in done.stdout
    assert not list((tmp_path / "store").iterdir())
    extract(toy, letters(*"abcdefghij"), batch_size=1, store=tmp_path / "store")
    assert contents(tmp_path / "whole") == contents(tmp_path / "store")


def test_a_full_disk_says_how_far_it_came(toy, tmp_path, monkeypatch):
    real, calls = shards.save_file, []

    def full(tensors, path, metadata):
        calls.append(path)
        if len(calls) == 2:
            Path(path).write_bytes(b"half")
            raise shards.SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
        real(tensors, path, metadata)

    monkeypatch.setattr(shards, "save_file", full)
    told = r"shard-00001.safetensors cannot be written \(.*No space left on device.*\); 1 of 2 shards are there"
    with pytest.raises(OSError, match=told):
        extract(toy, letters(*TEXTS), batch_size=1, store=tmp_path / "store")
    assert [path.name for path in (tmp_path / "store").iterdir()] == ["shard-00000.safetensors"]


def test_no_room_for_the_index(toy, tmp_path, monkeypatch):
    real = os.replace

    def full(source, target):
        if Path(target).name == "features.json":
            raise OSError(errno.ENOSPC, "No space left on device")
        real(source, target)

    monkeypatch.setattr(files.os, "replace", full)
    told = r"features.json cannot be written \(.*No space left.*\); all 2 shards are there and whole: make room"
    with pytest.raises(OSError, match=told):
        extract(toy, letters(*TEXTS), batch_size=1, store=tmp_path / "store")
    assert sorted(path.name[:5] for path in (tmp_path / "store").iterdir()) == ["shard", "shard"]


# Never mixed


def other_weights(toy: Toy) -> None:
    with torch.no_grad():
        list(toy.model.parameters())[2][0, 0] += 1e-3


CHANGES = {
    "stimuli": (lambda toy: None, {"stimuli": letters(*TEXTS[:-1], "z")}, "stimuli_digest: expected"),
    "model": (lambda toy: setattr(toy.model, "extra", torch.nn.Linear(2, 2)), {}, "subject.models.model.weights"),
    "weights": (other_weights, {}, "subject.models.model.weights: expected"),
    "name": (lambda toy: setattr(toy, "name", "other"), {}, 'subject.name: expected "other", got "toy"'),
    "pooling": (lambda toy: None, {"pooling": "last"}, 'pooling: expected "last", got "mean"'),
    "layers": (lambda toy: None, {"layers": ["1"]}, "layers: expected"),
    "batches": (lambda toy: None, {"batch_size": 2}, "batch_size: expected 2, got 1"),
    "dtype": (lambda toy: None, {"dtype": torch.float16}, 'dtype: expected "float16", got "float32"'),
    "joint": (lambda toy: None, {"joint": True}, 'pass: expected "joint", got "separate"'),
}


@pytest.mark.parametrize("ended", [True, False])
@pytest.mark.parametrize("change", CHANGES)
def test_what_was_made_differently_is_never_mixed(toy, folder, change, ended):
    if not ended:
        (folder / "features.json").unlink()
        (folder / "shard-00001.safetensors").unlink()
    before = contents(folder)
    alter, options, told = CHANGES[change]
    alter(toy)
    asked = {"stimuli": letters(*TEXTS), "batch_size": 1} | options
    with pytest.raises(ValueError, match="holds features made differently") as raised:
        extract(toy, store=folder, **asked)
    assert told in str(raised.value)
    assert str(raised.value).endswith("extract into another folder")
    assert contents(folder) == before


def test_another_version_of_a_library_is_told(toy, folder, monkeypatch):
    monkeypatch.setattr("bridgework.probes.extraction.provenance.version", lambda package: "9.9")
    with pytest.raises(ValueError, match=r'versions.torch: expected "9.9", got'):
        extract(toy, letters(*TEXTS), batch_size=1, store=folder)
    assert Features.load(folder)["image"].values.shape == (4, 10, 6)  # reading is another matter


def test_another_format_is_refused(toy, folder):
    index = folder / "features.json"
    index.write_text(index.read_text().replace('"format": 1', '"format": 7'))
    for attempt in (lambda: Features.load(folder), lambda: extract(toy, letters(*TEXTS), batch_size=1, store=folder)):
        with pytest.raises(ValueError, match=r"features.json has format 7, this version of bridgework reads 1"):
            attempt()
    index.unlink()
    with shards.open_shard(folder / "shard-00000.safetensors") as file:
        told = json.loads(file.metadata()[shards.KEY]) | {"format": 0}
    save_file({"x": torch.zeros(1)}, folder / "shard-00000.safetensors", metadata={shards.KEY: json.dumps(told)})
    with pytest.raises(ValueError, match=r"shard-00000.safetensors has format 0"):
        extract(toy, letters(*TEXTS), batch_size=1, store=folder)


def test_a_file_is_no_store(toy, tmp_path):
    (tmp_path / "seen.safetensors").write_bytes(b"of an earlier version")
    for attempt in (Features.load, lambda path: extract(toy, letters(*TEXTS), store=path)):
        with pytest.raises(ValueError, match=r"seen.safetensors is a file, as earlier versions wrote; .* is a folder"):
            attempt(tmp_path / "seen.safetensors")


def test_a_folder_that_cannot_be_made_is_told_before_the_model_runs(toy, tmp_path):
    (tmp_path / "file").write_text("in the way")
    toy.run = lambda states: pytest.fail("it ran")
    with pytest.raises(OSError, match="file"):
        extract(toy, letters(*TEXTS), store=tmp_path / "file" / "store")


class Bomb:
    """Unpickled, it would say so."""

    def __reduce__(self):
        return (print, ("unpickled",))


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (
            lambda path: torch.save({"x": Bomb()}, path),
            "is a zip archive, as torch.save writes, not safetensors",
        ),
        (lambda path: torch.save(Bomb(), path, _use_new_zipfile_serialization=False), "is a pickle, not safetensors"),
        (lambda path: path.write_bytes(path.read_bytes()[:-20]), "is no whole safetensors file"),
        (lambda path: path.write_bytes(path.read_bytes()[:30]), "is no whole safetensors file"),
        (lambda path: path.write_bytes(b""), "is no whole safetensors file"),
        (lambda path: save_file({"x": torch.zeros(2)}, path), "no shard of features|not the shard that was written"),
        (lambda path: path.unlink(), "is missing: run the extraction again"),
    ],
    ids=["zip", "pickle", "cut", "short", "empty", "foreign", "missing"],
)
def test_shards_that_are_none(toy, folder, capsys, spoil, told):
    shard = folder / "shard-00001.safetensors"
    spoil(shard)
    with pytest.raises((ValueError, FileNotFoundError), match=told) as raised:
        Features.load(folder)
    assert str(shard) in str(raised.value)
    if shard.exists():
        with pytest.raises(ValueError, match=told):
            extract(toy, letters(*TEXTS), batch_size=1, store=folder)
        shard.unlink()
    assert "unpickled" not in capsys.readouterr().out
    extract(toy, letters(*TEXTS), batch_size=1, store=folder)  # the remedy: remove it and extract again
    assert Features.load(folder)["text"].values.shape == (4, 10, 6)


def test_an_index_that_is_none(folder):
    (folder / "features.json").write_text("{}")
    with pytest.raises(ValueError, match=r"features.json is no index of features: remove it"):
        Features.load(folder)
    with pytest.raises(FileNotFoundError, match=r"no features in .*: extract them first"):
        Features.load(folder / "none")


def test_shards_of_two_runs_do_not_make_a_store(toy, folder, tmp_path):
    extract(toy, letters(*TEXTS[::-1]), batch_size=1, store=tmp_path / "other")
    (tmp_path / "other" / "shard-00001.safetensors").replace(folder / "shard-00001.safetensors")
    with pytest.raises(ValueError, match="holds features made differently"):
        store.write_index(folder, 2)


# Features in memory


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
