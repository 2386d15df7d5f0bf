from __future__ import annotations

import hashlib
import io
import sys
import tarfile
from pathlib import Path
from typing import Literal

import pytest
from PIL import Image

from bridgework.probes import load_stimuli
from bridgework.probes.files import home
from bridgework.probes.stimuli import downloads
from bridgework.probes.stimuli.picture_sets import PICTURE_SETS, PictureSet

RED = (255, 0, 0)


def picture(size=(8, 8), colour=(255, 0, 0, 255), format="PNG") -> bytes:
    stream = io.BytesIO()
    Image.new("RGBA", size, colour).save(stream, format, lossless=True)
    return stream.getvalue()


def drawing(title: str, inside: str = '<rect width="20" height="10" fill="red"/>') -> bytes:
    return f"""<svg xmlns="http://www.w3.org/2000/svg" xmlns:dc="http://purl.org/dc/elements/1.1/"
        width="40" height="10"><metadata><dc:title>{title}</dc:title><dc:creator><dc:title>somebody</dc:title>
        </dc:creator></metadata>{inside}</svg>""".encode()


def tarball(files: dict[str, bytes | str], mode: Literal["w:gz", "w:xz"]) -> bytes:
    """An archive of these files; a string is the target of a symbolic link."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            if isinstance(content, str):
                member.type, member.linkname = tarfile.SYMTYPE, content
                archive.addfile(member)
            else:
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    return stream.getvalue()


def debian(path: Path, files: dict[str, bytes | str]) -> Path:
    members = {"debian-binary": b"2.0\n", "control.tar.xz": b"odd", "data.tar.xz": tarball(files, "w:xz")}
    content = b"!<arch>\n"
    for name, data in members.items():
        header = f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(data):<10}`\n"
        content += header.encode() + data + b"\n" * (len(data) % 2)
    path.write_bytes(content)
    return path


def stamps(path: Path) -> Path:
    there = "./usr/share/tuxpaint/stamps"
    return debian(
        path,
        {
            f"{there}/animals/cat.png": picture((6, 2)),
            f"{there}/animals/cat.txt": b"A cat.\nfr.utf8=Un chat.\n",
            f"{there}/animals/hat.png": picture((2, 6), (0, 0, 255, 255)),
            f"{there}/animals/hat.txt": "A hat — “old”.\nde.utf8=Ein Hut.\n".encode(),
            f"{there}/animals/z_hat.png": picture(),
            f"{there}/animals/z_hat.txt": "A HAT — “old”.\n".encode(),
            f"{there}/animals/cat_mirror.png": picture(),
            f"{there}/animals/blank.png": picture(),
            f"{there}/animals/blank.txt": b" \nde.utf8=Leer.\n",
            f"{there}/animals/vector.svg": drawing("vector"),
            f"{there}/animals/vector.txt": b"A vector.\n",
            f"{there}/animals/link.png": "cat.png",
            f"{there}/animals/link.txt": b"A link.\n",
            f"{there}/symbols/a.png": picture(),
            f"{there}/symbols/a.txt": b"The letter A.\n",
        },
    )


def test_fluent_takes_names_ids_and_order_of_noto(tmp_path):
    noto = load_stimuli("noto", limit=3)
    first, third = (noto[i].id.removesuffix(".png") for i in (0, 2))
    names = [f"{third}-fe0f", first, "1f1e6-1f1e8", "1f469-200d-1f680"]
    archive = tmp_path / "emoji.tgz"
    files: dict[str, bytes | str] = {f"package/assets/{name}.webp": picture(format="WEBP") for name in names}
    archive.write_bytes(tarball(files | {"package/package.json": b"{}"}, "w:gz"))
    found = downloads.read_fluent(archive)
    assert [(p.file_name, p.text) for p in found] == [(s.id, s.text) for s in (noto[0], noto[2])]


def test_tuxpaint_pairs_stamps_with_their_sentences(tmp_path):
    found = {p.file_name: p.text for p in downloads.read_tuxpaint(stamps(tmp_path / "stamps.deb"))}
    assert found == {"animals-cat.png": "A cat.", "animals-hat.png": "A hat — “old”."}


def test_openclipart_takes_titles_that_name_one_drawing(tmp_path):
    there = "./usr/share/openclipart/svg"
    files: dict[str, bytes | str] = {
        f"{there}/food/big_apple.svg": drawing("Big_Apple"),
        f"{there}/food/other_apple.svg": drawing("big apple"),
        f"{there}/food/link.svg": "big_apple.svg",
        f"{there}/animals/bee.svg": drawing("Clipart by Ann Other - bee"),
        f"{there}/signs/stop.svg": drawing("stop", "<text>stop</text>"),
        f"{there}/signs/empty.svg": drawing("empty", ""),
        f"{there}/signs/broken.svg": drawing("broken").replace(b'width="40"', b'width="0"'),
        f"{there}/signs/q.svg": drawing("Q"),
        f"{there}/signs/none.svg": drawing(""),
    }
    files |= {f"{there}/cards/{i}.svg": drawing("playing cards") for i in range(downloads.NAMESAKES + 1)}
    found = downloads.read_openclipart(debian(tmp_path / "art.deb", files))
    assert {p.file_name: p.text for p in found} == {"food-big_apple.png": "Big Apple", "animals-bee.png": "bee"}
    for drawn in found:
        with Image.open(io.BytesIO(drawn.image)) as image:
            assert image.size == (downloads.SIDE, downloads.SIDE // 4)
            assert image.getpixel((9, 9)) == (*RED, 255) and image.getpixel((250, 9)) == (0, 0, 0, 0)


def test_order_is_shuffled_and_fixed(tmp_path):
    there = "./usr/share/openclipart/svg"
    titles = ["ant", "bee", "cat", "dog", "eel", "fox", "gnu", "hen"]
    files: dict[str, bytes | str] = {f"{there}/{title}.svg": drawing(title) for title in titles}
    forth = downloads.read_openclipart(debian(tmp_path / "forth.deb", files))
    back = downloads.read_openclipart(debian(tmp_path / "back.deb", dict(reversed(files.items()))))
    assert forth == back
    assert [p.text for p in forth] != titles and sorted(p.text for p in forth) == titles


def test_svg_renderer_missing(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "resvg_py", None)
    art = debian(tmp_path / "art.deb", {"./usr/share/openclipart/svg/a.svg": drawing("apple")})
    with pytest.raises(ModuleNotFoundError, match=r"resvg-py.*pip install 'bridgework\[stimuli\]'"):
        downloads.read_openclipart(art)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"!<arch>\n"])
def test_not_a_debian_package(tmp_path, content):
    (tmp_path / "odd.deb").write_bytes(content)
    with pytest.raises(ValueError, match=r"odd\.deb is not a Debian package"):
        downloads.read_tuxpaint(tmp_path / "odd.deb")


# ---- downloading, checking, repairing: the stamps above behind a file URL


@pytest.fixture
def source(tmp_path, monkeypatch) -> PictureSet:
    """The table's tuxpaint set is the two stamps; the home is new and empty."""
    monkeypatch.setenv("BRIDGEWORK_HOME", str(tmp_path / "home"))
    archive = stamps(tmp_path / "stamps.deb")
    sha256 = hashlib.sha256(archive.read_bytes()).hexdigest()
    folder = tmp_path / "expected"
    folder.mkdir()
    downloads._prepare(downloads.read_tuxpaint(archive), folder)
    made = PictureSet(archive.as_uri(), sha256, load_stimuli(folder).digest)
    monkeypatch.setitem(PICTURE_SETS, "tuxpaint", made)
    return made


