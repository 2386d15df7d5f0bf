"""Download the picture sets and turn each into an image folder with metadata.jsonl.

A pinned archive is downloaded, every picture is laid on a white square, and its text is written beside it. Pictures are
PNG of at most 400 pixels a side, square so that no processor crops them. `bridgework fetch pictures` (`make stimuli`)
downloads all sets. An archive that is already on the disk can be named:
`fetch("tuxpaint", "tuxpaint-stamps-default_2022.06.04-1_all.deb")`.
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
from tqdm.auto import tqdm

from ..files import home
from .picture_sets import PICTURE_SETS
from .sources import load_stimuli
from .stimulus_set import Stimuli

SIDE = 256  # pixels of the longer side of a rendered drawing
NAMESAKES = 4  # a title that more drawings have is the name of their collection
TITLE = "{http://purl.org/dc/elements/1.1/}title"


class Picture(NamedTuple):
    """One picture of a set.

    Attributes
    ----------
    file_name : str
        Its file name in the set, which is its id.
    text : str
        Its text.
    image : bytes
        The encoded image.
    """

    file_name: str
    text: str
    image: bytes


def fetch(name: str, archive: str | os.PathLike[str] | None = None) -> Stimuli:
    """Download and prepare a picture set, unless it is there already and whole.

    The set is prepared in a temporary folder and moved into place when it is whole. Processes that fetch the same set
    wait for one another.

    Parameters
    ----------
    name : str
        A name in `PICTURE_SETS`.
    archive : str or os.PathLike, optional
        The pinned archive, where it is already on the disk. It is then not downloaded.

    Returns
    -------
    Stimuli
        The set.

    Raises
    ------
    ValueError
        The name is unknown, or the archive or the result differs from the pinned one.
    ConnectionError
        The download failed.
    ModuleNotFoundError
        The SVG renderer is missing.
    """
    if name not in PICTURE_SETS:
        raise ValueError(f"unknown picture set {name!r}: expected one of {', '.join(PICTURE_SETS)}")
    target = home() / "stimuli" / name
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(target.parent / f".{name}.lock"):
        try:
            return load_stimuli(name)
        except (FileNotFoundError, ValueError):  # not downloaded yet, or damaged
            pass
        for killed in target.parent.glob(f".{name}.making-*"):
            shutil.rmtree(killed)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{name}.making-") as temporary:
            prepared = Path(temporary, name)
            prepared.mkdir()
            _prepare(READERS[name](_pinned(name, Path(temporary), archive)), prepared)
            digest = load_stimuli(prepared).digest
            if digest != PICTURE_SETS[name].digest:
                raise ValueError(
                    f"the stimuli {name!r} came out with the digest {digest}, expected {PICTURE_SETS[name].digest}: "
                    "install the tested versions (constraints.txt), then run `make stimuli` again"
                )
            if target.exists():
                os.replace(target, Path(temporary, "damaged"))
            os.replace(prepared, target)
    return load_stimuli(name)


def fetch_all() -> None:
    """Fetch every picture set, one printed line each."""
    for name in PICTURE_SETS:
        print(f"{name}: {len(fetch(name)):,} pictures in {home() / 'stimuli' / name}", flush=True)


def _pinned(name: str, folder: Path, archive: str | os.PathLike[str] | None) -> Path:
    """Return the path of a set's archive, downloaded into `folder` where none is given, after a check of its hash."""
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
    """Write an image folder with metadata.jsonl, each picture on a white square."""
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
    """Read the Fluent emoji that the Noto set also has.

    Parameters
    ----------
    archive : pathlib.Path
        The npm package.

    Returns
    -------
    list of Picture
        The pictures, with the Noto set's names and ids and in its order.
    """
    drawn: dict[str, bytes] = {}
    with tarfile.open(archive) as package:
        for path, content in _members(package, ".webp"):
            code = re.sub("-fe0f", "", path.stem)  # the variation selector is not part of Noto's names
            drawn.setdefault(f"{code}.png", content)
    return [Picture(s.id, s.text, drawn[s.id]) for s in load_stimuli("noto") if s.id in drawn]


def read_tuxpaint(package: Path) -> list[Picture]:
    """Read the Tux Paint stamps with the English sentence of the text file beside each.

    Of several stamps with one sentence the first is taken. Letters, coins and other symbols are left out, because most
    of them are writing, and so are stamps that are drawn as SVG only.

    Parameters
    ----------
    package : pathlib.Path
        The Debian package.

    Returns
    -------
    list of Picture
        The stamps, in a shuffled and fixed order.

    Raises
    ------
    ValueError
        The file is not a Debian package.
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
    """Read the Open Clip Art drawings that have a title, the first drawing of each title.

    These are left out: titles of fewer than two letters; titles of more than `NAMESAKES` drawings, which name a
    collection; drawings with text in them, which needs fonts and could spell the title; drawings that cannot be
    rendered or come out empty.

    Parameters
    ----------
    package : pathlib.Path
        The Debian package.

    Returns
    -------
    list of Picture
        The drawings, in a shuffled and fixed order.

    Raises
    ------
    ValueError
        The file is not a Debian package.
    ModuleNotFoundError
        The SVG renderer is missing.
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
    """Yield path and content of the regular files with these suffixes; a link only gives a picture a second name."""
    for member in archive:
        path = PurePosixPath(member.name)
        if member.isfile() and path.suffix in suffixes and (opened := archive.extractfile(member)):
            yield path, opened.read()


def _debian(package: Path) -> tarfile.TarFile:
    """Open the files of a Debian package: the member data.tar.* of an `ar` archive (man 5 deb, man 5 ar)."""
    content = package.read_bytes()
    if content.startswith(b"!<arch>\n"):
        start = 8
        while start < len(content):
            name, size = content[start : start + 16], int(content[start + 48 : start + 58])
            if name.startswith(b"data.tar"):
                return tarfile.open(fileobj=io.BytesIO(content[start + 60 : start + 60 + size]))
            start += 60 + size + size % 2
    raise ValueError(f"{package} is not a Debian package: expected an ar archive with a data.tar in it")


def _render(svg: bytes) -> bytes | None:
    """Render a drawing as PNG within SIDE x SIDE; return None where it is empty or cannot be drawn."""
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
    """Sort pictures by a hash of the file name, as the Noto set is sorted, so that kinds of pictures are mixed."""
    return sorted(pictures, key=lambda picture: hashlib.sha256(picture.file_name.encode()).hexdigest())
