"""Bad inputs of bridge plans: every field as an object and out of a file, layouts, matchings and taps."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from bridgework.probes.plans import BridgePlan, lay_out, published_taps
from bridgework.probes.plans.matching import match
from bridgework.tests.bad_inputs.frame import BadInput

RIGHT: dict[str, Any] = {
    "pairs": [[1, 1]], "stream": "image", "rule": "by hand", "evidence": {}, "understanding_layers": 4,
    "generation_layers": 3,
}  # fmt: skip
SOFT = {"layout": "soft", "pairs": [[3, 1]]}
HUGE = 10**30
# A field, what it is given, a word of the error beside the field's name, and the kind of the fault.
FIELDS: list[tuple[str, Any, str, str]] = [
    ("pairs", "11", "whole numbers", "type"),
    ("pairs", 3, "whole numbers", "type"),
    ("pairs", [[1]], "whole numbers", "shape"),
    ("pairs", [[1, 1, 1]], "whole numbers", "shape"),
    ("pairs", [[1.0, 1]], "whole numbers", "type"),
    ("pairs", [[True, 1]], "whole numbers", "type"),
    ("pairs", [], "at least one pair", "range"),
    ("pairs", [[-1, 0]], "out of range", "range"),
    ("pairs", [[9, 0]], "out of range", "range"),
    ("pairs", [[2, 2], [1, 1]], "must ascend", "conflict"),
    ("pairs", [[1, 1], [1, 1]], "must ascend", "conflict"),
    ("stream", "imgae", "the nearest is 'image'", "name"),
    ("stream", 3, "expected one of image", "type"),
    ("stream", None, "expected one of image", "type"),
    ("rule", 3, "expected a text", "type"),
    ("rule", None, "expected a text", "type"),
    ("evidence", None, "expected a dict", "type"),
    ("evidence", [1], "expected a dict", "type"),
    ("evidence", {"x": 3}, "expected a dict", "type"),
    ("evidence", {"stability": "settled"}, "expected a dict", "type"),
    ("evidence", {"peak_p": "small"}, "expected a finite number from 0 to 1", "type"),
    ("evidence", {"peak_p": 2.0}, "expected a finite number from 0 to 1", "range"),
    ("understanding_layers", 0, "of at least 1", "range"),
    ("understanding_layers", -4, "of at least 1", "range"),
    ("understanding_layers", 4.0, "a whole number", "type"),
    ("understanding_layers", True, "a whole number", "type"),
    ("understanding_layers", "4", "a whole number", "type"),
    ("understanding_layers", HUGE, "a whole number", "range"),
    ("generation_layers", None, "a whole number", "type"),
    ("generation_layers", 0, "of at least 1", "range"),
    ("generation_layers", [3], "a whole number", "type"),
    ("score", "0.5", "a finite number", "type"),
    ("score", True, "a finite number", "type"),
    ("score", [], "a finite number", "type"),
    ("layout", "h", "the nearest is 'H'", "name"),
    ("layout", "desne", "the nearest is 'dense'", "name"),
    ("layout", 3, "expected one of shared", "type"),
    ("both_ways", "false", "True or False", "type"),
    ("both_ways", 1, "True or False", "type"),
    ("both_ways", None, "True or False", "type"),
    ("gated", "false", "True or False", "type"),
    ("gated", 0, "True or False", "type"),
    ("gated", [], "True or False", "type"),
    ("rank", 2.5, "of at least 1 or None", "type"),
    ("rank", 0, "of at least 1 or None", "range"),
    ("rank", -8, "of at least 1 or None", "range"),
    ("rank", True, "of at least 1 or None", "type"),
    ("rank", "8", "of at least 1 or None", "type"),
    ("rank", HUGE, "of at least 1 or None", "range"),
    ("semantic_tokens", -1, "of at least 0", "range"),
    ("semantic_tokens", 1.5, "of at least 0", "type"),
    ("semantic_tokens", None, "of at least 0", "type"),
    ("taps", [0], "reads the blocks of its pairs", "conflict"),
]
TAPS: list[tuple[Any, str, str]] = [
    (3, "whole numbers", "type"),
    ("last", "whole numbers", "type"),
    ([1.5], "whole numbers", "type"),
    ([True], "whole numbers", "type"),
    ([9], "from 0 to 3", "range"),
    ([-1], "from 0 to 3", "range"),
    ([1, 0], "ascending", "conflict"),
    ([[]], "from 0 to 3", "range"),
    ([[0], [1], [2]], "one for all, or one each", "conflict"),
]
# As an object alone: what JSON has no word for.
OBJECTS = [
    ("score", math.nan, "a finite number", "finite"),
    ("score", math.inf, "a finite number", "finite"),
    ("score", 1j, "a finite number", "type"),
    ("rank", math.nan, "of at least 1 or None", "finite"),
    ("pairs", {(1, 2, 3)}, "whole numbers", "type"),
]
TEXTS: list[tuple[str, bytes, list[str], str]] = [
    ("an empty file", b"", ["expected the JSON that save wrote"], "file"),
    ("a file that is cut", b'{"pairs": [[0,', ["expected the JSON that save wrote"], "file"),
    ("bytes that are no text", b"\xff\xfe\x00", ["expected the JSON that save wrote"], "file"),
    ("a list", b"[]", ["expected an object of JSON"], "file"),
    ("a number", b"3", ["expected an object of JSON"], "file"),
    ("an object without fields", b"{}", ["there is no pairs"], "file"),
    ("lists too deep for a reader", b"[" * 100_000, ["expected the JSON that save wrote"], "file"),
    ("a field too many", json.dumps({**RIGHT, "rnk": 3}).encode(), ["'rnk'", "the nearest is 'rank'"], "name"),
    ("an endless score", json.dumps({**RIGHT, "score": math.inf}).encode(), ["score", "a finite number"], "finite"),
]


def error_of(field: str, value: Any, kind: str) -> type[Exception]:
    """A value of another type is a TypeError, but for pairs, taps and names, which are said to be wrong by value."""
    if field in ("pairs", "taps", "stream", "layout"):
        return ValueError
    return TypeError if kind == "type" or (field == "rank" and isinstance(value, float)) else ValueError


def as_object(field: str, value: Any) -> Any:
    return lambda: BridgePlan(**RIGHT | (SOFT if field == "soft taps" else {}) | {field.removeprefix("soft "): value})


def read(here: Path, content: bytes) -> BridgePlan:
    (here / "plan.json").write_bytes(content)
    return BridgePlan.load(here / "plan.json")


def as_file(field: str, value: Any) -> Any:
    held = RIGHT | (SOFT if field == "soft taps" else {}) | {field.removeprefix("soft "): value}
    return lambda here: read(here, json.dumps(held).encode())


ALL = [*FIELDS, *(("soft taps", *row) for row in TAPS)]
ROWS = [
    *(
        BadInput(
            "BridgePlan",
            f"{field}: {value!r}",
            as_object(field, value),
            [field.removeprefix("soft ") if field not in ("pairs", "taps") else "", word],
            kind,
            error_of(field.removeprefix("soft "), value, kind),
        )
        for field, value, word, kind in [*ALL, *OBJECTS]
    ),
    *(
        BadInput(
            "BridgePlan.load",
            f"{field}: {value!r}",
            as_file(field, value),
            ["plan.json is not a bridge plan", word],
            kind,
        )
        for field, value, word, kind in ALL
    ),
    *(
        BadInput(
            "BridgePlan.load",
            what,
            lambda here, content=content: read(here, content),
            ["plan.json is not a bridge plan", *words],
            kind,
        )
        for what, content, words, kind in TEXTS
    ),
    BadInput(
        "BridgePlan.load", "a file that is missing", lambda: BridgePlan.load("missing.json"),
        ["no bridge plan missing.json"], "missing", FileNotFoundError,
    ),
    BadInput(
        "BridgePlan.load", "a folder", BridgePlan.load, ["no bridge plan"], "missing", FileNotFoundError
    ),
    BadInput("BridgePlan.load", "a number as a path", lambda: BridgePlan.load(3), ["path is 3"], "type", TypeError),
    BadInput("BridgePlan.load", "an empty name", lambda: BridgePlan.load(""), ["path is empty"], "missing"),
    BadInput(
        "BridgePlan.save", "a folder", lambda here: BridgePlan(**RIGHT).save(here), ["is a folder", "name a"], "file"
    ),
    BadInput(
        "BridgePlan.save", "evidence that JSON does not hold",
        lambda here: BridgePlan(**RIGHT | {"evidence": {"metric": object}}).save(here / "plan.json"),
        ["the evidence of the plan", "keep finite numbers"], "type",
    ),
    BadInput(
        "BridgePlan.save", "evidence with NaN",
        lambda here: BridgePlan(**RIGHT | {"evidence": {"value": math.nan}}).save(here / "plan.json"),
        ["the evidence of the plan", "keep finite numbers"], "finite",
    ),
    BadInput("lay_out", "an unknown layout", lambda: lay_out("h", 4, 3), ["layout 'h'", "the nearest is 'H'"], "name"),
    BadInput("lay_out", "a depth of 0", lambda: lay_out("H", 0, 3), ["understanding_layers is 0"], "range"),
    BadInput("lay_out", "a depth that is half", lambda: lay_out("H", 4, 2.5), ["generation_layers"], "type", TypeError),
    BadInput("lay_out", "an endless depth", lambda: lay_out("H", 4, HUGE), ["generation_layers"], "range"),
    BadInput("lay_out", "a rank of 0", lambda: lay_out("H", 4, 3, rank=0), ["rank is 0"], "range"),
    BadInput("lay_out", "an unknown field", lambda: lay_out("H", 4, 3, rnk=2), ["'rnk'", "is 'rank'"], "name"),
    BadInput("lay_out", "a gate in words", lambda: lay_out("H", 4, 3, gated="no"), ["gated is 'no'"],
             "type", TypeError),
    BadInput("lay_out", "a map that is a list", lambda: lay_out("H", 4, 3, matching="optimal", heat=[1]),
             ["heat is [1]", "similarity_map"], "type", TypeError),
    BadInput("lay_out", "the best matching of no map", lambda: lay_out("H", 4, 3, matching="optimal"),
             ["needs a layer map"], "missing"),
    BadInput("lay_out", "a fork of towers", lambda: lay_out("H", 4, 3, fork=2), ["takes no fork"], "conflict"),
    BadInput("lay_out", "a fork behind the end", lambda: lay_out("Y", 4, 4, fork=9), ["fork 9", "from 1 to 3"],
             "range"),
    BadInput("lay_out", "a fork in words", lambda: lay_out("Y", 4, 4, fork="2"), ["fork is '2'"], "type", TypeError),
    BadInput("lay_out", "one end of two", lambda: lay_out("X", 9, 9, ends=(1,)), ["ends", "of 2"], "shape", TypeError),
    BadInput("lay_out", "taps of an unknown pipeline", lambda: lay_out("soft", 4, 3, taps="FLUX.9"),
             ["pipeline 'FLUX.9'", "the nearest is"], "name"),
    BadInput("published_taps", "an unknown pipeline", lambda: published_taps("FLUX9", 4, 3), ["'FLUX9'"], "name"),
    BadInput("published_taps", "a depth of 0", lambda: published_taps("FLUX.2", 4, 3, depth=0), ["depth is 0"],
             "range"),
    BadInput("match", "an unknown matching", lambda: match(4, 3, "optimum"), ["the nearest is 'optimal'"], "name"),
    BadInput("match", "a depth of 0", lambda: match(4, 0), ["generation_layers is 0"], "range"),
]  # fmt: skip
