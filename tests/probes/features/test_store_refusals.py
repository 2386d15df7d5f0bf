"""What a store refuses: features made differently, other formats, and files that are no shards."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file

from bridgework.probes.extraction.extracting import extract
from bridgework.probes.features import shards, store
from bridgework.probes.features.features import Features
from bridgework.tests.probes.toys import TEXTS, Toy, contents, letters


def other_weights(toy: Toy) -> None:
    with torch.no_grad():
        list(toy.model.parameters())[2][0, 0] += 1e-3


CHANGES = {
    "stimuli": (lambda toy: None, {"stimuli": letters(*TEXTS[:-1], "z")}, "stimuli_digest: expected"),
    "model": (lambda toy: setattr(toy.model, "extra", torch.nn.Linear(2, 2)), {}, "subject.models.model.weights"),
    "weights": (other_weights, {}, "subject.models.model.weights.layers.1.linear: expected"),
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
    alter, options, message = CHANGES[change]
    alter(toy)
    asked = {"stimuli": letters(*TEXTS), "batch_size": 1} | options
    with pytest.raises(ValueError, match="holds features made differently") as raised:
        extract(toy, store=folder, **asked)
    assert message in str(raised.value)
    assert str(raised.value).endswith("extract into another folder")
    assert contents(folder) == before


def test_a_refusal_speaks_of_numbers_and_weights_before_hashes(toy, folder):
    with pytest.raises(ValueError, match=r"differently \(10 stimuli are there, 7 are asked for \[stimuli_digest: "):
        extract(toy, letters(*TEXTS[:7]), batch_size=1, store=folder)
    with pytest.raises(ValueError, match=r"\(pooling: expected .last., got .mean.; other stimuli: an id, an"):
        extract(toy, letters(*TEXTS[:-1], "z"), batch_size=1, pooling="last", store=folder)
    fewer = extract(toy, letters(*TEXTS[:7]), batch_size=1)
    fewer.save(folder.parent / "saved")
    with pytest.raises(ValueError, match=r"\(7 stimuli are there, 10 are asked for \["):
        extract(toy, letters(*TEXTS), batch_size=1).save(folder.parent / "saved")
    other_weights(toy)
    with pytest.raises(ValueError, match=r"\(other weights in layers.1.linear \[subject.models.model.weights"):
        extract(toy, letters(*TEXTS), batch_size=1, store=folder)


def test_another_version_of_a_library_is_told(toy, folder, monkeypatch):
    monkeypatch.setattr("bridgework.probes.extraction.provenance.version", lambda package: "9.9")
    with pytest.raises(ValueError, match=r"torch is 9.9 here, and was \d"):
        extract(toy, letters(*TEXTS), batch_size=1, store=folder)
    assert Features.load(folder)["image"].values.shape == (4, 10, 6)  # reading is another matter


def test_another_format_is_refused(toy, folder):
    index = folder / "features.json"
    index.write_text(index.read_text().replace('"format": 2', '"format": 7'))
    for attempt in (lambda: Features.load(folder), lambda: extract(toy, letters(*TEXTS), batch_size=1, store=folder)):
        with pytest.raises(ValueError, match=r"features.json has format 7, this version of bridgework writes 2"):
            attempt()
    index.unlink()
    with shards.open_shard(folder / "shard-00000.safetensors") as file:
        metadata = json.loads(file.metadata()[shards.KEY]) | {"format": 0}
    save_file({"x": torch.zeros(1)}, folder / "shard-00000.safetensors", metadata={shards.KEY: json.dumps(metadata)})
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
    ("spoil", "message"),
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
def test_shards_that_are_none(toy, folder, capsys, spoil, message):
    shard = folder / "shard-00001.safetensors"
    spoil(shard)
    with pytest.raises((ValueError, FileNotFoundError), match=message) as raised:
        Features.load(folder)
    assert str(shard) in str(raised.value)
    if shard.exists():
        with pytest.raises(ValueError, match=message):
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
