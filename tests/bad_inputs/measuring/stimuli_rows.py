"""Bad inputs of stimuli: images, captions, tables, folders, and the controls that are made of them."""

from __future__ import annotations

import json
import struct
import zlib
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from bridgework.probes import Stimuli, Stimulus, load_stimuli, mismatched, scrambled
from bridgework.probes.extraction import noise_for
from bridgework.tests.bad_inputs.frame import rows_of
from bridgework.tests.bad_inputs.good_inputs import stimuli

PICTURE = Image.new("RGB", (4, 4), "red")


def one(image=PICTURE, text="a red square", id="a"):
    """A set of one stimulus."""
    return Stimuli([Stimulus(image, text, id)], "mine")


def with_deep_colours(path):
    """Write a PNG of 16 bits a channel, which PIL itself does not write in colour."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", 4, 4, 16, 2, 0, 0, 0)
    rows = b"".join(b"\0" + b"\x12\x34" * 12 for _ in range(4))
    parts = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + parts)
    return path


def folder_of(here, *rows, name="metadata.jsonl"):
    """An image folder with a picture a.png and these rows of metadata."""
    folder = here / "pictures"
    folder.mkdir()
    PICTURE.save(folder / "a.png")
    PICTURE.save(here / "outside.png")
    (folder / name).write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows))
    return folder


def linked(here):
    """An image folder whose picture is a link to one beside the folder."""
    folder = folder_of(here, {"file_name": "b.png", "text": "a red square"})
    (folder / "b.png").symlink_to(here / "outside.png")
    return folder


def written_beside(here):
    """An image folder whose caption is a link to a file beside the folder."""
    folder = folder_of(here, name="notes")
    (here / "words").write_text("a red square")
    (folder / "a.txt").symlink_to(here / "words")
    return folder


def file_of(here, name, content):
    path = here / name
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return path


def replaced(here):
    """Read an image whose file holds another picture than when it was loaded."""
    folder = folder_of(here, {"file_name": "a.png", "text": "a red square"})
    loaded = load_stimuli(folder)
    Image.new("RGB", (4, 4), "blue").save(folder / "a.png")
    return loaded[0]


def drawn_into():
    """Read an image of a set that was drawn into after it was made."""
    made = one(PICTURE.copy())
    made[0].image.paste("blue", (0, 0, 4, 4))
    return made[0]


def anything(value) -> Any:
    """Return a value as one of any type, so that a type checker takes it."""
    return value


ROWS = [
    *rows_of(
        "Stimuli",
        ("no stimuli", lambda: Stimuli([]), ["'stimuli' are empty", "at least one image"], "content"),
        (
            "an array without an axis",
            lambda: Stimuli(np.array(3)),
            ["samples is", "(image, text, id)"],
            "shape",
            TypeError,
        ),
        ("a text as a place", lambda: stimuli()[anything("a")], ["index is 'a'", "a slice of places"], "type"),
        ("an array as a part", lambda: stimuli().part(np.zeros(2)), ["unknown part", "train"], "type", ValueError),
        ("nothing", lambda: Stimuli(None), ["samples is None", "(image, text, id)"], "type"),
        ("a text", lambda: Stimuli("noto"), ["samples is a str", "(image, text, id)"], "type"),
        ("images alone", lambda: Stimuli([PICTURE]), ["sample 0 is a Image", "Stimulus(image, text, id)"], "type"),
        ("a name that is a number", lambda: Stimuli([], 3), ["name is 3", "a text"], "type"),
        ("one id twice", lambda: Stimuli([*one(), *one()]), ["the id 'a' twice"], "conflict"),
        ("an unknown part", lambda: one().part("tests"), ["unknown part 'tests'", "the nearest is 'test'"], "name"),
        ("a part without stimuli", lambda: one().part("test"), ["belongs to the part", "use more images"], "content"),
        (
            "an image that was drawn into",
            drawn_into,
            ["'a' of stimuli 'mine' is another"],
            "content",
        ),
    ),
    *rows_of(
        "Stimulus",
        ("an image of 0 x 0", lambda: one(Image.new("RGB", (0, 0))), ["image of sample 0 is 0 x 0"], "content"),
        (
            "an image of floats",
            lambda: one(Image.new("F", (4, 4))),
            ["image of sample 0", "8 bits a channel"],
            "content",
        ),
        ("an image of 32 bits", lambda: one(Image.new("I", (4, 4))), ["image of sample 0", "mode 'I'"], "content"),
        ("an array", lambda: one(np.zeros((4, 4, 3))), ["image of sample 0 is a ndarray", "PIL.Image"], "type"),
        ("a path", lambda: one("a.png"), ["image of sample 0 is a str", "PIL.Image"], "type"),
        ("no caption", lambda: one(text=None), ["caption of sample 0 is a NoneType", "one string"], "type"),
        ("a blank caption", lambda: one(text=" \n"), ["caption of sample 0 is blank"], "content"),
        ("half a character", lambda: one(text="a \ud83d"), ["caption of sample 0 holds half", "letter 2"], "content"),
        ("half a character in an id", lambda: one(id="\udc00"), ["id of sample 0 holds half", "UTF-8"], "content"),
        ("a placeholder", lambda: one(text="<image> a dog"), ["sample 0 holds '<image>'", "leave"], "content"),
        ("a control token", lambda: one(text="a <|vision_start|>"), ["'<|vision_start|>'"], "content"),
        ("an id that is a number", lambda: one(id=3), ["id of sample 0 is a int", "a string"], "type"),
    ),
    *rows_of(
        "load_stimuli",
        ("nothing", lambda: load_stimuli(None), ["from a NoneType", "expected 'noto'"], "type"),
        ("an unknown set", lambda: load_stimuli("notto"), ["unknown stimuli 'notto'", "expected 'noto'"], "name"),
        (
            "a file that is missing",
            lambda here: load_stimuli(here / "none.csv"),
            ["no file or folder", "none.csv"],
            "missing",
            FileNotFoundError,
        ),
        ("an empty folder", lambda here: load_stimuli(here), ["no metadata.jsonl"], "missing", FileNotFoundError),
        ("an empty file", lambda here: load_stimuli(file_of(here, "a.csv", b"")), ["a.csv cannot be read"], "file"),
        ("an unknown ending", lambda here: load_stimuli(file_of(here, "a.doc", b"x")), ["cannot read", ".csv"], "file"),
        ("an empty list", lambda: load_stimuli([]), ["'list' are empty"], "content"),
        ("a limit of 0", lambda: load_stimuli("noto", 0), ["limit is 0", "at least 1"], "range"),
        ("an endless limit", lambda: load_stimuli("noto", 10**30), ["limit is 1000"], "range"),
        ("a limit of NaN", lambda: load_stimuli("noto", np.nan), ["limit is nan"], "type"),
        ("unknown captions", lambda: load_stimuli("noto", captions="al"), ["nearest is 'all'"], "name"),
        ("a root that is a number", lambda: load_stimuli([(PICTURE, "a")], root=3), ["root is 3", "a path"], "type"),
        ("a root of the emoji", lambda: load_stimuli("noto", root="."), ["leave out root"], "conflict"),
        (
            "an unknown column",
            lambda: load_stimuli(pd.DataFrame({"image": [1], "text": ["a"]}), text="caption"),
            ["no column 'caption'", "name them"],
            "name",
        ),
        (
            "numbers as images",
            lambda: load_stimuli(pd.DataFrame({"image": [1], "text": ["a"]})),
            ["image of row 0", "expected a path"],
            "type",
        ),
        ("several captions", lambda: load_stimuli([(PICTURE, ["a", "b"])]), ["captions='all'"], "conflict"),
        (
            "metadata that leave the folder",
            lambda here: load_stimuli(folder_of(here, {"file_name": "../outside.png", "text": "a"})),
            ["outside the folder", "root="],
            "file",
        ),
        ("a picture that is a link", lambda here: load_stimuli(linked(here)), ["is a link out of it", "root="], "file"),
        ("a caption that is a link", lambda here: load_stimuli(written_beside(here)), ["a.txt is a link out"], "file"),
        (
            "metadata that name no file",
            lambda here: load_stimuli(folder_of(here, {"file_name": "z.png", "text": "a"})),
            ["there is no image", "z.png"],
            "missing",
            FileNotFoundError,
        ),
        (
            "a name with a line break",
            lambda here: load_stimuli(folder_of(here, {"file_name": "a\nb.png", "text": "a"})),
            ["there is no image", r"a\nb.png"],
            "missing",
            FileNotFoundError,
        ),
        (
            "a line that is no JSON",
            lambda here: load_stimuli(folder_of(here, "{")),
            ["line 1", "not valid JSON"],
            "file",
        ),
        ("a list as a line", lambda here: load_stimuli(folder_of(here, [1])), ["no images and texts"], "file"),
        ("a file that was replaced", replaced, ["'a.png'", "another than when it was loaded"], "file"),
        (
            "colours of 16 bits",
            lambda here: load_stimuli([(str(with_deep_colours(here / "deep.png")), "a")]),
            ["16 bits a channel", "expected 8"],
            "content",
        ),
        (
            "a picture that is cut",
            lambda here: load_stimuli([(file_of(here, "cut.png", b"\x89PNG\r\n\x1a\n"), "a")]),
            ["cut.png cannot be read or is truncated"],
            "file",
        ),
        (
            "captions of COCO that are no list",
            lambda here: load_stimuli(file_of(here, "a.json", {"images": 3, "annotations": []})),
            ["images of", "no list of objects"],
            "file",
        ),
        ("an archive that is none", lambda here: load_stimuli(file_of(here, "a.tar", b"x")), ["no archive"], "file"),
    ),
    *rows_of(
        "mismatched",
        ("one image", lambda: mismatched(one()), ["one image cannot be mismatched"], "content"),
        ("a list", lambda: mismatched([PICTURE]), ["stimuli is", "load_stimuli"], "type"),
        ("a seed of True", lambda: mismatched(stimuli(), True), ["seed is True"], "type"),
    ),
    *rows_of(
        "noise_for",
        ("one text", lambda: noise_for("a", (3, 2, 2)), ["ids", "a list of the ids"], "type"),
        ("numbers as ids", lambda: noise_for([1], (3, 2, 2)), ["ids", "a list of the ids"], "type"),
        ("no ids", lambda: noise_for([], (3, 2, 2)), ["ids is empty"], "shape"),
        ("a side of 0", lambda: noise_for(["a"], (3, 0)), ["shape is (3, 0)", "at least 1"], "range"),
        ("a number as a shape", lambda: noise_for(["a"], 3), ["shape is 3"], "type"),
    ),
    *rows_of(
        "scrambled",
        ("one word", lambda: scrambled(one(text="red")), ["words to scramble"], "content"),
        ("a name", lambda: scrambled("noto"), ["stimuli is 'noto'", "load_stimuli"], "type"),
        ("an endless seed", lambda: scrambled(one(), 2**70), ["seed is"], "range"),
    ),
]
