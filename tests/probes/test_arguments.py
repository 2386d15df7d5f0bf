"""What an argument may be: each kind of fault is one sentence, and what is right comes back as a plain value."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest

from bridgework.probes.arguments import check_arguments, check_options, checked, unknown


@pytest.mark.parametrize(
    ("value", "kind", "limits", "found"),
    [
        (np.int64(3), int, {"least": 1}, 3),
        (2, float, {}, 2.0),
        (np.float32(0.5), float | None, {"above": 0, "below": 1}, 0.5),
        (None, float | None, {"above": 0}, None),
        (True, bool, {}, True),
        ([1, 2], Sequence[int], {"least": 0}, (1, 2)),
        ((3, 4), tuple[int, int], {"least": 0}, (3, 4)),
        ("H", str | None, {"known": ("H", "dense")}, "H"),
    ],
)
def test_what_is_right_comes_back_plain(value, kind, limits, found):
    assert checked("it", value, kind, **limits) == found
    assert type(checked("it", value, kind, **limits)) is type(found)


@pytest.mark.parametrize(
    ("value", "kind", "limits", "error", "words"),
    [
        (True, int, {"least": 1}, TypeError, "it is True: expected a whole number of at least 1"),
        (2.0, int, {}, TypeError, "it is 2.0: expected a whole number below 1000000000"),
        ("2", int | None, {"least": 1}, TypeError, "it is '2': expected a whole number of at least 1 or None"),
        (10**30, int, {"least": 1}, ValueError, "expected a whole number of at least 1"),
        (math.nan, float, {}, ValueError, "it is nan: expected a finite number"),
        (10**400, float, {}, ValueError, "expected a finite number"),
        (math.inf, float, {"above": 0}, ValueError, "it is inf: expected a finite number above 0"),
        (1, float, {"above": 0, "below": 1}, ValueError, "it is 1: expected a finite number above 0 and below 1"),
        (1j, float, {}, TypeError, "it is 1j: expected a finite number"),
        ("false", bool, {}, TypeError, "it is 'false': expected True or False"),
        (1, bool, {}, TypeError, "it is 1: expected True or False"),
        ("ab", Sequence[str], {}, TypeError, "it is 'ab': expected a sequence, each part a text"),
        ([], Sequence[str], {}, ValueError, "it is []: expected a sequence"),
        ((1, 2, 3), tuple[int, int], {"least": 0}, TypeError, "expected a sequence of 2: a whole number of at least 0"),
        ("desne", str, {"known": ("dense", "H")}, ValueError, "expected one of dense, H; the nearest is 'dense'"),
        ([], str, {"known": ("dense",)}, ValueError, "unknown it []: expected one of dense"),
        (np.zeros((50, 50)), float, {}, TypeError, "expected a finite number"),
        (0, int, {"least": 1, "remedy": "leave it out"}, ValueError, "of at least 1: leave it out"),
    ],
)
def test_what_is_wrong_is_one_sentence(value, kind, limits, error, words):
    with pytest.raises(error) as raised:
        checked("it", value, kind, **limits)
    said = str(raised.value)
    assert words in said
    assert "\n" not in said and len(said) < 250


@dataclass(frozen=True)
class Options:
    steps: int = field(default=1, metadata={"allowed": {"least": 1}})
    gated: bool = True

    def __post_init__(self) -> None:
        check_options(self)


def test_options_and_arguments_are_checked_by_the_same_fields():
    assert type(Options(np.int32(4)).steps) is int
    for build in (Options, lambda **given: check_arguments(Options, given)):
        with pytest.raises(ValueError, match="steps is 0: expected a whole number of at least 1"):
            build(steps=0)
        with pytest.raises(TypeError, match="gated is 'false': expected True or False"):
            build(gated="false")
    with pytest.raises(ValueError, match="unknown option 'stpes': expected one of steps, gated; the nearest is"):
        check_arguments(Options, {"stpes": 3})


def test_the_nearest_name_is_found_in_any_case():
    assert str(unknown("layout", "h", ("dense", "H"))).endswith("the nearest is 'H'")
    assert "nearest" not in str(unknown("layout", "quartz", ("dense", "H")))
