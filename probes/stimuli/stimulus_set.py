"""Stimuli: the paired images and texts shown to every subject.

Four sources: the bundled Noto emoji with their English names, a fetched picture set, an image folder with
`metadata.jsonl`, and a `datasets.Dataset`. Every image and caption is checked once when the set is made, so that
nothing fails hours later in the middle of an extraction; afterwards images are decoded again each time they are asked
for, so that a large folder does not have to fit into memory.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, overload

from PIL import Image, ImageOps
from tqdm import tqdm

from .picture_sets import PICTURE_SETS, REMEDY, fetched

_NOTO = Path(__file__).parent / "noto" / "noto.zip"
_SOURCES = f"expected 'noto', {str([*PICTURE_SETS])[1:-1]}, a folder with metadata.jsonl, or a datasets.Dataset"


class Stimulus(NamedTuple):
    """One pair: an RGB image (width x height, any size), the text that belongs to it, and its id within the set."""

    image: Image.Image
    text: str
    id: str


class _Entry(NamedTuple):
    """A checked stimulus: its image or the way to read it, and the sha256 (hex) of its id, text and pixels."""

    image: Image.Image | Callable[[], Image.Image]
    text: str
    id: str
    digest: str


class Stimuli(Sequence[Stimulus]):
    """An ordered, checked set of `Stimulus`; a slice is a `Stimuli` again.

    `samples` are stimuli or (image, text, id) tuples; images that are not RGB are laid over white and converted.
    `name` labels the set. `digest` is a sha256 (hex) over all ids, texts, image sizes and pixels, in order: two sets
    with the same digest show a subject the same thing.

    Raises ValueError for an empty set, two equal ids, a blank caption or an image without 8-bit colours, and TypeError
    for an image, caption or id of the wrong type.
    """

    def __init__(self, samples: Iterable[Stimulus | _Entry], name: str = "stimuli"):
        self.name = name
        bar = tqdm(samples, "checking stimuli", unit="image", delay=2, leave=False, disable=None)
        self._entries = tuple(s if isinstance(s, _Entry) else _stimulus_entry(s, i) for i, s in enumerate(bar))
        if not self._entries:
            raise ValueError(f"stimuli {name!r} are empty: expected at least one image with its text")
        seen: set[str] = set()
        for entry in self._entries:
            if entry.id in seen:
                raise ValueError(
                    f"stimuli {name!r} hold the id {entry.id!r} twice: give every image one text and its own id"
                )
            seen.add(entry.id)
        self.digest = hashlib.sha256("".join(e.digest for e in self._entries).encode()).hexdigest()

    def __len__(self) -> int:
        return len(self._entries)

    @overload
    def __getitem__(self, index: int) -> Stimulus: ...
    @overload
    def __getitem__(self, index: slice) -> Stimuli: ...
    def __getitem__(self, index: int | slice) -> Stimulus | Stimuli:
        if isinstance(index, slice):
            return Stimuli(self._entries[index], self.name)
        image, text, id, _ = self._entries[index]
        return Stimulus(image if isinstance(image, Image.Image) else image(), text, id)

    @property
    def ids(self) -> tuple[str, ...]:
        return tuple(entry.id for entry in self._entries)

    @property
    def texts(self) -> tuple[str, ...]:
        return tuple(entry.text for entry in self._entries)

    def __repr__(self) -> str:
        return f"Stimuli({self.name!r}, {len(self)} samples, digest {self.digest[:12]})"


def load_stimuli(source: Any, limit: int | None = None) -> Stimuli:
    """Open a set of paired images and texts.

    `source` is one of
    - "noto": 1,392 emoji of the Noto Color Emoji font (136 x 128) with their English names. They come in a fixed
      shuffled order, so that a `limit` draws from all kinds of emoji.
    - "fluent", "tuxpaint" or "openclipart": sets that `make stimuli` fetches (probes/stimuli/picture_sets.py), shuffled too.
    - a folder with `metadata.jsonl`: one JSON object a line with `file_name` (relative to the folder; it is the id) and
      `text`, images in any format that PIL reads. (A folder called as one of the sets above is reached as "./noto".)
    - a `datasets.Dataset` with columns `image` and `text` (or `caption`); the id is the row number.

    `limit` keeps the first that many pairs, and only these are read. Transparent images are laid over white, and photos
    are turned upright by their EXIF tag.

    Raises FileNotFoundError for a missing folder, metadata.jsonl or image; TypeError for a caption, image or source of
    the wrong type; ValueError for an unknown name, an unreadable or truncated image, a broken line, a missing column,
    an empty set or a limit below 1.
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