def left() -> list[str]:
    return sorted(p.name for p in (home() / "stimuli").iterdir() if p.suffix != ".lock")


def test_fetch_once_then_without_network(source, monkeypatch):
    shown = downloads.fetch("tuxpaint")
    assert shown.digest == source.digest and shown.name == "tuxpaint" and left() == ["tuxpaint"]
    images = {s.id: s.image for s in shown}
    cat, hat = images["animals-cat.png"], images["animals-hat.png"]
    assert cat.size == hat.size == (6, 6)
    assert cat.getpixel((3, 3)) == RED and cat.getpixel((3, 0)) == cat.getpixel((3, 5)) == (255, 255, 255)
    assert hat.getpixel((3, 3)) == (0, 0, 255) and hat.getpixel((0, 3)) == (255, 255, 255)

    monkeypatch.setattr(downloads, "download_url_to_file", None)
    assert downloads.fetch("tuxpaint").digest == load_stimuli("tuxpaint").digest == source.digest
    assert len(load_stimuli("tuxpaint", limit=1)) == 1


def test_archive_at_hand_needs_no_download(source, tmp_path, monkeypatch):
    monkeypatch.setattr(downloads, "download_url_to_file", None)
    assert downloads.fetch("tuxpaint", tmp_path / "stamps.deb").digest == source.digest


