"""Load stimuli from the bundled emoji, a downloaded picture set, an image folder or a dataset."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps

from .picture_sets import PICTURE_SETS, REMEDY, fetched
from .stimulus_set import CheckedStimulus, Stimuli, check_stimulus, to_rgb

_NOTO = Path(__file__).parent / "noto" / "noto.zip"
_SOURCES = f"expected 'noto', {str([*PICTURE_SETS])[1:-1]}, a folder with metadata.jsonl, or a datasets.Dataset"


def load_stimuli(source: Any, limit: int | None = None) -> Stimuli:
    """Open a set of paired images and texts.

    Transparent images are laid over white, and photos are turned upright by their EXIF tag.

    Parameters
    ----------
    source : str, pathlib.Path or datasets.Dataset
        One of these:

        - "noto": 1,392 emoji of the Noto Color Emoji font (136 x 128 pixels) with their English names. Their order is
          shuffled and fixed, so that a `limit` draws from all kinds of emoji.
        - "fluent", "tuxpaint" or "openclipart": sets that `make stimuli` downloads (probes/stimuli/picture_sets.py),
          shuffled too.
        - A folder with `metadata.jsonl`: one JSON object a line with `file_name` (relative to the folder; it is the id)
          and `text`, and images in any format that PIL reads. A folder with the name of a set above is written with
          its path, such as "./noto".
        - A `datasets.Dataset` with columns `image` and `text` (or `caption`). The row number is the id.
    limit : int, optional
        Keep the first `limit` pairs. Only these are read.

    Returns
    -------
    Stimuli
        The set, checked.

    Raises
    ------
    FileNotFoundError
        A folder, a metadata.jsonl or an image is missing, or a picture set was not downloaded.
    NotADirectoryError
        The source is a file.
    TypeError
        A caption, an image or the source has the wrong type.
    ValueError
        The name is unknown, an image is unreadable or truncated, a line is broken, a column is missing, the set is
        empty, or the limit is below 1.

    Examples
    --------
    >>> load_stimuli("noto", limit=512)
    Stimuli('noto', 512 samples, digest ...)
    """
    if limit is not None and (not isinstance(limit, int) or isinstance(limit, bool) or limit < 1):
        raise ValueError(f"limit is {limit!r}: expected a whole number of at least 1, or None for all")
    if isinstance(source, str) and source == "noto":
        return Stimuli(_zip_entries(_NOTO, limit), "noto")
    if isinstance(source, str) and source in PICTURE_SETS:
        pictures = Stimuli(_folder_entries(fetched(source), limit), source)
        if limit is None and pictures.digest != PICTURE_SETS[source].digest:
            raise ValueError(f"the stimuli {source!r} are damaged or of another version: {REMEDY} again")
        return pictures
    if isinstance(source, str | Path):
        folder = _existing_folder(source)
        return Stimuli(_folder_entries(folder, limit), folder.resolve().name)
    if hasattr(source, "column_names"):
        return Stimuli(_dataset_entries(source, limit), "dataset")
    raise TypeError(f"cannot load stimuli from a {type(source).__name__}: {_SOURCES}")


def _read_image(source: Path | bytes, where: str) -> Image.Image:
    if isinstance(source, Path) and not source.is_file():
        raise FileNotFoundError(f"{where}: there is no image {source}: add the file, or remove its line")
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
            upright = ImageOps.exif_transpose(image)
    except Exception as error:  # PIL's decoders raise anything from OSError to struct.error on damaged files
        place = source if isinstance(source, Path) else "in the archive"
        message = f"{where}: the image {place} cannot be read or is truncated: replace the file ({error})"
        raise ValueError(message) from None
    return to_rgb(upright, where)


def _existing_folder(source: str | Path) -> Path:
    folder = Path(source).expanduser()
    if folder.is_dir():
        return folder
    if folder.exists():
        raise NotADirectoryError(f"{source} is not a folder: pass the folder that holds metadata.jsonl and its images")
    if isinstance(source, str) and source == folder.name:
        raise ValueError(f"unknown stimuli {source!r}, and there is no such folder: {_SOURCES}")
    raise FileNotFoundError(f"there is no folder {source}: {_SOURCES}")


def _folder_entries(folder: Path, limit: int | None) -> Iterator[CheckedStimulus]:
    metadata = folder / "metadata.jsonl"
    if not metadata.is_file():
        remedy = 'write one line per image: {"file_name": "a.png", "text": "its caption"}'
        raise FileNotFoundError(f"there is no metadata.jsonl in {folder}: {remedy}")
    for where, file_name, text in _metadata_lines(metadata.read_bytes(), str(metadata), limit):
        yield check_stimulus(partial(_read_image, folder / file_name, where), text, file_name, where)


def _zip_entries(archive: Path, limit: int | None) -> Iterator[CheckedStimulus]:
    if not archive.is_file():
        raise FileNotFoundError(f"the bundled emoji {archive} are missing: install bridgework again")
    try:
        with zipfile.ZipFile(archive) as opened:
            lines = list(_metadata_lines(opened.read("metadata.jsonl"), f"{archive.name}/metadata.jsonl", limit))
            images = [opened.read(file_name) for _, file_name, _ in lines]
    except (zipfile.BadZipFile, KeyError, EOFError) as error:
        raise ValueError(f"the bundled emoji {archive} are damaged: install bridgework again ({error})") from None
    for (where, file_name, text), image in zip(lines, images, strict=True):
        yield check_stimulus(partial(_read_image, image, where), text, file_name, where)


def _metadata_lines(content: bytes, path: str, limit: int | None) -> Iterator[tuple[str, str, object]]:
    """Yield (where, file_name, text) for every line that is not blank."""
    count = 0
    for number, line in enumerate(content.split(b"\n"), start=1):
        if not line.strip():
            continue
        if count == limit:
            return
        count += 1
        where = f"line {number} of {path}"
        try:
            row = json.loads(line)
        except ValueError as error:  # json's own error, or bytes that are not UTF-8
            raise ValueError(f"{where} is not valid JSON in UTF-8: correct or remove it ({error})") from None
        missing = [key for key in ("file_name", "text") if not isinstance(row, dict) or key not in row]
        if missing:
            raise ValueError(f'{where} lacks {" and ".join(missing)}: expected {{"file_name": ..., "text": ...}}')
        if not isinstance(row["file_name"], str):
            raise TypeError(f"the file_name of {where} is a {type(row['file_name']).__name__}: expected a string")
        yield where, row["file_name"], row["text"]


def _dataset_entries(dataset: Any, limit: int | None) -> Iterator[CheckedStimulus]:
    columns = dataset.column_names
    if isinstance(columns, dict):
        raise TypeError(
            f'a dataset of several splits is not a set: pass one, as in dataset["{next(iter(columns), "train")}"]'
        )
    if not hasattr(dataset, "__len__"):
        raise TypeError("a streaming dataset has no length: load it without streaming, or collect its rows first")
    caption = next((name for name in ("text", "caption") if name in columns), None)
    if "image" not in columns or caption is None:
        raise ValueError(f"a dataset with columns {columns}: expected image and text (or caption), rename_column helps")
    for number in range(len(dataset) if limit is None else min(limit, len(dataset))):
        where = f"row {number} of the dataset"
        row = _dataset_row(dataset, number, where)
        # Checked on the decoded row, kept as a function that reads it: decoding a row twice doubles the time.
        checked = check_stimulus(_row_image(row, where), row[caption], str(number), where)
        yield checked._replace(image=partial(_dataset_image, dataset, number, where))


def _dataset_row(dataset: Any, number: int, where: str) -> Any:
    try:
        return dataset[number]
    except Exception as error:  # reading a row decodes its image, with any of PIL's errors
        raise ValueError(f"{where} cannot be read: replace or drop it ({error})") from None


def _dataset_image(dataset: Any, number: int, where: str) -> Image.Image:
    return _row_image(_dataset_row(dataset, number, where), where)


def _row_image(row: Any, where: str) -> Image.Image:
    image = row["image"]
    if not isinstance(image, Image.Image):
        remedy = "cast_column('image', datasets.Image())"
        raise TypeError(f"the image of {where} is a {type(image).__name__}: expected a PIL image, use {remedy}")
    return to_rgb(image, where)
