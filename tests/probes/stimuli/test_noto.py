"""The bundled emoji: which they are, what they show, and how they are rebuilt."""

from __future__ import annotations

import hashlib
import json
import zipfile

import numpy as np
import pytest

from bridgework.probes.stimuli.noto import build
from bridgework.probes.stimuli.sources import load_stimuli


def test_noto_is_complete_and_distinct(noto):
    samples = list(noto)
    assert len(samples) == 1392
    assert len({s.id for s in samples}) == len({s.text for s in samples}) == 1392
    assert len({s.image.tobytes() for s in samples}) == 1392
    assert {(s.image.mode, s.image.size) for s in samples} == {("RGB", (136, 128))}


def test_noto_names_are_plain_words(noto):
    texts = {s.id: s.text for s in noto}
    assert texts["1f600.png"] == "grinning face"
    assert texts["1f34e.png"] == "red apple"
    assert texts["0034-20e3.png"] == "keycap 4"
    assert not any(set(":_") & set(text) for text in texts.values())


def test_noto_leaves_out_country_flags_joined_sequences_and_skin_tones(noto):
    for sample in noto:
        codes = [int(code, 16) for code in sample.id.removesuffix(".png").split("-")]
        assert 0x200D not in codes
        assert not any(0x1F1E6 <= code <= 0x1F1FF or 0x1F3FB <= code <= 0x1F3FF for code in codes)


def test_noto_is_seen_over_white(noto):
    for sample in noto:
        values = np.asarray(sample.image)
        assert (values[:, 0] == 255).all(), sample.text  # the font leaves a margin
        assert values.std() > 5, sample.text  # white on white would be an empty picture


def test_noto_shows_what_it_names(noto):
    colours = {s.text: np.asarray(s.image)[64, 68] for s in noto}
    assert colours["red circle"].argmax() == 0 and colours["red circle"][1] < 100
    assert colours["blue circle"].argmax() == 2
    assert colours["green square"].argmax() == 1


def test_noto_prefix_is_not_one_kind_of_emoji():
    blocks = {s.id[:3] for s in load_stimuli("noto", limit=60)}
    assert {"1f3", "1f4", "1f6", "1f9"} <= blocks


def test_noto_archive_is_what_the_script_builds():
    data = build.ARCHIVE.read_bytes()
    assert hashlib.sha256(data).hexdigest() == build.ARCHIVE_SHA256
    assert len(data) < 5_000_000
    # Packed again from its own contents it must come out the same: no dates, no machine, no compressor inside.
    with zipfile.ZipFile(build.ARCHIVE) as archive:
        rows = [json.loads(line) for line in archive.read("metadata.jsonl").splitlines()]
        pairs = [(row["file_name"], row["text"], archive.read(row["file_name"])) for row in rows]
    assert build.pack(pairs) == data


def test_noto_script_turns_names_into_captions():
    assert build.caption(":grinning_face:") == "grinning face"
    assert build.caption(":ON!_arrow:") == "ON! arrow"


def test_noto_script_refuses_other_packages(tmp_path, monkeypatch):
    font = tmp_path / "NotoColorEmoji.ttf"
    font.write_bytes(b"another font")
    monkeypatch.setattr("sys.argv", ["build.py", str(font)])
    monkeypatch.setattr(build, "ARCHIVE", tmp_path / "noto.zip")
    with pytest.raises(SystemExit, match=r"the font has sha256 .*, expected .*README\.md"):
        build.main()
    assert list(tmp_path.iterdir()) == [font]


def test_noto_licence_and_provenance_come_along():
    folder = build.ARCHIVE.parent
    licence = (folder / "OFL.txt").read_text()
    assert "SIL OPEN FONT LICENSE Version 1.1" in licence and "Copyright" in licence
    note = (folder / "README.md").read_text()
    assert "fonts-noto-color-emoji" in note and build.EMOJI_VERSION in note and build.EMOJI_VERSION == "2.16.0"
