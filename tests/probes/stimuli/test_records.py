"""Any form of data: the same pairs from tables, archives, folders, datasets, frames and lists are the same stimuli."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pandas as pd
import pytest

from bridgework.probes.stimuli.controls import mismatched
from bridgework.probes.stimuli.sources import load_stimuli
from bridgework.probes.stimuli.stimulus_set import first_captions
from bridgework.tests.probes.stimuli.pictures import picture

PAIRS = 96
ODD = ("None", "a red circle, a blue square", 'two "things"', "piñata")  # each is lost by some careless reader
TEXTS = (*ODD, *(f"picture {number}" for number in range(len(ODD), PAIRS)))
NAMES = tuple(f"{number:02}.jpg" for number in range(PAIRS))
AGAIN = tuple(f"again {number}" for number in range(PAIRS))


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    for number, (name, text) in enumerate(zip(NAMES, TEXTS, strict=True)):
        picture(number).save(folder / name, quality=90)
        (folder / name).with_suffix(".txt").write_text(text + "\n", encoding="utf-8")
    return folder


@pytest.fixture
def frame() -> pd.DataFrame:
    return pd.DataFrame({"path": NAMES, "caption": TEXTS, "split": "train"})


def write_archive(path: Path, root: Path, caption: str = "txt") -> Path:
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as archive:
        for name, text in zip(NAMES, TEXTS, strict=True):
            content = {"txt": text, "json": json.dumps({"caption": text})}[caption].encode()
            for ending, data in (("jpg", (root / name).read_bytes()), (caption, content)):
                entry = tarfile.TarInfo(f"shard/{name.removesuffix('.jpg')}.{ending}")
                entry.size = len(data)
                archive.addfile(entry, io.BytesIO(data))
    return path


def folder_of(*files: Path) -> Path:
    """Move files into a folder of their own."""
    folder = files[0].parent / "alone"
    folder.mkdir()
    for file in files:
        file.rename(folder / file.name)
    return folder


def coco(root: Path, texts: tuple[str, ...] = TEXTS) -> dict:
    annotations = [{"id": 7 * n, "image_id": n % len(NAMES), "caption": text} for n, text in enumerate(texts)]
    return {"images": [{"id": n, "file_name": name} for n, name in enumerate(NAMES)], "annotations": annotations}


def dataset(frame: pd.DataFrame, root: Path):
    datasets = pytest.importorskip("datasets")
    columns = {"image": [str(root / name) for name in frame["path"]], "text": list(frame["caption"])}
    return datasets.Dataset.from_dict(columns).cast_column("image", datasets.Image())


FORMS = (
    "csv", "tsv", "parquet", "parquet with bytes", "jsonl", "json", "coco", "tar", "tar of json", "compressed tar",
    "folder of tars", "text beside images", "metadata.csv", "saved dataset", "dataset", "streaming dataset", "frame",
    "list", "list of mappings",
)  # fmt: skip


def load(form: str, frame: pd.DataFrame, root: Path, folder: Path, limit: int | None = None):
    own = {"limit": limit, "root": root}
    if form == "csv":
        frame.to_csv(folder / "a.csv", index=False)
        return load_stimuli(folder / "a.csv", **own)
    if form == "tsv":
        frame.rename(columns={"path": "Foto", "caption": "Satz"}).to_csv(folder / "a.tsv", index=False, sep="\t")
        return load_stimuli(folder / "a.tsv", image="Foto", text="Satz", **own)
    if form == "parquet":
        frame.to_parquet(folder / "a.parquet")
        return load_stimuli(str(folder / "a.parquet"), **own)
    if form == "parquet with bytes":
        images = [{"bytes": (root / name).read_bytes(), "path": name} for name in frame["path"]]
        pd.DataFrame({"image": images, "text": frame["caption"]}).to_parquet(folder / "a.parquet")
        return load_stimuli(folder / "a.parquet", limit)
    if form == "jsonl":
        frame.to_json(folder / "a.jsonl", orient="records", lines=True)
        return load_stimuli(folder / "a.jsonl", **own)
    if form == "json":
        frame.to_json(folder / "a.json", orient="records")
        return load_stimuli(folder / "a.json", **own)
    if form == "coco":
        (folder / "a.json").write_text(json.dumps(coco(root)))
        return load_stimuli(folder / "a.json", **own, captions="first")
    if form == "tar":
        return load_stimuli(write_archive(folder / "a.tar", root), limit)
    if form == "tar of json":
        return load_stimuli(write_archive(folder / "a.tar", root, "json"), limit)
    if form == "compressed tar":
        return load_stimuli(write_archive(folder / "a.tar.gz", root), limit)
    if form == "folder of tars":
        write_archive(folder / "00.tar", root)
        return load_stimuli(folder, limit)
    if form == "text beside images":
        return load_stimuli(root, limit)
    if form == "metadata.csv":
        frame.rename(columns={"path": "file_name"}).to_csv(folder / "metadata.csv", index=False)
        return load_stimuli(folder, **own)
    if form == "saved dataset":
        dataset(frame, root).save_to_disk(folder / "saved")
        return load_stimuli(folder / "saved", limit)
    if form == "dataset":
        return load_stimuli(dataset(frame, root), limit)
    if form == "streaming dataset":
        return load_stimuli(dataset(frame, root).to_iterable_dataset(), limit)
    if form == "frame":
        return load_stimuli(frame, **own)
    if form == "list":
        return load_stimuli(
            [(root / name, text) for name, text in zip(frame["path"], frame["caption"], strict=True)], limit
        )
    return load_stimuli(frame.to_dict("records"), **own)


@pytest.mark.parametrize("form", FORMS)
def test_every_form_shows_the_same(form, frame, root, tmp_path):
    stimuli = load(form, frame, root, tmp_path)
    assert stimuli.texts == TEXTS
    assert stimuli.digests == load_stimuli(frame, root=root).digests
    assert len(set(stimuli.ids)) == len(TEXTS)
    assert stimuli[3].image.size == picture(3).size  # read again, on demand
    assert load(form, frame, root, tmp_path, 2).digests == stimuli.digests[:2]


def test_ids_are_paths_as_they_are_written_or_a_column(frame, root):
    assert load_stimuli(frame, root=root).ids == NAMES
    assert load_stimuli(frame.assign(name=AGAIN), root=root, id="name").ids == AGAIN


def test_paths_begin_at_the_folder_of_the_table(frame, root):
    frame.to_csv(root / "captions.csv", index=False)
    assert load_stimuli(root / "captions.csv").texts == TEXTS
    (root / "captions.csv").unlink()


def test_several_captions_are_an_error_or_cut_to_the_first(frame, root, tmp_path):
    again = pd.concat([frame, frame.assign(caption="again")])
    with pytest.raises(ValueError, match=r"row 96 of the table: the image '00.jpg' has several captions: capt"):
        load_stimuli(again, root=root)
    (tmp_path / "a.json").write_text(json.dumps(coco(root, (*TEXTS, "again"))))
    again.groupby("path").agg({"caption": list}).reset_index().to_parquet(tmp_path / "a.parquet")
    for source in (again, tmp_path / "a.json", tmp_path / "a.parquet"):
        kept = load_stimuli(source, 3, root=root, captions="first")
        assert (kept.texts, kept.ids) == (TEXTS[:3], NAMES[:3])


def test_all_captions_stay_as_groups_of_their_image(frame, root, tmp_path):
    again = pd.concat([frame, frame.assign(caption=AGAIN)])
    (tmp_path / "a.json").write_text(json.dumps(coco(root, (*TEXTS, *AGAIN))))
    again.groupby("path").agg({"caption": list}).reset_index().to_parquet(tmp_path / "a.parquet")
    known = load_stimuli(frame, root=root)
    for source in (again, tmp_path / "a.json", tmp_path / "a.parquet"):
        every = load_stimuli(source, root=root, captions="all")
        assert sorted(zip(every.ids, every.groups, strict=True)) == [(f"{n}#{j}", n) for n in NAMES for j in (0, 1)]
        for stimulus, group, shown in zip(every, every.groups, every.digests, strict=True):
            assert stimulus.image == known[NAMES.index(group)].image
            assert shown.split()[1] == known.digests[NAMES.index(group)].split()[1]
        assert every[2:5].groups == every.groups[2:5]
        first = first_captions(every)
        assert dict(zip(first.ids, first.texts, strict=True)) == dict(zip(NAMES, TEXTS, strict=True))
        wrong = mismatched(every)
        pairs = {(name, NAMES[TEXTS.index(text)]) for _, text, name in wrong if text in TEXTS}
        assert len(pairs) == len(TEXTS) and not [id for id, image in pairs if id.startswith(image)]
        assert wrong.groups == every.groups and sorted(wrong.texts) == sorted(every.texts)
    assert known.groups == ()
    with pytest.raises(ValueError, match="row 1 of the table: the id 'a' names another image before"):
        load_stimuli(frame.assign(name="a"), root=root, id="name", captions="all")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"text": "words"}, r"the table has columns \['path', 'caption', 'split'\] and no column 'words': name them"),
        ({"image": "split"}, r"row 0 of the table: there is no image .*train: add the file, .* begin \(root=\)"),
        ({"captions": "some"}, "unknown captions 'some': expected one of first, all"),
    ],
)
def test_bad_options(options, message, frame, root):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        load_stimuli(frame, root=root, **options)


def test_a_compressed_archive_may_have_any_name(root, tmp_path):
    write_archive(tmp_path / "a.tar.gz", root).rename(tmp_path / "a.tar")
    assert [stimulus.text for stimulus in load_stimuli(tmp_path / "a.tar")] == list(TEXTS)


def test_bad_rows(frame, root, tmp_path):
    with pytest.raises(TypeError, match="the caption of row 1 of the table is a float: expected one string"):
        load_stimuli(frame.assign(caption=["a", float("nan"), *AGAIN[2:]]), root=root)
    with pytest.raises(ValueError, match="'noto' has images and texts of its own: leave out text, root"):
        load_stimuli("noto", text="caption", root=root)
    with pytest.raises(TypeError, match=r"item 1 of the list is a str: expected \(image, text\)"):
        load_stimuli([(root / NAMES[0], "a"), "b"])
    with pytest.raises(TypeError, match=r'pass one, as in dataset\["train"\]'):
        load_stimuli(pytest.importorskip("datasets").DatasetDict(train=dataset(frame, root)))
    (tmp_path / "a.tar").write_bytes(b"no archive")
    with pytest.raises(ValueError, match=r"a\.tar is no archive that can be read: replace the file"):
        load_stimuli(tmp_path / "a.tar")
    (tmp_path / "a.json").write_text('{"captions": []}')
    with pytest.raises(ValueError, match=r"a\.json is neither a list of objects nor COCO captions"):
        load_stimuli(tmp_path / "a.json")
    (tmp_path / "a.png").write_bytes((root / NAMES[0]).read_bytes())
    (tmp_path / "a.txt").write_bytes("piñata".encode("latin-1"))
    with pytest.raises(ValueError, match=r"a\.txt is not text in UTF-8: save it as that"):
        load_stimuli(folder_of(tmp_path / "a.png", tmp_path / "a.txt"))
    (root / "4.jpg").write_bytes((root / NAMES[0]).read_bytes())
    with pytest.raises(ValueError, match=r"image 4\.jpg of .* lacks text: a row holds image and text"):
        load_stimuli(root)
    (root / "4.jpg").unlink()