def _stimulus_entry(sample: Any, position: int) -> _Entry:
    try:
        image, text, id = sample
    except (TypeError, ValueError):
        kind = type(sample).__name__
        raise TypeError(f"sample {position} is a {kind}: expected a Stimulus(image, text, id)") from None
    where = f"sample {position}"
    if not isinstance(id, str):
        raise TypeError(f"the id of {where} is a {type(id).__name__}: expected a string")
    if not isinstance(image, Image.Image):
        raise TypeError(f"the image of {where} is a {type(image).__name__}: expected a PIL.Image.Image")
    return _entry(_rgb(image, where), text, id, where)


def _entry(image: Image.Image | Callable[[], Image.Image], text: object, id: str, where: str) -> _Entry:
    if not isinstance(text, str):
        raise TypeError(f"the caption of {where} is a {type(text).__name__}: expected one string per image")
    if not text.strip():
        raise ValueError(f"the caption of {where} is blank: write one, or leave the image out")
    pixels = image if isinstance(image, Image.Image) else image()
    # JSON keeps the fields apart: without it ("ab", "c") and ("a", "bc") would share a digest.
    label = json.dumps([id, text, pixels.size]).encode()
    return _Entry(image, text, id, hashlib.sha256(label + pixels.tobytes()).hexdigest())


def _rgb(image: Image.Image, where: str) -> Image.Image:
    if image.mode.startswith(("I", "F")):
        # PIL would clip these to 0..255 without a word, and leave a white image.
        raise ValueError(f"the image of {where} has mode {image.mode!r}: expected 8 bits a channel, convert it first")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    return image.convert("RGB")


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
    return _rgb(upright, where)


def _existing_folder(source: str | Path) -> Path:
    folder = Path(source).expanduser()
    if folder.is_dir():
        return folder
    if folder.exists():
        raise NotADirectoryError(f"{source} is not a folder: pass the folder that holds metadata.jsonl and its images")
    if isinstance(source, str) and source == folder.name:
        raise ValueError(f"unknown stimuli {source!r}, and there is no such folder: {_SOURCES}")
    raise FileNotFoundError(f"there is no folder {source}: {_SOURCES}")


def _folder_entries(folder: Path, limit: int | None) -> Iterator[_Entry]:
    metadata = folder / "metadata.jsonl"
    if not metadata.is_file():
        remedy = 'write one line per image: {"file_name": "a.png", "text": "its caption"}'
        raise FileNotFoundError(f"there is no metadata.jsonl in {folder}: {remedy}")
    for where, file_name, text in _metadata_lines(metadata.read_bytes(), str(metadata), limit):
        yield _entry(partial(_read_image, folder / file_name, where), text, file_name, where)


def _zip_entries(archive: Path, limit: int | None) -> Iterator[_Entry]:
    if not archive.is_file():
        raise FileNotFoundError(f"the bundled emoji {archive} are missing: install bridgework again")
    try:
        with zipfile.ZipFile(archive) as opened:
            lines = list(_metadata_lines(opened.read("metadata.jsonl"), f"{archive.name}/metadata.jsonl", limit))
            images = [opened.read(file_name) for _, file_name, _ in lines]
    except (zipfile.BadZipFile, KeyError, EOFError) as error:
        raise ValueError(f"the bundled emoji {archive} are damaged: install bridgework again ({error})") from None
    for (where, file_name, text), image in zip(lines, images, strict=True):
        yield _entry(partial(_read_image, image, where), text, file_name, where)


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


def _dataset_entries(dataset: Any, limit: int | None) -> Iterator[_Entry]:
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
        # Checked on the row at hand, kept as the way back to it: decoding a row twice doubles the time.
        checked = _entry(_row_image(row, where), row[caption], str(number), where)
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
    return _rgb(image, where)
