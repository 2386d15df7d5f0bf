"""Open a table, an archive, a folder, a dataset or a list as records: rows that hold an image and its texts."""

from __future__ import annotations

import importlib
import json
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import pandas as pd

IMAGE_FILES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif")
METADATA = ("metadata.jsonl", "metadata.csv", "metadata.parquet")  # of an image folder, as `datasets` reads them
TABLES = (".csv", ".tsv", ".parquet", ".jsonl", ".ndjson", ".json", ".tar")


class Record(NamedTuple):
    """One row.

    Attributes
    ----------
    where : str
        Where it stands, for error messages.
    values : mapping
        Its values by column.
    key : str
        Its id, where its image has no path.
    again : callable, optional
        Reads its values again, so that its image need not be held in memory.
    """

    where: str
    values: Mapping[str, Any]
    key: str
    again: Callable[[], Mapping[str, Any]] | None = None


class Records(NamedTuple):
    """Rows of one source.

    Attributes
    ----------
    rows : iterable of Record
        They are read as they are asked for.
    name : str
        What the stimuli are called.
    about : str
        What the source is, for error messages.
    root : Path
        The folder that paths of images begin at.
    within : Path, optional
        The folder that images must lie in, links followed.
    """

    rows: Iterable[Record]
    name: str
    about: str
    root: Path = Path()
    within: Path | None = None


def open_file(path: Path) -> Records:
    """Open a table, COCO captions or a webdataset archive.

    Parameters
    ----------
    path : Path
        A file with one of the endings of `TABLES`; the last may be compressed.

    Returns
    -------
    Records
        Its rows.

    Raises
    ------
    ValueError
        Another ending, or a file that cannot be read.
    """
    import pandas as pd

    words = partial(pd.read_csv, dtype=str, keep_default_na=False)  # "None" is a caption

    def lines(path: Path) -> Iterator[Record]:
        return json_lines(path.read_bytes(), str(path))

    readers = {
        ".csv": partial(_table, read=words),
        ".tsv": partial(_table, read=partial(words, sep="\t")),
        ".parquet": partial(_table, read=pd.read_parquet),
        ".jsonl": lines,
        ".ndjson": lines,
        ".json": _json,
        ".tar": _archive,
    }
    endings = [ending for ending in path.suffixes if ending.lower() in readers]
    if not endings:
        raise ValueError(f"cannot read stimuli from {path}: expected one of {', '.join(TABLES)}, or a folder")
    return Records(readers[endings[-1].lower()](path), path.stem, path.name, path.parent)


def open_folder(folder: Path) -> Records:
    """Open an image folder, a folder of archives, or what `save_to_disk` of datasets wrote.

    Parameters
    ----------
    folder : Path
        The folder. It holds a metadata file (`METADATA`), images beside text files of the same names, webdataset
        archives, or a saved dataset.

    Returns
    -------
    Records
        Its rows.

    Raises
    ------
    FileNotFoundError
        It holds none of these.
    """
    name = folder.resolve().name
    if any((folder / file).is_file() for file in ("state.json", "dataset_dict.json")):
        return open_dataset(importlib.import_module("datasets").load_from_disk(str(folder)))._replace(name=name)
    for metadata in METADATA:
        if (folder / metadata).is_file():
            return open_file(folder / metadata)._replace(name=name, about=str(folder / metadata), within=folder)
    if archives := sorted(folder.glob("*.tar*")):
        return Records((row for archive in archives for row in _archive(archive)), name, str(folder))
    images = sorted(p for p in folder.rglob("*") if p.suffix.lower() in IMAGE_FILES)
    if images and any(image.with_suffix(".txt").is_file() for image in images):
        return Records(_beside(folder, images), name, str(folder), folder, folder)
    raise FileNotFoundError(
        f"there is no metadata.jsonl in {folder}, nor another table of captions ({', '.join(METADATA[1:])}), nor text "
        'files beside images: write one line per image, {"file_name": "a.png", "text": "its caption"}'
    )


