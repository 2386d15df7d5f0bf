"""Fetch the picture sets: download a pinned archive, lay every picture on a white square, write its text beside it.

The folders are ordinary image folders with metadata.jsonl. Pictures are PNG of at most 400 pixels a side, square so
that no processor crops them. `bridgework fetch pictures` (`make stimuli`) fetches all; whoever has the
pinned archive already names it: `fetch("tuxpaint", "tuxpaint-stamps-default_2022.06.04-1_all.deb")`.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
import sys
import tarfile
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple
from xml.etree import ElementTree

from filelock import FileLock
from PIL import Image
from torch.hub import download_url_to_file
from tqdm import tqdm

from ..files import home
from .picture_sets import PICTURE_SETS
from .sources import load_stimuli
from .stimulus_set import Stimuli

SIDE = 256  # pixels of the longer side of a rendered drawing
NAMESAKES = 4  # a title that more drawings bear is the name of their collection
TITLE = "{http://purl.org/dc/elements/1.1/}title"


class Picture(NamedTuple):
    """One picture of a set: its file name there, its text, and the encoded image."""

    file_name: str
    text: str
    image: bytes


def fetch(name: str, archive: str | os.PathLike[str] | None = None) -> Stimuli:
    """The set `name`, downloaded and prepared unless it is there already and whole.

    Everything is made in a temporary folder and renamed when whole. `archive` is the pinned archive, if at hand.

    Raises ValueError (unknown name; an archive or a result that differs from the pinned one), ConnectionError (the
    download failed), ModuleNotFoundError (the SVG renderer is missing).
    """
    if name not in PICTURE_SETS:
        raise ValueError(f"unknown picture set {name!r}: expected one of {', '.join(PICTURE_SETS)}")
    target = home() / "stimuli" / name
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(target.parent / f".{name}.lock"):
        try:
            return load_stimuli(name)
        except (FileNotFoundError, ValueError):  # not fetched yet, or damaged: made anew
            pass
        for killed in target.parent.glob(f".{name}.making-*"):
            shutil.rmtree(killed)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{name}.making-") as temporary:
            made = Path(temporary, name)
            made.mkdir()
            _prepare(READERS[name](_pinned(name, Path(temporary), archive)), made)
            found = load_stimuli(made).digest
            if found != PICTURE_SETS[name].digest:
                raise ValueError(
                    f"the stimuli {name!r} came out with the digest {found}, expected {PICTURE_SETS[name].digest}: "
                    "install the tested versions (constraints.txt), then run `make stimuli` again"
                )
            if target.exists():
                os.replace(target, Path(temporary, "damaged"))
            os.replace(made, target)
    return load_stimuli(name)


def fetch_all() -> None:
    """Fetch every picture set, one printed line each."""
    for name in PICTURE_SETS:
        print(f"{name}: {len(fetch(name)):,} pictures in {home() / 'stimuli' / name}", flush=True)


def _pinned(name: str, folder: Path, archive: str | os.PathLike[str] | None) -> Path:
    source = PICTURE_SETS[name]
    if archive is None:
        archive = folder / PurePosixPath(source.url).name
        try:
            download_url_to_file(source.url, str(archive), progress=sys.stdout.isatty())
        except OSError as error:
            raise ConnectionError(
                f"could not download {source.url} ({error}): check the network, then run `make stimuli` again"
            ) from None
    with open(archive, "rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found != source.sha256:
        raise ValueError(f"{archive} has the sha256 {found} instead of {source.sha256}: do not use it; get it again")
    return Path(archive)


def _prepare(pictures: list[Picture], folder: Path) -> None:
    lines = []
    for picture in tqdm(pictures, f"preparing {folder.name}", unit="picture", delay=2, leave=False, disable=None):
        with Image.open(io.BytesIO(picture.image)) as image:
            drawn = image.convert("RGBA")
        side = max(drawn.size)
        square = Image.new("RGBA", (side, side), "white")
        square.alpha_composite(drawn, ((side - drawn.width) // 2, (side - drawn.height) // 2))
        square.convert("RGB").save(folder / picture.file_name)
        lines.append(json.dumps({"file_name": picture.file_name, "text": picture.text}))
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


# ---- reading the packages


def read_fluent(archive: Path) -> list[Picture]:
    """The emoji of an npm package that the Noto set also has, under its names and in its order."""
    drawn: dict[str, bytes] = {}
    with tarfile.open(archive) as package:
        for path, content in _members(package, ".webp"):
            code = re.sub("-fe0f", "", path.stem)  # the variation selector is not part of Noto's names
            drawn.setdefault(f"{code}.png", content)
    return [Picture(s.id, s.text, drawn[s.id]) for s in load_stimuli("noto") if s.id in drawn]


def read_tuxpaint(package: Path) -> list[Picture]:
    """Stamps with the English sentence of the text file beside them, the first stamp of each sentence.

    Left out: letters, coins and other symbols, most of which are writing, and stamps that are drawn as SVG only.
    """
    found: dict[str, Picture] = {}
    with _debian(package) as data:
        files = dict(_members(data, ".png", ".txt"))
    for path, content in sorted(files.items()):
        place = path.parts[path.parts.index("stamps") + 1 :]
        sentence = files.get(path.with_suffix(".txt"))
        if path.suffix == ".png" and sentence and place[0] != "symbols":
            text = sentence.decode("utf-8").split("\n")[0].strip()
            if text:
                found.setdefault(text.casefold(), Picture("-".join(place), text, content))
    return _shuffled(found.values())


def read_openclipart(package: Path) -> list[Picture]:
    """Drawings with a title of their own, the first drawing of each title.

    Left out: titles of fewer than two letters, or borne by more than `NAMESAKES` drawings (they name a collection);
    drawings with text in them, which needs fonts and could spell the title; what comes out empty or not at all.
    """
    titled: dict[str, list[tuple[PurePosixPath, str, bytes | None]]] = defaultdict(list)
    with _debian(package) as data:
        files = sorted(_members(data, ".svg"))
    for path, content in files:
        root = ElementTree.fromstring(content)
        title = " ".join(root.findtext(f".//{TITLE}", "").replace("_", " ").split())
        title = re.sub("^Clipart by .*? - ", "", title)
        written = any(str(e.tag).rpartition("}")[2] in ("text", "flowRoot") for e in root.iter())
        if sum(map(str.isalpha, title)) > 1:
            titled[title.casefold()].append((path, title, None if written else content))
    found = []
    for drawings in titled.values():
        path, title, content = drawings[0]
        if len(drawings) <= NAMESAKES and content and (image := _render(content)):
            found.append(Picture(f"{'-'.join(path.parts[path.parts.index('svg') + 1 :])[:-4]}.png", title, image))
    return _shuffled(found)


READERS: dict[str, Callable[[Path], list[Picture]]] = {
    "fluent": read_fluent,
    "tuxpaint": read_tuxpaint,
    "openclipart": read_openclipart,
}


def _members(archive: tarfile.TarFile, *suffixes: str) -> Iterator[tuple[PurePosixPath, bytes]]:
    """Path and content of the regular files with these suffixes; a link is a second name of a picture at hand."""
    for member in archive:
        path = PurePosixPath(member.name)
        if member.isfile() and path.suffix in suffixes and (opened := archive.extractfile(member)):
            yield path, opened.read()


def _debian(package: Path) -> tarfile.TarFile:
    """The files of a Debian package: the member data.tar.* of an `ar` archive (man 5 deb, man 5 ar)."""
    content = package.read_bytes()
    if content.startswith(b"!<arch>\n"):
        at = 8
        while at < len(content):
            name, size = content[at : at + 16], int(content[at + 48 : at + 58])
            if name.startswith(b"data.tar"):
                return tarfile.open(fileobj=io.BytesIO(content[at + 60 : at + 60 + size]))
            at += 60 + size + size % 2
    raise ValueError(f"{package} is not a Debian package: expected an ar archive with a data.tar in it")


def _render(svg: bytes) -> bytes | None:
    """A drawing as PNG, fitted into SIDE x SIDE; None where it is empty or cannot be drawn."""
    try:
        import resvg_py
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            "Open Clip Art is drawn with resvg-py, which is not installed: pip install 'bridgework[stimuli]'"
        ) from None
    try:
        png = bytes(resvg_py.svg_to_bytes(svg.decode("utf-8"), dpi=96, width=SIDE, height=SIDE, skip_system_fonts=True))
    except ValueError:
        return None
    with Image.open(io.BytesIO(png)) as image:
        white = Image.new("RGBA", image.size, "white")
        white.alpha_composite(image.convert("RGBA"))
    one_colour = white.getcolors(1)
    return None if one_colour else png


def _shuffled(pictures: Iterable[Picture]) -> list[Picture]:
    """In an order that has nothing to do with their kinds: by a hash of the file name, as the Noto set is."""
    return sorted(pictures, key=lambda picture: hashlib.sha256(picture.file_name.encode()).hexdigest())