def test_damage_is_named_and_repaired(source):
    downloads.fetch("tuxpaint")
    (home() / "stimuli" / "tuxpaint" / "animals-cat.png").write_bytes(picture((6, 6)))
    (home() / "stimuli" / ".tuxpaint.making-killed").mkdir()
    with pytest.raises(ValueError, match="'tuxpaint' are damaged or of another version: run `make stimuli`"):
        load_stimuli("tuxpaint")
    assert downloads.fetch("tuxpaint").digest == source.digest and left() == ["tuxpaint"]


def test_other_archive_than_pinned(source, monkeypatch):
    monkeypatch.setitem(PICTURE_SETS, "tuxpaint", source._replace(sha256="0" * 64))
    with pytest.raises(ValueError, match=r"stamps\.deb has the sha256 \w+ instead of 0000.*do not use it"):
        downloads.fetch("tuxpaint")
    assert left() == []


def test_other_result_than_pinned(source, monkeypatch):
    monkeypatch.setitem(PICTURE_SETS, "tuxpaint", source._replace(digest="0" * 64))
    with pytest.raises(ValueError, match=rf"digest {source.digest}, expected 0000.*constraints\.txt"):
        downloads.fetch("tuxpaint")
    assert left() == []


def test_download_fails(source, monkeypatch, tmp_path):
    monkeypatch.setitem(PICTURE_SETS, "tuxpaint", source._replace(url=(tmp_path / "gone.deb").as_uri()))
    with pytest.raises(ConnectionError, match=r"could not download file://.*gone\.deb.*make stimuli"):
        downloads.fetch("tuxpaint")
    assert left() == []


@pytest.mark.parametrize("name", PICTURE_SETS)
def test_not_fetched(name, monkeypatch, tmp_path):
    monkeypatch.setenv("BRIDGEWORK_HOME", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=f"stimuli '{name}' are not in .*make stimuli"):
        load_stimuli(name)


def test_unknown_set():
    with pytest.raises(ValueError, match="unknown picture set 'imagenet': expected one of fluent, tuxpaint, openclip"):
        downloads.fetch("imagenet")


@pytest.mark.parametrize(("name", "count"), [("fluent", 1389), ("tuxpaint", 498), ("openclipart", 2492)])
def test_real_sets_are_whole_where_they_were_fetched(name, count):
    """Opening a set compares its digest with the pinned one; `make stimuli` alone fetches, so absence is no failure."""
    if not (home() / "stimuli" / name).is_dir():
        with pytest.raises(FileNotFoundError, match="make stimuli"):
            load_stimuli(name)
        return
    shown = load_stimuli(name)
    assert len(shown) == count and len({s.text.casefold() for s in shown}) == count
    assert all(s.image.width == s.image.height for s in shown[:50])