def open_frame(frame: pd.DataFrame) -> Records:
    """Open a data frame.

    Parameters
    ----------
    frame : DataFrame
        One row an image or a caption.

    Returns
    -------
    Records
        Its rows.
    """
    return Records(_rows(frame, "the table"), "table", "the table")


def open_list(items: Sequence[Any]) -> Records:
    """Open a list of pairs or of mappings.

    Parameters
    ----------
    items : sequence
        (image, text) or (image, text, id) each, or mappings.

    Returns
    -------
    Records
        Its rows.

    Raises
    ------
    TypeError
        An item of another form.
    """
    return Records(_items(items), "list", "the list")


def open_dataset(dataset: Any) -> Records:
    """Open a dataset of the library datasets, or a streaming one.

    Parameters
    ----------
    dataset : datasets.Dataset or datasets.IterableDataset
        One split.

    Returns
    -------
    Records
        Its rows. Those of a streaming dataset are read once, to its end, and their images are held in memory.

    Raises
    ------
    TypeError
        Several splits.
    """
    columns = getattr(dataset, "column_names", None)
    if isinstance(columns, dict) or (isinstance(dataset, dict) and columns is None):
        first = next(iter(columns or dataset), "train")
        raise TypeError(f'a dataset of several splits is not a set: pass one, as in dataset["{first}"]')
    return Records(_dataset_rows(dataset), "dataset", "the dataset")


def _table(path: Path, read: Any) -> Iterator[Record]:
    try:
        frame = read(path)
    except Exception as error:  # readers of tables raise anything on damaged files, such as zlib.error
        said = " ".join(str(error).split())
        raise ValueError(f"{path} cannot be read: replace or correct the file ({said})") from None
    yield from _rows(frame, path.name)


def _rows(frame: pd.DataFrame, about: str) -> Iterator[Record]:
    names = [str(column) for column in frame.columns]
    for number, values in enumerate(frame.itertuples(index=False, name=None)):
        yield Record(f"row {number} of {about}", dict(zip(names, values, strict=True)), str(number))


def json_lines(content: bytes, path: str) -> Iterator[Record]:
    """Read JSON lines, one object a line.

    Parameters
    ----------
    content : bytes
        The lines, in UTF-8. Blank ones are left out.
    path : str
        What error messages call the file.

    Yields
    ------
    Record
        An object; one without values for a line that holds something else.

    Raises
    ------
    ValueError
        A line that is not valid JSON in UTF-8.
    """
    for number, line in enumerate(content.split(b"\n"), start=1):
        if line.strip():
            where = f"line {number} of {path}"
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:  # json's own error, or bytes that are not UTF-8
                raise ValueError(f"{where} is not valid JSON in UTF-8: correct or remove it ({error})") from None
            yield Record(where, row if isinstance(row, dict) else {}, str(number - 1))


def _json(path: Path) -> Iterator[Record]:
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not valid JSON in UTF-8: correct it ({error})") from None
    if isinstance(content, dict) and {"images", "annotations"} <= content.keys():
        yield from _coco(content, path)
    elif isinstance(content, list):
        for number, row in enumerate(content):
            yield Record(f"item {number} of {path.name}", row if isinstance(row, dict) else {}, str(number))
    else:
        raise ValueError(f"{path} is neither a list of objects nor COCO captions (images and annotations)")


def _coco(content: Mapping[str, Any], path: Path) -> Iterator[Record]:
    for part in ("images", "annotations"):
        listed = content[part]
        if not isinstance(listed, list) or not all(isinstance(each, dict) for each in listed):
            raise ValueError(f"{part} of {path} is no list of objects: expected COCO captions")
        if any(isinstance(value, list | dict) for each in listed for value in (each.get("id"), each.get("image_id"))):
            raise ValueError(f"{part} of {path} hold an id that is no number or text: expected COCO captions")
    captions: dict[Any, list[Any]] = {}
    for annotation in content["annotations"]:
        captions.setdefault(annotation.get("image_id"), []).append(annotation.get("caption"))
    for image in content["images"]:
        where = f"image {image.get('id')} of {path.name}"
        texts = captions.get(image.get("id"), [])
        yield Record(where, {"file_name": image.get("file_name"), "text": texts}, str(image.get("id")))


