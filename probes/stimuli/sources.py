"""Load stimuli from the bundled emoji, a downloaded picture set, or any table, archive, folder, list or dataset."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image, ImageOps

from ..arguments import checked, file_name
from .images import deep_colours, to_rgb, too_deep
from .picture_sets import PICTURE_SETS, REMEDY, fetched
from .records import (
    IMAGE_FILES,
    Record,
    Records,
    json_lines,
    open_dataset,
    open_file,
    open_folder,
    open_frame,
    open_list,
)
from .stimulus_set import CheckedStimulus, Stimuli, check_stimulus, dealt_by_texts

_NOTO = Path(__file__).parent / "noto" / "noto.zip"
_SOURCES = (
    f"expected 'noto', {str([*PICTURE_SETS])[1:-1]}, a folder of images with captions, a table (CSV, TSV, Parquet, "
    "JSON lines), COCO captions, a webdataset archive, a DataFrame, a list of (image, text), or a datasets.Dataset"
)
IMAGE_COLUMNS = (
    "image", "img", "picture", "photo", "file_name", "filename", "image_path", "image_file", "img_path", "filepath",
    "file_path", "path", "file", *(ending[1:] for ending in IMAGE_FILES),
)  # fmt: skip
TEXT_COLUMNS = (
    "text", "caption", "captions", "texts", "txt", "sentence", "sentences", "sentences_raw", "raw", "alt_text",
    "description", "prompt", "title", "cap", "json.caption", "json.text",
)  # fmt: skip


def load_stimuli(
    source: Any,
    limit: int | None = None,
    *,
    image: str | None = None,
    text: str | None = None,
    id: str | None = None,
    root: str | Path | None = None,
    captions: str | None = None,
) -> Stimuli:
    """Open a set of paired images and texts.

    Transparent images are laid over white, and photos are turned upright by their EXIF tag.

    Parameters
    ----------
    source : str, pathlib.Path, DataFrame, list or datasets.Dataset
        One of these:

        - "noto": 1,392 emoji of the Noto Color Emoji font (136 x 128 pixels) with their English names. Their order is
          shuffled and fixed, so that a `limit` draws from all kinds of emoji.
        - "fluent", "tuxpaint" or "openclipart": sets that `make stimuli` downloads (probes/stimuli/picture_sets.py),
          shuffled too.
        - A folder of images with metadata.jsonl, metadata.csv or metadata.parquet, or with a text file beside each
          image (a.jpg, a.txt). A folder with the name of a set above is written with its path, such as "./noto".
        - A table: CSV, TSV, Parquet, JSON lines or a JSON list. An image is a path, or in Parquet its bytes.
        - COCO captions (a JSON file with images and annotations).
        - A webdataset archive (.tar), or a folder of them. Those that are compressed are held in memory.
        - A folder that `save_to_disk` of datasets wrote, a `datasets.Dataset`, or a streaming dataset. A streaming one
          is read to its end, or to the limit, and its images are held in memory.
        - A DataFrame, or a list of (image, text), (image, text, id) or mappings. An image is a path, bytes or a PIL
          image.
    limit : int, optional
        Keep the first `limit` pairs of an image and a caption. Only these are read.
    image, text : str, optional
        The columns that hold images (or their paths) and texts. By default they are found by their names, such as image
        or file_name, and text or caption.
    id : str, optional
        The column that holds the ids. By default an id is the image's path as it is written, the archive's key, or the
        row number.
    root : str or pathlib.Path, optional
        The folder that paths of images begin at; by default the folder of the table.
    captions : str, optional
        What becomes of an image with several texts: "first" keeps the first one, and "all" makes a stimulus of each,
        with the image as its group (`Stimuli.groups`). Then ids end on "#0", "#1", ..., and features are compared image
        by image (`similarity_map`). By default it is an error.

    Returns
    -------
    Stimuli
        The set, checked.

    Raises
    ------
    FileNotFoundError
        A file, a folder or an image is missing, or a picture set was not downloaded.
    TypeError
        A caption, an image or the source has the wrong type.
    ValueError
        The name is unknown, an image is unreadable or truncated, a row is broken, a column is missing, an image has
        several captions, one id names two images, the set is empty, or the limit is below 1.

    See Also
    --------
    Stimuli : Holds the set, and deals it into parts.
    bridgework.models.scene_stimuli : Composes scenes of shapes, whose captions are exact.

    Examples
    --------
    >>> load_stimuli("noto", limit=512)
    Stimuli('noto', 512 samples, digest ...)
    >>> load_stimuli("flickr8k/captions.csv", image="image", text="caption", root="flickr8k/Images", captions="first")
    Stimuli('captions', ... samples, digest ...)
    """
    checked("limit", limit, int | None, least=1)
    checked("captions", captions, str | None, known=("first", "all"))
    for column, given_name in (("image", image), ("text", text), ("id", id)):
        checked(column, given_name, str | None, remedy="it is the name of a column")
    checked("root", root, str | Path | None, remedy="it is the folder that paths of images begin at")
    if root is not None:
        file_name("root", root)
    chosen = {"image": image, "text": text, "id": id}
    if isinstance(source, str) and (source == "noto" or source in PICTURE_SETS):
        if given := [name for name, value in (chosen | {"root": root}).items() if value is not None]:
            raise ValueError(f"{source!r} has images and texts of its own: leave out {', '.join(given)}")
        return _known(source, limit)
    records = _open(source)
    if root is not None:
        records = records._replace(root=Path(root).expanduser(), within=None)
    return Stimuli(_entries(records, limit, chosen, captions), records.name)


class _Columns(NamedTuple):
    image: str
    text: str
    id: str | None


def _known(name: str, limit: int | None) -> Stimuli:
    """Open the emoji or a picture set."""
    if name == "noto":
        records = Records(_emoji(_NOTO), name, "the emoji")
        columns = {"image": "image", "text": "text", "id": "id"}
        return dealt_by_texts(Stimuli(_entries(records, limit, columns, None), name))
    plain = {"image": "file_name", "text": "text"}
    pictures = dealt_by_texts(Stimuli(_entries(open_folder(fetched(name)), limit, plain, None), name))
    if limit is None and pictures.digest != PICTURE_SETS[name].digest:
        raise ValueError(f"the stimuli {name!r} are damaged or of another version: {REMEDY} again")
    return pictures


def _open(source: Any) -> Records:
    if isinstance(source, str | Path):
        path = Path(source).expanduser()
        if path.is_dir():
            return open_folder(path)
        if path.exists():
            return open_file(path)
        if isinstance(source, str) and source == path.name and not path.suffix:
            raise ValueError(f"unknown stimuli {source!r}, and there is no such folder: {_SOURCES}")
        raise FileNotFoundError(f"there is no file or folder {source}: {_SOURCES}")
    if type(source).__module__.partition(".")[0] == "pandas" and hasattr(source, "itertuples"):
        return open_frame(source)
    if isinstance(source, list | tuple):
        return open_list(source)
    if hasattr(source, "column_names") or type(source).__module__.startswith("datasets."):
        return open_dataset(source)
    raise TypeError(f"cannot load stimuli from a {type(source).__name__}: {_SOURCES}")


def _entries(
    records: Records, limit: int | None, chosen: Mapping[str, str | None], captions: str | None
) -> Iterator[CheckedStimulus]:
    """Check one image with its text after another."""
    columns, made, last = None, 0, ("", None)
    known: dict[str, list[str]] = {}  # what the captions of each image show
    for record in records.rows:
        columns = columns or _find_columns(record.values, chosen, records.about)
        if missing := [name for name in columns if name is not None and name not in record.values]:
            expected = f"a row holds {columns.image} and {columns.text}"
            raise ValueError(f"{record.where} lacks {' and '.join(missing)}: {expected}; complete or remove it")
        found = record.values[columns.image]
        named = isinstance(found, str | Path)
        key = str(record.values[columns.id]) if columns.id else str(found) if named else record.key
        text = record.values[columns.text]
        text = text.tolist() if hasattr(text, "tolist") else text  # what pandas makes of lists
        texts = list(text) if isinstance(text, list | tuple) and text else [text]
        if captions is None and (len(texts) > 1 or key in known):
            remedy = "captions='all' keeps them as groups, and captions='first' the first of each"
            raise ValueError(f"{record.where}: the image {key!r} has several captions: {remedy}")
        if captions != "all":
            if key in known:
                continue
            texts = texts[:1]
        if records.within is not None and named:
            _check_within(records.within, records.root / found, record.where)
        read = _reader(record, columns.image, records.root)
        # checked on what was read, kept as a function that reads it: reading a row twice doubles the time
        shown = last[1] if named and last[0] == found else None
        shown = shown or read()
        last = (found, shown) if named else ("", None)
        if record.again is not None:
            read = partial(_read_again, record._replace(values={}), columns.image, records.root)
        for text in texts:
            shows = known.setdefault(key, [])
            id = f"{key}#{len(shows)}" if captions == "all" else key
            checked = check_stimulus(shown, text, id, record.where)
            shows.append(checked.shows)
            if shows[0].split()[1] != checked.shows.split()[1]:
                raise ValueError(f"{record.where}: the id {key!r} names another image before: give each image its own")
            yield checked._replace(image=read, group=key if captions == "all" else "")
            if (made := made + 1) == limit:
                return


def _find_columns(values: Mapping[str, Any], chosen: Mapping[str, str | None], about: str) -> _Columns:
    """Return the columns of images and of texts, found by their names where nobody named them."""
    names = {str(name).lower(): name for name in reversed([*values])}
    image, text = (
        chosen[kind] or next((names[name] for name in usual if name in names), None)
        for kind, usual in (("image", IMAGE_COLUMNS), ("text", TEXT_COLUMNS))
    )
    unknown = [name for name in chosen.values() if name is not None and name not in values]
    if unknown or image is None or text is None:
        lacks = f"no column {unknown[0]!r}" if unknown else "no images and texts by their usual names"
        raise ValueError(
            f"{about} has columns {[*values]} and {lacks}: name them, as in image={'path'!r}, text={'caption'!r}"
        )
    return _Columns(image, text, chosen.get("id"))


def _reader(record: Record, column: str, root: Path) -> Callable[[], Image.Image]:
    """Return what reads the image of a record."""
    value, where = record.values[column], record.where
    if isinstance(value, Mapping) and {"bytes", "path"} & value.keys():  # as `datasets` keeps images
        value = value.get("bytes") or value.get("path")
    if isinstance(value, str | Path):
        return partial(_read_image, root / value, where)
    if isinstance(value, bytes):
        return partial(_read_image, value, where)
    if isinstance(value, Image.Image):
        return partial(to_rgb, value, where)
    if callable(value):  # reads bytes
        return lambda: _read_image(value(), where)
    raise TypeError(f"the {column} of {where} is a {type(value).__name__}: expected a path, bytes or a PIL image")


def _check_within(folder: Path, file: Path, where: str) -> None:
    """Raise ValueError where a file that metadata name lies outside their folder, also behind a link."""
    try:
        inside = file.resolve().is_relative_to(folder.resolve())
    except (ValueError, OSError, RuntimeError):  # a zero byte, half a character, a circle of links
        raise ValueError(f"{where} names {str(file)!r}, which is no path: correct or remove it") from None
    if not inside:
        raise ValueError(
            f"{where} names {str(file)!r}, which lies outside the folder {str(folder)!r}, or is a link out of it: put "
            "the file there, or say that paths may leave it by root="
        )


def _read_again(record: Record, column: str, root: Path) -> Image.Image:
    assert record.again is not None
    return _reader(record._replace(values=record.again()), column, root)()


def _in_one_line(path: Path) -> str:
    """Return a path as messages name it: as it is, or quoted where it has line breaks and the like."""
    text = str(path)
    return text if text.isprintable() else repr(text)


def _read_image(source: Path | bytes, where: str) -> Image.Image:
    if isinstance(source, Path) and not source.is_file():
        remedy = "add the file, remove its row, or say where paths begin (root=)"
        raise FileNotFoundError(f"{where}: there is no image {_in_one_line(source)}: {remedy}")
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
            deep = deep_colours(image)
            upright = image if deep else ImageOps.exif_transpose(image)
    except Exception as error:  # PIL's decoders raise anything from OSError to struct.error on damaged files
        place = f" {_in_one_line(source)}" if isinstance(source, Path) else ""
        message = f"{where}: the image{place} cannot be read or is truncated: replace the file ({error})"
        raise ValueError(message) from None
    if deep:
        raise too_deep(deep, where)
    return to_rgb(upright, where)


def _emoji(archive: Path) -> Iterator[Record]:
    if not archive.is_file():
        raise FileNotFoundError(f"the bundled emoji {archive} are missing: install bridgework again")
    try:
        with zipfile.ZipFile(archive) as opened:
            for record in json_lines(opened.read("metadata.jsonl"), f"{archive.name}/metadata.jsonl"):
                name = record.values["file_name"]
                yield record._replace(values={"id": name, "text": record.values["text"], "image": opened.read(name)})
    except (zipfile.BadZipFile, KeyError, EOFError) as error:
        raise ValueError(f"the bundled emoji {archive} are damaged: install bridgework again ({error})") from None
