"""Sources of stimuli: the bundle, a folder, a dataset, and one clear error for every kind of bad input."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from PIL import Image

from bridgework.probes.stimuli import sources
from bridgework.probes.stimuli.noto import build
from bridgework.probes.stimuli.sources import load_stimuli
from bridgework.probes.stimuli.stimulus_set import Stimuli
from bridgework.tests.probes.stimuli.pictures import picture, write_folder


def change_line(folder: Path, number: int, line: str) -> None:
    lines = (folder / "metadata.jsonl").read_text().splitlines()
    lines[number - 1] = line
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n")


# What may be loaded


def test_limit_is_the_same_as_a_slice(noto):
    assert load_stimuli("noto", limit=7).digest == noto[:7].digest
    assert len(load_stimuli("noto", limit=5000)) == 1392


def test_missing_or_damaged_archive(tmp_path, monkeypatch):
    archive = tmp_path / "noto.zip"
    monkeypatch.setattr(sources, "_NOTO", archive)
    with pytest.raises(FileNotFoundError, match=r"noto\.zip are missing: install bridgework again"):
        load_stimuli("noto")
    archive.write_bytes(build.ARCHIVE.read_bytes()[:100_000])
    with pytest.raises(ValueError, match=r"noto\.zip are damaged: install bridgework again"):
        load_stimuli("noto")


@pytest.mark.parametrize("name", ["notto", "Noto", ""])
def test_unknown_name(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if name:
        with pytest.raises(
            ValueError,
            match=f"unknown stimuli '{name}'.*: expected 'noto', 'fluent', 'tuxpaint', 'openclipart', a folder of",
        ):
            load_stimuli(name)
    else:
        with pytest.raises(FileNotFoundError, match=r"no metadata\.jsonl"):
            load_stimuli(name)


@pytest.mark.parametrize("source", [None, 5, {"a.png"}])
def test_unknown_kind_of_source(source):
    with pytest.raises(
        TypeError,
        match=f"from a {type(source).__name__}: expected 'noto', 'fluent', 'tuxpaint', 'openclipart', a folder",
    ):
        load_stimuli(source)


@pytest.mark.parametrize("limit", [0, -1, 2.5, "3", True])
def test_bad_limit(limit):
    with pytest.raises((TypeError, ValueError), match=r"limit is .*: expected a whole number of at least 1 or None"):
        load_stimuli("noto", limit=limit)


# An image folder


def test_folder(tmp_path):
    folder = write_folder(tmp_path)
    for source in (folder, str(folder)):
        stimuli = load_stimuli(source)
        assert stimuli.name == tmp_path.name
        assert [(s.id, s.text) for s in stimuli] == [(f"{i}.png", f"caption {i}") for i in range(3)]
        assert all(s.image.tobytes() == picture(i).tobytes() for i, s in enumerate(stimuli))
    assert load_stimuli(folder, limit=2).digest == stimuli[:2].digest != stimuli.digest


def test_folder_reads_other_formats_subfolders_unicode_and_blank_lines(tmp_path):
    (tmp_path / "more").mkdir()
    picture().save(tmp_path / "more" / "a.bmp")
    turned = picture()
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(tmp_path / "b.png", exif=exif)
    rows = [{"file_name": "more/a.bmp", "text": "piñata", "other": 1}, {"file_name": "b.png", "text": "turned"}]
    text = "\r\n\r\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    (tmp_path / "metadata.jsonl").write_bytes(text.encode())
    first, second = load_stimuli(tmp_path)
    assert (first.id, first.text, first.image.size) == ("more/a.bmp", "piñata", (12, 8))
    assert second.image.tobytes() == picture().transpose(Image.Transpose.ROTATE_270).tobytes()


def test_folder_images_are_read_on_demand(tmp_path):
    stimuli = load_stimuli(write_folder(tmp_path))
    (tmp_path / "1.png").unlink()
    assert stimuli[0].text == "caption 0"
    with pytest.raises(FileNotFoundError, match=r"line 2 of .*1\.png: add the file, remove its row"):
        stimuli[1]


def test_an_image_that_changes_after_it_was_loaded_is_refused(tmp_path):
    stimuli = load_stimuli(write_folder(tmp_path))
    picture(9).save(tmp_path / "1.png")
    assert stimuli[0].text == "caption 0"
    with pytest.raises(ValueError, match=r"the image '1.png' of stimuli .* is another than when it was loaded"):
        stimuli[1]


def test_folder_limit_reads_no_further(tmp_path):
    folder = write_folder(tmp_path)
    change_line(folder, 3, "{broken")
    assert len(load_stimuli(folder, limit=2)) == 2


def test_folder_is_missing(tmp_path):
    for source in (tmp_path / "gone", str(tmp_path / "gone"), "./gone", Path("gone")):
        with pytest.raises(
            FileNotFoundError,
            match=r"there is no file or folder .*gone: expected 'noto', 'fluent', 'tuxpaint', 'openclipart', a fold",
        ):
            load_stimuli(source)


def test_a_file_that_holds_no_rows(tmp_path):
    (tmp_path / "captions.txt").write_text("a.png a red thing\n")
    with pytest.raises(ValueError, match=r"cannot read stimuli from .*captions\.txt: expected one of \.csv, \.tsv"):
        load_stimuli(tmp_path / "captions.txt")


def test_folder_without_metadata(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"no metadata\.jsonl in .*, nor text files beside images: write one line"
    ):
        load_stimuli(tmp_path)


def test_folder_with_empty_metadata(tmp_path):
    (tmp_path / "metadata.jsonl").write_text("\n")
    with pytest.raises(ValueError, match=f"{tmp_path.name}' are empty"):
        load_stimuli(tmp_path)


def test_folder_with_missing_image(tmp_path):
    folder = write_folder(tmp_path)
    (folder / "1.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"line 2 of .*metadata\.jsonl: there is no image .*1\.png"):
        load_stimuli(folder)


@pytest.mark.parametrize("format", ["PNG", "JPEG", "GIF", "WEBP", "TIFF"])
def test_folder_with_truncated_image(tmp_path, format):
    folder = write_folder(tmp_path)
    whole = io.BytesIO()
    picture(size=(64, 64)).save(whole, format)
    (folder / "1.png").write_bytes(whole.getvalue()[: len(whole.getvalue()) // 2])
    with pytest.raises(
        ValueError, match=r"line 2 of .*1\.png cannot be read or is truncated: replace the file"
    ) as info:
        load_stimuli(folder)
    assert info.value.__suppress_context__  # PIL's traceback is not shown


def test_folder_with_file_that_is_no_image(tmp_path):
    folder = write_folder(tmp_path)
    (folder / "2.png").write_text("not an image")
    with pytest.raises(ValueError, match=r"line 3 of .*2\.png cannot be read"):
        load_stimuli(folder)


@pytest.mark.parametrize(
    ("line", "kind", "message"),
    [
        ('{"file_name": "1.png", "text": 5}', TypeError, "caption of line 2 of .* is a int: expected one string"),
        ('{"file_name": "1.png", "text": null}', TypeError, "caption of line 2 of .* is a NoneType"),
        ('{"file_name": "1.png", "text": ["a", "b"]}', ValueError, "line 2 .*'1.png' has several captions"),
        ('{"file_name": "1.png", "text": ""}', ValueError, "caption of line 2 of .* is blank"),
        ('{"file_name": "1.png", "te', ValueError, "line 2 of .* is not valid JSON in UTF-8: correct or remove"),
        ('{"file_name": "1.png"}', ValueError, "line 2 of .* lacks text: a row holds file_name and text"),
        ("{}", ValueError, "line 2 of .* lacks file_name and text"),
        ('["1.png", "text"]', ValueError, "line 2 of .* lacks file_name and text"),
        ('{"file_name": 1, "text": "one"}', TypeError, "file_name of line 2 of .* is a int"),
        ('{"file_name": "0.png", "text": "again"}', ValueError, "the image '0.png' has several captions: captions='al"),
    ],
)
def test_folder_with_bad_line(tmp_path, line, kind, message):
    folder = write_folder(tmp_path)
    change_line(folder, 2, line)
    with pytest.raises(kind, match=message):
        load_stimuli(folder)


def test_folder_with_metadata_in_another_encoding(tmp_path):
    folder = write_folder(tmp_path)
    (folder / "metadata.jsonl").write_bytes('{"file_name": "0.png", "text": "piñata"}'.encode("latin-1"))
    with pytest.raises(ValueError, match=r"line 1 of .* is not valid JSON in UTF-8"):
        load_stimuli(folder)


# A datasets.Dataset


class Rows:
    """What a datasets.Dataset shows of itself: column names, a length, rows as dicts."""

    def __init__(self, **columns: list):
        self.columns, self.reads = columns, 0

    @property
    def column_names(self):
        return list(self.columns)

    @property
    def features(self):
        return dict.fromkeys(self.columns)

    def __len__(self):
        return len(next(iter(self.columns.values())))

    def __getitem__(self, row):
        self.reads += 1
        return {name: values[row] for name, values in self.columns.items()}


@pytest.mark.parametrize("caption", ["text", "caption"])
def test_dataset(caption):
    images = [picture(i) for i in range(3)]
    rows = Rows(image=images, label=[0, 1, 2], **{caption: ["a", "b", "c"]})
    stimuli = load_stimuli(rows)
    assert rows.reads == 3
    assert stimuli.digest == Stimuli(zip(images, "abc", "012", strict=True)).digest
    assert stimuli[1].image.tobytes() == images[1].tobytes() and rows.reads == 4
    assert [s.id for s in load_stimuli(rows, limit=2)] == ["0", "1"]


def test_real_dataset(tmp_path):
    datasets = pytest.importorskip("datasets")
    write_folder(tmp_path)
    columns = {"image": [str(tmp_path / f"{i}.png") for i in range(3)], "text": ["a", "b", "c"]}
    dataset = datasets.Dataset.from_dict(columns)
    assert load_stimuli(dataset).ids == tuple(columns["image"])
    dataset = dataset.cast_column("image", datasets.Image())
    stimuli = load_stimuli(dataset)
    assert [(s.id, s.text) for s in stimuli] == [("0", "a"), ("1", "b"), ("2", "c")]
    assert stimuli[2].image.tobytes() == picture(2).tobytes()
    with pytest.raises(TypeError, match=r'pass one, as in dataset\["train"\]'):
        load_stimuli(datasets.DatasetDict(train=dataset))
    (tmp_path / "1.png").write_bytes((tmp_path / "1.png").read_bytes()[:60])
    with pytest.raises(ValueError, match="row 1 of the dataset cannot be read"):
        load_stimuli(dataset)


def test_dataset_of_several_splits():
    rows = Rows(image=[picture()], text=["a"])
    splits = type("Splits", (dict,), {"column_names": {"test": rows.column_names}})(test=rows)
    with pytest.raises(TypeError, match=r'several splits .* dataset\["test"\]'):
        load_stimuli(splits)


@pytest.mark.parametrize(
    ("columns", "kind", "message"),
    [
        ({"image": [picture()], "label": [0]}, ValueError, r"has columns \['image', 'label'\] and no .* usual names"),
        ({"text": ["a"]}, ValueError, r"has columns \['text'\] and no images and texts by their usual names: name"),
        ({"image": [picture()], "text": [["a", "b"]]}, ValueError, "row 0 of the dataset: .* has several captions"),
        ({"image": [b"png"], "text": ["a"]}, ValueError, "row 0 of the dataset: the image cannot be read"),
        (
            {"image": [3.5], "text": ["a"]},
            TypeError,
            "image of row 0 of the dataset is a float: expected a path, bytes",
        ),
        ({"image": [], "text": []}, ValueError, "stimuli 'dataset' are empty"),
    ],
)
def test_bad_datasets(columns, kind, message):
    with pytest.raises(kind, match=message):
        load_stimuli(Rows(**columns))