def _archive(path: Path) -> Iterator[Record]:
    """Yield the samples of a webdataset archive: files that share their path up to the first dot of the name."""
    try:
        plain = _is_plain(path)
        with tarfile.open(path) as opened:
            sample: dict[str, Any] = {}
            last = None
            for member in opened:
                if not member.isfile():
                    continue
                folder, _, file = member.name.rpartition("/")
                stem, _, ending = file.partition(".")
                key = f"{folder}/{stem}" if folder else stem
                if key != last and last is not None:
                    yield Record(f"sample {last} of {path.name}", sample, last)
                    sample = {}
                last, ending = key, ending.lower()
                if f".{ending.rpartition('.')[2]}" in IMAGE_FILES and plain:
                    sample[ending] = partial(_read_part, path, member.offset_data, member.size)
                else:
                    found = opened.extractfile(member)
                    content = found.read() if found else b""
                    sample |= _decoded(ending, content, f"{member.name} of {path.name}")
            if last is not None:
                yield Record(f"sample {last} of {path.name}", sample, last)
    except (tarfile.TarError, EOFError, OSError) as error:
        said = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{path} is no archive that can be read: replace the file ({said})") from None


def _is_plain(path: Path) -> bool:
    """Return whether an archive is not compressed, whatever its name says: then a part of it can be read alone."""
    try:
        tarfile.open(path, "r:").close()
    except tarfile.TarError:
        return False
    return True


def _decoded(ending: str, content: bytes, where: str) -> dict[str, Any]:
    if ending in ("txt", "text", "caption", "cap"):
        return {ending: _words(content, where)}
    if ending == "json":
        try:
            row = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{where} is not valid JSON in UTF-8: correct or remove it ({error})") from None
        return {f"json.{name}": value for name, value in row.items()} if isinstance(row, dict) else {}
    return {ending: content}


def _words(content: bytes, where: str) -> str:
    try:
        return content.decode("utf-8").strip()
    except UnicodeDecodeError as error:
        raise ValueError(f"{where} is not text in UTF-8: save it as that ({error})") from None


def _read_part(path: Path, start: int, size: int) -> bytes:
    with path.open("rb") as opened:
        opened.seek(start)
        return opened.read(size)


def _beside(folder: Path, images: Sequence[Path]) -> Iterator[Record]:
    for image in images:
        name, text = image.relative_to(folder).as_posix(), image.with_suffix(".txt")
        values: dict[str, Any] = {"image": name}
        if text.is_file() and not text.resolve().is_relative_to(folder.resolve()):
            raise ValueError(f"{text} is a link out of {folder}: put the file there")
        if text.is_file():
            values["text"] = _words(text.read_bytes(), str(text))
        yield Record(f"image {name} of {folder}", values, name)


def _items(items: Sequence[Any]) -> Iterator[Record]:
    for number, item in enumerate(items):
        if isinstance(item, Mapping):
            yield Record(f"item {number} of the list", item, str(number))
        elif isinstance(item, tuple | list) and len(item) in (2, 3):
            yield Record(
                f"item {number} of the list", dict(zip(("image", "text", "id"), item, strict=False)), str(number)
            )
        else:
            raise TypeError(f"item {number} of the list is a {type(item).__name__}: expected (image, text)")


def _dataset_rows(dataset: Any) -> Iterator[Record]:
    if not hasattr(dataset, "__len__"):
        for number, row in enumerate(dataset):
            yield Record(f"row {number} of the dataset", row, str(number))
        return
    for number in range(len(dataset)):
        where = f"row {number} of the dataset"
        again = partial(_dataset_row, dataset, number, where)
        yield Record(where, again(), str(number), again)


def _dataset_row(dataset: Any, number: int, where: str) -> Any:
    try:
        return dataset[number]
    except Exception as error:  # reading a row decodes its image, with any of PIL's errors
        raise ValueError(f"{where} cannot be read: replace or drop it ({error})") from None
