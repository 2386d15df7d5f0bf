"""Every public name and command says in one sentence what is wrong with what it is given.

The rows stand in the other modules of this folder, each a list `ROWS`. A new row, or a new module of rows, needs
nothing else. `good_inputs.py` holds what rows take beside the one thing that is wrong.
"""

from __future__ import annotations

import importlib
import re
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest

from bridgework.tests.bad_inputs.__main__ import COUNTS, counted
from bridgework.tests.bad_inputs.frame import KINDS, all_rows, faults_of_form, foreign, raised_by, shown_frames

ROWS = all_rows()


@pytest.mark.parametrize("row", ROWS, ids=[f"{row.name}: {row.case}" for row in ROWS])
@pytest.mark.filterwarnings("ignore")
def test_it_is_said_in_one_sentence(row, tmp_path, capsys):
    error = raised_by(row, tmp_path)
    if callable(row.call):
        assert type(error) is row.error, repr(error)
        text = str(error.args[0]) if isinstance(error, KeyError) else str(error)
        assert not foreign(error), repr(error)
        # One frame of the package is shown, that of the public call, or those of a constructor and its check.
        frames = [frame for frame in shown_frames(error) if not frame.endswith((".__init__", ".__post_init__"))]
        assert len(frames) <= 1, frames
    else:
        assert isinstance(error, SystemExit), repr(error)
        said = error.code if isinstance(error.code, str) else capsys.readouterr().err.strip().splitlines()[-1]
        assert re.match(r"bridgework[ \w-]*: ", said), said
        text = re.sub(r"^bridgework[ \w-]*: (error: )?", "", said)
    missing = [words for words in row.says if words not in text]
    assert not missing, f"{missing} are not in: {text}"
    assert not faults_of_form(text), f"{faults_of_form(text)}: {text}"


UNCHECKED = {  # public names that take arguments without a row, and why
    "BridgePlan": "its fields are checked with the recipes and plans of models",
    "ForwardPass": "a plain tuple that a subject fills; `extract` checks what it holds",
    "Shown": "the same class by its older name",
    "Subject": "a protocol, which nobody calls",
    "Entry": "a plain tuple; `write_gallery` checks it",
    "Explorer": "made by `explorer`, which checks its arguments",
}


@pytest.mark.parametrize("face", ["probes", "figures"])
def test_every_public_name_has_a_row(face):
    stub = (Path(__file__).parents[2] / face / "__init__.pyi").read_text(encoding="utf-8")
    module = importlib.import_module(f"bridgework.{face}")
    names = [name for name in re.findall(r" as (\w+)$", stub, re.MULTILINE) if callable(getattr(module, name))]
    assert len(names) > 20
    held = {row.name for row in ROWS}
    assert not [name for name in names if name not in held and name not in UNCHECKED]


def test_every_command_that_measures_has_a_row():
    measuring = ("extract", "check", "align", "map", "choose", "report", "figure", "doctor")
    assert not {f"bridgework {name}" for name in measuring} - {row.name for row in ROWS}


def test_the_counts_are_those_that_are_quoted():
    assert pd.read_csv(COUNTS).equals(counted()), "run python -m bridgework.tests.bad_inputs"


def test_rows_are_of_known_kinds_and_differ():
    assert not {row.kind for row in ROWS} - set(KINDS)
    assert not [row for row, count in Counter((row.name, row.case) for row in ROWS).items() if count > 1]
