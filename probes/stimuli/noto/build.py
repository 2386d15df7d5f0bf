"""Rebuild noto.zip, the bundled stimuli, from the Debian package of the font and the PyPI package of the names.

    pip install emoji==2.16.0 fonttools
    python -m bridgework.probes.stimuli.noto.build                       # fetches the Debian package with apt-get
    python -m bridgework.probes.stimuli.noto.build NotoColorEmoji.ttf   # takes a font that is already there

Every PNG is copied from the font byte for byte, and nothing is compressed again, so the same packages give the same
archive on every machine; the result is checked against `ARCHIVE_SHA256` before it replaces the old one.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import io
import json
import os
import subprocess
import tempfile
import zipfile
from pathlib import Path
from typing import Any

EMOJI_VERSION = "2.16.0"
FONT_SHA256 = "e5899ed38b8ed83e08bd3ac5de09791e9d19d288333a796de1d35ad17396f1ec"
ARCHIVE_SHA256 = "bc8937156cd209779a62daafcf0ae3bfe5f30772dac5edadc6195fdc5345e117"
ARCHIVE = Path(__file__).with_name("noto.zip")

_SKIN_TONES = range(0x1F3FB, 0x1F400)
_REGIONAL_INDICATORS = range(0x1F1E6, 0x1F200)
_JOINER, _VARIATION_SELECTOR = 0x200D, 0xFE0F


def main() -> None:
    """Rebuild the archive on the command line."""
    parser = argparse.ArgumentParser(description="Rebuild the bundled Noto emoji from their packages.")
    parser.add_argument("font", nargs="?", type=Path, help="NotoColorEmoji.ttf; fetched with apt-get if left out")
    font = parser.parse_args().font
    with tempfile.TemporaryDirectory() as folder:
        data = (font or fetch_font(Path(folder))).read_bytes()
    expect("the font", data, FONT_SHA256)
    archive = pack(read_pairs(data))
    expect("the archive", archive, ARCHIVE_SHA256)
    unfinished = ARCHIVE.with_suffix(".tmp")
    unfinished.write_bytes(archive)
    os.replace(unfinished, ARCHIVE)
    print(f"{ARCHIVE.name}: {len(archive):,} bytes, sha256 {ARCHIVE_SHA256}")


def fetch_font(folder: Path) -> Path:
    """Download and unpack Debian's fonts-noto-color-emoji.

    Parameters
    ----------
    folder : pathlib.Path
        Where the package is unpacked.

    Returns
    -------
    pathlib.Path
        The font.
    """
    subprocess.run(["apt-get", "download", "fonts-noto-color-emoji"], cwd=folder, check=True)
    package = next(folder.glob("fonts-noto-color-emoji_*.deb"))
    subprocess.run(["dpkg", "-x", package.name, "."], cwd=folder, check=True)
    return next(folder.rglob("NotoColorEmoji.ttf"))


def read_pairs(font: bytes) -> list[tuple[str, str, bytes]]:
    """Read every emoji that the font draws.

    Country flags (pairs of regional indicators), joined sequences and skin tones are left out.

    Parameters
    ----------
    font : bytes
        NotoColorEmoji.ttf.

    Returns
    -------
    list of tuple
        (file name, caption, PNG) of each emoji, in a shuffled and fixed order.

    Raises
    ------
    SystemExit
        Another version of the package `emoji` is installed.
    """
    from fontTools.ttLib import TTFont

    emoji: Any = importlib.import_module("emoji")  # only this script needs it, so no extra installs it
    if emoji.__version__ != EMOJI_VERSION:
        raise SystemExit(f"emoji is {emoji.__version__}: expected {EMOJI_VERSION}, pip install emoji=={EMOJI_VERSION}")
    tables: Any = TTFont(io.BytesIO(font))
    characters = tables.getBestCmap() or {}
    ligatures = read_ligatures(tables)
    strikes = tables["CBDT"].strikeData[0]
    pairs: list[tuple[str, str, bytes]] = []
    for sequence, entry in emoji.EMOJI_DATA.items():
        codes = [ord(c) for c in sequence if ord(c) != _VARIATION_SELECTOR]
        if entry["status"] != emoji.STATUS["fully_qualified"] or _JOINER in codes:
            continue
        if any(code in _SKIN_TONES or code in _REGIONAL_INDICATORS for code in codes):
            continue
        glyphs = tuple(characters.get(code, "") for code in codes)
        glyph = glyphs[0] if len(glyphs) == 1 else ligatures.get(glyphs)
        if glyph in strikes:  # newer emoji than the font are not
            name = "-".join(f"{code:04x}" for code in codes) + ".png"
            pairs.append((name, caption(entry["en"]), strikes[glyph].imageData))
    # Sorted by hash, every leading part of the set is a fair sample of all kinds of emoji.
    return sorted(pairs, key=lambda pair: hashlib.sha256(pair[0].encode()).digest())


def read_ligatures(tables: Any) -> dict[tuple[str, ...], str]:
    """Read the font's ligatures, such as those of keycaps.

    Parameters
    ----------
    tables : fontTools.ttLib.TTFont
        The font.

    Returns
    -------
    dict
        (glyph, glyph, ...) -> glyph.
    """
    found: dict[tuple[str, ...], str] = {}
    for lookup in tables["GSUB"].table.LookupList.Lookup:
        for subtable in lookup.SubTable:
            for first, ligatures in getattr(subtable, "ligatures", {}).items():
                found.update({(first, *ligature.Component): ligature.LigGlyph for ligature in ligatures})
    return found


def caption(name: str) -> str:
    """Turn an emoji's name into a caption.

    Parameters
    ----------
    name : str
        A name such as ":grinning_face:".

    Returns
    -------
    str
        The caption, such as "grinning face".
    """
    return name.strip(":").replace("_", " ")


def pack(pairs: list[tuple[str, str, bytes]]) -> bytes:
    """Pack captions and PNGs into a zip whose bytes are always the same.

    Dates and modes are fixed, and nothing is compressed.

    Parameters
    ----------
    pairs : list of tuple
        (file name, caption, PNG) of each emoji.

    Returns
    -------
    bytes
        A zip with metadata.jsonl and the PNGs.
    """
    lines = [json.dumps({"file_name": name, "text": text}, ensure_ascii=False) + "\n" for name, text, _ in pairs]
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, data in [("metadata.jsonl", "".join(lines).encode()), *((name, png) for name, _, png in pairs)]:
            info = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            info.create_system, info.external_attr = 3, 0o644 << 16
            archive.writestr(info, data)
    return buffer.getvalue()


def expect(what: str, data: bytes, sha256: str) -> None:
    """Check the sha256 of data.

    Parameters
    ----------
    what : str
        What the data are, for the message.
    data : bytes
        The data.
    sha256 : str
        The expected sha256 (hex).

    Raises
    ------
    SystemExit
        The sha256 differs.
    """
    found = hashlib.sha256(data).hexdigest()
    if found != sha256:
        raise SystemExit(f"{what} has sha256 {found}, expected {sha256}: use the package versions that README.md names")


if __name__ == "__main__":
    main()
